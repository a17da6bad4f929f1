"""Leases: one process at a time makes an artifact, and a dead one blocks nobody.

A lease is a small file beside the artifact with a random token, the maker's pid and the
digest of :func:`pathology_scaat.system.processes.machine_id`; a thread touches it while the
work goes on. It is stale when its process is known to be dead (same machine) or when it has
not been touched for a minute (another machine). Looking, taking and taking over happen under
one operating-system lock per folder, so that two runs never take over one stale lease.
"""

from __future__ import annotations

import json
import logging
import math
import os
import secrets
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from pathology_scaat.errors import LeaseError, StoreError
from pathology_scaat.system.locks import describe_os_error, file_lock
from pathology_scaat.system.own_files import read_own, replace_file
from pathology_scaat.system.processes import machine_id, start_ticks
from pathology_scaat.system.signals import defer_signals

J = TypeVar("J")
R = TypeVar("R")

LOGGER = logging.getLogger(__name__)

STALE_AFTER_S = 60.0
HEARTBEAT_S = 10.0

_LOCK_NAME = ".leases.lock"


def lease_path(artifact: Path) -> Path:
    """The lease file of an artifact: a hidden file beside it."""
    return artifact.parent / f".{artifact.name}.lease"


@dataclass(frozen=True)
class Lease:
    """A lease that is held; ``lost`` is set when another run took it over (a long sleep)."""

    artifact: Path
    token: str
    lost: threading.Event

    @property
    def path(self) -> Path:
        return lease_path(self.artifact)


def _read_or_raise(path: Path) -> dict[str, object] | None:
    """What a lease file says; an empty mapping where it is damaged, None where absent.

    Raises
    ------
    OSError
        If it cannot be read right now (a network disk).
    """
    try:
        value = json.loads(read_own(path, 4096))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _read(path: Path) -> dict[str, object] | None:
    """What a lease file says, where one that cannot be read counts as damaged."""
    try:
        return _read_or_raise(path)
    except OSError:
        return {}


def _now_there(descriptor: int, path: Path) -> float:
    """The file server's clock: machines' clocks differ, the server stamps all leases."""
    os.utime(descriptor if os.utime in os.supports_fd else path)  # Windows: by the name only
    return os.fstat(descriptor).st_mtime


def _is_stale(path: Path, found: dict[str, object], now: float, stale_after_s: float) -> bool:
    pid, began = found.get("pid"), found.get("began")
    # On this machine the process itself can be looked up: no need to wait until its heartbeat is
    # missed. Its start time is compared as well, since a pid may have been given to another one.
    if (
        found.get("machine") == machine_id() != ""
        and isinstance(pid, int)
        and isinstance(began, int)
    ):
        return start_ticks(pid) != began
    try:
        found_now = path.lstat()
        # A link is no lease: nobody of ours makes one.
        return stat.S_ISLNK(found_now.st_mode) or now - found_now.st_mtime > stale_after_s
    except FileNotFoundError:
        return True


def is_leased(artifact: Path, *, stale_after_s: float = STALE_AFTER_S) -> bool:
    """Whether a live process is making an artifact (by this machine's clock)."""
    found = _read(lease_path(artifact))
    return found is not None and not _is_stale(
        lease_path(artifact), found, time.time(), stale_after_s
    )


def _take(artifact: Path, stale_after_s: float) -> Lease:
    path = lease_path(artifact)
    lease = Lease(artifact, secrets.token_hex(8), threading.Event())
    content = {
        "token": lease.token, "pid": os.getpid(), "began": start_ticks(os.getpid()),
        "machine": machine_id(),
    }  # fmt: skip
    with file_lock(path.parent / _LOCK_NAME) as descriptor:
        found = _read(path)
        if found is not None:
            if not _is_stale(
                path, found, _now_there(descriptor, path.parent / _LOCK_NAME), stale_after_s
            ):
                raise LeaseError(
                    artifact.name,
                    "is being made by another run right now",
                    "wait for that run to end, then run again",
                )
            LOGGER.warning("%s: the lease of a run that died is taken over", artifact.name)
        try:
            # Renamed into its place: a link that waits there under the lease's name is
            # replaced, and what it points to is not touched.
            replace_file(path, json.dumps(content).encode())
        except OSError as error:
            raise StoreError(
                artifact.name,
                f"cannot be written ({describe_os_error(error)})",
                "check the folder's permissions and free space, then run again",
            ) from None
    return lease


def _is_ours(lease: Lease) -> bool:
    found = _read(lease.path)
    return found is not None and found.get("token") == lease.token


MISSING_BEATS = 2
"""A lease that is not there so many times in a row was taken away; network disks blink."""


def _keep_alive(lease: Lease, ended: threading.Event, heartbeat_s: float) -> None:
    """Touch the lease until the work ends, or another run has it.

    A read that fails (EIO, ESTALE) says nothing about whose it is: it is tried again.
    """
    missing = 0
    while not ended.wait(heartbeat_s):
        try:
            found = _read_or_raise(lease.path)
        except OSError:
            continue
        missing = missing + 1 if found is None else 0
        if missing >= MISSING_BEATS or (found and found.get("token") != lease.token):
            lease.lost.set()
            LOGGER.warning("%s: another run has taken this work over", lease.artifact.name)
            return
        with suppress(OSError):
            os.utime(lease.path, follow_symlinks=os.utime not in os.supports_follow_symlinks)


class _Held:
    """A lease with the thread that keeps it alive."""

    def __init__(self, lease: Lease, heartbeat_s: float) -> None:
        self.lease = lease
        self._ended = threading.Event()
        self._heartbeat = threading.Thread(
            target=_keep_alive, args=(lease, self._ended, heartbeat_s), name="lease", daemon=True
        )
        self._heartbeat.start()
        _all_held.add(self)

    def release_unlocked(self) -> None:
        """Give the lease back without waiting for any lock.

        For what the garbage collector ends, at any moment: also while this very thread holds
        the folder's lock.
        """
        self._ended.set()
        with suppress(OSError):
            if _is_ours(self.lease):
                self.lease.path.unlink(missing_ok=True)
        _all_held.discard(self)

    def release(self) -> None:
        if self not in _all_held:
            return
        self._ended.set()
        self._heartbeat.join()
        # A folder that became read-only keeps its lease file; it is stale once we end.
        with suppress(OSError, LeaseError), file_lock(self.lease.path.parent / _LOCK_NAME):
            self.release_unlocked()
        _all_held.discard(self)


_all_held: set[_Held] = set()


def release_all() -> None:
    """Give back every lease of this process; whoever ends one early calls this.

    What a signal raises may come between any two steps, also before the block that gives a
    lease back has begun to.
    """
    for held in list(_all_held):
        held.release()


@contextmanager
def lease(
    path: Path,
    *,
    stale_after_s: float = STALE_AFTER_S,
    heartbeat_s: float = HEARTBEAT_S,
    wait_s: float = 0.0,
) -> Iterator[Lease]:
    """Be the only process that makes an artifact.

    Parameters
    ----------
    path : Path
        The artifact (file or folder, present or not).
    stale_after_s : float
        Seconds without a heartbeat after which a lease from another machine counts as dead.
    heartbeat_s : float
        Seconds between heartbeats; well below `stale_after_s`.
    wait_s : float
        Seconds to wait for another run's lease to end.

    Raises
    ------
    LeaseError
        If another live process holds the lease (still, after `wait_s`).
    StoreError
        If the folder cannot be written.
    """
    deadline = time.monotonic() + wait_s
    held: _Held | None = None
    try:
        while held is None:
            try:
                # A signal that came between the taking and the knowing would leave the file.
                with defer_signals():
                    held = _Held(_take(path, stale_after_s), heartbeat_s)
            except LeaseError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(min(1.0, max(wait_s / 10, 0.05)))
        yield held.lease
    except GeneratorExit:
        if held is not None:
            held.release_unlocked()
        raise
    finally:
        if held is not None:
            with defer_signals():  # nor may one that comes now leave it
                held.release()


@contextmanager
def lease_if_writable(artifact: Path, wait_s: float = 0.0) -> Iterator[Lease | None]:
    """Hold the lease of an artifact; in a folder that cannot be written, go on without.

    What runs inside finds its artifact right and does nothing, or says itself what is wrong.

    Raises
    ------
    LeaseError
        If another run makes the artifact (still, after `wait_s` seconds).
    """
    with ExitStack() as stack:
        held: Lease | None = None
        with suppress(StoreError):
            held = stack.enter_context(lease(artifact, wait_s=wait_s))
        yield held


@dataclass(frozen=True)
class LeasedJob(Generic[J, R]):
    """A job with the artifact it makes, as a value that travels to a worker.

    ``wait`` is False where a busy artifact raises :class:`LeaseError` at once, True where
    the other run is waited for: it ends, or it dies and its lease goes stale. ``slide_id``
    is how errors name the job.
    """

    function: Callable[[J], R]
    job: J
    artifact: Path
    wait: bool = False
    slide_id: str = ""


def run_leased(leased: LeasedJob[J, R]) -> R:
    """Run a job while holding the lease of its artifact (:func:`lease_if_writable`).

    Where another run took the work over meanwhile (this one slept, or its disk was away), what
    stands there now is that run's: the job is run once more, under a new lease, and finds it.

    Raises
    ------
    LeaseError
        If another run makes the artifact and the job does not wait.
    """
    while True:
        with lease_if_writable(leased.artifact, math.inf if leased.wait else 0.0) as held:
            result = leased.function(leased.job)
        if held is None or not held.lost.is_set():
            return result


def remove_dead_lease(path: Path) -> None:
    """Remove a lease file whose process was of this machine and is known to be dead.

    In a folder that became read-only it stays: it is stale, and hinders nobody.
    """
    with suppress(OSError, StoreError, LeaseError), file_lock(path.parent / _LOCK_NAME):
        found = _read(path)
        pid, began = (found or {}).get("pid"), (found or {}).get("began")
        if (
            found
            and found.get("machine") == machine_id() != ""
            and isinstance(pid, int)
            and start_ticks(pid) != began
        ):
            path.unlink(missing_ok=True)
