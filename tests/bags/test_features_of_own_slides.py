"""From own slides to heads on their features: kept by one training, learnt from by the next."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pathology_scaat.artifacts.output_folder import Workspace
from pathology_scaat.errors import UsageError
from pathology_scaat.pipeline.head_predictions import predict_heads
from pathology_scaat.pipeline.head_targets import targets_of
from pathology_scaat.pipeline.head_training import train_heads
from pathology_scaat.pipeline.train import train
from pathology_scaat.training import TrainConfig, TrainingSlide
from pathology_scaat.training.backbones import create_backbone

N_SLIDES, N_PATIENTS, N_TEST_PATIENTS = 24, 14, 4
QUICK = TrainConfig(epochs=25)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def tiled(
    bag_slides: tuple[TrainingSlide, ...], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A table and the tiled slides; two slides a patient, with a grade and an outcome each."""
    folder = tmp_path_factory.mktemp("own")
    lines = ["slide_path,slide_id,patient_id,label,split,grade,months,dead"]
    space = Workspace(folder / "out")
    for slide in bag_slides:
        split, number = slide.slide_id.split("-")
        pair = 2 * (int(number) // 4) + int(number) % 2
        shows = slide.label == "tumour"
        store = space.patches(slide.slide_id)
        store.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(slide.store, store)
        (folder / f"{slide.slide_id}.tiff").touch()
        lines.append(
            f"{slide.slide_id}.tiff,{slide.slide_id},{split}-{pair},{slide.label},{split},"
            f"{'high' if shows else 'low'},{5 + pair if shows else 50 + pair},{int(shows)}"
        )
    (folder / "cohort.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "cohort.csv", folder / "out"


def test_features_kept_by_a_training_train_heads_of_every_kind(
    tiled: tuple[Path, Path], quick_bags: TrainConfig, tmp_path: Path
) -> None:
    cohort, out = tiled
    fixed: dict[str, Any] = {"trainable": "head", "method": "plain", "epochs": 2}
    made = train(cohort, out, config=quick_bags.model_copy(update=fixed), device="cpu")
    notes = " ".join(made.notes)
    assert "features are those of a random network" in notes
    assert "those of the test slides too" in notes
    features = out / "features"
    assert len(list(features.glob("*.h5"))) == N_SLIDES

    for name, targets, unit in (
        ("patients", targets_of([]), "patient"),
        ("survival", targets_of([], time="months", event="dead"), "slide"),
        ("grades", targets_of(["grade"], ["low", "high"]), "slide"),
    ):
        folder = tmp_path / name
        (trained,) = train_heads(
            cohort, folder, features, targets=targets, unit=unit, config=QUICK,  # type: ignore[arg-type]
        )  # fmt: skip
        assert not trained.nothing_learnt, name
        assert not any("slide(s) of the table have no file" in n for n in trained.notes)
        (found,) = predict_heads(cohort, folder, features)
        per_slide = trained.config.unit == "slide"
        rows = rows_of(folder / "predictions.csv")
        assert len(rows) == found.n_predicted == (N_SLIDES if per_slide else N_PATIENTS)
        tested = [row for row in rows if row["split"] == "test"]
        assert len({row["patient_id"] for row in tested}) == N_TEST_PATIENTS
        record = json.loads((folder / "performance.json").read_text(encoding="utf-8"))
        assert record["evaluated_on"] in ("test slides", "test patients")
        contributions = rows_of(folder / "contributions" / "test-0.csv")
        assert len(contributions) == 24
        tiles = folder / "contributions" / "test-0.geojson.gz"
        assert tiles.is_file()  # our files say how large a patch is on level 0
    assert trained.config.encoder.startswith("scaat-")
    notes = json.loads((tmp_path / "patients" / "notes.json").read_text(encoding="utf-8"))
    assert any("validation patients (one bag each)" in note for note in notes["train"])

    with pytest.raises(UsageError, match="predictions would be replaced"):
        train_heads(cohort, out, features, config=QUICK)
    with pytest.raises(UsageError, match="predictions would be replaced"):
        predict_heads(cohort, out, features, models=[tmp_path / "grades" / "head"])


def test_weights_of_a_file_are_not_called_random(
    tiled: tuple[Path, Path], quick_bags: TrainConfig, tmp_path: Path
) -> None:
    cohort, out = tiled
    torch.manual_seed(5)
    network = create_backbone("scaat-small", 2, 32, {"widths": (8, 16)})
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    before = {p.name: p.read_bytes() for p in (out / "features").glob("*.h5")}
    config = quick_bags.model_copy(
        update={"trainable": "head", "method": "plain", "epochs": 1,
                "backbone_weights": tmp_path / "w.safetensors"}
    )  # fmt: skip
    made = train(cohort, out, config=config, device="cpu", overwrite=True)
    assert not any("random" in note for note in made.notes)
    after = {p.name: p.read_bytes() for p in (out / "features").glob("*.h5")}
    assert len(after) == N_SLIDES
    assert not any(after[name] == before.get(name) for name in after)  # another encoder's
