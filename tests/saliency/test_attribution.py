"""Attribution against closed forms and against Captum."""

from __future__ import annotations

import pytest
import torch

from pathology_scaat.errors import UsageError
from pathology_scaat.saliency.attribution import (
    attribute_with_logits,
    attribution,
    input_gradient,
)
from pathology_scaat.saliency.attributions import ATTRIBUTIONS
from pathology_scaat.saliency.cam import find_cam_layer
from pathology_scaat.scaat.target import target_score


def linear_model(n_classes: int = 2, side: int = 4) -> tuple[torch.nn.Module, torch.Tensor]:
    torch.manual_seed(3)
    layer = torch.nn.Linear(3 * side * side, n_classes)
    return torch.nn.Sequential(torch.nn.Flatten(), layer), layer.weight.detach()


def test_gradient_of_a_linear_margin_is_the_difference_of_its_weights() -> None:
    model, weight = linear_model()
    images = torch.rand(5, 3, 4, 4)
    maps = attribution(model, images, 1)
    expected = (weight[1] - weight[0]).reshape(3, 4, 4).abs().sum(0)
    torch.testing.assert_close(maps, expected.expand(5, 4, 4))


def test_gradient_times_input_of_a_linear_logit() -> None:
    model, weight = linear_model()
    images = torch.rand(5, 3, 4, 4)
    maps = attribution(model, images, 0, "gradient-x-input", "logit")
    expected = (weight[0].reshape(3, 4, 4) * images).abs().sum(1)
    torch.testing.assert_close(maps, expected)


def test_integrated_gradients_of_a_linear_margin_from_white() -> None:
    model, weight = linear_model()
    images = torch.rand(7, 3, 4, 4)
    maps = attribution(model, images, 1, "integrated-gradients", n_samples=8)
    difference = (weight[1] - weight[0]).reshape(3, 4, 4)
    torch.testing.assert_close(maps, (difference * (images - 1)).abs().sum(1), atol=1e-5, rtol=1e-4)


def test_gradient_is_that_of_captum(small_cnn: torch.nn.Module, rgb_batch: torch.Tensor) -> None:
    import captum.attr  # takes a second, in the process that needs it

    small_cnn.eval()
    expected = captum.attr.Saliency(small_cnn).attribute(rgb_batch.clone().requires_grad_(), 2)
    maps = attribution(small_cnn, rgb_batch, 2, output="logit")
    torch.testing.assert_close(maps, expected.sum(1))


def test_grad_cam_is_that_of_captum(small_cnn: torch.nn.Module, rgb_batch: torch.Tensor) -> None:
    import captum.attr

    small_cnn.eval()
    layer = small_cnn[3]
    raw = captum.attr.LayerGradCam(small_cnn, layer).attribute(rgb_batch, 1).detach()
    expected = torch.nn.functional.interpolate(
        raw.relu(), size=(16, 16), mode="bilinear", align_corners=False
    )[:, 0]
    maps = attribution(small_cnn, rgb_batch, 1, "grad-cam", "logit", layer=layer)
    torch.testing.assert_close(maps, expected)


def test_smoothgrad_without_noise_is_the_gradient(
    small_cnn: torch.nn.Module, rgb_batch: torch.Tensor
) -> None:
    smooth = attribution(small_cnn, rgb_batch, 0, "smoothgrad", noise_std=0.0, n_samples=3)
    torch.testing.assert_close(smooth, attribution(small_cnn, rgb_batch, 0))


# what needs a grid or tokens is asked the same of a transformer in test_token_methods.py, and what
# needs layers of several resolutions of a network that has them in test_fused_cam.py
NEED_A_GRID = {
    "attn-lrp", "gradient-grid", "gradient-blurred", "token-gradient-x-input", "attention-rollout",
    "fused-cam", "token-cam",
}  # fmt: skip


@pytest.mark.parametrize("method", [n for n in ATTRIBUTIONS.names if n not in NEED_A_GRID])
@pytest.mark.parametrize("target", [1, "predicted"])
def test_every_method_gives_one_finite_map_an_image_twice_the_same(
    method: str, target: int | str, small_cnn: torch.nn.Module, rgb_batch: torch.Tensor
) -> None:
    small_cnn.train()
    maps, logits = attribute_with_logits(small_cnn, rgb_batch, target, method, n_samples=4)
    again = attribution(small_cnn, rgb_batch, target, method, n_samples=4)
    assert maps.shape == (5, 16, 16)
    assert maps.dtype == torch.float32
    assert logits.shape == (5, 3)
    assert bool((maps >= 0).all())
    assert bool(maps.isfinite().all())
    assert torch.equal(maps, again)
    assert small_cnn.training
    assert all(p.grad is None for p in small_cnn.parameters())


def test_an_image_does_not_change_its_neighbours_map(
    small_cnn: torch.nn.Module, rgb_batch: torch.Tensor
) -> None:
    together = attribution(small_cnn, rgb_batch, 1)
    alone = attribution(small_cnn, rgb_batch[2:3], 1)
    torch.testing.assert_close(together[2:3], alone)


def test_targets_may_differ_by_image(small_cnn: torch.nn.Module, rgb_batch: torch.Tensor) -> None:
    targets = torch.tensor([0, 1, 2, 1, 0])
    mixed = attribution(small_cnn, rgb_batch, targets)
    for index, target in enumerate(targets.tolist()):
        torch.testing.assert_close(
            mixed[index], attribution(small_cnn, rgb_batch[index : index + 1], target)[0]
        )


def test_scores() -> None:
    logits = torch.tensor([[1.0, 2.0, 4.0]])
    target = torch.tensor([2])
    assert target_score(logits, target, "logit").item() == 4.0
    assert target_score(logits, target, "margin-best").item() == 2.0
    probability = logits.softmax(1)[0, 2]
    log_odds = torch.log(probability / (1 - probability))
    torch.testing.assert_close(target_score(logits, target)[0], log_odds)


def test_one_logit_is_read_as_class_one_against_zero() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 1))
    gradient, _ = input_gradient(model, torch.rand(2, 3, 2, 2), torch.tensor([1, 0]))
    torch.testing.assert_close(gradient[0], -gradient[1])


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "resnet18", "convnext_atto"])
def test_grad_cam_finds_a_layer_of_timm_models(name: str) -> None:
    import timm

    options = {"img_size": 64} if name.startswith("vit") else {}
    model = timm.create_model(name, pretrained=False, num_classes=2, **options)
    maps = attribution(model, torch.rand(2, 3, 64, 64), 1, "grad-cam++")
    assert maps.shape == (2, 64, 64)
    assert bool(maps.isfinite().all())


def test_grad_cam_says_when_no_layer_fits() -> None:
    model, _ = linear_model()
    with pytest.raises(UsageError, match="no layer with a spatial output"):
        find_cam_layer(model, torch.rand(1, 3, 4, 4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "magic"}, "is unknown"),
        ({"target": "tumour"}, "is not known"),
        ({"target": torch.tensor([1])}, "give one class per patch"),
        ({"output": "odds"}, "is not known"),
        ({"n_samples": 0}, "give 1 or more"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict, message: str) -> None:
    model, _ = linear_model()
    with pytest.raises(UsageError, match=message):
        attribution(model, torch.rand(2, 3, 4, 4), **{"target": 1, **arguments})


def test_images_must_be_float_batches() -> None:
    model, _ = linear_model()
    with pytest.raises(UsageError, match=r"0\.\.1"):
        attribution(model, torch.zeros(3, 4, 4), 0)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_smoothgrad_does_not_depend_on_the_batch(
    small_cnn: torch.nn.Module, rgb_batch: torch.Tensor, batch: int
) -> None:
    """The reviewed fault: the noise was that of the place in the batch."""
    whole = attribution(small_cnn, rgb_batch, 1, "smoothgrad", n_samples=3, index=range(10, 15))
    parts = [
        attribution(
            small_cnn, rgb_batch[i : i + batch], 1, "smoothgrad", n_samples=3,
            index=range(10, 15)[i : i + batch],
        )
        for i in range(0, 5, batch)
    ]  # fmt: skip
    torch.testing.assert_close(torch.cat(parts), whole)
    other = attribution(small_cnn, rgb_batch, 1, "smoothgrad", n_samples=3)
    assert not torch.allclose(other, whole)


def test_training_and_explaining_share_their_gradients(rgb_batch: torch.Tensor) -> None:
    """SCAAT's sources of saliency are those that explain: same numbers for the same question."""
    from pathology_scaat.saliency.attribution import input_gradient
    from pathology_scaat.saliency.cam import grad_cam
    from pathology_scaat.scaat import attribution as sources
    from pathology_scaat.scaat.methods.plain import Plain

    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3), torch.nn.Flatten(),
        torch.nn.Linear(4 * 12 * 12, 2),
    ).eval()  # fmt: skip
    labels = torch.tensor([0, 1, 0, 1, 1])
    method = Plain(model)
    cam, _ = grad_cam(model, rgb_batch, labels, "logit", layer=model[2])
    torch.testing.assert_close(sources.grad_cam(method, rgb_batch, labels)[:, 0], cam)
    loss = method.input_gradient(rgb_batch, labels)
    margin, logits = input_gradient(model, rgb_batch, labels)
    # d CE / dx = -(1 - p) d margin / dx for two classes
    p = logits.softmax(1).gather(1, labels[:, None])[:, :, None, None]
    torch.testing.assert_close(loss, -(1 - p) * margin)
    smooth = sources.smoothgrad(method, rgb_batch, labels, samples=2, sigma=0.0)
    torch.testing.assert_close(smooth, loss)
