"""Measure one model on one set of images: one number per image and measure.

Names of measures: ``srg/<occluder>/<score>`` and likewise ``deletion``, ``insertion`` (gains
over the model's own random order); ``referee_srg/<occluder>``; ``pixel_ap`` and its kin on
positive images with a mask, with ``_chance``, ``_centre``, ``_haematoxylin`` and
``_random_weights`` beside it; ``mosaic_ap`` (chance 0.5).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pathology_scaat.evaluation.evaluation_set import EvaluationSet
from pathology_scaat.evaluation.measurement import Measurement, Values
from pathology_scaat.evaluation.protocol import ProtocolConfig
from pathology_scaat.metrics.functional import baselines, ranking, robustness, sparsity
from pathology_scaat.metrics.functional.faithfulness import Score, faithfulness, occlusion_logits
from pathology_scaat.metrics.functional.mosaic import make_mosaics
from pathology_scaat.metrics.functional.randomisation import cascade_similarity, random_twin
from pathology_scaat.saliency.attribution import attribute_with_logits, input_gradient
from pathology_scaat.saliency.attributions import AUTO
from pathology_scaat.scaat.noise import ImageNoise
from pathology_scaat.training.references import layers_of_maps, method_by

Progress = Callable[[str, int, int], None]
Index = NDArray[np.int64]
"""Numbers of some images in the set."""


class _Batches:
    """Images as float batches on the device."""

    def __init__(self, data: EvaluationSet, device: torch.device, batch: int) -> None:
        self.data, self.device, self.batch = data, device, batch

    def images(self, indices: NDArray[np.int64]) -> Tensor:
        pixels = torch.from_numpy(self.data.images[indices]).to(self.device)
        return pixels.permute(0, 3, 1, 2).float().div_(255)

    def targets(self, indices: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(self.data.labels[indices]).to(self.device)

    def over(self, indices: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        for start in range(0, len(indices), self.batch):
            yield indices[start : start + self.batch]


def measure_model(
    model: nn.Module,
    data: EvaluationSet,
    config: ProtocolConfig | None = None,
    *,
    temperature: float = 1.0,
    referees: Sequence[nn.Module] = (),
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    with_randomisation: bool = True,
) -> Measurement:
    """Measure a model's maps of the true class by every metric that the data allow.

    Parameters
    ----------
    model : nn.Module
        On the device; (N, 3, H, W) in 0..1 to logits.
    data : EvaluationSet
        At most ``config.max_images`` are used; thin it with ``spread`` before.
    config : ProtocolConfig, optional
    temperature : float
        Fitted on validation data.
    referees : sequence of nn.Module
        Independent models that judge these maps too.
    device : torch.device or str
    progress : callable, optional
        Called with (what is done, done, all).
    with_randomisation : bool
        Whether the weights are randomised for comparison.

    Returns
    -------
    Measurement
    """
    config = config or ProtocolConfig()
    if config.method == AUTO:
        layers = layers_of_maps(model, data.images.shape[1], torch.device(device))
        config = config.model_copy(update={"method": method_by(layers)})
    batches = _Batches(data, torch.device(device), config.batch_size)
    on_progress = progress or (lambda *_: None)
    everything = np.arange(len(data), dtype=np.int64)
    maps, result = _predict_and_explain(model, batches, everything, config, on_progress)
    if data.masks is not None:
        _localise(model, batches, maps, config, result, with_randomisation)
    chosen = data.spread(config.n_occluded, config.seed)
    if len(chosen):
        _occlude(model, batches, maps, chosen, config, temperature, referees, result, on_progress)
    perturbed = data.spread(config.n_perturbed, config.seed)
    if len(perturbed):
        _perturb(model, batches, maps, perturbed, config, result, with_randomisation, on_progress)
    if config.n_mosaics and 0 < data.is_positive.sum() < len(data):
        _mosaics(model, batches, config, result)
    return result


def _explain(
    model: nn.Module, images: Tensor, target: Tensor, index: Index, config: ProtocolConfig
) -> Tensor:
    return _explain_with_logits(model, images, target, index, config)[0]


def _explain_with_logits(
    model: nn.Module, images: Tensor, target: Tensor, index: Index, config: ProtocolConfig
) -> tuple[Tensor, Tensor]:
    return attribute_with_logits(
        model, images, target, config.method, n_samples=config.n_samples, seed=config.seed,
        index=[int(i) for i in index],
    )  # fmt: skip


def _predict_and_explain(
    model: nn.Module,
    batches: _Batches,
    indices: NDArray[np.int64],
    config: ProtocolConfig,
    on_progress: Progress,
) -> tuple[Tensor, Measurement]:
    # Maps are kept on the CPU: 10,000 of 96 px are 370 MB.
    kept: list[Tensor] = []
    logits: list[Tensor] = []
    columns: dict[str, list[Tensor]] = {"gini": [], "entropy": []}
    done = 0
    for part in batches.over(indices):
        images, target = batches.images(part), batches.targets(part)
        maps, out = _explain_with_logits(model, images, target, part, config)
        columns["gini"].append(sparsity.gini_index(maps))
        columns["entropy"].append(sparsity.map_entropy(maps))
        kept.append(maps.cpu())
        logits.append(out.cpu())
        done += len(part)
        on_progress("maps", done, len(indices))
    result = Measurement(torch.cat(logits).numpy())
    for name, found in columns.items():
        result.values[name] = torch.cat(found).double().cpu().numpy()
    return torch.cat(kept), result


def _localise(
    model: nn.Module,
    batches: _Batches,
    maps: Tensor,
    config: ProtocolConfig,
    result: Measurement,
    with_random: bool,
) -> None:
    data = batches.data
    assert data.masks is not None  # noqa: S101  (for the type checker)
    covered = data.masks.mean((1, 2))
    # A lesion that fills the patch leaves nothing to find.
    useful = np.flatnonzero(data.is_positive & (covered > 0) & (covered <= 0.9))
    twin = random_twin(model, config.seed).to(batches.device) if with_random else None
    found: dict[str, list[Tensor]] = {}

    def note(name: str, values: Tensor) -> None:
        found.setdefault(name, []).append(values.double().cpu())

    for part in batches.over(useful):
        own = maps[torch.from_numpy(part)].to(batches.device)
        masks = torch.from_numpy(data.masks[part]).to(batches.device)
        images = batches.images(part)
        note("pixel_ap", ranking.pixel_ap(own, masks))
        note("pixel_auroc", ranking.pixel_auroc_batch(own, masks))
        note("rank_accuracy", ranking.relevance_rank_accuracy(own, masks))
        note("pointing", ranking.pointing_hit(own, masks, config.pointing_tolerance_px))
        note("mass_accuracy", ranking.mass_accuracy(own, masks))
        note("pixel_ap_chance", ranking.chance_ap(own, masks))
        centre = baselines.centre_prior(len(part), *own.shape[1:]).to(own)
        note("pixel_ap_centre", ranking.pixel_ap(centre, masks))
        density = baselines.haematoxylin_density(images)
        note("pixel_ap_haematoxylin", ranking.pixel_ap(density, masks))
        if twin is not None:
            blind = _explain(twin, images, batches.targets(part), part, config)
            note("pixel_ap_random_weights", ranking.pixel_ap(blind, masks))
    for name, parts in found.items():
        result.values[name] = _scatter(torch.cat(parts).numpy(), useful, len(data))


def _scatter(values: NDArray[Any], indices: NDArray[np.int64], n: int) -> Values:
    full = np.full(n, np.nan)
    full[indices] = values
    return full


def _occlude(
    model: nn.Module,
    batches: _Batches,
    maps: Tensor,
    chosen: NDArray[np.int64],
    config: ProtocolConfig,
    temperature: float,
    referees: Sequence[nn.Module],
    result: Measurement,
    on_progress: Progress,
) -> None:
    data = batches.data
    n = len(data)
    colour = torch.from_numpy(data.images[chosen].mean((0, 1, 2)) / 255).float()
    # Who donates is drawn once for all images, and each image's own order, noise and donor by
    # its number: the size of the batches decides nothing.
    pool = np.random.default_rng(config.seed).choice(n, min(n, 64), replace=False)
    donors = batches.images(np.sort(pool))
    margin = result.logits[chosen]
    others = np.partition(margin, -2, axis=1)
    scale = float(np.abs(others[:, -1] - others[:, -2]).mean()) or 1.0
    found: dict[str, list[Tensor]] = {}
    steps = len(config.occluders) * -(-len(chosen) // batches.batch)
    step = 0
    for occluder in config.occluders:
        for part in batches.over(chosen):
            images, target = batches.images(part), batches.targets(part)
            own = maps[torch.from_numpy(part)].to(batches.device)
            options: dict[str, Any] = {
                "shares": config.shares, "cell_px": config.cell_px, "mean_colour": colour,
                "seed": config.seed, "index": part.tolist(), "donors": donors,
            }  # fmt: skip
            curves = occlusion_logits(model, images, own, occluder, **options)
            scores: tuple[tuple[Score, float, float], ...] = (
                ("probability", temperature, 1.0),
                ("margin", 1.0, scale),
            )
            for score, heat, unit in scores:
                areas = faithfulness(
                    curves,
                    own,
                    target,
                    score,
                    temperature=heat,
                    scale=unit,
                )
                for name, value in (
                    ("srg", areas.srg),
                    ("deletion", areas.deletion_gain),
                    ("insertion", areas.insertion_gain),
                ):
                    found.setdefault(f"{name}/{occluder}/{score}", []).append(value.cpu())
            if referees:
                judged = [
                    faithfulness(
                        occlusion_logits(r, images, own, occluder, **options), own, target
                    ).srg.cpu()
                    for r in referees
                ]
                found.setdefault(f"referee_srg/{occluder}", []).append(torch.stack(judged).mean(0))
            step += 1
            on_progress("occlusion", step, steps)
    for name, parts in found.items():
        result.values[name] = _scatter(torch.cat(parts).double().numpy(), chosen, n)


def _perturb(
    model: nn.Module,
    batches: _Batches,
    maps: Tensor,
    chosen: NDArray[np.int64],
    config: ProtocolConfig,
    result: Measurement,
    with_random: bool,
    on_progress: Progress,
) -> None:
    n = len(batches.data)
    found: dict[str, list[Tensor]] = {}
    done = 0
    for part in batches.over(chosen):
        images, target = batches.images(part), batches.targets(part)
        own = maps[torch.from_numpy(part)].to(batches.device)
        seed, index = config.seed, part.tolist()
        noise = ImageNoise(seed, index).uniform(images)
        moved_images = (images + config.noise * noise).clamp(0, 1)
        moved, logits = _explain_with_logits(model, moved_images, target, part, config)
        # Where the noise changes the decision, another map is right: no value.
        flipped = logits.argmax(1).cpu() != torch.from_numpy(result.logits[part]).argmax(1)

        def where_unchanged(values: Tensor, flipped: Tensor = flipped) -> Tensor:
            return torch.where(flipped, torch.nan, values.cpu())

        entries = {
            "stability_ssim": where_unchanged(robustness.ssim(own, moved)),
            "stability_spearman": where_unchanged(robustness.spearman(own, moved)),
            "sensitivity": robustness.relative_sensitivity(
                lambda x, t=target, p=part: _explain(model, x, t, p, config),  # type: ignore[misc]
                images,
                radius=config.noise,
                seed=seed,
                index=index,
            ),
        }
        if config.method == "gradient":  # others' maps have no signs, or no unit of the score
            signed, _ = input_gradient(model.eval(), images, target)
            entries["infidelity"] = robustness.infidelity(
                model, images, signed, target, seed=seed, index=index
            )
        if with_random:
            steps = cascade_similarity(
                model,
                images,
                lambda m, x, t=target, p=part: _explain(m, x, t, p, config),  # type: ignore[misc]
                n_steps=1, seed=config.seed,
            )  # fmt: skip
            entries["weight_randomisation"] = steps[-1][1]
        for name, values in entries.items():
            found.setdefault(name, []).append(values.cpu())
        done += len(part)
        on_progress("perturbation", done, len(chosen))
    for name, parts in found.items():
        result.values[name] = _scatter(torch.cat(parts).double().numpy(), chosen, n)


def _mosaics(
    model: nn.Module, batches: _Batches, config: ProtocolConfig, result: Measurement
) -> None:
    data = batches.data
    pool = data.spread(4 * config.n_mosaics, config.seed)
    made = make_mosaics(
        batches.images(pool),
        torch.from_numpy(data.is_positive[pool]),
        config.n_mosaics,
        seed=config.seed,
    )
    ap: list[Tensor] = []
    auroc: list[Tensor] = []
    for start in range(0, config.n_mosaics, config.batch_size):
        stop = start + config.batch_size
        images, masks = made.images[start:stop], made.masks[start:stop]
        target = torch.full((len(images),), data.positive_class, device=images.device)
        maps = _explain(model, images, target, np.arange(start, start + len(images)), config)
        ap.append(ranking.pixel_ap(maps, masks).cpu())
        auroc.append(ranking.pixel_auroc_batch(maps, masks).cpu())
    result.values["mosaic_ap"] = torch.cat(ap).double().numpy()
    result.values["mosaic_auroc"] = torch.cat(auroc).double().numpy()
