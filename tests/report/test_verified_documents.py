"""``scaat verify`` tells a changed or foreign trust card, comparison, model card and RO-Crate."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from forked_command import run_forked

from pathology_scaat.artifacts.checksums import write_sums
from pathology_scaat.artifacts.output_names import COMPARISON_SUMS

OTHER = "0123456789abcdef" * 4


def verified(out: Path, code: int = 0) -> str:
    done = run_forked(["verify", "--out", out])
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def documented(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a trust card, a comparison and all documents of ``scaat report``."""
    out = tmp_path_factory.mktemp("documented") / "out"
    shutil.copytree(small_run, out)
    manifest = small_run.parent / "cohort.csv"
    for words in (["evaluate", "--out", out, "--manifest", manifest, "-q"], ["report", out]):
        done = run_forked(words)
        assert done.returncode in (0, 4), done.stderr
    (out / "comparison").mkdir()
    (out / "comparison" / "comparison.json").write_text('{"baseline": "plain"}\n', "utf-8")
    write_sums(out / "comparison", COMPARISON_SUMS, ["comparison.json"])
    return out


@pytest.fixture
def out(documented: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(documented, tmp_path / "out"))


def test_documents_as_they_were_written_are_sound(documented: Path) -> None:
    said = verified(documented)
    for line in (
        "ok    evaluation/trust_card.json: trust card of a model's maps",
        "ok    comparison/comparison.json: comparison of methods",
        "ok    report: model card and checklists",
    ):
        assert f"{line}\n" in said
    assert "ok    ro-crate-metadata.json: RO-Crate of " in said


def _replaced(old: str, new: str, name: str) -> Callable[[Path], None]:
    def change(out: Path) -> None:
        text = (out / name).read_text(encoding="utf-8")
        assert old in text
        (out / name).write_text(text.replace(old, new, 1), encoding="utf-8")

    return change


def _of_another_model(out: Path) -> None:
    """As copied with its checksums from another folder."""
    path = out / "evaluation" / "trust_card.json"
    card = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**card, "model_fingerprint": OTHER}), encoding="utf-8")
    names = ["trust_card.json", "trust_card.md", "trust_card.png"]
    write_sums(out / "evaluation", "trust_card.sha256", names)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (
            _replaced('"n_images"', '"n_imagez"', "evaluation/trust_card.json"),
            "evaluation/trust_card.json: trust_card.json is not as it was written; run 'scaat "
            "evaluate' again",
        ),
        (
            _replaced("#", "##", "evaluation/trust_card.md"),
            "evaluation/trust_card.json: trust_card.md is not as it was written; run 'scaat "
            "evaluate' again",
        ),
        (
            _of_another_model,
            "evaluation/trust_card.json: is of another model than the one in this folder; run "
            "'scaat evaluate' again",
        ),
        (
            _replaced("plain", "scaat", "comparison/comparison.json"),
            "comparison/comparison.json: comparison.json is not as it was written; run 'scaat "
            "compare' again",
        ),
        (
            _replaced("\n", " \n", "slides.csv"),
            "ro-crate-metadata.json: describes another slides.csv than the one that is here; run "
            "'scaat report' again",
        ),
    ],
)
def test_a_changed_or_foreign_document_is_a_fault(
    out: Path, change: Callable[[Path], None], fault: str
) -> None:
    change(out)
    assert f"FAULT {fault}\n" in verified(out, 3)


def test_a_model_card_of_another_model_is_a_fault(out: Path) -> None:
    path = out / "report" / "model_card.md"
    own = json.loads((out / "model" / "config.json").read_text())["fingerprint"]
    path.write_text(path.read_text(encoding="utf-8").replace(own, OTHER), encoding="utf-8")
    assert (
        "FAULT report: model_card.md is of another model than the one in this folder; run 'scaat "
        "report' again\n"
    ) in verified(out, 3)


def test_what_a_person_filled_in_is_told_and_no_fault(out: Path) -> None:
    _replaced("[ ]", "[x]", "report/checklist.md")(out)
    assert (
        "ok    report: model card and checklists; checklist.md is not as it was written: it was "
        "filled in by hand, or damaged\n"
    ) in verified(out)


def test_documents_of_earlier_versions_are_told_to_have_no_checksums(out: Path) -> None:
    (out / "evaluation" / "trust_card.sha256").unlink()
    assert "trust card of a model's maps; its bytes cannot be checked" in verified(out)
