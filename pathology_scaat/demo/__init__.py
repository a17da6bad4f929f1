"""The synthetic demo cohort: H&E-like slides whose answer is known.

The names are loaded when they are first used: drawing needs scipy and tifffile.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathology_scaat.demo.cohort import DemoCohort, DemoSlide, make_demo_cohort

__all__ = ["DemoCohort", "DemoSlide", "make_demo_cohort"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from pathology_scaat.demo import cohort

        return getattr(cohort, name)
    raise AttributeError(name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
