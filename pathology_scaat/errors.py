"""Every error of the package: one root, one sentence each.

A message has three parts: which input, what is wrong with it, what to do about it.
The command line prints that sentence and nothing else; Python callers can catch
:class:`ScaatError` or the builtin that each error also is.
"""

from __future__ import annotations


class ScaatError(Exception):
    """Root of all errors that this package raises on purpose.

    Parameters
    ----------
    subject : str
        The input that is at fault, as the user would name it (a file name, an option).
    problem : str
        What is wrong with it.
    remedy : str, optional
        What the user can do about it.
    """

    exit_code: int = 2

    def __init__(self, subject: str, problem: str, remedy: str = "") -> None:
        self.subject = subject
        self.problem = problem
        self.remedy = remedy
        super().__init__(subject, problem, remedy)

    def __str__(self) -> str:
        sentence = f"{self.subject}: {self.problem}"
        text = f"{sentence}; {self.remedy}." if self.remedy else f"{sentence}."
        # A name or a value quoted here may hold line breaks, or what commands a terminal.
        return "".join(c if c.isprintable() else " " for c in text)


class UsageError(ScaatError, ValueError):
    """An option or argument that cannot be used as given."""


class ConfigError(ScaatError, ValueError):
    """A pipeline or profile file that cannot be used as written."""


class ManifestError(ScaatError, ValueError):
    """A cohort table that cannot be used as written."""


class AnnotationError(ScaatError, ValueError):
    """An annotation file that cannot be read."""


class AddressError(ScaatError):
    """A URL that may not be opened: its protocol, its host, or what it would lead to."""


class SlideError(ScaatError, OSError):
    """A slide that cannot be used; the batch goes on without it."""


class SlideOpenError(SlideError):
    """A file that no reader can open as a slide."""


class SlideReadError(SlideError):
    """Pixels of an open slide that cannot be decoded."""


class SpacingError(SlideError):
    """A slide whose µm/px is unknown or impossible."""


class StoreError(ScaatError, OSError):
    """A patch store or other artifact that is missing, partial or of another schema."""


class BundleError(ScaatError, ValueError):
    """A model bundle that is missing, altered or of another schema."""


class TrainingError(ScaatError, ValueError):
    """Data or settings from which no model can be trained."""


class ExportError(ScaatError, ValueError):
    """An export that cannot be written as asked."""


class LeaseError(ScaatError, RuntimeError):
    """An artifact that another live process is making right now."""


class BatchError(ScaatError, RuntimeError):
    """Some slides of a batch failed; the others are done."""

    exit_code = 3


class NothingLearntError(BatchError):
    """All was done, with a model that has learnt nothing that can be relied on."""

    exit_code = 4
