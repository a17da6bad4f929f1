"""Model card, checklists and crate: every number has a source, and what is not known is open."""

from __future__ import annotations

import csv
import getpass
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

import pathology_scaat as ps
from pathology_scaat.artifacts.checksums import CHECKSUM_KEY, without_checksum, write_checked_json
from pathology_scaat.artifacts.run_record import write_run_record
from pathology_scaat.artifacts.status import StatusTable
from pathology_scaat.artifacts.status_columns import COLUMNS, STAGES
from pathology_scaat.errors import ExportError, StoreError, UsageError
from pathology_scaat.evaluation.report import facts
from pathology_scaat.evaluation.report.checklist import all_answers, count
from pathology_scaat.evaluation.report.checklist_items import CLAIM, TRIPOD_AI
from pathology_scaat.evaluation.report.facts import exclusions, selection, slide_counts
from pathology_scaat.evaluation.report.model_card import write_model_folder
from pathology_scaat.evaluation.report.run_files import RunFiles
from pathology_scaat.pipeline.report import report
from pathology_scaat.slides.painted import PAINTED_NOTE


@pytest.fixture
def run_copy(small_run: Path, tmp_path: Path) -> Path:
    """The documents' sources; stores are not needed."""
    out = tmp_path / "out"
    shutil.copytree(
        small_run, out, ignore=shutil.ignore_patterns("patches", "saliency", "maps", "tissue")
    )
    return out


def resolved(out: Path, source: str) -> Any:
    """What stands where a fact says it is from."""
    name, _, keys = source.partition(": ")
    if name.endswith(".csv"):
        with (out / name).open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        return [[row[column] for column in keys.split(", ")] for row in rows]
    value = json.loads((out / name).read_text(encoding="utf-8"))
    for key in keys.split("."):
        value = value[int(key)] if isinstance(value, list) else value[key]
    return value


def test_the_checklists_have_the_items_of_the_guidelines() -> None:
    assert [item.number for item in TRIPOD_AI] == [str(n) for n in range(1, 28)]
    assert [item.number for item in CLAIM] == [str(n) for n in range(1, 45)]
    for item in (*TRIPOD_AI, *CLAIM):
        assert item.fact_sources or item.left  # what no software knows is left to a person


def test_at_least_fifteen_of_27_items_are_answered_and_each_fact_has_its_source(
    run_copy: Path,
) -> None:
    found = report(run_copy).checklists
    n = count(found["TRIPOD+AI"])
    assert n["filled"] + n["in part"] >= 15
    assert n["open"] >= 6
    for rows in found.values():
        for answer in rows:
            assert answer.facts or answer.left
            for fact in answer.facts:
                assert fact.text
                resolved(run_copy, fact.source)  # fails where there is no such key


def test_numbers_are_those_of_the_files(run_copy: Path) -> None:
    report(run_copy)
    text = (run_copy / "report" / "checklist.md").read_text()
    performance = json.loads((run_copy / "performance.json").read_text())
    assert f"AUROC {performance['auroc']:.3f} (no interval)" in text
    assert "9 slides (`slides.csv: slide_id`)" in text
    assert "test: 2 slides of 2 named patients" in text
    # the splits of this cohort are by patient, and it is counted
    assert "disjoint by patient: none of " in text
    assert "1 slide failed or was left out" in text
    with (run_copy / "slides.csv").open(newline="") as stream:
        reason = next(r["reason"] for r in csv.DictReader(stream) if r["slide_id"] == "slide-9")
    assert f"1 x {reason}" in text
    assert "no external test cohort was given" in text
    assert "NOT pseudonymised" in text
    assert "not in the manifest" not in text


def test_slides_of_earlier_manifests_are_counted_and_said(run_copy: Path) -> None:
    StatusTable(run_copy).plan(["slide-0", "slide-1"])
    report(run_copy)
    text = (run_copy / "report" / "checklist.md").read_text()
    assert "7 of these slides are not in the manifest of the last run" in text


def test_shared_patients_are_reported_not_hidden(run_copy: Path) -> None:
    path = run_copy / "slides.csv"
    lines = path.read_text().splitlines()
    head = lines[0].split(",")
    rows = [dict(zip(head, next(csv.reader([line])), strict=True)) for line in lines[1:]]
    for row in rows:
        row["patient"] = "slide-0"
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, head)
        writer.writeheader()
        writer.writerows(rows)
    report(run_copy)
    assert "NOT disjoint by patient: 1 of 1" in (run_copy / "report" / "checklist.md").read_text()


def test_a_run_without_performance_leaves_its_items_open(run_copy: Path) -> None:
    for path in run_copy.glob("pre*"):
        path.unlink()
    for path in run_copy.glob("performance*"):
        path.unlink()
    found = {a.item.number: a for a in report(run_copy).checklists["TRIPOD+AI"]}
    assert found["23"].state == "open"
    assert found["15"].state == "open"
    card = (run_copy / "report" / "model_card.md").read_text()
    assert "model-index" not in card
    assert "Unknown: no performance of this model is in the folder" in card
    assert "How faithful the maps are was not measured" in card


def test_performance_of_another_model_is_left_out(run_copy: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(run_copy / "model", other)
    files = RunFiles.read(run_copy, other)
    assert not files.notes
    files.found["performance.json"]["prediction"]["models"] = [{"fingerprint": "0" * 64}]
    files._leave_out_other_models()
    assert "performance.json" not in files.found
    assert any("another model" in note for note in files.notes)
    assert all_answers(files)["TRIPOD+AI"][22].state == "open"


def test_of_a_given_or_imported_model_it_is_reported_what_is_not_known(run_copy: Path) -> None:
    record = json.loads((run_copy / "run.json").read_text())
    del record[CHECKSUM_KEY]
    record["config"]["model"] = "<path>"
    write_checked_json(run_copy / "run.json", record)
    report(run_copy)
    card = (run_copy / "report" / "model_card.md").read_text()
    assert "> The run was given its model: parts and counts of slides are of this run" in card
    files = RunFiles.read(run_copy)
    files.model["imported"] = {"kind": "wsinfer", "licence": "CC-BY-4.0", "source_sha256": "ab"}
    texts = {fact.text for fact in (*facts.training(files), *facts.model(files))}
    assert "trained elsewhere, imported from: wsinfer" in texts
    assert "terms of the imported weights: CC-BY-4.0" in texts


def test_a_damaged_file_is_refused(run_copy: Path) -> None:
    path = run_copy / "performance.json"
    path.write_text(path.read_text().replace('"auroc": ', '"auroc": 0.9', 1))
    with pytest.raises(StoreError, match=r"performance\.json"):
        report(run_copy)
    assert not (run_copy / "report").exists()
    with pytest.raises(UsageError, match="holds no run"):
        report(run_copy / "overlays")


def test_the_card_has_what_hugging_face_reads(run_copy: Path) -> None:
    report(run_copy)
    text = (run_copy / "report" / "model_card.md").read_text()
    head = yaml.safe_load(text.split("---")[1])
    assert head["license"] == "unknown"
    (result,) = head["model-index"][0]["results"]
    assert "2 patients" in result["dataset"]["name"]
    performance = json.loads((run_copy / "performance.json").read_text())
    values = {m["type"]: m for m in result["metrics"]}
    assert values["brier"]["value"] == performance["brier"]
    assert "no interval" in values["brier"]["name"]
    # not "not calibrated" alone: probabilities of patches are another thing, and may be
    part = text.split("## Thresholds and calibration")[1].split("##")[0]
    assert "- probabilities of slides: " in part
    hub = pytest.importorskip("huggingface_hub")
    card = hub.ModelCard(text)
    assert card.data.library_name == "pathology_scaat"
    assert card.data.eval_results


def test_a_model_folder_opens_as_a_bundle(run_copy: Path, tmp_path: Path) -> None:
    to = tmp_path / "hub" / "model"
    report(run_copy, model_folder=to)
    held = {p.name for p in to.iterdir()}
    assert held >= {"README.md", "config.json", "model.safetensors"}
    stated = {p.name for p in (run_copy / "model").glob("*.safetensors")}
    assert stated <= held  # what the configuration states is there
    readme = (to / "README.md").read_text()
    assert ("think before you publish" in readme) == ("neighbours.safetensors" in held)
    assert ps.load_bundle(to).fingerprint == ps.load_bundle(run_copy / "model").fingerprint
    with pytest.raises(ExportError, match="is there already"):
        report(run_copy, model_folder=to)
    # of a bundle alone: what only a run knows is unknown
    alone = write_model_folder(run_copy / "model", tmp_path / "alone")
    card = (alone / "README.md").read_text()
    assert "## Training data\n\nUnknown" in card
    assert "## Performance on patients\n\nUnknown" in card


def test_the_crate_is_valid_and_names_nobody(run_copy: Path) -> None:
    rocrate = pytest.importorskip("rocrate.rocrate")
    report(run_copy)
    path = run_copy / "ro-crate-metadata.json"
    text = path.read_text()
    for word in (str(run_copy), "Jane Doe", getpass.getuser() + "/", "/tmp/", "/home/"):
        assert word not in text
    opened = rocrate.ROCrate(run_copy)
    assert opened.root_dataset["conformsTo"].id == "https://w3id.org/ro/wfrun/process/0.5"
    (action,) = [e for e in opened.get_entities() if e.type == "CreateAction"]
    assert action["instrument"]["name"] == "pathology_scaat"
    assert opened.root_dataset["mentions"] in (action, [action])
    graph = {e["@id"]: e for e in json.loads(text)["@graph"]}
    run_record = json.loads((run_copy / "run.json").read_text())
    assert action["instrument"]["softwareVersion"] == run_record["versions"]["pathology-scaat"]
    assert graph["#input-manifest"]["identifier"] == run_record["inputs"]["manifest"]

    # all that is referred to is described, and each file that is described is there
    def references(value: Any) -> list[str]:
        if isinstance(value, dict) and set(value) == {"@id"}:
            return [value["@id"]]
        if isinstance(value, dict):
            value = list(value.values())
        return [r for item in value for r in references(item)] if isinstance(value, list) else []

    for entity in graph.values():
        for name in references(entity):
            assert name in graph or name.startswith("http"), name
    for name, entity in graph.items():
        if entity["@type"] == "File":
            assert (run_copy / name).is_file()
    with pytest.raises(StopIteration):
        next(e for e in graph.values() if e["@type"] == "Person")


def test_writing_again_changes_nothing(run_copy: Path) -> None:
    report(run_copy)
    names = ("report/model_card.md", "report/checklist.md", "report/checklist.json")
    before = {n: (run_copy / n).read_bytes() for n in names}
    report(run_copy)
    assert before == {n: (run_copy / n).read_bytes() for n in names}


def test_painted_slides_and_a_missing_validation_part_are_told(tmp_path: Path) -> None:
    row = {"patient": "p", "in_manifest": "yes", "notes": f"tissue: ink; {PAINTED_NOTE}"}
    files = RunFiles(tmp_path, slides=[row, {**row, "notes": ""}])
    files.model_file = "model/config.json"
    metrics = {"best_epoch": 2.0, "n_epochs": 2.0, "n_val_patches": 0.0}
    files.found[files.model_file] = {"metrics": metrics}
    said = [fact.text for fact in (*slide_counts(files), *selection(files))]
    assert "PAINTED by 'scaat demo': 1 of these slides, which show no patient's tissue" in said
    assert "epoch 2 was kept, for there was no validation part to choose by" in said
    metrics["n_val_patches"] = 7.0
    assert selection(files)[0].text == "epoch 2 was kept, chosen on the validation part"


def test_slides_of_earlier_runs_did_not_fail_in_this_one() -> None:
    row = dict.fromkeys(COLUMNS, "") | dict.fromkeys(STAGES, "done") | {"in_manifest": "yes"}
    gone = row | {"tile": "failed", "reason": "is empty", "in_manifest": "no", "n_unreadable": "3"}
    waiting = row | {"explain": "pending"}
    files = RunFiles(Path(), slides=[row, waiting, gone])
    assert [fact.text for fact in exclusions(files)] == [
        "1 slide went through every stage",
        "0 slides failed or were left out",
        "0 patches could not be read",
    ]
    assert "1 of these slides is not in the manifest" in slide_counts(files)[-1].text


def test_a_run_that_asked_for_another_training_is_told(run_copy: Path) -> None:
    """It was interrupted, or a model was trained after it: ``run.json`` is not of the model."""
    assert not any("asks for a training" in note for note in report(run_copy).notes)
    record = json.loads((run_copy / "run.json").read_text())
    config = {**record["config"], "train": {**record["config"]["train"], "epochs": 77}}
    write_run_record(run_copy, config, inputs=record["inputs"])
    (note,) = (n for n in report(run_copy).notes if "asks for a training" in n)
    assert "epochs 77, the model " in note
    assert "the last run did not come to its end" in note
    assert note in (run_copy / "report" / "checklist.md").read_text()
    graph = json.loads((run_copy / "ro-crate-metadata.json").read_text())["@graph"]
    (action,) = (entity for entity in graph if entity["@id"] == "#run")
    assert action["actionStatus"].endswith("FailedActionStatus")
    assert "did not come to its end" in action["error"]


def test_the_crate_does_not_call_waiting_slides_a_completed_run(run_copy: Path) -> None:
    def action() -> dict[str, Any]:
        report(run_copy)
        graph = json.loads((run_copy / "ro-crate-metadata.json").read_text())["@graph"]
        return next(entity for entity in graph if entity["@id"] == "#run")

    assert action()["actionStatus"].endswith("CompletedActionStatus")
    StatusTable(run_copy).update("slide-0", "explain", "pending")
    assert action()["actionStatus"].endswith("FailedActionStatus")


def test_subgroups_that_were_measured_are_not_called_unknown(run_copy: Path) -> None:
    report(run_copy)
    card = (run_copy / "report" / "model_card.md").read_text()
    assert "no column of the manifest was asked for (--subgroups)" in card
    value = json.loads((run_copy / "performance.json").read_text())
    counts = {"Normal": 3, "Tumor": 1}
    value["subgroups"] = {
        "sex": {
            "f": {"n_patients": 1, "counts": counts, "measurable": False},
            "m": {"n_patients": 4, "counts": counts, "auroc": 0.75,
                  "intervals_95": {"auroc": [0.5, 0.9]}},
        }
    }  # fmt: skip
    write_checked_json(run_copy / "performance.json", without_checksum(value))
    report(run_copy)
    card = (run_copy / "report" / "model_card.md").read_text()
    assert "sex f: 1 patient (Normal 3, Tumor 1), AUROC not measurable" in card
    assert (
        "sex m: 4 patients (Normal 3, Tumor 1), AUROC 0.750 (95 % interval 0.500 to 0.900)" in card
    )
    assert "knows no age" not in card
    assert "sex m: 4 patients" in (run_copy / "report" / "checklist.md").read_text()
