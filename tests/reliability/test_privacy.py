from __future__ import annotations

import json
import logging
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathology_scaat.artifacts.redaction import (
    RedactingFormatter,
    Redactor,
    load_salt,
    pseudonymize,
    reason_for,
    redact,
    scrub,
)
from pathology_scaat.artifacts.run_record import read_run_record, write_run_record
from pathology_scaat.errors import AnnotationError, SlideOpenError, StoreError, UsageError

SALT = b"0123456789abcdef0123456789abcdef"


def test_pseudonyms_depend_on_value_and_salt_only() -> None:
    assert pseudonymize("S19-1", SALT) == pseudonymize("S19-1", SALT)
    assert pseudonymize("S19-1", SALT) != pseudonymize("S19-2", SALT)
    assert pseudonymize("S19-1", SALT) != pseudonymize("S19-1", SALT[::-1])
    with pytest.raises(UsageError):
        pseudonymize("S19-1", b"short")


def test_rfc_4231_vector() -> None:
    # Test case 6 of RFC 4231: key of 131 times 0xaa.
    value = "Test Using Larger Than Block-Size Key - Hash Key First"
    assert pseudonymize(value, b"\xaa" * 131) == "s60e431591ee0b67f"


def test_the_salt_is_made_once_and_for_its_owner(tmp_path: Path) -> None:
    out, salt = tmp_path / "out", tmp_path / "salt"
    first = load_salt(salt, out)
    assert load_salt(salt, out) == first
    assert stat.S_IMODE(salt.stat().st_mode) == 0o600
    with pytest.raises(UsageError, match="output folder"):
        load_salt(out / "salt", out)
    (tmp_path / "link").symlink_to(out, target_is_directory=True)
    with pytest.raises(UsageError, match="output folder"):
        load_salt(tmp_path / "link" / "salt", out)
    if os.name == "posix":
        salt.chmod(0o644)
        with pytest.raises(UsageError, match="other users"):
            load_salt(salt, out)


@pytest.mark.parametrize("content", ["", "xyz", "00" * 31, "é"])
def test_what_is_no_salt_is_refused(tmp_path: Path, content: str) -> None:
    salt = tmp_path / "salt"
    salt.write_text(content, encoding="utf-8")
    salt.chmod(0o600)
    with pytest.raises(UsageError, match="not a salt"):
        load_salt(salt, tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ('File "/home/jo smith/a b.py", line 3', 'File "<path>", line 3'),
        ("cannot open /data/CANARY/x.svs: no such file", "cannot open <path>: no such file"),
        (r"C:\Users\jo\x.svs failed", "<path> failed"),
        (r"\\server\share\x.svs", "<path>"),
        ("file:///srv/x.svs", "<path>"),
        ("0.25 µm/px and/or 1/2; https://qupath.github.io/x", None),
    ],
)
def test_paths_are_removed_and_the_rest_stays(text: str, left: str | None) -> None:
    assert redact(text) == (text if left is None else left)


def test_names_that_were_named_are_hidden_in_every_spelling() -> None:
    redactor = Redactor()
    redactor.hide_path(Path("/ward 7/MÜLLER, Hans.svs"), "slide-1")
    text = redactor("MÜLLER, Hans.svs in '/ward 7' is 'MÜLLER, Hans'")
    assert "LLER" not in text
    assert "ward" not in text
    assert "slide-1" in text


def test_a_bare_word_is_hidden_as_a_whole_word_only() -> None:
    redactor = Redactor([("dicom", "slide-1"), ("case_7", "slide-2")])
    redacted = redactor("dicom: needs highdicom; dicom_wsi/dicom.dcm of xcase_7x")
    assert redacted == "slide-1: needs highdicom; slide-1_wsi/slide-1.dcm of xslide-2x"


def test_log_lines_and_tracebacks_are_redacted() -> None:
    formatter = RedactingFormatter(Redactor([("CANARY", "x")]))
    try:
        raise ValueError("/secret/folder/CANARY.svs")
    except ValueError as error:
        record = logging.LogRecord(
            "a", 40, "/x/y.py", 1, "bad %s", ("CANARY",), (ValueError, error, error.__traceback__)
        )
    text = formatter.format(record)
    assert "CANARY" not in text
    assert "secret" not in text
    assert str(Path(__file__).parent) not in text
    assert "ValueError" in text


def test_reasons_name_the_kind_of_file_only() -> None:
    assert "CANARY" not in reason_for(SlideOpenError("CANARY.svs", "is empty", "copy it again"))
    assert reason_for(SlideOpenError("C.svs", "is empty")) == "slide: is empty."
    assert reason_for(AnnotationError("C.geojson", "is empty")) == "annotation file: is empty."
    assert reason_for(StoreError("s1.zarr", "is damaged")) == "s1.zarr: is damaged."


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False) | st.text() | st.just("/a/b/CANARY"),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    )
)
def test_scrubbed_values_are_json_without_paths(value: object) -> None:
    assert "CANARY" not in json.dumps(scrub({"x": value}))


def test_run_record_is_reproducible_and_silent_about_people(tmp_path: Path) -> None:
    config = {"manifest": Path("/CANARY/m.csv"), "tile": {"mpp": 0.5, "path": "/CANARY/x"}}
    one = write_run_record(tmp_path / "1", config, inputs={"manifest": "0f"})
    two = write_run_record(tmp_path / "2", config, inputs={"manifest": "0f"})
    assert one.read_bytes() == two.read_bytes()
    assert b"CANARY" not in one.read_bytes()
    record = read_run_record(tmp_path / "1")
    assert record["config"]["tile"]["mpp"] == 0.5
    record["config"]["tile"]["mpp"] = 0.25
    one.write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(StoreError, match="altered"):
        read_run_record(tmp_path / "1")


def test_full_audit_keeps_what_was_asked_for(tmp_path: Path) -> None:
    write_run_record(tmp_path, {"manifest": Path("/place/m.csv")}, audit="full")
    record = read_run_record(tmp_path)
    assert record["full"]["config"]["manifest"] == "/place/m.csv"
    assert record["full"]["command"]
