"""A job as every engine runs it: its error is a value, and stops no other job."""

from __future__ import annotations

import re
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from pathology_scaat.artifacts.atomic import PARTIAL_MARK
from pathology_scaat.artifacts.redaction import Redactor
from pathology_scaat.artifacts.urls import SlideUrl, slide_location
from pathology_scaat.errors import AddressError, ScaatError
from pathology_scaat.system.disk_errors import disk_error
from pathology_scaat.system.locks import describe_os_error
from pathology_scaat.system.memory import REMEDY, is_out_of_memory
from pathology_scaat.system.signals import raise_again

Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass(frozen=True)
class JobOutcome(Generic[Result]):
    """What became of a job: ``result`` where ``error`` is None."""

    index: int
    result: Result | None
    error: ScaatError | None


class JobError(ScaatError, RuntimeError):
    """A job that ended in a way nobody foresaw; ``trace`` is for the log."""

    trace: str = ""


class LostError(JobError):
    """A job that nobody is left to do: the scheduler, or its last worker, is gone."""

    exit_code = 3


class ClusterLostError(Exception):
    """Nobody is left to work; the text says who is missing."""


_threads_of_job = 1
_worker_number = 0


def worker_number() -> int:
    """Number of this worker among those of its machine, from 0: which GPU is its own."""
    return _worker_number


def set_worker_number(number: int) -> None:
    """Tell this process its number; called once, when a worker starts."""
    global _worker_number
    _worker_number = number


def job_threads() -> int:
    """How many threads the running job may use."""
    return _threads_of_job


PROGRESS_EVERY_S = 0.2
_on_progress: Callable[[float], None] | None = None
_last_progress_s = 0.0


def report_progress(done: int, total: int) -> None:
    """Called by a job: how much of it is done; ignored where nobody listens."""
    global _last_progress_s
    now = time.monotonic()
    if _on_progress is not None and total > 0 and now - _last_progress_s >= PROGRESS_EVERY_S:
        _last_progress_s = now
        _on_progress(done / total)


def listen_to_progress(listener: Callable[[float], None] | None) -> None:
    """Have :func:`report_progress` in this process call ``listener`` with a share of 0 to 1."""
    global _on_progress
    _on_progress = listener


def guarded(
    function: Callable[[Job], Result], job: Job, threads: int = 1
) -> tuple[Result | None, ScaatError | None]:
    """Run a job; return its result, or its error as one of ours.

    Parameters
    ----------
    function : callable
        Of the job.
    job : object
        Where it, or its attribute ``job``, has a ``slide_id``, an error names it.
    threads : int
        What :func:`job_threads` says meanwhile.
    """
    global _threads_of_job
    before, _threads_of_job = _threads_of_job, threads
    try:
        return function(job), None
    except ScaatError as error:
        raise_again()
        # A reader's sentence about a damaged file, raised from an allocation that failed,
        # would blame the file.
        return None, _out_of_memory(job) if _blames_wrongly(error) else error
    except Exception as error:
        raise_again()  # an end that was asked for is no failure of the job
        return None, _foreign(job, error)
    finally:
        _threads_of_job = before


def _blames_wrongly(error: ScaatError) -> bool:
    inner = error.__cause__ or error.__context__
    return inner is not None and is_out_of_memory(inner)


def _out_of_memory(job: object) -> JobError:
    return JobError(subject_of(job), "ran out of memory", REMEDY)


def _foreign(job: object, error: Exception) -> JobError:
    if is_out_of_memory(error):
        return _out_of_memory(job)
    found = disk_error(error) or (error if isinstance(error, OSError) else None)
    if found is not None:
        ours = JobError(
            subject_of(job),
            f"{_shown_name(job, found)} could not be read or written ({describe_os_error(found)})",
            "check free disk space and permissions, then run again",
        )
    else:
        kind = type(error).__name__
        ours = JobError(subject_of(job), f"failed in an unforeseen way ({kind})", "report it")
    # The words of foreign errors may hold paths and names: they are redacted where they arise.
    redactor = Redactor()
    slide_path = getattr(getattr(job, "job", job), "slide_path", None)
    if slide_path:
        try:
            location = slide_location(slide_path)
        except AddressError:
            location = SlideUrl(str(slide_path))
        if isinstance(location, Path):
            redactor.hide_path(location, subject_of(job))
        else:
            for name in (location.url, location.name, location.stem):
                redactor.hide(name, subject_of(job))
    ours.trace = redactor(traceback.format_exc())
    return ours


def _shown_name(job: object, error: OSError) -> str:
    """The file that an error names, as it is called in the output folder; no other name."""
    artifact = getattr(job, "artifact", None)
    if isinstance(artifact, Path) and isinstance(error.filename, str):
        with suppress(ValueError):
            name = Path(error.filename).relative_to(artifact.parent.parent).as_posix()
            return re.sub(rf"{re.escape(PARTIAL_MARK)}[^/]*", "", name)
    if isinstance(artifact, Path):
        return f"{artifact.parent.name}/{artifact.name}, or what it is made of,"
    return "a file"


def worker_died(job: object) -> JobError:
    """The error of a job whose worker died under it, twice."""
    return JobError(
        subject_of(job),
        "its worker process died (out of memory?)",
        REMEDY,
    )


def subject_of(job: object) -> str:
    """How an error names a job."""
    own = getattr(job, "slide_id", "") or getattr(getattr(job, "job", None), "slide_id", "")
    return str(own or "a job")
