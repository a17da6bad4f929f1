"""``scaat finetune`` through the real command: what it makes, and whom it never trains on."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from drawn_slides import draw_slide, halves, make_cohort, write_annotations

from pathology_scaat.patches import PatchStore
from pathology_scaat.training.bundle import load_bundle, read_bundle_config
from pathology_scaat.training.bundle_config import BundleConfig, model_fingerprint

pytestmark = pytest.mark.slow

SMALL = ("--mpp", "1.0", "--patch-size", "32", "--overlap", "0", "--workers", "0")
SIDE_PX = 640
HEAD = "slide_path,slide_id,patient_id,split,annotation_path"


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def scaat(*arguments: object) -> Done:
    """The command as it is typed, in this process: loading torch a dozen times takes minutes."""
    from pathology_scaat.cli import app, run_command

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run_command(lambda: app([*map(str, arguments)], standalone_mode=False))
    return Done(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A cohort with a train, a val and a test slide; an output folder with a plain model."""
    folder = tmp_path_factory.mktemp("cohort")
    manifest = make_cohort(folder, SIDE_PX)
    out = folder / "out"
    done = scaat("tile", "--manifest", manifest, "--out", out, *SMALL)
    assert done.returncode == 0, done.stderr
    done = scaat("train", "--manifest", manifest, "--out", out, "--method", "plain", "--epochs", 3)
    assert done.returncode == 0, done.stderr
    return manifest, out


@pytest.fixture(scope="module")
def tuned(trained: tuple[Path, Path]) -> Any:
    manifest, out = trained
    words = ("finetune", "--model", out / "model", "--manifest", manifest, "--out", out)
    return scaat(*words, "--epochs", 2)


def print_of(out: Path, slide_id: str) -> str:
    return PatchStore(out / "patches" / f"{slide_id}.zarr").meta.slide_fingerprint


def test_the_new_model_knows_its_parent_and_says_what_changed(
    trained: tuple[Path, Path], tuned: Any
) -> None:
    _, out = trained
    assert tuned.returncode == 0, tuned.stderr
    parent, child = load_bundle(out / "model"), load_bundle(out / "finetuned")
    assert child.config.ancestors is not None
    assert [a.fingerprint for a in child.config.ancestors] == [parent.fingerprint]
    assert child.config.method == "scaat"
    assert child.config.method_options["start"] == 0.0
    assert child.config.training["learning_rate"] == pytest.approx(
        parent.config.training["learning_rate"] / 10
    )
    for name in ("mean", "std", "class_names", "patch_size_px", "mpp", "backbone"):
        assert getattr(child.config, name) == getattr(parent.config, name), name
    for measure in ("val_auc", "parent_val_auc", "test_auc", "parent_test_auc"):
        assert measure in child.config.metrics
        assert measure in tuned.stdout
    assert child.config.metrics["parent_test_loss"] == pytest.approx(
        parent.config.metrics["test_loss"], rel=1e-4
    )
    assert parent.fingerprint[:12] in " ".join(child.config.notes)
    before, after = parent.model.state_dict(), child.model.state_dict()
    moved = [float((after[k].float() - before[k].float()).abs().max()) for k in before]
    assert max(moved) > 0  # it was trained
    weights = [k for k in before if before[k].ndim == 4]
    change = sum(float((after[k] - before[k]).norm()) for k in weights)
    assert change < 0.5 * sum(float(before[k].norm()) for k in weights)  # and not anew


def test_every_slide_serves_for_what_it_served(trained: tuple[Path, Path], tuned: Any) -> None:
    _, out = trained
    assert tuned.returncode == 0
    child = read_bundle_config(out / "finetuned")
    roles = {f"slide-{n}": child.role_of(print_of(out, f"slide-{n}")) for n in range(3)}
    assert roles == {"slide-0": "train", "slide-1": "val", "slide-2": "test"}
    notes = " ".join(json.loads((out / "notes.json").read_text())["finetune"])
    assert "test again and are not trained on" in notes


def test_again_does_nothing_and_the_parent_stays(trained: tuple[Path, Path], tuned: Any) -> None:
    manifest, out = trained
    assert tuned.returncode == 0
    files = [*sorted((out / "model").rglob("*")), *sorted((out / "finetuned").rglob("*"))]
    before = {path: path.stat().st_mtime_ns for path in files}
    words = ("finetune", "--model", out / "model", "--manifest", manifest, "--out", out)
    again = scaat(*words, "--epochs", 2)
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in files} == before
    lost = scaat(*words, "--to", out / "model")
    assert lost.returncode == 2
    assert "which would be lost" in lost.stderr
    other = scaat(*words, "--to", out / "patches")
    assert other.returncode == 2
    assert "is no model" in other.stderr
    assert (out / "patches" / "slide-0.zarr").is_dir()
    grandchild = scaat(
        "finetune", "--model", out / "finetuned", "--manifest", manifest, "--out", out,
        "--to", out / "twice", "--epochs", 1,
    )  # fmt: skip
    assert grandchild.returncode == 0, grandchild.stderr
    config = read_bundle_config(out / "twice")
    assert config.ancestors is not None
    assert [a.method for a in config.ancestors] == ["plain", "scaat"]


def rows_of(manifest: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(manifest.read_text())))


def changed(manifest: Path, name: str, lines: list[str]) -> Path:
    path = manifest.with_name(name)
    path.write_text("\n".join([HEAD, *lines]) + "\n", encoding="utf-8")
    return path


def test_a_slide_that_the_model_was_tested_on_is_never_trained_on(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    manifest, out = trained
    lines = [
        "s0.tiff,slide-0,patient-0,,s0.geojson",
        "s1.tiff,slide-1,patient-1,,s1.geojson",
        "s2.tiff,slide-2,patient-2,train,s2.geojson",
    ]
    words = ("--out", out, "--to", tmp_path / "new", "--epochs", 1)
    model = ("finetune", "--model", out / "model", "--manifest")
    refused = scaat(*model, changed(manifest, "a.csv", lines), *words)
    assert refused.returncode == 2
    assert "slide-2: is for 'train' by the manifest, and the model was tested on it" in (
        refused.stderr
    )
    assert not (tmp_path / "new").exists()
    # the patient of a slide that was trained on does not test, whatever the manifest says
    lines = [
        "s0.tiff,slide-0,patient-0,test,s0.geojson",
        "s1.tiff,slide-1,patient-1,,s1.geojson",
    ]
    refused = scaat(*model, changed(manifest, "b.csv", lines), *words)
    assert refused.returncode == 2
    assert "slide-0: is for 'test' by the manifest, and the model trained on it" in refused.stderr
    # one patient's slides that served for training and for the test: somebody's ids are wrong
    lines = ["s0.tiff,slide-0,p,,s0.geojson", "s2.tiff,slide-2,p,,s2.geojson"]
    refused = scaat(*model, changed(manifest, "c.csv", lines), *words)
    assert refused.returncode == 2
    assert "served the model for 'train' and for 'test'" in refused.stderr
    # with no splits at all the model's own record deals them
    lines = [f"s{n}.tiff,slide-{n},patient-{n},,s{n}.geojson" for n in range(3)]
    done = scaat(*model, changed(manifest, "d.csv", lines), *words)
    assert done.returncode == 0, done.stderr
    child = read_bundle_config(tmp_path / "new")
    assert [child.role_of(print_of(out, f"slide-{n}")) for n in range(3)] == [
        "train", "val", "test",
    ]  # fmt: skip


def test_new_slides_follow_their_patients_and_old_ones_are_not_forgotten(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    manifest, out = trained
    folder = manifest.parent
    for number in (7, 8):
        draw_slide(folder / f"s{number}.tiff", seed=number, side_px=SIDE_PX)
        write_annotations(folder / f"s{number}.geojson", halves(SIDE_PX))
    lines = [
        "s0.tiff,slide-0,patient-0,,s0.geojson",
        "s1.tiff,slide-1,patient-1,,s1.geojson",
        "s7.tiff,slide-7,patient-0,,s7.geojson",  # a patient the model was trained on
        "s8.tiff,slide-8,patient-8,train,s8.geojson",  # one it does not know
    ]
    second = tmp_path / "second"
    cohort = changed(manifest, "e.csv", lines)
    assert scaat("tile", "--manifest", cohort, "--out", second, *SMALL).returncode == 0
    shutil.copytree(out / "model", tmp_path / "model")
    done = scaat(
        "finetune", "--model", tmp_path / "model", "--manifest", cohort, "--out", second,
        "--epochs", 1,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    child = read_bundle_config(second / "finetuned")
    assert child.role_of(print_of(second, "slide-7")) == "train"
    assert child.role_of(print_of(second, "slide-8")) == "train"
    # slide 2 is not in this cohort: that the parent was tested on it is known all the same
    assert child.role_of(print_of(out, "slide-2")) == "test"


def test_stores_of_another_size_or_other_classes_are_refused(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    manifest, out = trained
    other = ("--mpp", "1.0", "--patch-size", "64", "--overlap", "0", "--workers", "0")
    assert scaat("tile", "--manifest", manifest, "--out", tmp_path / "o", *other).returncode == 0
    refused = scaat(
        "finetune", "--model", out / "model", "--manifest", manifest, "--out", tmp_path / "o"
    )
    assert refused.returncode == 2
    assert "holds patches of 64 px, the model was trained on 32" in refused.stderr
    lacking = scaat("finetune", "--manifest", manifest, "--out", out)
    assert lacking.returncode == 2
    assert "--model: is missing" in lacking.stderr


def test_roles_over_two_trainings() -> None:
    """Trained on once is trained on; where one training is not known, nothing is held out."""
    from pathology_scaat.training.bundle_config import Ancestor, slide_key

    def config(own: Any, before: Any) -> BundleConfig:
        def keyed(slides: Any, key: str) -> Any:
            return (
                None
                if slides is None
                else {word: tuple(slide_key(s, key) for s in names)
                      for word, names in slides.items()}
            )  # fmt: skip

        return BundleConfig(
            class_names=("a", "b"), positive_class="b", patch_size_px=8, mpp=1.0, backbone="x",
            mean=(0, 0, 0), std=(1, 1, 1), training_fingerprint="new", slides=keyed(own, "new"),
            ancestors=(Ancestor(fingerprint="f", method="plain", training_fingerprint="old",
                                slides=keyed(before, "old")),),
        )  # fmt: skip

    both = config({"train": ["n"], "test": ["t"]}, {"train": ["t"], "val": ["v"], "test": ["n"]})
    assert {s: both.role_of(s) for s in "ntvx"} == {
        "n": "train", "t": "train", "v": "val", "x": "held out",
    }  # fmt: skip
    assert both.knows_its_slides
    dark = config({"train": ["n"], "test": ["t"]}, None)
    assert {s: dark.role_of(s) for s in "ntx"} == {"n": "train", "t": "unknown", "x": "unknown"}
    assert not dark.knows_its_slides
    assert model_fingerprint(both) != model_fingerprint(dark)


def test_options_of_the_method_are_given_by_name(trained: tuple[Path, Path]) -> None:
    manifest, out = trained
    words = ("finetune", "--model", out / "model", "--manifest", manifest, "--out", out)
    named = ("--method-option", "grid=network", "--method-option", "gamma=0", "--eps", "0.05")
    done = scaat(*words, *named, "--epochs", 1, "--to", out / "by-cells")
    assert done.returncode == 0, done.stderr
    options = read_bundle_config(out / "by-cells").method_options
    assert (options["grid"], options["gamma"], options["eps"]) == ("network", 0, 0.05)
    assert options["start"] == 0.0
    done = scaat(*words, "--method-option", "layer=blocks.1", "--epochs", 1, "--to", out / "deep")
    assert done.returncode == 0, done.stderr
    assert read_bundle_config(out / "deep").method_options["layer"] == "blocks.1"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--method-option", "start"), "'start' is not NAME=VALUE"),
        (("--method-option", "start="), "is not NAME=VALUE"),
        (("--method-option", "eps=0.1", "--eps", "0.2"), "'eps' is given twice"),
        (("--method-option", "start={"), "cannot be read"),
        (("--method-option", "begin=0"), "unknown: begin"),
        (("--method-option", "start=late"), "start: 'late' is no number"),
        (("--method-option", "lam=0"), "leave 'scaat' nothing to do"),
        (("--method-option", "layer=nowhere"), "the network has no 'nowhere'"),
        (("--method", "gradient-penalty", "--eps", "0.1"), "unknown: eps"),
        (("--method", "sgt", "--eps", "0.1"), "leave it out"),
    ],
    ids=str,
)
@pytest.mark.parametrize("command", ["train", "finetune"])
def test_options_that_cannot_be_are_told(
    command: str, words: tuple[str, ...], said: str, trained: tuple[Path, Path]
) -> None:
    manifest, out = trained
    begin: tuple[object, ...] = (command, "--manifest", manifest, "--out", out)
    if command == "finetune":
        begin = (*begin, "--model", out / "model", "--to", out / "refused")
    done = scaat(*begin, *words)
    assert done.returncode == 2
    assert said in " ".join(done.stderr.split())
    assert "internal error" not in done.stderr
    assert not (out / "refused").exists()


def test_an_arm_that_cannot_be_is_told_before_the_first_model_is_trained(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    manifest, out = trained
    (tmp_path / "arms.yaml").write_text(
        "arms:\n  plain: {method: plain}\n"
        "  deep: {method: scaat, method_options: {layer: nowhere}}\n"
    )
    done = scaat("compare", tmp_path / "arms.yaml", "--manifest", manifest, "--out", out)
    assert done.returncode == 2
    assert "arm 'deep': layer: the network has no 'nowhere'" in " ".join(done.stderr.split())
    assert not (out / "comparison").exists()


def test_a_head_that_is_trained_alone_is_said_to_move_no_map(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    manifest, out = trained
    given = ("--manifest", manifest, "--out", tmp_path / "out", "--epochs", 1)
    shutil.copytree(out / "patches", tmp_path / "out" / "patches")
    done = scaat("train", *given, "--trainable", "head", "--method", "plain")
    assert done.returncode in (0, 4), done.stderr
    words = ("finetune", "--model", tmp_path / "out" / "model", *given)
    done = scaat(*words)
    assert done.returncode in (0, 4), done.stderr
    assert "The head alone is trained" in done.stdout + done.stderr
    plain = scaat(*words, "--method", "plain", "--to", tmp_path / "plain")
    assert "The head alone is trained" not in plain.stdout + plain.stderr
