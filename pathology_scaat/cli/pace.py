"""How fast a stage goes, and how long it will take at that pace."""

from __future__ import annotations

from collections import deque

LEAST_S = 5.0
"""Before this nobody can know."""

LEAST_SHARE = 0.02
START_S = 60.0
"""Within this, the time before the first results is mostly starting: until so much of the whole is
done, it would count as their pace."""

MAX_SAMPLES = 256


class Pace:
    """The pace of the later half of the time since the beginning.

    What was there already and is only found again goes by in the first seconds; counted in, it
    would promise an end that does not come.

    Parameters
    ----------
    total : float
        Units of the whole.
    now_s : float
        Time of the beginning, of any clock that does not go back.
    """

    def __init__(self, total: float, now_s: float) -> None:
        self._total = total
        self._began_s = now_s
        self._samples: deque[tuple[float, float]] = deque([(now_s, 0.0)])

    def at(self, now_s: float, completed: float) -> None:
        """So much is done now."""
        last_s, _ = self._samples[-1]
        if now_s - last_s > (now_s - self._began_s) / MAX_SAMPLES or len(self._samples) == 1:
            self._samples.append((now_s, completed))
        else:
            self._samples[-1] = (now_s, completed)
        middle_s = self._began_s + (now_s - self._began_s) / 2
        while len(self._samples) > 2 and self._samples[1][0] <= middle_s:
            self._samples.popleft()

    def left_s(self, now_s: float) -> float | None:
        """Seconds left at this pace; None where no pace is known."""
        then_s, before = self._samples[0]
        _, completed = self._samples[-1]
        running_s = now_s - self._began_s
        if running_s < LEAST_S or completed <= before or now_s <= then_s:
            return None
        if running_s < START_S and completed < LEAST_SHARE * self._total:
            return None
        per_s = (completed - before) / (now_s - then_s)
        return max((self._total - completed) / per_s, 0.0)
