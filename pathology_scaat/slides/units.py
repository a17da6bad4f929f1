"""Units of length that slide files state pixel sizes in."""

from __future__ import annotations

_NAMES: dict[float, tuple[str, ...]] = {
    1.0: (
        "µm", "um", "micron", "microns", "micrometer", "micrometers", "micrometre", "micrometres",
    ),
    1e-3: ("nm", "nanometer", "nanometers", "nanometre", "nanometres"),
    1e-4: ("å", "a", "angstrom", "angstroms", "ångström"),
    1e-6: ("pm", "picometer", "picometre"),
    1e3: ("mm", "millimeter", "millimeters", "millimetre", "millimetres"),
    1e4: ("cm", "centimeter", "centimeters", "centimetre", "centimetres"),
    1e6: ("m", "meter", "meters", "metre", "metres"),
    25_400.0: ("in", "inch", "inches", '"'),
}  # fmt: skip
_MICRONS = {name: microns for microns, names in _NAMES.items() for name in names}


def microns_of(unit: object) -> float | None:
    """µm in one of a unit of length, by any of its usual names; None for what is none."""
    if not isinstance(unit, str):
        return None
    # Two characters look like a micro sign, and ImageJ writes one of them as an escape.
    cleaned = unit.strip().replace("\\u00b5", "µ").replace("\\u00B5", "µ")
    return _MICRONS.get(cleaned.replace("μ", "µ").casefold().replace("μ", "µ"))
