"""Signals that end the work, taken where they can be taken.

Python raises what a signal asks for wherever the main thread happens to be. In a function
that compiled code has called back (numba's compiler does so for each kernel that it loads,
torch's for each module of a model that it records) the exception is dropped or becomes
another one, and the work goes on as if nothing had been asked, fails, or ends in a
segmentation fault. There the signal is looked at again a moment later.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

AGAIN_S = 0.005
PATIENCE_S = 20.0
"""So long may such code take (numba compiles for seconds, once a machine)."""

_CALLED_BACK = (
    "numba.", "llvmlite.", "safetensors.",
    "torch.jit.", "torch.storage.", "torch._dynamo.", "torch._inductor.",
)  # fmt: skip
_COMPILED = ".pyx"
_OURS = __name__.partition(".")[0] + "."

_depth = 0
"""How many :func:`defer_signals` blocks the main thread is in."""
_deferred: list[int] = []
"""Signals that came meanwhile."""
_raised: list[BaseException] = []
"""What has been raised: the work is to end."""


def raise_again() -> None:
    """Raise what was raised already, if anything was: compiled code may have made it another."""
    if _raised:
        raise _raised[-1]


def forget_raised() -> None:
    """The end that was asked for has come: what fails from now on fails for its own reasons."""
    _raised.clear()


def in_native_callback(frame: FrameType | None) -> bool:
    """Whether what is raised here may be lost: compiled code stands above our own."""
    while frame is not None:
        module = str(frame.f_globals.get("__name__", "")) + "."
        if module.startswith(_OURS):
            return False
        if module.startswith(_CALLED_BACK) or frame.f_code.co_filename.endswith(_COMPILED):
            return True
        frame = frame.f_back
    return False


def raise_on(number: int, make: Callable[[], BaseException]) -> None:
    """Have a signal raise an exception in the main thread, where it will not be lost.

    Parameters
    ----------
    number : int
        The signal, SIGINT or SIGTERM.
    make : callable
        Called each time the signal has come; what it returns is raised.
    """
    asked_at: list[float] = []
    forget_raised()

    def handle(received: int, frame: FrameType | None) -> None:
        if _depth:
            _deferred.append(number)
            return
        if received == number:
            asked_at.append(time.monotonic())
        elif not asked_at:
            return  # somebody else's alarm
        waiting_s = time.monotonic() - asked_at[0]
        if in_native_callback(frame) and waiting_s < PATIENCE_S and hasattr(signal, "setitimer"):
            signal.signal(signal.SIGALRM, handle)
            signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
            return
        asked_at.clear()
        _raised.append(make())
        raise_again()

    signal.signal(number, handle)


@contextmanager
def defer_signals() -> Iterator[None]:
    """Keep what :func:`raise_on` raises for the end of the block.

    By a mask of the operating system it could not be done: another thread without it takes the
    signal, and Python raises in the main thread all the same.
    """
    global _depth
    if threading.current_thread() is not threading.main_thread():
        yield  # nothing is ever raised here
        return
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
        if _deferred and not _depth:
            number = _deferred[0]
            _deferred.clear()
            signal.raise_signal(number)


@contextmanager
def unseen_by_children(number: int) -> Iterator[None]:
    """Have processes that begin in the block never see a signal; one that comes now is kept."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
