"""Every method by name: it steps, it learns, and it is what it says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pathology_scaat.errors import UsageError
from pathology_scaat.scaat import METHODS, MultiLabelObjective, make_method
from pathology_scaat.scaat.mask_store import BitStore, _Arriving, pack_bits, unpack_bits
from pathology_scaat.scaat.methods import Visit
from pathology_scaat.scaat.options import ScaatOptions
from pathology_scaat.scaat.orientation import N_ORIENTATIONS, orient
from pathology_scaat.scaat.overfitting_monitor import check_overfitting
from pathology_scaat.training.small_cnn import SmallNet


def net(norm: str = "batch") -> SmallNet:
    torch.manual_seed(0)
    return SmallNet(2, norm=norm, widths=(8, 16))


def task(n: int = 16, side: int = 16) -> tuple[Tensor, Tensor]:
    """Dark squares on the left or on the right."""
    generator = torch.Generator().manual_seed(2)
    images = 0.7 + 0.2 * torch.rand((n, 3, side, side), generator=generator)
    labels = torch.arange(n) % 2
    for image, label in zip(images, labels, strict=True):
        at = 2 if label == 0 else side // 2 + 2
        image[:, 4:10, at : at + 5] *= 0.2 if label == 0 else 0.6
    return images, labels


@pytest.mark.parametrize("name", METHODS.names)
def test_every_method_learns(name: str) -> None:
    images, labels = task()
    model = net()
    method = make_method(name, model, seed=1)
    visit = Visit(torch.arange(len(images)), torch.arange(len(images)) % 8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    clean = []
    for step in range(40):
        method.set_progress((step + 1) / 40)
        optimizer.zero_grad()
        losses = method.training_step(images, labels, visit=visit)
        optimizer.step()
        method.after_update()
        clean.append(float(losses.total))
        assert losses.logits.shape == (16, 2)
    model.eval()
    with torch.no_grad():
        accuracy = float((model(images).argmax(1) == labels).float().mean())
    assert accuracy > 0.9, clean


@pytest.mark.parametrize("name", METHODS.names)
def test_several_labels(name: str) -> None:
    images, _ = task()
    labels = torch.tensor([[1.0, 0.0], [1.0, 1.0]]).repeat(8, 1)
    method = make_method(name, net(), objective=MultiLabelObjective())
    losses = method.training_step(images, labels, visit=Visit(torch.arange(16), torch.zeros(16)))
    assert bool(torch.isfinite(losses.total))


@pytest.mark.parametrize(
    "options",
    [{"saliency": source} for source in ("gradient-input", "smoothgrad", "gradcam", "ema-teacher")]
    + [
        {"loss": "ce"},
        {"loss": "mse"},
        {"stop_gradient": False},
        {"batch_norm": "frozen"},
        {"batch_norm": "shared"},
        {"fill": "mean"},
        {"fill": "random"},
        {"direction": "gaussian"},
        {"sample_scale": "instance"},
        {"region": "tissue"},
        {"colour_space": "optical-density", "eps": 0.5},
        {"unmasked_share": 0.5},
        {"steps": 3},
        {"random_start": "before"},
    ],
    ids=str,
)
def test_every_option_steps(options: dict[str, Any]) -> None:
    images, labels = task()
    model = net()
    method = make_method("scaat", model, **options)
    losses = method.training_step(images, labels)
    method.after_update()
    assert bool(torch.isfinite(losses.total))
    assert float(losses.robust) > 0
    assert all(p.grad is not None and p.requires_grad for p in model.parameters())
    fresh = make_method("scaat", net(), **options)
    fresh.load_state_dict(method.state_dict())
    assert fresh.steps_done == 1


def test_amortised_costs_a_plain_step() -> None:
    images, labels = task(side=32)
    model = net()
    visit = Visit(torch.arange(16), torch.arange(16) % 8)
    plain = FlopCounterMode(display=False)
    with plain:
        make_method("plain", model).training_step(images, labels)
    method = make_method("scaat-amortised", model)
    for _ in range(2):
        amortised = FlopCounterMode(display=False)
        with amortised:
            losses = method.training_step(images, labels, visit=visit)
    assert amortised.get_total_flops() <= 1.25 * plain.get_total_flops()
    assert float(losses.robust) > 0


def test_amortised_direction_follows_the_orientation() -> None:
    """The kept signs, turned as the patch is, are the signs of the turned patch's gradient."""

    class Weighted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0)))

        def forward(self, x: Tensor) -> Tensor:
            score = (x * self.w).sum(dim=(1, 2, 3))
            return torch.stack([-score, score], 1)

    images = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = torch.zeros(8, dtype=torch.int64)
    codes = torch.arange(8)
    method = make_method("scaat-amortised", Weighted(), mask_ratio=1.0, refresh=1.0, warmup=0.0)
    method.training_step(images, labels, visit=Visit(torch.arange(8), codes))
    kept, _ = method.store.read(torch.arange(8), torch.device("cpu"))  # type: ignore[attr-defined]
    shown = orient(kept, codes)
    weights = next(method.model.parameters())
    expected = weights.detach().sign().expand(8, -1, -1, -1)
    assert torch.equal(shown, expected)


def test_orientations_are_exact_inverses() -> None:
    images = torch.arange(8 * 3 * 5 * 5.0).reshape(8, 3, 5, 5)
    codes = torch.arange(N_ORIENTATIONS)
    turned = orient(images, codes)
    assert torch.equal(orient(turned, codes, inverse=True), images)
    same = orient(images[:1].repeat(8, 1, 1, 1), codes)
    assert len({tuple(t.flatten().tolist()) for t in same}) == 8


def test_bits_round_trip() -> None:
    bits = torch.rand(5, 3, 7, 7, generator=torch.Generator().manual_seed(0)) > 0.5
    assert torch.equal(unpack_bits(pack_bits(bits), (3, 7, 7)), bits)
    assert pack_bits(bits).shape == (5, -(-3 * 49 // 8))


def test_bit_store_grows_and_keeps() -> None:
    store = BitStore()
    signs = torch.randint(-1, 2, (2, 3, 6, 6), generator=torch.Generator().manual_seed(0)).float()
    signs[:, :, :3] = 0
    index = torch.tensor([7, 2])
    assert not bool(store.knows(index).any())
    store.write(index, signs, torch.eye(2))
    read, logits = store.read(index, torch.device("cpu"))
    mask = (signs != 0).any(dim=1, keepdim=True)
    expected = torch.where(signs > 0, 1.0, -1.0) * mask
    assert torch.equal(read, expected)
    assert torch.equal(logits, torch.eye(2))
    copy = BitStore()
    copy.load_state_dict(store.state_dict())
    assert copy.knows(torch.tensor([2, 7, 3, 40])).tolist() == [True, True, False, False]


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UsageError, match="choose from"):
        make_method("magic", net())
    with pytest.raises(UsageError, match="unknown: epsilon"):
        make_method("scaat", net(), epsilon=1)
    with pytest.raises(UsageError, match="unknown: eps"):
        make_method("plain", net(), eps=1)
    with pytest.raises(UsageError, match="bits"):
        make_method("scaat-amortised", net(), gamma=1.0)


def test_monitor_sees_that_many_steps_do_more_and_leaves_the_model() -> None:
    images, labels = task()
    model = net().train()
    objective = make_method("plain", model).objective
    check = check_overfitting(model, objective, images, labels, ScaatOptions(eps=0.05))
    assert check.pgd_gap >= check.step_gap - 1e-3
    assert not check.is_suspicious
    assert all(m.training for m in model.modules())
    assert all(p.grad is None for p in model.parameters())


class OfGpu:
    """An event of a GPU: what it records lies in memory only after it."""

    def __init__(self, record: tuple[torch.Tensor, ...], values: tuple[torch.Tensor, ...]) -> None:
        self.record, self.values, self.waited = record, values, False

    def query(self) -> bool:
        return self.waited

    def synchronize(self) -> None:
        self.waited = True
        for parameter, value in zip(self.record, self.values, strict=True):
            parameter.copy_(value)


def test_records_on_their_way_are_awaited_where_they_are_asked_for() -> None:
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(-1, 2, (12, 3, 8, 8), generator=generator).float()
    signs[signs == 0] = -1  # inside the mask zero is kept as negative
    signs *= torch.rand(12, 1, 8, 8, generator=generator) < 0.5
    logits = torch.rand(12, 2, generator=generator)
    plain, store = BitStore(), BitStore()
    index = torch.arange(12)
    plain.write(index, signs, logits)
    store.write(index[:3], signs[:3], logits[:3])
    parts = (pack_bits((signs != 0).any(dim=1)), pack_bits(signs > 0), logits)
    events = []
    for start in (3, 6, 9):
        part = slice(start, start + 3)
        memory = tuple(torch.zeros_like(p[part]) for p in parts)
        events.append(OfGpu(memory, tuple(p[part] for p in parts)))
        store._reserve(12)
        store._visits[index[part]] += 1
        store._arriving.append(_Arriving(index[part], memory, events[-1]))

    def agree(wanted: list[int]) -> None:
        device = torch.device("cpu")
        for found, expected in zip(
            store.read(torch.tensor(wanted), device),
            plain.read(torch.tensor(wanted), device),
            strict=True,
        ):
            torch.testing.assert_close(found, expected)

    agree([0, 2])
    assert [event.waited for event in events] == [False] * 3  # none of these is on its way
    agree([7, 1])
    assert [event.waited for event in events] == [True, True, False]
    assert torch.equal(store.state_dict()["sign"][:12], plain.state_dict()["sign"][:12])
    assert events[2].waited
    agree(list(range(12)))


@pytest.mark.parametrize("name", METHODS.names)
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda x: x * 255, "hold values from"),
        (lambda x: x - 0.9, "hold values from"),
        (lambda x: torch.where(torch.arange(16) == 3, torch.nan, x), "nan"),
        (lambda x: (x * 255).to(torch.uint8), "uint8"),
        (lambda x: x[0], "give \\(B, C, H, W\\) float images"),
    ],
)
def test_images_outside_0_to_1_are_refused_by_every_method(
    name: str, spoil: Any, said: str
) -> None:
    images, labels = task()
    method = make_method(name, net(), seed=1)
    visit = Visit(torch.arange(16), torch.zeros(16, dtype=torch.int64))
    method.training_step(images, labels, visit=visit)
    with pytest.raises(UsageError, match=said):  # in any step, not in the first alone
        method.training_step(spoil(images), labels, visit=visit)
    for way in ("perturb", "loss"):
        if hasattr(method, way):
            with pytest.raises(UsageError, match=said):
                getattr(method, way)(spoil(images), labels)


def test_a_bad_batch_between_two_looks_is_found_at_the_next_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on a GPU, where not every batch is waited for."""
    from pathology_scaat.scaat import image_range

    check = image_range.RangeCheck()
    looks = []
    look = check._look
    monkeypatch.setattr(check, "_look", lambda: looks.append(1))
    check(torch.rand(1, 3, 4, 4))
    check(torch.rand(1, 3, 4, 4) + 3)
    check(torch.rand(1, 3, 4, 4))
    with pytest.raises(UsageError, match="hold values from"):
        look()


def test_every_counts_the_steps_of_an_own_loop() -> None:
    images, labels = task()
    method = make_method("scaat", net(norm="group"), seed=1, every=2, warmup=0.0)
    totals = [float(method.loss(images, labels).detach()) for _ in range(4)]  # type: ignore[attr-defined]
    assert method.steps_done == 4
    assert totals[1] == totals[3] < min(totals[0], totals[2])


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("scaat", {"start": "half"}, "start: 'half' is no number"),
        ("scaat", {"warmup": True}, "warmup: 'True' is no number"),
        ("scaat", {"steps": 1.5}, "steps: 1.5 is no whole number"),
        ("scaat", {"every": "two"}, "every: 'two' is no number"),
        ("scaat", {"smooth_px": 3.5}, "smooth_px: 3.5 is no whole number"),
        ("scaat", {"stop_gradient": "no"}, "stop_gradient: 'no' is neither"),
        ("scaat", {"layer": 2}, "layer: '2' is no name"),
        ("scaat", {"smoothgrad_samples": 0}, "smoothgrad_samples"),
        ("scaat", {"tissue_threshold": 3.0}, "tissue_threshold"),
        ("scaat", {"fill": "mean", "steps": 2}, "steps: says how pixels are moved"),
        ("sgt", {"colour_space": "optical-density"}, "colour_space: says how pixels are moved"),
        ("sgt", {"eps": 0.1}, "eps: says how far pixels are moved"),
        ("pgd", {"steps": "many"}, "steps: 'many' is no number"),
        ("pgd", {"alpha": "large"}, "alpha: 'large' is no number"),
        ("pgd", {"nothing": 1}, "unknown: nothing; known: alpha, eps, start, steps, warmup"),
        ("trades", {"where": "low"}, "unknown: where; known: eps, lam, start, steps, warmup"),
        ("free", {"replays": 2.5}, "replays: 2.5 is no whole number"),
        ("fgsm", {"steps": 3}, "steps: FGSM takes one"),
        ("gradient-penalty", {"eps": 0.1}, "unknown: eps; known: lam, norm, start"),
        ("gradient-penalty", {"norm": 1.5}, "norm: 1.5 is no whole number"),
    ],
    ids=str,
)
def test_what_an_option_cannot_be_is_said(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as raised:
        make_method(name, net(), **options)
    assert words in str(raised.value)


@pytest.mark.parametrize(
    "options",
    [{"layer": "stem"}, {"every": 2}, {"batch_share": 0.5}, {"loss": "ce"}, {"steps": 2},
     {"stop_gradient": False}, {"direction": "random-sign"}, {"random_start": "none"},
     {"batch_norm": "frozen"}, {"saliency": "smoothgrad"}, {"sample_scale": "confidence"}],
    ids=str,
)  # fmt: skip
def test_amortised_refuses_what_it_would_not_do(options: dict[str, Any]) -> None:
    """It keeps masks and signs: an option that it does not look at must not be taken."""
    name = next(iter(options))
    with pytest.raises(UsageError, match=f"cannot hold {name} "):
        make_method("scaat-amortised", net(), **options)


@pytest.mark.parametrize(
    "options",
    [{"region": "tissue"}, {"where": "random"}, {"grid": "network"}, {"unmasked_share": 0.5},
     {"mask_ratio": 0.25}, {"smooth_px": 1}, {"saliency": "gradient-input"}, {"alpha": 1.0}],
    ids=str,
)  # fmt: skip
def test_amortised_takes_what_says_where_and_how_far(options: dict[str, Any]) -> None:
    images, labels = task()
    method = make_method("scaat-amortised", net(), **options)
    visit = Visit(torch.arange(16), torch.zeros(16, dtype=torch.int64))
    for _ in range(2):
        assert bool(method.training_step(images, labels, visit=visit).total.isfinite())


@pytest.mark.parametrize(
    ("name", "options", "acts"),
    [
        ("scaat", {}, True),
        ("scaat", {"where": "all", "mask_ratio": 0.0}, True),
        ("scaat", {"start": 1.0}, False),
        ("scaat", {"eps": 0.0}, False),
        ("scaat", {"lam": 0.0}, False),
        ("scaat", {"mask_ratio": 0.0}, False),
        ("scaat", {"batch_share": 0.0}, False),
        ("scaat-amortised", {"lam": 0.0}, False),
        ("sgt", {}, True),
        ("pgd", {"eps": 0.0}, False),
        ("trades", {"start": 1.0}, False),
        ("gradient-penalty", {"lam": 0.0}, False),
    ],
    ids=str,
)
def test_a_method_knows_whether_it_ever_acts(
    name: str, options: dict[str, Any], acts: bool
) -> None:
    assert make_method(name, net(), **options).ever_acts is acts


@pytest.mark.parametrize("options", [{}, {"stop_gradient": False}, {"layer": "stem"}], ids=str)
def test_a_share_of_the_batch_is_the_same_share_in_every_way_to_train(
    options: dict[str, Any],
) -> None:
    """A step and the loss for a loop of one's own, the clean prediction held fixed or not."""
    images, labels = task()
    given = {"batch_share": 0.25, "random_start": "none", "warmup": 0.0, "start": 0.0, **options}
    step = make_method("scaat", net(norm="group"), seed=1, **given)
    own = make_method("scaat", net(norm="group"), seed=1, **given)
    whole = make_method("scaat", net(norm="group"), seed=1, **{**given, "batch_share": 1.0})
    losses = step.training_step(images, labels)
    assert losses.perturbed is None or len(losses.perturbed) == 4
    total = float(own.loss(images, labels).detach())  # type: ignore[attr-defined]
    assert total == pytest.approx(float(losses.total), rel=1e-5)
    robust = float(whole.training_step(images, labels).robust)
    assert 0 < float(losses.robust) < 0.6 * robust
