"""The cohort: its manifest, names of slides and patients, splits, pseudonyms."""
