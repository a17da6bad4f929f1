"""What measures are called where people read them: of two classes, and of more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pathology_scaat.evaluation.performance.measures import ECE_BINS
from pathology_scaat.system.rounding import significant

HEADINGS = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "balanced_accuracy": "Balanced accuracy",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "ppv": "PPV",
    "npv": "NPV",
    "accuracy": "Accuracy",
    "brier": "Brier score",
    "ece": f"Expected calibration error ({ECE_BINS} bins)",
    "quadratic_kappa": "Kappa of grades, quadratic weights",
    "mean_absolute_error": "Mean absolute error, in grades",
}
MEANS = frozenset({"auroc", "auprc", "sensitivity", "specificity"})
"""Measures that of more than two classes are means over those that occur."""
SEVERAL_CLASSES = (
    "Of more than two classes AUROC, AUPRC, sensitivity and specificity are means over the classes "
    "that occur, each against the others; the likeliest class is predicted, and no threshold "
    "was chosen."
)
NO_PREDICTIVE_VALUES = (
    "--prevalence had no effect: predictive values are given where there are two classes."
)


def threshold_words(entry: Mapping[str, Any]) -> str:
    """A threshold and what it was chosen on, of an entry of ``thresholds`` in JSON."""
    fold = "" if entry.get("fold") is None else f"fold {entry['fold']}: "
    on = entry["chosen_on"]
    whence = on if on.startswith("nothing") else f"{entry['n_validation']} {on}"
    return f"{fold}{significant(entry['threshold'], 4)} (chosen on {whence})"


def heading(key: str, n_classes: int) -> str:
    """What a measure is called; of a key that is none, the key itself.

    Examples
    --------
    >>> heading("auroc", 2), heading("auroc", 3)
    ('AUROC', 'AUROC, mean over classes')
    >>> heading("sensitivity: low", 3)
    'Sensitivity of low'
    """
    name, _, of_class = key.partition(": ")
    words = HEADINGS.get(name, name)
    if of_class:
        return f"{words} of {of_class}"
    if n_classes == 2:
        return words
    if name in MEANS:
        return f"{words}, mean over classes"
    return f"{words}, summed over classes (0 to 2)" if name == "brier" else words
