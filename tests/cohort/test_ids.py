from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathology_scaat.cohort.ids import MAX_ID_BYTES, id_from_name, id_key, id_problem, safe_id
from pathology_scaat.errors import ManifestError

HOSTILE = (
    "", "   ", ".", "..", "../../x", "a/b", "a\\b", "C:x", "CON", "con.svs", "LPT1", "nul ",
    ".hidden", "ends.", " lead", "a\nb", "a\x00b", "a\u202eb", "a\u2028b", "\ud800", "=1+1", "@x",
    "-rf", "+x", "x" * 121, "é" * 100, "a?b", 'a"b', "a|b", "x.partial-1", "x.lease",
)  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_ids_are_refused_in_one_printable_line(text: str) -> None:
    with pytest.raises(ManifestError) as caught:
        safe_id(text)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 250


@pytest.mark.parametrize(
    "text", ["CMU-1", "S19-1234 A2", "Müller ü", "切片1", "a'b;$(c)&`d`", "x" * 120]
)
def test_ordinary_ids_pass_unchanged(text: str) -> None:
    assert safe_id(text) == text


def test_one_character_has_one_spelling() -> None:
    assert safe_id("Mu\u0308ller") == "Müller"
    assert id_key("Mu\u0308LLER") == id_key("müller")


@given(st.text(max_size=300))
def test_every_name_gives_a_safe_id(name: str) -> None:
    made = id_from_name(name)
    assert safe_id(made) == made
    assert len(made.encode()) <= MAX_ID_BYTES
    assert id_from_name(name) == made


@given(st.text(min_size=1, max_size=40), st.text(min_size=1, max_size=40))
def test_two_names_whose_ids_had_to_be_made_stay_two(one: str, other: str) -> None:
    if id_from_name(one) == id_from_name(other):
        import unicodedata

        assert unicodedata.normalize("NFC", one) == unicodedata.normalize("NFC", other)


@given(st.text(max_size=150))
def test_what_passes_is_one_plain_file_name(text: str) -> None:
    if id_problem(text) is None:
        assert text.isprintable() or " " in text
        assert not set(text) & set("/\\\n\r\t\0")
        assert text not in {".", ".."}
