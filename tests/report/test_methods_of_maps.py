"""Maps of one folder by several methods: every page and document that speaks of maps says so."""

from __future__ import annotations

import html
import json
import shutil
from pathlib import Path

import pytest
from forked_command import run_forked

from pathology_scaat.export.config import ExportConfig
from pathology_scaat.export.model_facts import ModelFacts
from pathology_scaat.export.raster.colour_scale import evidence_scale
from pathology_scaat.pipeline.cohort_page import write_cohort_page
from pathology_scaat.review.model_card import model_card
from pathology_scaat.saliency.methods_of_maps import methods_of_maps
from pathology_scaat.training.bundle_config import MapReference, ReferenceSettings

MIXED = "'grad-cam' (1 slide) and 'gradient' (7 slides): maps by different methods do not compare"


def scaat(*words: object) -> str:
    done = run_forked(words)
    assert done.returncode in (0, 1, 4), done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def mixed(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of which one slide was explained again, by another method than ``run.json`` says."""
    out = tmp_path_factory.mktemp("mixed") / "out"
    shutil.copytree(small_run, out)
    words = ("--model", out / "model", "--slides", "slide-0", "--method", "grad-cam")
    scaat("explain", "--out", out, *words, "-q")
    scaat("stitch", "--out", out, "-q")
    scaat("export", "--out", out, "--formats", "geojson", "-q")
    return out


def test_the_page_says_that_maps_are_by_several_methods(mixed: Path) -> None:
    assert methods_of_maps(mixed) == {"grad-cam": 1, "gradient": 7}
    page = html.unescape((mixed / "overlays/index.html").read_text(encoding="utf-8"))
    assert f"Maps are made by {MIXED}." in page
    assert page.count("<th>saliency<td>by 'gradient'; saliency(x) =") == 7
    assert page.count("<th>saliency<td>by 'grad-cam'; saliency(x) =") == 1


def test_reports_name_the_methods_of_the_maps_and_not_that_of_the_last_run(mixed: Path) -> None:
    scaat("report", mixed)
    for name in ("model_card.md", "checklist.md"):
        assert f"maps by {MIXED}" in (mixed / "report" / name).read_text(encoding="utf-8")


def test_a_trust_card_is_of_maps_by_its_own_method_alone(mixed: Path) -> None:
    facts = dict(model_card(mixed)["facts"])
    assert facts["maps made by"] == MIXED
    fingerprint = model_card(mixed)["fingerprint"]
    card = {"model_fingerprint": fingerprint, "explanation_method": "gradient", "entries": []}
    (mixed / "evaluation").mkdir()
    (mixed / "evaluation/trust_card.md").write_text("# Card\n", encoding="utf-8")
    (mixed / "evaluation/trust_card.json").write_text(json.dumps(card), encoding="utf-8")
    facts = dict(model_card(mixed)["facts"])
    assert facts["faithfulness of maps"].startswith("measured for maps by 'gradient' alone")
    write_cohort_page(mixed)
    page = html.unescape((mixed / "overlays/index.html").read_text(encoding="utf-8"))
    assert f"Trust card</a> of maps by 'gradient'; those here are by {MIXED}.</p>" in page


def test_a_scale_of_evidence_says_that_another_method_set_it() -> None:
    found = MapReference(p50=0.4, p90=0.5, p99=0.6, p995=0.62, others_p99=0.1)
    settings = ReferenceSettings(method="fused-cam", stride_px=4, n_patches=9)
    model = ModelFacts("f", None, "unknown", {}, {}, {"t": found}, settings)
    said = "99.5th percentile of the model's held-out patches"
    assert evidence_scale(model, "t", ExportConfig(), "fused-cam").source == said
    assert evidence_scale(model, "t", ExportConfig(), "gradient").source == (
        f"{said}, measured on maps by 'fused-cam' and not 'gradient'"
    )
