"""``README.txt`` of an output folder: what is where, what to open first, and what a map says."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from pathology_scaat.system.own_files import new_file

FILE_NAME = "README.txt"

TEXT = """\
What is in this folder
======================
It was made by "scaat". Open first, in a browser, once slides are exported:

    overlays/index.html      all slides with their maps

Then, in QuPath: open a slide and drag overlays/<slide>.geojson.gz onto it; choose
Measure > Show measurement maps; press F to fill the tiles.

The folders and files (a run that was not finished, or was asked for less, has not all of them)
----------------------------------------------------------------------------------------
slides.csv       one line for each slide: which stage is done, and why a slide failed
run.json         the settings of the last run; to run them again:
                 "scaat run run.json --manifest TABLE --out NEWFOLDER"
run.log          what was done and how long it took; times are since the command began
notes.json       what was assumed, and what you should know
overlays/        maps for people and for QuPath: pages, pictures, GeoJSON, OME-TIFF
maps/            the slide maps as numbers (OME-Zarr): probabilities, saliency, patch counts
saliency/        the same by patch, before it was put together
patches/         where the patches lie; their pixels too (large) where a model was trained
tissue/          what was taken for tissue, as pictures to look at
model/           the trained model with its settings; "scaat run --model" applies it
folds/           the models of a cross-validation; a model/ beside them is of another run
predictions.csv  what the model says of each slide; predictions_patients.csv: of each patient
performance.*    how often that is right, and on which slides that was tried
evaluation/      the trust card of "scaat evaluate": how far the maps can be trusted
comparison/      what "scaat compare" found of several training methods
report/          model card and checklists of "scaat report", for a person to complete
logs/            the long story of failures

What a map says, and what it does not
-------------------------------------
A map shows where this model found what moved its decision for one class. It shows how strong
that is by a scale that is the same for all slides of one model; a picture on a scale of its own
says so. Maps by different methods do not compare (overlays/index.html names them).
* It is no diagnosis, and it does not show that the decision is right.
* Bare tissue is not proven normal: the model found little there, or nothing looked at it.
* A bright spot is not proven tumour: a model may look at ink, folds, or what only came along
  with the class in the slides that it was trained on.
* A model that has not learnt anything draws maps as well. Read performance.* and the first page
  before the maps; numbers on slides of the training are too good.
* Slides of "scaat demo" are painted (slides.csv says which): they show no patient's tissue, and
  figures of them say nothing of real slides.
* It is for research. It has not been approved for the care of patients.
"""


def write_readme(out: Path) -> None:
    """Put the text into an output folder where no file of that name is; never over one."""
    with suppress(OSError):
        new_file(out / FILE_NAME, TEXT.encode())
