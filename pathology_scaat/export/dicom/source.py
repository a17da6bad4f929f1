"""What a DICOM object may take from its slide's header.

A viewer shows an object over its slide because both name the same patient, study and specimen;
so those are copied, only where the user says that identified data may be written, or where the
slide itself says that its patient's identity was removed. All other text of the header, people,
locations, devices, comments, private elements, stays where it is: what is not listed is not copied.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pathology_scaat.artifacts.urls import SlideLocation
from pathology_scaat.errors import ExportError
from pathology_scaat.slides.siblings import check_siblings

WSI_CLASS = "1.2.840.10008.5.1.4.1.1.77.1.6"
PATIENT_GROUP = 0x0010

_SHARED = frozenset((
    # who and what: the patient, study and specimen modules, without comments and addresses
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber",
    "ReferringPhysicianName", "StudyID", "StudyDate", "StudyTime", "StudyDescription",
    "PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence",
    "ContainerIdentifier", "ContainerTypeCodeSequence", "SpecimenDescriptionSequence",
    # when: instead of the time of writing
    "ContentDate", "ContentTime",
    # where on the slide
    "PositionReferenceIndicator", "TotalPixelMatrixOriginSequence",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    "DimensionOrganizationSequence", "DimensionIndexSequence",
    # wanted by the library, and given no name
    "Manufacturer",
))  # fmt: skip
_NAMES = ("PatientName", "PatientID", "PatientBirthDate", "AccessionNumber")
_SPECIMEN = frozenset(("SpecimenIdentifier", "SpecimenUID", "SpecimenTypeCodeSequence"))
_TEXT_OR_NESTED = frozenset(
    ("PN", "LO", "SH", "LT", "ST", "UT", "UC", "UR", "AE", "AS", "DA", "TM", "DT", "SQ", "UN")
)


def need_highdicom() -> Any:
    """The library, imported where it is first needed.

    Raises
    ------
    ExportError
        If the extra is not installed.
    """
    try:
        import highdicom
    except ImportError:
        raise ExportError(
            "DICOM export", "needs highdicom", "pip install 'pathology-scaat[dicom]'"
        ) from None
    return highdicom


def needed_source(file_name: str, slide_path: SlideLocation | None, identified: bool) -> Any:
    """The header that an object needs of its slide; see :func:`read_source`.

    Raises
    ------
    ExportError
        If the slide is not at hand, is not DICOM, or names a patient without leave to copy.
    """
    if slide_path is None:
        raise ExportError(file_name, "needs the DICOM slide it belongs to", "give --manifest")
    return read_source(slide_path, identified)


def read_source(slide_path: SlideLocation, identified: bool) -> Any:
    """What may be copied of the header of the full-resolution image of a DICOM slide.

    Raises
    ------
    ExportError
        If the slide is not DICOM, or carries a patient's identity that nobody allowed to copy.
    """
    need_highdicom()
    import pydicom
    from pydicom.errors import InvalidDicomError

    if not isinstance(slide_path, Path):
        raise ExportError(slide_path.name, "lies in object storage", "download the DICOM slide")
    path = slide_path
    check_siblings(path)
    files = sorted(path.iterdir()) if path.is_dir() else sorted(path.parent.iterdir())
    best: Any = None
    series = None
    if path.is_file():
        try:
            series = pydicom.dcmread(path, stop_before_pixels=True).get("SeriesInstanceUID")
        except (InvalidDicomError, OSError):
            files = []
    for file in files:
        if not file.is_file():
            continue
        try:
            header = pydicom.dcmread(file, stop_before_pixels=True)
        except (InvalidDicomError, OSError):
            continue
        volume = header.get("SOPClassUID") == WSI_CLASS and "VOLUME" in header.get("ImageType", ())
        if not volume or (series and header.get("SeriesInstanceUID") != series):
            continue
        if best is None or header.TotalPixelMatrixColumns > best.TotalPixelMatrixColumns:
            best = header
    if best is None:
        raise ExportError(
            path.name, "is not a DICOM slide", "leave 'dicom' out of the formats for it"
        )
    if not identified and best.get("PatientIdentityRemoved") != "YES":
        named = any(str(best.get(keyword, "") or "").strip() for keyword in _NAMES)
        raise ExportError(
            path.name,
            "names a patient, whose data a DICOM object would copy"
            if named
            else "does not say that its patient's identity was removed (PatientIdentityRemoved), "
            "and a DICOM object would copy its header's ids and dates",
            "de-identify the slide, or allow it with --identified",
        )
    return _shared_part(best)


def _shared_part(header: Any) -> Any:
    """A copy of a slide's header without what an object made from it must not repeat."""
    import pydicom

    kept = pydicom.Dataset()
    for element in header:
        may_identify = element.VR in _TEXT_OR_NESTED or element.tag.group == PATIENT_GROUP
        if not element.tag.is_private and (element.keyword in _SHARED or not may_identify):
            kept.add(element)
    if "SpecimenDescriptionSequence" in kept:
        kept.SpecimenDescriptionSequence = [
            _bare_specimen(item) for item in kept.SpecimenDescriptionSequence
        ]
    if "ContainerIdentifier" in kept:
        kept.IssuerOfTheContainerIdentifierSequence = []
    if "Manufacturer" in kept:
        kept.Manufacturer = ""
    return kept


def _bare_specimen(item: Any) -> Any:
    """A specimen without its preparation, which names people and times; that one may be empty."""
    import pydicom

    bare = pydicom.Dataset()
    for element in item:
        if element.keyword in _SPECIMEN:
            bare.add(element)
    bare.IssuerOfTheSpecimenIdentifierSequence = []
    bare.SpecimenPreparationSequence = []
    return bare
