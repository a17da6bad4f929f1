"""The work of a stage as Dask tasks, and the loop that every back end shares."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
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

    # As one value: Dask would look through every field of the job for tasks inside.
    return delayed(partial(call, *arguments), pure=False, traverse=False)()


def compute_here(task: Any) -> Any:
    """Run a task by Dask's synchronous scheduler, without what ``compute`` does for graphs."""
    from dask.local import get_sync

    (result,) = get_sync(task.__dask_graph__(), [task.key])
    return result


class Beside:
    """Further jobs for the workers of a batch, given while it runs and done between its own jobs.

    They follow from what is done already. Nobody depends on them: what has not begun when the
    batch ends may be left undone, and a job whose worker dies is not tried again.

    Attributes
    ----------
    outcomes : list
        Results and errors of the jobs that were done, in order of completion.
    """

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self._waiting: deque[tuple[Callable[[Any], Any], Any]] = deque()

    def add(self, function: Callable[[Any], Any], job: Any) -> None:
        """Have a job done; to be called where the outcomes of the batch are received."""
        self._waiting.append((function, job))

    def take(self) -> Iterator[tuple[Callable[[Any], Any], Any]]:
        """The jobs that wait, which then wait no more."""
        while self._waiting:
            yield self._waiting.popleft()

    def ended(self, outcome: Outcome | None) -> None:
        """What became of a job; None where its worker died."""
        if outcome is not None:
            self.outcomes.append(outcome)


class Backend(Protocol):
    """Where tasks run: in this process, in local processes, on a cluster."""

    def run(
        self,
        function: Callable[[Any], Any],
        jobs: Sequence[Any],
        indices: Sequence[int],
        alone: bool,
        on_progress: OnProgress | None,
        beside: Beside,
    ) -> Iterator[tuple[int, Outcome | None]]:
        """Run some of the jobs; yield index and outcome as they come.

        The outcome is None for a job whose worker died. With ``alone``, one job at a time.
        ``on_progress`` may be called on any thread, or never. Jobs of ``beside`` are done by the
        same workers.

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
    beside: Beside | None = None,
) -> Generator[JobOutcome[Any], None, None]:
    """Run all jobs on a back end; yield what becomes of each, as it comes.

    A job whose worker died is tried once more when the others are done, alone: the worker may
    have died of another job beside it, or for want of memory that one job alone has.
    """
    left = set(range(len(jobs)))
    lost: list[int] = []
    further = beside or Beside()
    try:
        for alone in (False, True):
            todo, lost = (lost if alone else sorted(left)), []
            if not todo:
                continue
            results = backend.run(function, jobs, sorted(todo), alone, on_progress, further)
            for index, outcome in results:
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
