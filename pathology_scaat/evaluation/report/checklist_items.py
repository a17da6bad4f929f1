"""The items of TRIPOD+AI (2024, 27 items) and of CLAIM (2024 update, 44 items), in own words.

Which facts of a run speak to which item. An item that no software can know of has none; one that
is answered by facts alone has nothing left for a person.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pathology_scaat.evaluation.report import facts as f
from pathology_scaat.evaluation.report.run_files import Fact, RunFiles

FactSource = Callable[[RunFiles], list[Fact]]


@dataclass(frozen=True)
class Item:
    """One item of a checklist.

    Attributes
    ----------
    number : str
    topic : str
        What it asks for, in own words.
    fact_sources : tuple of callable
        Facts of a run that speak to it.
    left : str
        What a person has to write all the same; empty where the facts are all that is asked.
    """

    number: str
    topic: str
    fact_sources: tuple[FactSource, ...] = ()
    left: str = ""


TRIPOD_AI: Final = (
    Item("1", "Title: says that a model is developed or evaluated, for whom and what", (),
         "the title"),
    Item("2", "Abstract, as TRIPOD+AI for abstracts asks", (), "the abstract"),
    Item("3", "Background: clinical context, intended users, known inequalities", (),
         "why, for whom, and for whom it may work less well"),
    Item("4", "Aims: development, evaluation, or both", (), "the aims"),
    Item("5", "Data: where from, why these, from when to when", (f.slide_counts, f.inputs),
         "source, reasons, dates, how representative they are"),
    Item("6", "Participants: setting, who was eligible, treatments", (f.exclusions,),
         "setting, criteria of eligibility and treatments (the facts are technical exclusions)"),
    Item("7", "Data preparation and checks of quality", (f.preprocessing, f.augmentation),
         "whether it worked alike for all groups of people"),
    Item("8", "Outcome: definition, how and by whom assessed, blinding", (f.classes,),
         "what the classes mean, who assessed them and what they knew"),
    Item("9", "Predictors: what the model sees", (f.preprocessing,),
         "staining, scanner, and why images alone"),
    Item("10", "Sample size: how it came about", (f.slide_counts, f.partitions),
         "why this size is enough"),
    Item("11", "Missing data: how they were handled", (f.exclusions,),
         "data missing before the slides came here"),
    Item("12", "Analysis: use of the data, model, tuning, internal validation, measures, "
         "updating, how predictions were computed",
         (f.partitions, f.disjointness, f.model, f.training, f.selection, f.scoring, f.intervals,
          f.calibration),
         "why this kind of model, and which settings were tried before"),
    Item("13", "Imbalance of classes: whether and how it was dealt with", (f.imbalance,),
         "whether probabilities were set right again for the people it is meant for"),
    Item("14", "Fairness: what was done about it", (), "what was done, and why"),
    Item("15", "Output of the model: probabilities, classes, thresholds", (f.scoring, f.thresholds),
         "what follows from the threshold in care"),
    Item("16", "Differences between the data of training and of evaluation",
         (f.external, f.partitions, f.unlike), "differences of setting, eligibility and outcome"),
    Item("17", "Ethical approval and consent", (), "approval, number, consent"),
    Item("18", "Open science: funding, conflicts, protocol, registration, data, code",
         (f.software,), "funding, conflicts, protocol, registration, availability of the data"),
    Item("19", "Involvement of patients and the public", (), "what there was, or that none was"),
    Item("20", "Participants: flow, characteristics, comparison of the parts",
         (f.slide_counts, f.exclusions, f.partitions), "characteristics of people in each part"),
    Item("21", "Numbers of participants and outcomes in each analysis",
         (f.partitions, f.classes, f.confusion)),
    Item("22", "The model in full, so that it can be used", (f.model, f.software),
         "where the weights can be had"),
    Item("23", "Performance with intervals, in subgroups, and how it varies",
         (f.measures, f.intervals, f.confusion, f.subgroups),
         "performance in subgroups of people, where no column was named (--subgroups)"),
    Item("24", "Updating of the model, if any", (f.calibration,),
         "updating beyond this calibration, or that there was none"),
    Item("25", "Interpretation of the main results", (), "the interpretation"),
    Item("26", "Limitations", (f.limits,), "limits that no software knows of"),
    Item("27", "Use in care: poor or missing input, skills of users, next steps",
         (f.slide_quality,), "who uses it and how, and what comes next"),
)  # fmt: skip

CLAIM: Final = (
    Item("1", "Title or abstract names the kind of AI", (), "the title"),
    Item("2", "Structured abstract", (), "the abstract"),
    Item("3", "Background and intended clinical role", (), "the background"),
    Item("4", "Aims and hypotheses", (), "the aims"),
    Item("5", "Prospective or retrospective", (), "which of the two"),
    Item("6", "Goal of the study", (), "the goal"),
    Item("7", "Sources of the data", (f.inputs,), "where the slides are from"),
    Item("8", "Who or what was included and excluded", (f.exclusions,),
         "criteria (the facts are technical exclusions)"),
    Item("9", "Preprocessing", (f.preprocessing,)),
    Item("10", "Parts of the data that were chosen", (f.preprocessing,), "reasons"),
    Item("11", "De-identification", (f.identity,), "what was done before the slides came here"),
    Item("12", "Missing data", (f.exclusions,), "data missing before"),
    Item("13", "Acquisition of the images", (), "staining, scanner, settings"),
    Item("14", "Definition of the reference standard", (f.classes,), "what the classes mean"),
    Item("15", "Reasons for the reference standard", (), "the reasons"),
    Item("16", "Who annotated, and how qualified", (), "annotators and tools"),
    Item("17", "Annotation of the test set", (), "how the test set was annotated"),
    Item("18", "Agreement within and between annotators", (), "agreement of annotators"),
    Item("19", "How data were assigned to parts", (f.partitions,), "who assigned them, and how"),
    Item("20", "Level at which the parts are disjoint", (f.disjointness,)),
    Item("21", "Intended sample size and how it was found", (f.slide_counts,), "how it was found"),
    Item("22", "Model in detail: inputs, layers, outputs", (f.model,)),
    Item("23", "Software and versions", (f.versions,), "hardware"),
    Item("24", "Initial weights", (f.initial_weights,), "where given weights are from"),
    Item("25", "Training in detail", (f.training, f.augmentation, f.imbalance),
         "settings that were tried before"),
    Item("26", "How the final model was selected", (f.selection,), "choice between whole runs"),
    Item("27", "Ensembles", (), "whether models were combined"),
    Item("28", "Measures of performance", (f.measures,), "why these"),
    Item("29", "Significance and uncertainty", (f.intervals,), "tests of significance, if any"),
    Item("30", "Robustness and sensitivity", (f.unlike,), "analyses of robustness"),
    Item("31", "Explainability, and how it was validated", (f.explanation, f.trust_held_out)),
    Item("32", "Evaluation on internal data", (f.scoring, f.thresholds, f.partitions)),
    Item("33", "Testing on external data", (f.external,), "differences of the external data"),
    Item("34", "Trial registration, if it is a trial", (), "registration"),
    Item("35", "Numbers in and out, with reasons", (f.slide_counts, f.exclusions),
         "exclusions before the slides came here"),
    Item("36", "Characteristics of cases in each part", (f.partitions,),
         "demographic and clinical characteristics"),
    Item("37", "Performance with uncertainty, against reference or readers",
         (f.measures, f.intervals), "comparison with readers"),
    Item("38", "Diagnostic accuracy and its precision", (f.measures, f.confusion, f.thresholds)),
    Item("39", "Analysis of failures", (f.confusion,), "what the wrong cases have in common"),
    Item("40", "Limitations", (f.limits,), "limits that no software knows of"),
    Item("41", "Implications for practice", (), "the implications"),
    Item("42", "Where the protocol is", (), "the protocol"),
    Item("43", "Where software, model and data are", (f.software,), "model and data"),
    Item("44", "Funding and the role of funders", (), "funding"),
)  # fmt: skip
