"""Labels are read, and a model is measured, wherever the engine says: the same bytes."""

from __future__ import annotations

import shutil
from pathlib import Path

import distributed
import pytest
from saliency_fixtures import RunFolder

from pathology_scaat.cohort.manifest import Manifest, ManifestRow
from pathology_scaat.errors import StoreError
from pathology_scaat.evaluation.evaluate import evaluate_run
from pathology_scaat.evaluation.protocol import ProtocolConfig
from pathology_scaat.execution.engine import EngineConfig
from pathology_scaat.patches.stored_labels import count_labels, over_stores
from pathology_scaat.pipeline.train import training_cohort

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

SMALL = ProtocolConfig(
    n_occluded=6, n_perturbed=4, n_mosaics=4, max_images=20, batch_size=8, shares=(0.0, 0.5, 1.0)
)


def results(out: Path) -> dict[str, bytes]:
    """Of the card and the measurement; the picture is drawn from the card."""
    files = [p for p in (out / "evaluation").rglob("*") if p.suffix in (".json", ".md", ".npz")]
    return {p.name: p.read_bytes() for p in files}


def test_cards_and_cohorts_are_the_same_on_every_engine(run_folder: RunFolder) -> None:
    ids = ("s0", "s1", "s2", "s3")
    for seed, slide_id in enumerate(ids):
        run_folder.add_slide(slide_id, seed=seed)
    out = run_folder.out
    manifest = Manifest(
        rows=tuple(ManifestRow(slide_id=i, slide_path=Path(f"{i}.svs"), patient_id=i) for i in ids)
    )
    training_cohort(manifest, out, 0)  # the split, which cards speak of, is recorded
    cards, cohorts = {}, {}
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, protocol="tcp", dashboard_address=None,
        host="127.0.0.1", memory_limit=0, silence_logs=50, resources={"GPU": 1},
    ) as cluster:  # fmt: skip
        for name, engine in {
            "here": None,
            "one": EngineConfig(workers=1),
            "processes": EngineConfig(workers=2),
            "cluster": EngineConfig(scheduler=cluster.scheduler_address),
        }.items():
            shutil.rmtree(out / "evaluation", ignore_errors=True)
            said: list[str] = []
            evaluate_run(out, config=SMALL, device="cpu", engine=engine, announce=said.append)
            cards[name] = results(out)
            cohorts[name] = training_cohort(manifest, out, 0, engine)
            assert len(said) == (1 if name == "cluster" else 0)
    assert set(cards["here"]) >= {"trust_card.json", "trust_card.md"}
    assert cards["here"] == cards["one"] == cards["processes"] == cards["cluster"]
    assert cohorts["here"] == cohorts["one"] == cohorts["processes"] == cohorts["cluster"]
    assert sum(c.n_patches for c in cohorts["here"].class_counts) == 4 * 12


def test_a_damaged_store_is_named_or_left_out(run_folder: RunFolder) -> None:
    stores = {"whole": run_folder.add_slide("whole"), "gone": run_folder.out / "patches/gone.zarr"}
    assert list(over_stores(count_labels, stores, skip_unreadable=True)) == ["whole"]
    with pytest.raises(StoreError, match="gone"):
        over_stores(count_labels, stores)
