"""ASAP/CAMELYON and ImageScope XML, whole and hostile."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathology_scaat.annotations import LabelledPolygon, read_annotations
from pathology_scaat.annotations.xml import parse_xml
from pathology_scaat.errors import AnnotationError


def ring(points: list[tuple[str, str]], tag: str = "Coordinate", shuffled: bool = False) -> str:
    items = [f'<{tag} Order="{i}" X="{x}" Y="{y}"/>' for i, (x, y) in enumerate(points)]
    return "".join(reversed(items) if shuffled else items)


SQUARE = [("0", "0"), ("100", "0"), ("100", "100"), ("0", "100")]


def asap(*annotations: str) -> str:
    return (
        '<?xml version="1.0"?><ASAP_Annotations><Annotations>'
        + "".join(annotations)
        + "</Annotations><AnnotationGroups/></ASAP_Annotations>"
    )


def asap_item(group: str, kind: str = "Polygon", points: str | None = None) -> str:
    return (
        f'<Annotation Name="A 0" Type="{kind}" PartOfGroup="{group}" Color="#F4FA58">'
        f"<Coordinates>{points or ring(SQUARE)}</Coordinates></Annotation>"
    )


def aperio_region(points: list[tuple[str, str]], **attributes: str) -> str:
    stated = " ".join(f'{k}="{v}"' for k, v in attributes.items())
    return f"<Region {stated}><Vertices>{ring(points, 'Vertex')}</Vertices></Region>"


def aperio(regions: str, layer: str = 'Name="Tumor"', attributes: str = "") -> str:
    return (
        f'<Annotations MicronsPerPixel="0.5"><Annotation Id="1" {layer}>'
        f"<Attributes>{attributes}</Attributes><Regions>{regions}</Regions></Annotation></Annotations>"
    )


def read(text: str) -> list[LabelledPolygon]:
    return parse_xml(text.encode(), "a.xml")


def test_asap_groups_are_classes() -> None:
    found = read(asap(asap_item("metastases"), asap_item("None"), asap_item("normal", "Rectangle")))
    assert [p.class_name for p in found] == ["metastases", "", "normal"]
    assert [p.geometry.area for p in found] == [10_000] * 3


def test_camelyon16_groups_mean_tumour_and_what_was_cut_out_of_it() -> None:
    found = read(asap(*(asap_item(group) for group in ("_0", "_1", "_2"))))
    assert [p.class_name for p in found] == ["Tumor", "Tumor", "Normal"]
    assert read(asap(asap_item("_0"), asap_item("Stroma")))[0].class_name == "_0"


def test_asap_order_decimal_commas_and_points() -> None:
    turned = ring([("0,5", "0"), ("100,5", "0"), ("100,5", "100"), ("0,5", "100")], shuffled=True)
    found = read(asap(asap_item("t", points=turned), asap_item("t", "Dot", ring(SQUARE[:1]))))
    assert len(found) == 1
    assert found[0].geometry.bounds == (0.5, 0, 100.5, 100)


def test_aperio_layers_shapes_and_negative_regions() -> None:
    inner = [("20", "20"), ("40", "20"), ("40", "40"), ("20", "40")]
    regions = (
        aperio_region(SQUARE, Type="0", Text="first")
        + aperio_region(inner, Type="0", NegativeROA="1")
        + aperio_region([("200", "0"), ("300", "50")], Type="2")
        + aperio_region([("0", "0"), ("10", "10")], Type="4")
    )
    square, ellipse = read(aperio(regions))
    assert (square.class_name, square.name) == ("Tumor", "first")
    assert square.geometry.area == 9600
    assert ellipse.geometry.area == pytest.approx(3.14159 * 50 * 25, rel=1e-3)


@pytest.mark.parametrize(
    ("layer", "attributes", "expected"),
    [
        ('Name="Tumor"', "", "Tumor"),
        ('Name=""', '<Attribute Name="Description" Value="Tumor"/>', "Tumor"),
        ("", '<Attribute Name="Tumor" Value=""/>', "Tumor"),
        ("", "", "region text"),
    ],
)
def test_aperio_layer_names(layer: str, attributes: str, expected: str) -> None:
    text = aperio(aperio_region(SQUARE, Text="region text"), layer, attributes)
    assert read(text)[0].class_name == expected


BOMB = (
    '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "bbbbbbbbbb"><!ENTITY c "&b;&b;&b;">]>'
    "<Annotations>&c;</Annotations>"
)
EXTERNAL = (
    '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]>'
    "<Annotations>&x;</Annotations>"
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB, "entities"),
        (EXTERNAL, "entities"),
        ("<Annotations><Annotation>", "not valid XML"),
        ("<svg/>", "another kind"),
        (
            asap(asap_item("t", points=ring([("a", "b"), ("c", "d"), ("e", "f")]))),
            "pair of numbers",
        ),
        (asap(asap_item("t", points=ring([("nan", "0"), *SQUARE]))), "no slide can have"),
        ('<?xml version="1.0" encoding="no-such"?><Annotations/>', "encoding|not valid"),
    ],
)
def test_hostile_xml_gives_one_sentence(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(AnnotationError, match=words) as caught:
        read_annotations(tmp_path / "a.xml")
    assert "\n" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_deep_nesting_is_no_harm(tmp_path: Path) -> None:
    text = "<Annotations>" + "<a>" * 50_000 + "</a>" * 50_000 + "</Annotations>"
    (tmp_path / "deep.xml").write_text(text)
    assert read_annotations(tmp_path / "deep.xml") == ()


@given(st.text(alphabet='<>/="AnotisX Y1,.&;!', max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    for wrapped in (text, f"<Annotations>{text}</Annotations>"):
        message = ""
        try:
            read(wrapped)
        except AnnotationError as error:
            message = str(error)
        assert "\n" not in message
