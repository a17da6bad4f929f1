"""What nobody can know of a model that was trained elsewhere."""

from __future__ import annotations

from pathology_scaat.training.bundle_config import BundleConfig


def unknowns(config: BundleConfig) -> tuple[str, ...]:
    """What a bundle of a model that was trained elsewhere cannot say, in sentences."""
    record = config.imported
    if record is None:
        return ()
    said = [
        "Not calibrated: its probabilities are those of the plain logits.",
        "Not known: the slides it was trained on. No slide counts as held out, and no performance "
        "of it is recorded.",
        "Not known: what its training patches look like. No patch is reported to be unlike them.",
    ]
    if record.n_reference_patches:
        said.append(
            f"Its colours are scaled by {record.n_reference_patches} reference patches that were "
            "given; whether it was trained on them is not known."
        )
    else:
        said.append(
            "No scale of saliency: each slide's picture of saliency has a scale of its own, and "
            "two cannot be compared. Give --reference STORE to measure one."
        )
    if config.terms:
        said.append(f"{config.terms}.")
    return tuple(said)
