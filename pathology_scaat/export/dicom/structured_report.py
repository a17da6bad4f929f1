"""Score, regions and verdicts of a slide as a DICOM structured report (TID 1500).

Comprehensive 3D SR: outlines are in mm of the slide's own frame of reference, so that a viewer
draws them over any level of the slide.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from pathology_scaat.artifacts.atomic import atomic_path
from pathology_scaat.artifacts.fingerprint import fingerprint
from pathology_scaat.export.dicom.shared import (
    MANUFACTURER,
    SCHEME,
    common,
    description,
    slide_points,
    uid,
    with_fixed_date,
)
from pathology_scaat.export.dicom.source import need_highdicom
from pathology_scaat.export.frame import ExportFrame
from pathology_scaat.export.qupath.geojson import region_id
from pathology_scaat.export.qupath.regions import Region, RegionSet
from pathology_scaat.export.slide_findings import ReaderVerdict, SlideFindings, SlideScore
from pathology_scaat.stitching.slide_map import SlideMap

_MEANING = 64
_TEXT = 1000
_LIGHT_MICROSCOPY = ("104157003", "SCT", "Light microscopy procedure")
_COMMENT = ("121106", "DCM", "Comment")
_ANSWERS = {
    "yes": ("52101004", "SCT", "Present"),
    "no": ("2667000", "SCT", "Absent"),
    "unsure": ("82334004", "SCT", "Indeterminate"),
}


class _Report:
    """The parts of one report; all share map, frame and algorithm."""

    def __init__(self, slide_map: SlideMap, frame: ExportFrame, source: Any, key: str) -> None:
        from pydicom.sr.coding import Code

        self.hd, self.code = need_highdicom(), Code
        self.map, self.frame, self.source, self.key = slide_map, frame, source, key

    def own(self, value: str, meaning: str) -> Any:
        return self.code(value, SCHEME, meaning[:_MEANING])

    def algorithm(self, model_facts: dict[str, str]) -> Any:
        meta = self.map.meta
        parameters = [
            f"model fingerprint: {meta.model_fingerprint}",
            *([f"model name: {model_facts['model name']}"] if "model name" in model_facts else []),
            f"explained class: {meta.target_class}",
            f"map: {meta.formula}"[:_TEXT],
        ]
        return self.hd.sr.AlgorithmIdentification(
            name=f"pathology_scaat {meta.method}",
            version=metadata.version("pathology-scaat"),
            parameters=parameters,
            manufacturer=MANUFACTURER,
        )

    def number(self, code: Any, value: float, unit: Any) -> Any:
        return self.hd.sr.Measurement(name=code, value=float(value), unit=unit)

    def tracking(self, kind: str, identifier: str) -> Any:
        return self.hd.sr.TrackingIdentifier(
            uid=uid(self.map.meta.fingerprint, kind, identifier), identifier=identifier
        )

    def verdicts(self, verdicts: Sequence[ReaderVerdict]) -> list[Any]:
        found = []
        for v in verdicts:
            word = "Blind verdict" if v.blind else "Verdict"
            name = self.own(
                f"{'blind-' if v.blind else ''}verdict-{v.reader}",
                f"{word} of reader {v.reader}: {v.target_class}",
            )
            found.append(self.hd.sr.QualitativeEvaluation(name, self.code(*_ANSWERS[v.answer])))
        return found

    def comments(self, group: Any, texts: Sequence[str]) -> Any:
        """Add sentences to a group of measurements."""
        for text in texts:
            group[0].ContentSequence.append(
                self.hd.sr.TextContentItem(
                    name=self.code(*_COMMENT),
                    value=text[:_TEXT],
                    relationship_type=self.hd.sr.RelationshipTypeValues.CONTAINS,
                )
            )
        return group

    def slide(
        self, found: RegionSet, findings: SlideFindings, algorithm: Any, texts: Sequence[str]
    ) -> Any:
        """The group of the whole slide: score, number of regions, verdicts, facts."""
        from pydicom.sr.codedict import codes

        one = codes.UCUM.NoUnits
        numbers = [
            self.number(self.own("regions", "Regions that the model marks"),
                        len(found.regions), one),
            self.number(self.own("regions-left-out", "Further regions, not listed"),
                        found.n_left_out, one),
        ]  # fmt: skip
        score = findings.score
        for number, (name, value) in enumerate(score.probabilities if score else ()):
            numbers.append(self.number(self.own(f"score-{number}", f"Score: {name}"), value, one))
        if score is not None and score.threshold is not None:
            numbers.append(
                self.number(self.own("score-threshold", "Threshold of the positive class"),
                            score.threshold, one)
            )  # fmt: skip
        group = self.hd.sr.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=self.tracking("slide", "whole slide"),
            finding_type=self.own("slide", "Whole slide"),
            algorithm_id=algorithm,
            measurements=numbers,
            qualitative_evaluations=self.verdicts(
                [v for v in findings.verdicts if not v.region_id]
            ),
            source_images=[
                self.hd.sr.SourceImageForMeasurementGroup(
                    self.source.SOPClassUID, self.source.SOPInstanceUID
                )
            ],
        )
        return self.comments(group, texts)

    def region(
        self,
        rank: int,
        region: Region,
        drawn: str,
        algorithm: Any,
        verdicts: Sequence[ReaderVerdict],
    ) -> Any:
        """The group of one region: its outline in mm, what was measured, what readers said."""
        from pydicom.sr.codedict import codes

        meta = self.map.meta
        ring = np.asarray(region.polygon.exterior.coords)[:, :2]
        level0 = ring + np.array([self.frame.offset_x_px, self.frame.offset_y_px])
        target = meta.target_class
        group = self.hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=self.tracking("region", region_id(region.polygon, self.key)),
            referenced_region=self.hd.sr.ImageRegion3D(
                graphic_type=self.hd.sr.GraphicTypeValues3D.POLYGON,
                graphic_data=slide_points(self.source, level0),
                frame_of_reference_uid=self.source.FrameOfReferenceUID,
            ),
            finding_type=self.own(f"high-{drawn}", f"High {drawn} of a model for {target}"),
            algorithm_id=algorithm,
            measurements=[
                self.number(codes.SCT.Area, region.area_um2,
                            self.code("um2", "UCUM", "square micrometer")),
                self.number(self.own("saliency", "Mean saliency"), region.saliency_mean,
                            codes.UCUM.NoUnits),
                self.number(self.own("probability", f"Mean probability of {target}"),
                            region.probability_mean, codes.UCUM.NoUnits),
            ],
            qualitative_evaluations=self.verdicts(verdicts),
        )  # fmt: skip
        holes = len(region.polygon.interiors)
        texts = [f"High {drawn} {rank}"]
        if holes:
            texts.append(
                f"{holes} hole(s) of this region are not drawn: a DICOM outline has none. The "
                "area and the means leave them out."
            )
        return self.comments(group, texts)

    def context(self) -> Any:
        """Who observed (this program) and what (the specimen of the slide)."""
        sr = self.hd.sr
        from pydicom.sr.codedict import codes

        device = sr.ObserverContext(
            observer_type=codes.DCM.Device,
            observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
                uid=uid(MANUFACTURER, metadata.version("pathology-scaat")),
                name=MANUFACTURER,
                manufacturer_name=MANUFACTURER,
                model_name=MANUFACTURER,
            ),
        )
        specimens = self.source.get("SpecimenDescriptionSequence") or ()
        if not specimens:
            return sr.ObservationContext(observer_device_context=device)
        specimen = sr.SubjectContext(
            subject_class=codes.DCM.Specimen,
            subject_class_specific_context=sr.SubjectContextSpecimen(
                uid=specimens[0].SpecimenUID,
                identifier=specimens[0].get("SpecimenIdentifier") or None,
                container_identifier=self.source.get("ContainerIdentifier") or None,
            ),
        )
        return sr.ObservationContext(observer_device_context=device, subject_context=specimen)


def _score_text(score: SlideScore | None) -> list[str]:
    if score is None:
        return ["slide score: none that is known to be of this model (run 'scaat predict')"]
    part = score.split or "not known"
    return [
        f"slide score: called {score.called}; {score.rule}; {score.calibration}; this slide's part "
        f"in the training of the model: {part}"
    ]


def write_structured_report(
    path: Path,
    slide_map: SlideMap,
    found: RegionSet,
    frame: ExportFrame,
    source: Any,
    model_facts: dict[str, str],
    findings: SlideFindings,
    key: str,
) -> tuple[str, ...]:
    """Write the report; returns what is to be said of it.

    Parameters
    ----------
    path : Path
    slide_map : SlideMap
    found : RegionSet
        Regions in the pixels of ``frame``.
    frame : ExportFrame
    source : pydicom.Dataset
        What may be taken of the slide's header (:func:`..source.read_source`).
    model_facts : dict of str to str
        What is known of the model; a warning stands first.
    findings : SlideFindings
        Score and verdicts.
    key : str
        What ids of regions are made from.
    """
    hd = need_highdicom()
    ids = [region_id(region.polygon, key) for region in found.regions]
    gone = sum(bool(v.region_id) and v.region_id not in ids for v in findings.verdicts)
    notes = []
    if gone:
        notes.append(f"{gone} verdict(s) are about regions that this map does not have")
    facts = [f"{name}: {text}" for name, text in model_facts.items()]
    facts.sort(key=lambda line: not line.upper().startswith("WARNING"))
    texts = [
        *facts,
        *_score_text(findings.score),
        *notes,
        "Regions show what moved the model's decision. This is no diagnosis.",
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # highdicom warns of empty names in the source
        report = _Report(slide_map, frame, source, key)
        algorithm = report.algorithm(model_facts)
        groups = [report.slide(found, findings, algorithm, texts)]
        for rank, (region, name) in enumerate(zip(found.regions, ids, strict=True), start=1):
            mine = [v for v in findings.verdicts if v.region_id == name]
            groups.append(report.region(rank, region, found.drawn, algorithm, mine))
        content = hd.sr.MeasurementReport(
            observation_context=report.context(),
            procedure_reported=report.code(*_LIGHT_MICROSCOPY),
            imaging_measurements=groups,
        )
        made_of = fingerprint({"ids": ids, "told": model_facts, "findings": findings.as_json()})
        dataset = hd.sr.Comprehensive3DSR(
            evidence=[source],
            content=content[0],
            series_description=description(model_facts),
            **common(slide_map, "sr", 9004, made_of),
        )
    with atomic_path(path) as partial:
        with_fixed_date(dataset, source).save_as(partial)
    return tuple(notes)
