"""What a run can say of itself, topic by topic; each sentence names the file and key it is from."""

from __future__ import annotations

from collections import Counter

from pathology_scaat.artifacts.run_record import FILE_NAME as RUN_NAME
from pathology_scaat.artifacts.status_columns import STAGES
from pathology_scaat.evaluation.performance.headings import HEADINGS, heading, threshold_words
from pathology_scaat.evaluation.performance.predictions import HOW_NAME
from pathology_scaat.evaluation.performance.report_files import PERFORMANCE_NAME as PERFORMANCE
from pathology_scaat.evaluation.report.run_files import NOTES, TRUST_CARD, Fact, RunFiles, shown
from pathology_scaat.saliency.schema import UNLIKE_PERCENTILE
from pathology_scaat.slides.painted import PAINTED_NOTE
from pathology_scaat.system.rounding import decimals

MAX_LISTED = 20


def _number(count: int, what: str) -> str:
    plural = f"{what}es" if what.endswith("ch") else f"{what}s"
    return f"{count} {what if count == 1 else plural}"


def slide_counts(files: RunFiles) -> list[Fact]:
    """How many slides of how many patients."""
    rows = files.slides
    patients = {row["patient"] for row in rows if row["patient"]}
    facts = files.of_slides(_number(len(rows), "slide"), "slide_id")
    if patients:
        are = "is" if len(patients) == 1 else "are"
        facts += files.of_slides(f"{_number(len(patients), 'patient')} {are} named", "patient")
    painted = sum(PAINTED_NOTE in row["notes"] for row in rows)
    if painted:
        facts += files.of_slides(
            f"PAINTED by 'scaat demo': {painted} of these slides, which show no patient's tissue",
            "notes",
        )
    without = sum(not row["patient"] for row in rows)
    if without:
        name = "names" if without == 1 else "name"
        facts += files.of_slides(
            f"{_number(without, 'slide')} {name} no patient: each counts as a patient of its own",
            "patient",
        )
    earlier = sum(row["in_manifest"] == "no" for row in rows)
    if earlier:
        facts += files.of_slides(
            f"{earlier} of these slides {'is' if earlier == 1 else 'are'} not in the manifest of "
            "the last run: what is there of them is of earlier runs, and counts here, but not "
            "among exclusions",
            "in_manifest",
        )
    return facts


def exclusions(files: RunFiles) -> list[Fact]:
    """Slides of the last run's manifest that fell out, and why."""
    rows = [row for row in files.slides if row["in_manifest"] != "no"]
    out = [row for row in rows if any(row[s] in ("failed", "skipped") for s in STAGES)]
    done = sum(all(row[s] == "done" for s in STAGES) for row in rows)
    facts = files.of_slides(f"{_number(done, 'slide')} went through every stage", ", ".join(STAGES))
    facts += files.of_slides(
        f"{_number(len(out), 'slide')} failed or {'was' if len(out) == 1 else 'were'} left out",
        ", ".join(STAGES),
    )
    reasons = Counter(row["reason"] or "no reason is recorded" for row in out)
    for reason, n in reasons.most_common(MAX_LISTED):
        facts += files.of_slides(f"{n} x {reason}", "reason")
    if len(reasons) > MAX_LISTED:
        facts += files.of_slides(f"{len(reasons) - MAX_LISTED} further reasons", "reason")
    unreadable = sum(int(row["n_unreadable"] or 0) for row in rows)
    facts += files.of_slides(f"{_number(unreadable, 'patch')} could not be read", "n_unreadable")
    return facts


def partitions(files: RunFiles) -> list[Fact]:
    """Slides and patients of each part."""
    facts = []
    for part, n in sorted(Counter(row["split"] for row in files.slides if row["split"]).items()):
        patients = {r["patient"] for r in files.slides if r["split"] == part and r["patient"]}
        of = f" of {_number(len(patients), 'named patient')}" if patients else ""
        facts += files.of_slides(f"{part}: {_number(n, 'slide')}{of}", "split, patient")
    facts += files.run("folds", "{} folds of cross-validation, patients kept together")
    facts += files.run("preserve_site", "sites kept together in folds (column {})")
    return facts


def disjointness(files: RunFiles) -> list[Fact]:
    """Whether a patient is in more than one part: counted, not claimed."""
    parts: dict[str, set[str]] = {}
    for row in files.slides:
        if row["split"] and row["patient"]:
            parts.setdefault(row["patient"], set()).add(row["split"])
    if not parts:
        return []
    shared = sum(len(found) > 1 for found in parts.values())
    without = sum(bool(row["split"]) and not row["patient"] for row in files.slides)
    text = (
        f"disjoint by patient: none of {len(parts)} patients is in more than one part"
        if not shared
        else f"NOT disjoint by patient: {shared} of {len(parts)} patients are in more than one part"
    )
    if without:
        text += f" ({without} slides name no patient and could not be checked)"
    return files.of_slides(text, "split, patient")


def preprocessing(files: RunFiles) -> list[Fact]:
    """How patches were cut and what was left out of them."""
    return [
        *files.run("tile.mpp", "patches at {} µm/px"),
        *files.run("tile.patch_size_px", "patches of {} px a side"),
        *files.run("tile.overlap", "overlap {}"),
        *files.run("tile.min_tissue", "patches with at least {} of tissue"),
        *files.run("tile.tissue.drop_ink", "pen marks left out: {}"),
        *files.run("tile.max_unreadable_share", "slides with more unreadable patches than {} fail"),
    ]


def augmentation(files: RunFiles) -> list[Fact]:
    return files.of_model("training.augment", "augmentation: {}")


def identity(files: RunFiles) -> list[Fact]:
    """What was done about names of people."""
    config = files.get(RUN_NAME, "config")
    if config is None or "pseudonymize" not in config:
        return []
    text = (
        "ids of slides and patients are keyed pseudonyms (HMAC-SHA256)"
        if config["pseudonymize"]
        else "NOT pseudonymised: outputs carry the ids of the manifest"
    )
    return [Fact(text, f"{RUN_NAME}: config.pseudonymize")]


def classes(files: RunFiles) -> list[Fact]:
    return [
        *files.of_model("class_names", "classes: {}"),
        *files.of_model("positive_class", "positive class: {}"),
        *files.fact(PERFORMANCE, "counts", "patients that performance is of, by class: {}"),
    ]


def model(files: RunFiles) -> list[Fact]:
    """Enough to tell the model apart and to make it again."""
    return [
        *files.of_model("backbone", "network {}"),
        *files.of_model("backbone_options", "network options: {}"),
        *files.of_model("bag", "head for bags of patches: {}"),
        *files.of_model("patch_size_px", "input: RGB patches of {} px"),
        *files.of_model("mpp", "input at {} µm/px"),
        *files.of_model("mean", "mean subtracted inside: {}"),
        *files.of_model("std", "divided inside by: {}"),
        *files.of_model("temperature", "logits are divided by {}"),
        *files.of_model("imported.source_sha256", "SHA-256 of the imported file {}"),
        *files.of_model("imported.licence", "terms of the imported weights: {}"),
        *files.of_model("fingerprint", "fingerprint {}"),
        *files.of_model("weights_sha256", "SHA-256 of the weights {}"),
    ]


def training(files: RunFiles) -> list[Fact]:
    keys = ("epochs", "patience", "learning_rate", "weight_decay", "batch_size", "warmup_share",
            "label_smoothing", "precision", "trainable", "labels", "validation_share",
            "seed")  # fmt: skip
    facts = [
        *files.of_model("imported.kind", "trained elsewhere, imported from: {}"),
        *files.of_model("ancestors.0.fingerprint", "fine-tuned from the model {}"),
        *files.of_model("method", "trained by '{}'"),
        *files.of_model("method_options", "options of the method: {}"),
    ]
    for key in keys:
        facts += files.of_model(f"training.{key}", key.replace("_", " ") + " {}")
    return facts


def initial_weights(files: RunFiles) -> list[Fact]:
    config = files.get(RUN_NAME, "config.train")
    if not isinstance(config, dict) or "backbone_weights" not in config:
        return []
    given = config["backbone_weights"]
    text = "backbone from a file of weights" if given else "no weights were given: random start"
    return [Fact(text, f"{RUN_NAME}: config.train.backbone_weights")]


def selection(files: RunFiles) -> list[Fact]:
    """How the epoch that was kept was chosen."""
    how = "chosen on the validation part"
    if files.get(files.model_file, "metrics.n_val_patches") == 0:
        how = "for there was no validation part to choose by"
    return [
        *files.of_model("metrics.best_epoch", f"epoch {{}} was kept, {how}"),
        *files.of_model("metrics.n_epochs", "of {} epochs"),
    ]


def imbalance(files: RunFiles) -> list[Fact]:
    return [
        *files.of_model("training.class_balance", "classes balanced by: {}"),
        *files.of_model("training_counts", "training patches by class: {}"),
        *(
            fact
            for fact in noted(files, "train")
            if "training" in fact.text and "class" in fact.text
        ),
    ]


def thresholds(files: RunFiles) -> list[Fact]:
    """Thresholds of patients and how they were chosen; also where nothing was measured by them."""
    name, key = PERFORMANCE, "thresholds.patient"
    if files.get(name, key) is None:
        name, key = HOW_NAME, f"decision.{key}"
    values = files.get(name, f"{key}.values") or ()
    words = "threshold chosen by: {}" if values else "no threshold: {}"
    each = (Fact(f"threshold, {threshold_words(v)}", f"{name}: {key}.values") for v in values)
    return [*files.fact(name, f"{key}.rule", words), *each]


def calibration(files: RunFiles) -> list[Fact]:
    name, key = PERFORMANCE, "prediction.models"
    if files.get(name, key) is None:
        name, key = HOW_NAME, "models"
    models = [m for m in files.get(name, key) or () if m.get("calibration")]
    folds = ["" if m.get("fold") is None else f" (fold {m['fold']})" for m in models]
    return [
        Fact(f"probabilities of slides{fold}: {m['calibration']}", f"{name}: {key}")
        for m, fold in zip(models, folds, strict=True)
    ]


def scoring(files: RunFiles) -> list[Fact]:
    """How a slide and a patient get their number."""
    name, key = (PERFORMANCE, "prediction.rule")
    if files.get(name, key) is None:
        name, key = HOW_NAME, "rule"
    return [
        *files.fact(name, key, "a slide's probability is {}"),
        *files.fact(PERFORMANCE, "patient_rule"),
    ]


def measures(files: RunFiles) -> list[Fact]:
    """Every measure of patients with its interval."""
    facts = [
        *files.fact(PERFORMANCE, "evaluated_on", "evaluated on: {}"),
        *files.fact(PERFORMANCE, "n", "{} patients"),
    ]
    n_classes = _n_classes(files)
    for key in HEADINGS:
        value = files.get(PERFORMANCE, key)
        if value is None:
            continue
        interval = files.get(PERFORMANCE, f"intervals_95.{key}")
        said = (
            f"95 % interval {decimals(interval[0])} to {decimals(interval[1])}"
            if interval
            else "no interval"
        )
        words = heading(key, n_classes)
        facts.append(Fact(f"{words} {decimals(value)} ({said})", f"{PERFORMANCE}: {key}"))
    return facts


def _n_classes(files: RunFiles) -> int:
    return len(files.get(PERFORMANCE, "class_names") or ()) or 2


def subgroups(files: RunFiles) -> list[Fact]:
    """Patients and AUROC by the values of columns that the run was asked to look at."""
    facts = []
    name = heading("auroc", _n_classes(files))
    for column, groups in (files.get(PERFORMANCE, "subgroups") or {}).items():
        for value, found in groups.items():
            auroc = found.get("auroc")
            ends = (found.get("intervals_95") or {}).get("auroc")
            said = f"{name} not measurable" if auroc is None else f"{name} {decimals(auroc)}"
            if ends:
                said += f" (95 % interval {decimals(ends[0])} to {decimals(ends[1])})"
            elif auroc is not None:
                said += " (no interval)"
            counted = f"{_number(found['n_patients'], 'patient')} ({shown(found['counts'])})"
            key = f"{PERFORMANCE}: subgroups.{column}"
            facts.append(Fact(f"{column} {value}: {counted}, {said}", key))
    return facts


def intervals(files: RunFiles) -> list[Fact]:
    return files.fact(PERFORMANCE, "intervals", "intervals: {}")


def looks(files: RunFiles) -> list[Fact]:
    return files.fact(
        PERFORMANCE,
        "earlier_looks_at_these_cases",
        "these cases were judged before with other predictions: {} times",
    )


def confusion(files: RunFiles) -> list[Fact]:
    """Patients by true and by predicted class."""
    return [
        Fact(f"true {true}: predicted {shown(row)}", f"{PERFORMANCE}: confusion.{true}")
        for true, row in (files.get(PERFORMANCE, "confusion") or {}).items()
    ]


def external(files: RunFiles) -> list[Fact]:
    config = files.get(RUN_NAME, "config")
    if config is None or "test_manifest" not in config:
        return []
    text = (
        "an external test cohort was given"
        if config["test_manifest"]
        else "no external test cohort was given: all slides are of one manifest"
    )
    return [Fact(text, f"{RUN_NAME}: config.test_manifest")]


def unlike(files: RunFiles) -> list[Fact]:
    """Slides unlike the training data."""
    values = [float(r["unlike_training"]) for r in files.slides if r["unlike_training"]]
    if not values:
        return []
    n = sum(v >= 0.25 for v in values)
    return files.of_slides(
        f"{n} of {len(values)} slides have a quarter or more of patches unlike the training "
        f"patches (beyond their {UNLIKE_PERCENTILE:g}th percentile)",
        "unlike_training",
    )


def explanation(files: RunFiles) -> list[Fact]:
    """How maps are made, and what was measured of them."""
    facts = [
        *files.method_of_maps("maps by '{}'"),
        *files.run("explain.output", "of the model's {}"),
        *files.run("stitch.weighting", "weighted by {}"),
    ]
    facts += files.fact(TRUST_CARD, "explanation_method", "the trust card measured maps by '{}'")
    for number, entry in enumerate(files.get(TRUST_CARD, "entries") or ()):
        value = (entry.get("interval") or {}).get("value")
        if value is not None:
            facts.append(
                Fact(
                    f"{entry['question']} {decimals(value)}: {entry['words']}",
                    f"{TRUST_CARD}: entries.{number}",
                )
            )
    return facts


def trust_held_out(files: RunFiles) -> list[Fact]:
    return files.fact(TRUST_CARD, "held_out_words", "maps were judged on images held out: {}")


def versions(files: RunFiles) -> list[Fact]:
    return files.fact(RUN_NAME, "versions")


def software(files: RunFiles) -> list[Fact]:
    return files.fact(RUN_NAME, "versions.pathology-scaat", "code: pathology_scaat {} (Apache-2.0)")


def noted(files: RunFiles, *stages: str) -> list[Fact]:
    """What the stages had to say."""
    return [
        Fact(str(text), f"{NOTES}: {stage}")
        for stage in stages
        for text in files.get(NOTES, stage) or ()
    ]


def limits(files: RunFiles) -> list[Fact]:
    """What the run itself says against its numbers."""
    facts = [Fact(str(t), f"{PERFORMANCE}: notes") for t in files.get(PERFORMANCE, "notes") or ()]
    facts += looks(files)
    held = files.get(files.model_file, "held_out") if files.model_file else None
    if held:
        facts += files.of_model("held_out.n_patients", "held-out patches are of {} patients")
    return [*facts, *external(files)]


def slide_quality(files: RunFiles) -> list[Fact]:
    """What happens to slides of poor quality."""
    return [
        *files.run(
            "tile.max_unreadable_share", "a slide with more unreadable patches than {} fails"
        ),
        *files.run("tile.mpp_tolerance", "µm/px may differ by {} from what is asked for"),
        *unlike(files),
    ]


def inputs(files: RunFiles) -> list[Fact]:
    return files.fact(RUN_NAME, "inputs", "keyed fingerprints of what went in: {}")
