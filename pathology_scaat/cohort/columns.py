"""The manifest's columns and the names that people's tables already use for them."""

from __future__ import annotations

from collections.abc import Sequence

from pathology_scaat.errors import ManifestError

COLUMNS: dict[str, tuple[str, ...]] = {
    "slide_path": (
        "slide", "wsi", "wsi_path", "image_path", "image", "filename", "file_name", "file",
        "file_path", "filepath", "path",
    ),
    "slide_id": ("sample_id", "image_id", "wsi_id", "slide_name"),
    "patient_id": ("patient", "case_id", "case", "patient_barcode", "subject_id", "subject"),
    "label": ("class", "target", "category", "diagnosis"),
    "split": ("set", "subset", "partition"),
    "fold": ("cv_fold", "kfold", "k_fold"),
    "mpp": (
        "spacing", "spacing_at_level_0", "slide_mpp", "mpp_x", "microns_per_pixel",
        "um_per_px", "µm/px", "um/px",
    ),
    "annotation_path": ("annotation", "annotations", "annotations_path", "geojson", "xml"),
    "mask_path": ("mask", "tissue_mask", "tissue_mask_path"),
}  # fmt: skip
"""Columns of the manifest, and the names that people's tables already use for them."""


def find_columns(
    header: Sequence[str], subject: str, *, needs_slides: bool = True
) -> tuple[dict[str, int], list[str]]:
    """Which cell of a row is which column; and the headings that mean nothing here.

    Without ``needs_slides`` a column of slide ids will do in place of the slides' files.

    Raises
    ------
    ManifestError
        If a column is there twice, or that of the slides is missing; ``subject`` names the file.
    """
    names: dict[str, int] = {}
    exact: dict[str, bool] = {}
    ignored: list[str] = []
    for index, heading in enumerate(header):
        key = "_".join(heading.strip().casefold().replace("-", " ").split())
        for column, aliases in COLUMNS.items():
            if key != column and key not in {alias.casefold() for alias in aliases}:
                continue
            is_exact = key == column
            if column in names and exact[column] == is_exact:
                raise ManifestError(
                    subject, f"has two columns for {column}", f"keep one and name it {column}"
                )
            if column not in names or is_exact:
                names[column], exact[column] = index, is_exact
            break
        else:
            if heading.strip():
                ignored.append(heading.strip()[:40])
    if "slide_path" not in names and (needs_slides or "slide_id" not in names):
        raise ManifestError(
            subject,
            "has no column slide_path",
            "name the column with the slide files slide_path (or wsi, image_path, filename)",
        )
    return names, ignored
