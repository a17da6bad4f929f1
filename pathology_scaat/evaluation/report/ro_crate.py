"""``ro-crate-metadata.json``: a run as a Process Run Crate (RO-Crate 1.1).

The crate is the output folder. It says which program and version made what, out of what: inputs
by their keyed fingerprints, never by path; no user, no host. A file that an ``audit: full`` run
wrote of itself (``run.json``) is in the crate as it is, which the crate states. The only date is
the day of ``run.json``, since RO-Crate wants one.
"""

from __future__ import annotations

import mimetypes
from collections.abc import Iterable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final

from pathology_scaat.artifacts.fingerprint import file_sha256
from pathology_scaat.artifacts.output_names import CRATE_NAME
from pathology_scaat.artifacts.run_record import FILE_NAME as RUN_NAME
from pathology_scaat.artifacts.status_columns import STAGES
from pathology_scaat.evaluation.performance.predictions import HOW_NAME
from pathology_scaat.evaluation.performance.report_files import PERFORMANCE_NAME
from pathology_scaat.evaluation.report.run_files import TRUST_CARD, RunFiles

PROFILE: Final = "https://w3id.org/ro/wfrun/process/0.5"
_CONTEXT: Final = [
    "https://w3id.org/ro/crate/1.1/context",
    "https://w3id.org/ro/terms/workflow-run/context",
]
_FILES: Final = {
    RUN_NAME: "What was run: settings, versions, fingerprints of the inputs",
    "slides.csv": "Status of every slide",
    "notes.json": "What was assumed, stage by stage",
    "predictions.csv": "Predictions of slides",
    "predictions_patients.csv": "Predictions of patients",
    "predictions.json": "How the predictions came about",
    "performance.json": "Performance with intervals",
    "performance.csv": "Performance as a table",
    "performance.md": "Performance, to be read",
    "evaluation/trust_card.json": "What is known of the maps",
    "evaluation/trust_card.md": "What is known of the maps, to be read",
    "report/model_card.md": "Model card",
    "report/checklist.md": "Reporting checklists",
    "report/checklist.json": "Reporting checklists, for programs",
}
_FOLDERS: Final = {
    "patches": "Patch stores (zarr)",
    "saliency": "Saliency stores (zarr)",
    "maps": "Slide maps (OME-Zarr)",
    "overlays": "Files for viewers, with a record of each slide",
    "model": "Model bundle",
    "folds": "Models of cross-validation",
    "tissue": "Pictures of the tissue that was found",
}
UNFINISHED: Final = "It did not come to its end: what is here is partly of an earlier run."
_LICENCE: Final = "https://spdx.org/licenses/Apache-2.0"


def crate(files: RunFiles, published: date | None = None) -> dict[str, Any]:
    """Metadata of an RO-Crate 1.1 about a run's output folder, as JSON-LD.

    Parameters
    ----------
    files : RunFiles
        Of the run; without ``run.json`` there is nothing to describe.
    published : date, optional
        The day of ``run.json`` by default.
    """
    out = files.out
    modified = datetime.fromtimestamp((out / RUN_NAME).stat().st_mtime, UTC).date()
    day = (published or modified).isoformat()
    left_out = _of_other_models(files)
    held = [name for name in _FILES if (out / name).is_file() and name not in left_out]
    folders = [name for name in _FOLDERS if (out / name).is_dir()]
    rows = [row for row in files.slides if row["in_manifest"] != "no"]
    failed = sum(any(row[s] == "failed" for s in STAGES) for row in rows)
    unfinished = files.is_unfinished
    version = str(files.get(RUN_NAME, "versions.pathology-scaat") or "unknown")
    inputs = files.get(RUN_NAME, "inputs") or {}
    software = {
        "@id": "#pathology_scaat",
        "@type": "SoftwareApplication",
        "name": "pathology_scaat",
        "softwareVersion": version,
        "license": {"@id": _LICENCE},
        "softwareRequirements": [
            {"@id": f"#{name}"} for name in _libraries(files)
        ],
    }  # fmt: skip
    action = {
        "@id": "#run",
        "@type": "CreateAction",
        "name": "scaat run",
        "description": "Slides to patches, model, saliency and maps; settings are in run.json. "
        f"{failed} of {len(rows)} slides failed (slides.csv says why).",
        "actionStatus": "http://schema.org/"
        + ("FailedActionStatus" if unfinished else "CompletedActionStatus"),
        **({"error": UNFINISHED} if unfinished else {}),
        "instrument": {"@id": software["@id"]},
        "object": _links(f"#input-{name}" for name in sorted(inputs)),
        "result": _links(i for i in (*held, *(f"{n}/" for n in folders)) if i != RUN_NAME),
    }
    root = {
        "@id": "./",
        "@type": "Dataset",
        "name": "A run of pathology_scaat",
        "description": "Saliency maps of whole-slide images with everything that they were made "
        "with. For research; no diagnosis.",
        "datePublished": day,
        "license": {"@id": "#licence"},
        "conformsTo": {"@id": PROFILE},
        "hasPart": [{"@id": i} for i in (*held, *(f"{n}/" for n in folders))],
        "mentions": {"@id": action["@id"]},
    }
    graph: list[dict[str, Any]] = [
        {
            "@id": CRATE_NAME,
            "@type": "CreativeWork",
            "about": {"@id": "./"},
            "conformsTo": {"@id": "https://w3id.org/ro/crate/1.1"},
        },
        root,
        {"@id": PROFILE, "@type": "CreativeWork", "name": "Process Run Crate", "version": "0.5"},
        action,
        software,
        {"@id": "#licence", "@type": "CreativeWork", "name": "Not stated",
         "description": "Slides and labels are their owners'; ask them."},
        {"@id": _LICENCE, "@type": "CreativeWork", "name": "Apache License 2.0",
         "identifier": "Apache-2.0"},
    ]  # fmt: skip
    for name, number in _libraries(files).items():
        graph.append(
            {"@id": f"#{name}", "@type": "SoftwareApplication", "name": name,
             "softwareVersion": number}
        )  # fmt: skip
    for name in sorted(inputs):
        graph.append(
            {"@id": f"#input-{name}", "@type": "CreativeWork", "name": name,
             "description": "Not in the crate; named by its keyed fingerprint alone.",
             "identifier": str(inputs[name])}
        )  # fmt: skip
    graph += [_file(out, name) for name in held]
    if files.get(RUN_NAME, "audit") == "full":
        record = next(entity for entity in graph if entity["@id"] == RUN_NAME)
        record["description"] = "Holds user, host and paths (audit: full): to stay in the house."
    for name in folders:
        graph.append({"@id": f"{name}/", "@type": "Dataset", "name": _FOLDERS[name]})
    return {"@context": _CONTEXT, "@graph": graph}


def _of_other_models(files: RunFiles) -> set[str]:
    """Files in the folder that were left out, since they are of another model; and their likes."""
    gone: set[str] = set()
    for name in (TRUST_CARD, PERFORMANCE_NAME, HOW_NAME):
        if (files.out / name).is_file() and name not in files.found:
            stem = name.rsplit(".", 1)[0]
            gone |= {other for other in _FILES if other.startswith(stem)}
    return gone


def _links(ids: Iterable[str]) -> Any:
    """References; one alone is no list, as RO-Crate wants it."""
    found = [{"@id": i} for i in ids]
    return found[0] if len(found) == 1 else found


def _libraries(files: RunFiles) -> dict[str, str]:
    found = files.get(RUN_NAME, "versions") or {}
    return {str(k): str(v) for k, v in sorted(found.items()) if k != "pathology-scaat"}


def _file(out: Path, name: str) -> dict[str, Any]:
    path = out / name
    kind = {".md": "text/markdown"}.get(path.suffix) or mimetypes.guess_type(name)[0]
    return {
        "@id": name,
        "@type": "File",
        "name": _FILES[name],
        "contentSize": str(path.stat().st_size),
        "encodingFormat": kind or "application/octet-stream",
        "sha256": file_sha256(path),
    }
