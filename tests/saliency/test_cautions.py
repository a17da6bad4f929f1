"""Maps of a network that began with weights of another training are not drawn without a word."""

from __future__ import annotations

import gzip
import json

import pytest
from saliency_fixtures import RunFolder

from pathology_scaat.artifacts.notes import read_notes
from pathology_scaat.execution.engine import EngineConfig
from pathology_scaat.export import ExportConfig
from pathology_scaat.pipeline.explain import explain
from pathology_scaat.pipeline.export import export
from pathology_scaat.pipeline.stitch import stitch
from pathology_scaat.saliency import ExplainConfig
from pathology_scaat.saliency.attributions import ATTRIBUTIONS
from pathology_scaat.saliency.cautions import MISSED, map_caution, meaning_of
from pathology_scaat.training import TrainConfig
from pathology_scaat.training.bundle_reading import read_bundle_config
from pathology_scaat.training.imported.record import ImportRecord
from pathology_scaat.training.parent import parent_model

HERE = EngineConfig(workers=0)
GIVEN = "Given weights: 310 of 312 tensors, 99.9% of the network"


def exported(folder: RunFolder, method: str) -> tuple[list[str], list[dict[str, str]]]:
    """Notes of explaining, and what each region of the slide carries, after the whole way."""
    folder.add_slide("s")
    explain(folder.out, config=ExplainConfig(method=method), device="cpu", engine=HERE)
    stitch(folder.out, engine=HERE)
    some = ExportConfig(
        formats=("geojson",),
        region_mpp=2.0,
        region_quantile=0.5,
        region_min_probability=0,
        min_region_um2=0,
    )
    export(folder.out, config=some, engine=HERE)
    written = gzip.decompress((folder.out / "overlays/s.geojson.gz").read_bytes())
    carried = [each["properties"].get("metadata") for each in json.loads(written)["features"]]
    regions = [found for found in carried if found]
    assert regions
    return [*read_notes(folder.out).get("explain", ())], regions


@pytest.mark.parametrize(
    ("notes", "method", "is_told"),
    [
        ((GIVEN,), "gradient", True),
        ((GIVEN,), "grad-cam", False),
        ((), "gradient", True),
        ((), "grad-cam", False),
    ],
)
def test_told_where_it_is_explained_and_on_every_region(
    run_folder: RunFolder, notes: tuple[str, ...], method: str, is_told: bool
) -> None:
    run_folder.save_model(run_folder.model, 0, notes=notes)
    said, regions = exported(run_folder, method)
    assert [("may miss the tumour" in text) for text in said] == [True] * is_told
    assert {("caution" in each) for each in regions} == {is_told}
    if is_told:
        assert said[0].removesuffix(".") == regions[0]["caution"]


def test_nothing_is_said_of_methods_that_were_not_measured() -> None:
    assert set(ATTRIBUTIONS.names) > MISSED
    told = {name for name in ATTRIBUTIONS.names if map_caution("imported", name)}
    assert told == MISSED
    assert not map_caution("imported", "another-package's")
    unmeasured = {"attn-lrp", "token-gradient-x-input", "attention-rollout", "token-cam"}
    assert set(ATTRIBUTIONS.names) - told >= {
        "fused-cam",
        "grad-cam",
        "grad-cam++",
        "advise",
        *unmeasured,
    }


def test_a_model_that_goes_on_from_such_a_one_is_told_of_too(run_folder: RunFolder) -> None:
    imported = ImportRecord(kind="weights", source_sha256="0" * 64)
    for changes in ({"notes": (GIVEN,)}, {"imported": imported}):
        run_folder.save_model(run_folder.model, 0, **changes)
        _, notes = parent_model(run_folder.model, TrainConfig())
        run_folder.save_model(run_folder.model, 0, notes=notes)
        assert map_caution(read_bundle_config(run_folder.model).began, "gradient")
    run_folder.save_model(run_folder.model, 0)
    _, notes = parent_model(run_folder.model, TrainConfig())
    run_folder.save_model(run_folder.model, 0, notes=notes)
    assert not read_bundle_config(run_folder.model).began


def test_every_method_says_what_its_maps_are() -> None:
    for name in ATTRIBUTIONS.names:
        assert "Tumor" in meaning_of(name, "Tumor")
        assert not meaning_of(name, "Tumor").startswith("what '")


def test_class_activation_of_networks_that_were_not_measured_is_told() -> None:
    for method in ("fused-cam", "grad-cam", "grad-cam++", "advise"):
        assert not map_caution("", method, "scaat-small")
        assert not map_caution("imported", method, "tf_efficientnet_lite0")
        assert "not of 'resnet50': 'scaat evaluate'" in map_caution("", method, "resnet50")
    assert "small transformer" in map_caution("", "token-cam", "vit_small_patch16_224")


def test_of_bags_that_began_at_random_the_gradient_is_the_better_one() -> None:
    assert not map_caution("", "gradient", "scaat-small", of_slides=True)
    assert map_caution("imported", "gradient", "scaat-small", of_slides=True)
    # slides, not patches, judge such a model: no command measures where its maps lie in a patch
    assert "evaluate" not in map_caution("imported", "fused-cam", "resnet50", of_slides=True)
