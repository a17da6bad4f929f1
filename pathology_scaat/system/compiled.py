"""Compiled kernels, also where an installation cannot be written and nobody has a home.

numba keeps what it compiled beside the module or in the user's home. In a container image
(Apptainer, ``docker run --user``) the one is read-only and the other is missing: then numba
refuses to decorate at all, or takes ``~`` for a folder of that name where the program was
started. Here a folder of the user's own below the system's temporary one takes its place, and
where there is none either, kernels are compiled anew by each process.

numba is imported by the first call of a kernel, not by its definition: it takes a third of a
second, and a command that reports a mistake, or gives its work to other processes, calls none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property, update_wrapper
from pathlib import Path
from typing import Any, TypeVar, cast

from pathology_scaat.system.home import home_folder, is_writable, private_temporary_folder

F = TypeVar("F", bound=Callable[..., Any])


@contextmanager
def _numba_cache(folder: Path) -> Iterator[None]:
    import numba

    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(folder)
    try:
        yield
    finally:
        numba.config.CACHE_DIR = before


def _cached(function: F, options: dict[str, Any]) -> F | None:
    """A kernel whose machine code is kept somewhere; None where nothing can be kept."""
    import numba

    beside = Path(function.__code__.co_filename).parent / "__pycache__"
    if numba.config.CACHE_DIR or home_folder() is not None or is_writable(beside):
        try:
            return numba.njit(cache=True, **options)(function)  # type: ignore[no-any-return]
        except RuntimeError:  # "no locator available"
            pass
    folder = private_temporary_folder()
    if folder is None:
        return None
    with _numba_cache(folder):
        try:
            return numba.njit(cache=True, **options)(function)  # type: ignore[no-any-return]
        except RuntimeError:
            return None


class Kernel:
    """A function that numba compiles when it is first called."""

    def __init__(self, function: Callable[..., Any], options: dict[str, Any]) -> None:
        self._function, self._options = function, options
        update_wrapper(self, function)

    @cached_property
    def dispatcher(self) -> Any:
        """What numba made of the function."""
        import numba

        kernel = _cached(self._function, self._options)
        return kernel if kernel is not None else numba.njit(**self._options)(self._function)

    def __call__(self, *arguments: Any) -> Any:
        """Call the compiled function."""
        return self.dispatcher(*arguments)


def compiled(**options: Any) -> Callable[[F], F]:
    """Decorate a kernel for numba, with a cache where one can be had: a :class:`Kernel`.

    Parameters
    ----------
    **options
        For :func:`numba.njit`.
    """

    def decorate(function: F) -> F:
        return cast(F, Kernel(function, options))

    return decorate


def cache_location(kernel: Any) -> str:
    """Where a kernel's machine code is kept, in words without a path."""
    cached = getattr(getattr(kernel, "dispatcher", kernel), "_cache", None)
    path = getattr(cached, "cache_path", None)
    if not path:
        return "compiled anew by each process: no folder to keep it can be written"
    folder = private_temporary_folder()
    if folder is not None and Path(path).is_relative_to(folder):
        return "kept in a temporary folder"
    home = home_folder()
    if home is not None and Path(path).is_relative_to(home):
        return "kept in the home folder"
    return "kept with the installation"
