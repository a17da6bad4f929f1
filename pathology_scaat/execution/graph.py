"""The work of a stage as Dask tasks, and the loop that every back end shares."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, Protocol, TypeAlias

from pathology_scaat.execution.jobs import (
    ClusterLostError,
    JobOutcome,
    LostError,
    subject_of,
    worker_died,
)

Outcome: TypeAlias = tuple[Any, Any]
"""Result and error of a job; the error is None where the job succeeded."""

OnProgress: TypeAlias = Callable[[int, float], None]
"""Called with the index of a job and the share of it that is done, 0 to 1."""

RESTART = "start it again, then run the same command"


def job_task(call: Callable[..., Any], *arguments: Any) -> Any:
    """A lazy Dask task (``dask.delayed.Delayed``) that calls ``call(*arguments)``.

    Not pure: two equal jobs are both run, and nothing is kept by content.
    """
    from dask.delayed import delayed  # imported late: Dask takes a fifth of a second

    return delayed(call, pure=False, traverse=False)(*arguments)


class Backend(Protocol):
    """Where tasks run: in this process, in local processes, on a cluster."""

    def run(
        self,
        function: Callable[[Any], Any],
        jobs: Sequence[Any],
        indices: Sequence[int],
        alone: bool,
        on_progress: OnProgress | None,
    ) -> Iterator[tuple[int, Outcome | None]]:
        """Run some of the jobs; yield index and outcome as they come.

        The outcome is None for a job whose worker died. With ``alone``, one job at a time.
        ``on_progress`` may be called on any thread, or never.

        Raises
        ------
        ClusterLostError
            If nobody is left to do the rest.
        """
        ...


def run_jobs(
    backend: Backend,
    function: Callable[[Any], Any],
    jobs: Sequence[Any],
    on_progress: OnProgress | None = None,
) -> Generator[JobOutcome[Any], None, None]:
    """Run all jobs on a back end; yield what becomes of each, as it comes.

    A job whose worker died is tried once more when the others are done, alone: the worker may
    have died of another job beside it, or for want of memory that one job alone has.
    """
    left = set(range(len(jobs)))
    lost: list[int] = []
    try:
        for alone in (False, True):
            todo, lost = (lost if alone else sorted(left)), []
            if not todo:
                continue
            for index, outcome in backend.run(function, jobs, sorted(todo), alone, on_progress):
                if outcome is None:
                    lost.append(index)
                    continue
                left.discard(index)
                yield JobOutcome(index, *outcome)
        for index in lost:
            left.discard(index)
            yield JobOutcome(index, None, worker_died(jobs[index]))
    except ClusterLostError as gone:
        for index in sorted(left):
            yield JobOutcome(index, None, LostError(subject_of(jobs[index]), str(gone), RESTART))
