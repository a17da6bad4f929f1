"""Each option does what its name says, against closed forms and other programs."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
import weakref
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pathology_scaat.errors import UsageError
from pathology_scaat.scaat import SCAAT, ScaatOptions, SingleLabelObjective, make_method
from pathology_scaat.scaat.attribution import grad_cam, last_convolution
from pathology_scaat.scaat.budget import pixel_budget, tissue_region
from pathology_scaat.scaat.colour import DENSITY_OFFSET
from pathology_scaat.scaat.overfitting_monitor import OverfittingCheck
from pathology_scaat.training.small_cnn import SmallNet

SIDE = 16
EPS = 0.05


class Linear(nn.Module):
    """logits = (0, w . x): the gradient of the margin is w whatever x."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.w = nn.Parameter(torch.randn(3, SIDE, SIDE, generator=generator) / SIDE)

    def forward(self, x: Tensor) -> Tensor:
        score = (x * self.w).sum(dim=(1, 2, 3))
        return torch.stack([torch.zeros_like(score), score], dim=1)


def batch(n: int = 6) -> tuple[Tensor, Tensor]:
    """Images so far from black and white that nothing is clipped."""
    images = 0.3 + 0.4 * torch.rand(n, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(5))
    return images, torch.arange(n) % 2


def net() -> SmallNet:
    torch.manual_seed(1)
    return SmallNet(2, widths=(8, 16))


def hard(model: nn.Module, **options: Any) -> SCAAT:
    """The hard mask without noise: what changes, changes by eps."""
    return SCAAT(model, **{"eps": EPS, "gamma": 0.0, "random_start": "none", **options})


def true_probability(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.softmax(1).gather(1, labels[:, None])[:, 0]


def test_the_method_needs_torch_alone() -> None:
    code = (
        "import sys, torch\n"
        "before = {m.partition('.')[0] for m in sys.modules}\n"
        "import pathology_scaat.scaat as s\n"
        "m = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))\n"
        "s.SCAAT(m).training_step(torch.rand(2, 3, 8, 8), torch.tensor([0, 1]))\n"
        "new = {m.partition('.')[0] for m in sys.modules} - before - set(sys.stdlib_module_names)\n"
        "ours = {m for m in sys.modules if m.startswith('pathology_scaat.')}\n"
        "print(sorted(new), sorted({m.split('.')[1] for m in ours}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['pathology_scaat'] ['errors', 'scaat', 'system']"


def test_it_is_called_as_attacks_are() -> None:
    images, labels = batch()
    model = Linear()
    called = SCAAT(model, eps=EPS, alpha=1.0, steps=2, seed=2)(images, labels)
    same = SCAAT(model, EPS, alpha=1.0, steps=2, seed=2).perturb(images, labels)
    assert torch.equal(called, same)
    assert not called.requires_grad


# -- where and how far
@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.9])
def test_random_mask_has_the_asked_area_and_all_is_all(ratio: float) -> None:
    saliency = torch.rand(3, 1, 20, 20, generator=torch.Generator().manual_seed(0))
    masks = [
        pixel_budget(
            saliency,
            ScaatOptions(mask_ratio=ratio, where="random", gamma=0.0),
            generator=torch.Generator().manual_seed(seed),
        )
        for seed in (1, 2)
    ]
    assert masks[0].sum(dim=(1, 2, 3)).tolist() == [math.ceil(ratio * 400)] * 3
    assert not torch.equal(*masks)
    everywhere = pixel_budget(saliency, ScaatOptions(mask_ratio=ratio, where="all"))
    assert bool((everywhere == 1).all())


def test_rank_sees_only_the_order_and_value_the_size() -> None:
    saliency = torch.rand(2, 1, 9, 9, generator=torch.Generator().manual_seed(0))
    for budget, same in (("rank", True), ("value", False)):
        options = ScaatOptions(budget=budget, gamma=2.0)
        bent = pixel_budget(saliency**3, options)
        assert torch.equal(pixel_budget(saliency, options), bent) == same
    rank = torch.tensor([3, 0, 7, 2, 9, 1, 8, 4, 6, 5])
    share = pixel_budget(
        rank.float().exp().reshape(1, 1, 2, 5), ScaatOptions(budget="rank", gamma=1.0)
    )
    torch.testing.assert_close(share.flatten(), (1 - rank / 4).clamp_min(0))


def test_unmasked_share_of_one_attacks_everywhere() -> None:
    images, labels = batch()
    change = hard(Linear(), unmasked_share=1.0).perturb(images, labels) - images
    torch.testing.assert_close(change.abs(), torch.full_like(change, EPS))


def test_glass_is_left_alone_and_the_share_is_of_the_tissue() -> None:
    images, labels = batch()
    images[:, :, :, :10] = 0.95
    images[0] = 0.95  # nothing but glass
    scaat = hard(Linear(), region="tissue", mask_ratio=0.5)
    changed = (scaat.perturb(images, labels) != images).any(dim=1)
    tissue = tissue_region(images, 0.85)[:, 0]
    assert not bool((changed & ~tissue).any())
    assert changed.sum(dim=(1, 2)).tolist() == [0] + [6 * SIDE // 2] * 5


# -- how far for each image
def test_confidence_scales_by_the_true_probability() -> None:
    images, labels = batch()
    model = Linear()
    full = hard(model).perturb(images, labels) - images
    scaled = hard(model, sample_scale="confidence").perturb(images, labels) - images
    with torch.no_grad():
        p = true_probability(model(images), labels)
    torch.testing.assert_close(scaled, full * p[:, None, None, None], rtol=1e-4, atol=1e-6)


def test_instance_scale_ends_at_probability_one_half_to_first_order() -> None:
    images, labels = batch()
    model = Linear()
    scaat = hard(model, sample_scale="instance", eps=0.5)
    gradient = scaat.input_gradient(images, labels)
    with torch.no_grad():
        logits = model(images)
        budget = scaat.budget(images, labels, gradient, logits)
    loss = F.cross_entropy(logits, labels, reduction="none")
    right = true_probability(logits, labels) > 0.5
    assert 0 < int(right.sum()) < len(images)
    reached = loss + (budget * gradient.abs()).sum(dim=(1, 2, 3))
    torch.testing.assert_close(reached[right], torch.full_like(loss[right], math.log(2)))
    assert not bool(budget[~right].any())


# -- direction, filling, colour
def test_directions() -> None:
    images, labels = batch()
    model = Linear()
    up = torch.where(labels == 1, -1.0, 1.0)[:, None, None, None] * model.w.detach().sign()
    agreeing = {}
    for direction in ("adversarial", "random-sign", "gaussian"):
        # another seed than that of the weights, which would be the first numbers drawn
        scaat = hard(model, direction=direction, mask_ratio=1.0, seed=9)
        change = scaat.perturb(images, labels) - images
        agreeing[direction] = float((change.sign() == up).float().mean())
        sizes = change.abs()
        assert float(sizes.max()) <= EPS + 1e-6
        assert bool((sizes > EPS - 1e-6).all()) == (direction != "gaussian")
    assert agreeing["adversarial"] == 1
    assert agreeing["random-sign"] == pytest.approx(0.5, abs=0.05)
    assert agreeing["gaussian"] == pytest.approx(0.5, abs=0.05)


def test_random_filling_lies_between_the_darkest_and_the_brightest() -> None:
    images, labels = batch()
    scaat = hard(Linear(), fill="random", smooth_px=1)
    mask = pixel_budget(
        scaat.input_gradient(images, labels).abs().amax(1, keepdim=True), scaat.options
    )
    mask = (mask > 0).expand_as(images)
    filled = scaat.perturb(images, labels)
    assert torch.equal(filled[~mask], images[~mask])
    assert float((filled[mask] - images[mask]).abs().mean()) > EPS  # eps does not bound it
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    assert bool((filled >= low - 1e-6).all())
    assert bool((filled <= high + 1e-6).all())


def test_density_moves_within_eps_and_harms() -> None:
    images, labels = batch()
    model = Linear()
    scaat = hard(model, colour_space="optical-density", eps=0.1)
    adversary = scaat.perturb(images, labels)
    moved = ((images + DENSITY_OFFSET) / (adversary + DENSITY_OFFSET)).log().abs()
    assert float(moved.max()) == pytest.approx(0.1, abs=1e-4)
    with torch.no_grad():
        before, after = (true_probability(model(x), labels) for x in (images, adversary))
    assert bool((after < before).all())


# -- the loss
@pytest.mark.parametrize("loss", ["kl", "ce", "mse"])
@pytest.mark.parametrize("stop_gradient", [True, False])
def test_losses_and_their_gradients(loss: str, stop_gradient: bool) -> None:
    images, labels = batch()
    model = net().eval()
    naive = copy.deepcopy(model)
    scaat = hard(model, loss=loss, stop_gradient=stop_gradient, lam=2.0, gamma=1.0)
    step = scaat.training_step(images, labels)
    assert step.perturbed is not None
    clean, moved = naive(images), naive(step.perturbed)
    reference = clean.detach() if stop_gradient else clean
    kl = (reference.softmax(1) * (reference.log_softmax(1) - moved.log_softmax(1))).sum(1).mean()
    robust = {
        "kl": kl, "ce": F.cross_entropy(moved, labels), "mse": F.mse_loss(moved, reference)
    }[loss]  # fmt: skip
    torch.testing.assert_close(step.robust, robust.detach())
    total = F.cross_entropy(clean, labels) + 2.0 * robust
    torch.testing.assert_close(step.total, total.detach())
    total.backward()  # type: ignore[no-untyped-call]
    for mine, theirs in zip(model.parameters(), naive.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-6)


# -- saliency sources
def test_smoothgrad_without_noise_is_the_gradient() -> None:
    images, labels = batch()
    model = net().eval()
    plain = hard(model).perturb(images, labels)
    smooth = hard(model, saliency="smoothgrad", smoothgrad_sigma=0.0).perturb(images, labels)
    torch.testing.assert_close(smooth, plain)
    noisy = hard(model, saliency="smoothgrad", smoothgrad_sigma=0.3).perturb(images, labels)
    assert bool(((noisy == images) != (plain == images)).any())


def test_gradient_times_input_ranks_by_the_product() -> None:
    images, labels = batch()
    model = Linear()
    scaat = hard(model, saliency="gradient-input", smooth_px=1)
    spared = (scaat.perturb(images, labels) == images).all(dim=1)
    product = (model.w.detach() * images).abs().amax(dim=1)
    for own, size in zip(spared, product, strict=True):
        assert float(size[own].min()) >= float(size[~own].max())


def test_grad_cam_is_captums() -> None:
    import captum.attr  # takes a second, in the process that needs it

    images, labels = batch()
    model = net().eval()
    mine = grad_cam(hard(model), images, labels)
    theirs = captum.attr.LayerGradCam(model, last_convolution(model)).attribute(
        images, labels, relu_attributions=True
    )
    theirs = F.interpolate(theirs, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    torch.testing.assert_close(mine, theirs.detach(), rtol=1e-4, atol=1e-7)


def test_teacher_keeps_the_old_ranking_until_it_follows() -> None:
    images, labels = batch()
    model = net().eval()
    scaat = hard(model, saliency="ema-teacher", teacher_decay=0.0)
    before = scaat.perturb(images, labels) != images
    assert torch.equal(before, hard(model).perturb(images, labels) != images)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator()))
    new = hard(model).perturb(images, labels) != images
    assert bool((before != new).any())
    assert torch.equal(scaat.perturb(images, labels) != images, before)
    scaat.after_update()
    assert torch.equal(scaat.perturb(images, labels) != images, new)


# -- the passes
def test_batch_norm_of_the_perturbed_pass() -> None:
    images, labels = batch()
    counts = {}
    for policy in ("clean", "shared", "frozen"):
        model = net().train()
        step = hard(model, batch_norm=policy).training_step(images, labels)
        counts[policy] = int(model.state_dict()["stem.1.num_batches_tracked"])
        assert step.perturbed is not None
        with torch.no_grad():
            by_running = SingleLabelObjective().divergence(
                step.logits, model.eval()(step.perturbed)
            )
        agrees = float(by_running.mean()) == pytest.approx(float(step.robust), rel=1e-4)
        assert agrees == (policy == "frozen")
    assert counts == {"clean": 1, "shared": 2, "frozen": 1}


def test_bfloat16_does_not_round_the_perturbed_image() -> None:
    images, labels = batch()
    model = net()
    scaat = SCAAT(model, 1 / 255, gamma=0.0, autocast_dtype=torch.bfloat16)
    step = scaat.training_step(images, labels)
    assert step.perturbed is not None
    assert step.perturbed.dtype == step.logits.dtype == torch.float32
    change = (step.perturbed - images).abs()
    assert 0 < float(change.max()) <= 1 / 255 + 1e-6
    assert not torch.equal(step.perturbed.bfloat16().float(), step.perturbed)
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize("saliency", ["gradient", "gradcam", "ema-teacher"])
def test_a_compiled_network_gets_the_same_gradients(saliency: str) -> None:
    images, labels = batch()
    eager = net().train()
    compiled = copy.deepcopy(eager)
    network = torch.compile(compiled, backend="aot_eager")
    for model in (eager, network):
        scaat = SCAAT(model, EPS, saliency=saliency, seed=1)  # type: ignore[arg-type]
        assert float(scaat.training_step(images, labels).robust) > 0
    for mine, theirs in zip(compiled.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)
    for key, value in eager.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[key], value)


def test_what_cannot_be_compiled_says_so_at_once() -> None:
    with pytest.raises(UsageError, match="differentiates twice"):
        make_method("gradient-penalty", torch.compile(net(), backend="aot_eager"))  # type: ignore[arg-type]


class Watched(Linear):
    """Normalises first, so that it needs its input no longer, and knows which inputs live."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[weakref.ref[Tensor]] = []
        self.alive: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        self.alive = [ref() is not None for ref in self.seen]
        self.seen.append(weakref.ref(x))
        return super().forward((x - 0.5) / 0.25)


def test_nothing_image_sized_of_the_first_pass_outlives_it() -> None:
    """The second pass, where memory is at its highest, holds its own images and no others."""
    model = Watched()
    step = SCAAT(model, EPS).training_step(*batch())
    assert len(model.seen) == 2
    assert model.alive == [False]
    assert model.seen[1]() is step.perturbed


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("scaat", {}),
        ("scaat", {"stop_gradient": False}),
        ("scaat", {"random_start": "before"}),
        ("fgsm", {}),
        ("trades", {}),
    ],
)
def test_perturbed_images_are_kept_only_where_wanted(name: str, options: dict[str, Any]) -> None:
    model = Watched()
    method = make_method(name, model, **options)
    living: list[bool] = []

    def backward(loss: Tensor, last: bool) -> None:
        living.append(model.seen[-1]() is not None)
        loss.backward()  # type: ignore[no-untyped-call]

    assert method.training_step(*batch(), backward=backward).perturbed is not None
    assert living[-1]
    method.keep_perturbed = False
    assert method.training_step(*batch(), backward=backward).perturbed is None
    assert not living[-1]


# -- what is around it
def test_noise_tolerant_loss_between_cross_entropy_and_absolute_error() -> None:
    logits = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(8) % 3
    p = true_probability(logits, labels)
    for q, expected in ((1e-4, -p.log()), (0.7, (1 - p**0.7) / 0.7), (1.0, 1 - p)):
        found = SingleLabelObjective(noise_tolerance=q).per_image(logits, labels)
        torch.testing.assert_close(found, expected, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("step", "several", "suspicious"),
    [(0.1, 0.8, True), (0.2, 0.8, False), (0.01, 0.6, False), (-0.1, 0.8, True)],
)
def test_sign_of_catastrophic_overfitting(step: float, several: float, suspicious: bool) -> None:
    assert OverfittingCheck(step, several).is_suspicious == suspicious
