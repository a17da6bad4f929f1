"""What a run is about to do, checked before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pathology_scaat.artifacts.fingerprint import file_sha256
from pathology_scaat.cohort.column import columns_of, groups_of
from pathology_scaat.cohort.external import with_external_test
from pathology_scaat.cohort.folds import refuse_too_few
from pathology_scaat.cohort.manifest import Manifest
from pathology_scaat.errors import ManifestError
from pathology_scaat.execution.devices import require_device
from pathology_scaat.patches import TileConfig
from pathology_scaat.pipeline.class_names import with_class_names
from pathology_scaat.pipeline.config import RunConfig
from pathology_scaat.pipeline.label_source import label_notes
from pathology_scaat.pipeline.method_preflight import (
    check_method_of_model,
    check_method_of_training,
)
from pathology_scaat.pipeline.preflight import (
    check_class_choices,
    check_device,
    check_training,
    unused_settings,
)
from pathology_scaat.pipeline.same_slides import refuse_shared_slides, shared_slide_notes
from pathology_scaat.pipeline.tile import load_cohort
from pathology_scaat.slides.fingerprint import keyed
from pathology_scaat.training.bundle_config import BundleConfig
from pathology_scaat.training.decision import read_decision


@dataclass(frozen=True)
class Prepared:
    """A run whose settings fit its cohort.

    Attributes
    ----------
    cohort : Manifest
        All slides, those of an external test too; its notes are in ``notes``.
    external : tuple of str
        Ids of the slides of the external test.
    subgroups : mapping of column to (mapping of slide id to value)
        Columns of the manifest by which performance is measured in groups.
    sites : mapping of slide id to site, or None
        Sites that stay in one fold; None where none are to.
    tile_config : TileConfig
        With the classes of the cohort, and what a given model needs.
    notes : tuple of str
        What the user should know.
    inputs : mapping of str to str
        Fingerprints of manifests and model, for the run record.
    bundle : BundleConfig or None
        The model to apply; None where one is trained.
    """

    cohort: Manifest
    external: tuple[str, ...]
    subgroups: Mapping[str, Mapping[str, str]]
    sites: Mapping[str, str] | None
    tile_config: TileConfig
    notes: tuple[str, ...]
    inputs: Mapping[str, str]
    bundle: BundleConfig | None


def tile_config_for(model: BundleConfig, asked: TileConfig) -> TileConfig:
    """The tiling that a trained model needs: its own µm/px, patch size and classes."""
    return asked.model_copy(
        update={
            "mpp": model.mpp,
            "patch_size_px": model.patch_size_px,
            "class_names": model.class_names,
        }
    )


def prepare(config: RunConfig) -> Prepared:
    """Read the cohort, and refuse what a run would stumble over later. Writes nothing but a salt.

    Raises
    ------
    ScaatError
        Whatever is wrong with manifest, model, device, network, method or classes.
    """
    cohort: Manifest = load_cohort(config.manifest, config.pseudonymize, config.out)
    external: tuple[str, ...] = ()
    tables = [(config.manifest, cohort)]
    if config.test_manifest is not None:
        tested = load_cohort(config.test_manifest, config.pseudonymize, config.out)
        tables.append((config.test_manifest, tested))
        external = tested.slide_ids
        cohort = with_external_test(cohort, tested, config.seed)
    if not cohort.rows:
        raise ManifestError("the cohort", "has no slides", "add at least one row")
    # A column that does not exist is refused now, as are too few patients; whether all of them
    # have labels is known when annotations have been read.
    groups, said = columns_of(tables, config.subgroups)
    notes = [*cohort.notes, *said]
    own = replace(cohort, rows=tuple(r for r in cohort.rows if r.slide_id not in external))
    if config.folds is not None:
        refuse_too_few(len({row.patient_id for row in own.rows}), "patients", config.folds)
    sites: Mapping[str, str] | None = None
    if config.preserve_site is not None:
        sites, said = groups_of([(config.manifest, own)], config.preserve_site)
        notes += said
    cohort = replace(cohort, notes=())  # the stages need not say them again
    tile_config = config.tile
    check_device(config.device, config.engine)
    inputs: dict[str, str] = {}
    if config.manifest.is_file():
        inputs["manifest"] = keyed(file_sha256(config.manifest), cohort.fingerprint_key)
    if config.test_manifest is not None and config.test_manifest.is_file():
        inputs["test_manifest"] = keyed(file_sha256(config.test_manifest), cohort.fingerprint_key)
    model: BundleConfig | None = None
    if config.model is not None:
        # The one step before the jobs where torch is needed: what is wrong with the network is
        # said once, before anything is written, and not once per slide.
        from pathology_scaat.training.bundle import load_bundle

        bundle = load_bundle(config.model)
        model = bundle.config
        inputs["model"] = bundle.fingerprint
        check_method_of_model(config.model, config.explain)
        read_decision(config.model, bundle.fingerprint)  # a foreign one is refused before all work
        tile_config = tile_config_for(model, config.tile)
        notes += unused_settings(config.tile, config.train, model, keeps_pixels=config.keep_patches)
        notes += shared_slide_notes(cohort)
    else:
        require_device(config.device)
        check_training(config.train, config.tile.patch_size_px)
        check_method_of_training(config.train, config.explain, config.tile.patch_size_px)
        refuse_shared_slides(cohort)
        notes += label_notes(cohort.rows, config.train.labels)
    tile_config, class_notes = with_class_names(tile_config, cohort.rows)
    check_class_choices(
        config.train if model is None else None, config.explain, tile_config.class_names
    )
    return Prepared(
        cohort, external, groups, sites, tile_config, (*notes, *class_notes), inputs, model
    )
