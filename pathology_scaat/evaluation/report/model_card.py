"""A model card: YAML that Hugging Face reads, and what is known in words; the rest is unknown."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from pathology_scaat.artifacts.atomic import atomic_path
from pathology_scaat.errors import ExportError, UsageError
from pathology_scaat.evaluation.performance.headings import HEADINGS, heading
from pathology_scaat.evaluation.performance.report_files import PERFORMANCE_NAME
from pathology_scaat.evaluation.report import facts as f
from pathology_scaat.evaluation.report.run_files import TRUST_CARD, Fact, RunFiles
from pathology_scaat.export.model_facts import NOTHING_LEARNT
from pathology_scaat.system.markdown import without_tags
from pathology_scaat.system.rounding import decimals
from pathology_scaat.training.bundle_config import BundleConfig, model_name
from pathology_scaat.training.bundle_quality import LEARNT_FROM_PAINTED, read_first_marks
from pathology_scaat.training.bundle_reading import (
    CONFIG_NAME,
    FEATURES_NAME,
    NEIGHBOURS_NAME,
    SCRIPT_FILE,
    WEIGHTS_NAME,
    read_bundle_config,
)
from pathology_scaat.training.decision import DECISION_NAME, read_decision
from pathology_scaat.training.run_bundles import bundle_of_results

UNKNOWN: Final = "unknown"
CARD_NAME: Final = "model_card.md"
README_NAME: Final = "README.md"


def front_matter(config: BundleConfig, files: RunFiles) -> dict[str, Any]:
    """What Hugging Face reads of a card; measured values only where they were measured."""
    value: dict[str, Any] = {
        "library_name": "pathology_scaat",
        "license": UNKNOWN,
        "pipeline_tag": "image-classification",
        "tags": ["digital-pathology", "whole-slide-imaging", "saliency", config.method],
    }
    licence = config.imported.licence if config.imported is not None else ""
    if licence:
        value |= {"license": "other", "license_name": licence}
    n_classes = len(files.get(PERFORMANCE_NAME, "class_names") or ()) or 2
    measured = [
        {
            "type": key,
            "name": f"{heading(key, n_classes)} of patients ({_interval_words(files, key)})",
            "value": float(files.get(PERFORMANCE_NAME, key)),
        }
        for key in HEADINGS
        if files.get(PERFORMANCE_NAME, key) is not None
    ]
    if measured:
        notes = files.get(PERFORMANCE_NAME, "notes") or ()
        value["model-index"] = [
            {
                "name": model_name(config),
                "results": [
                    {
                        "task": {"type": "image-classification"},
                        "dataset": {
                            "type": "whole-slide-images",
                            "name": f"{files.get(PERFORMANCE_NAME, 'evaluated_on')} "
                            f"({files.get(PERFORMANCE_NAME, 'n')} patients)"
                            + "".join(f", {mark}" for mark in read_first_marks(notes)),
                        },
                        "metrics": measured,
                    }
                ],
            }
        ]
    return value


def _interval_words(files: RunFiles, key: str) -> str:
    ends = files.get(PERFORMANCE_NAME, f"intervals_95.{key}")
    if not ends:
        return "no interval"
    return f"95 % interval {decimals(ends[0])} to {decimals(ends[1])}"


def model_card(config: BundleConfig, files: RunFiles) -> str:
    """The card as Markdown with its YAML; every fact with the file and key it is from.

    Parameters
    ----------
    config : BundleConfig
    files : RunFiles
        Of the run; of the bundle alone where there is no run.
    """
    head = yaml.safe_dump(front_matter(config, files), sort_keys=False, allow_unicode=True)
    lines = ["---", head.rstrip(), "---", "", f"# {model_name(config)}", ""]
    if config.nothing_learnt:
        lines += [f"> **{NOTHING_LEARNT}: {config.nothing_learnt}**", ""]
    if config.of_painted:
        lines += [f"> **{LEARNT_FROM_PAINTED}**", ""]
    lines += [f"> {note}" for note in files.notes]
    kind = "slides, by bags of their patches" if config.bag is not None else "patches of slides"
    if config.bag_of is not None:
        kind = "patients, by bags of the patches of all their slides"
    lines += [
        f"A classifier of {kind}, explained by maps of the whole slide. For research: it is no "
        "medical device, and a map is no diagnosis.",
    ]
    held = config.held_out.text() if config.held_out is not None else ""
    sections: list[tuple[str, Sequence[Fact], str]] = [
        ("Model", f.model(files), ""),
        ("Classes", f.classes(files), ""),
        ("Terms of the weights",
         [Fact(config.terms, f"{files.model_file}: backbone, imported")] if config.terms else [],
         "a person must write the licence"),
        ("Intended use", [], "a person must write for whom and what for"),
        ("Training data", [*f.slide_counts(files), *f.partitions(files), *f.disjointness(files)]
         if files.slides else [], "there is no run beside the bundle"),
        ("Age of the training data",
         [Fact(config.data_years.text(), f"{files.model_file}: data_years")]
         if config.data_years else [], "the bundle does not record it (train with data_years)"),
        ("Exclusions", f.exclusions(files) if files.slides else [],
         "there is no run beside the bundle"),
        ("Training", [*f.training(files), *f.augmentation(files), *f.selection(files)], ""),
        ("Quality on held-out patches",
         [Fact(held, f"{files.model_file}: held_out")] if held else [],
         "the bundle does not record it"),
        ("Performance on patients", [*f.measures(files), *f.intervals(files)],
         "no performance of this model is in the folder ('scaat predict', with labels)"),
        ("Thresholds and calibration", [*f.thresholds(files), *f.calibration(files)],
         "no predictions of this model are in the folder ('scaat predict')"),
        ("Maps", [*f.explanation(files), *f.trust_held_out(files)],
         "no run is beside the bundle"),
        ("Limits", f.limits(files), "a person must write them"),
        ("De-identification", f.identity(files), "there is no run.json"),
        ("Subgroups and fairness", f.subgroups(files),
         "no column of the manifest was asked for (--subgroups); the program knows no age, sex, "
         "origin or site of patients by itself"),
        ("Software", f.versions(files), "there is no run.json"),
    ]  # fmt: skip
    for title, facts, why in sections:
        lines += ["", f"## {title}", ""]
        lines += [f"- {fact.text} (`{fact.source}`)" for fact in facts]
        if not facts:
            lines.append(f"{UNKNOWN.capitalize()}{': ' + why if why else ''}.")
    if not files.get(TRUST_CARD, "entries"):
        lines += ["", "How faithful the maps are was not measured ('scaat evaluate')."]
    lines += [
        "",
        "## Use",
        "",
        "```python",
        "import pathology_scaat as ps",
        "",
        'bundle = ps.load_bundle("FOLDER")  # config.json and model.safetensors',
        "```",
        "",
    ]
    return without_tags("\n".join(lines))


def write_model_folder(bundle: Path, to: Path, files: RunFiles | None = None) -> Path:
    """A bundle as a folder of Hugging Face's kind: card, configuration and weights.

    ``pathology_scaat.load_bundle`` opens it; nothing in it is pickled.

    Parameters
    ----------
    bundle : Path
    to : Path
        Folder to make.
    files : RunFiles, optional
        Of the run that made it, for the card.

    Raises
    ------
    BundleError
        If the bundle is damaged.
    ExportError
        If ``to`` is there already.
    """
    from pathology_scaat.training.bundle import load_bundle  # needs torch

    # weights and all that is kept with them: what is damaged is not passed on
    read_decision(bundle, load_bundle(bundle).fingerprint)
    config = read_bundle_config(bundle)
    if to.exists():
        raise ExportError(to.name, "is there already", "name another folder, or remove it")
    with atomic_path(to) as partial:
        partial.mkdir(parents=True)
        for name in (CONFIG_NAME, WEIGHTS_NAME, SCRIPT_FILE, FEATURES_NAME, NEIGHBOURS_NAME,
                     DECISION_NAME):  # fmt: skip
            if (bundle / name).is_file():
                shutil.copyfile(bundle / name, partial / name)
        card = model_card(config, files or RunFiles.of_bundle(bundle))
        if (partial / NEIGHBOURS_NAME).is_file():
            card += (
                f"\n`{NEIGHBOURS_NAME}` holds features of single training patches, no pixels: "
                "think before you publish them.\n"
            )
        (partial / README_NAME).write_text(card, encoding="utf-8")
    return to


def bundle_of(out: Path, given: Path | None) -> Path | None:
    """The bundle of a run: the one that is named, or the folder's own; None where there is none.

    Raises
    ------
    UsageError
        If the named one is not there.
    """
    if given is not None:
        if not (given / CONFIG_NAME).is_file():
            raise UsageError("--model", "names no model bundle", "give the folder with config.json")
        return given
    return bundle_of_results(out)
