"""Backbones, augmentation, scores, sampling: the parts training is made of."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from sklearn.metrics import average_precision_score, roc_auc_score

from pathology_scaat.errors import TrainingError, UsageError
from pathology_scaat.metrics.classification import scores
from pathology_scaat.metrics.functional.calibration import (
    TEMPERATURES,
    calibration_error,
    expected_calibration_error,
    fit_temperature,
    softmax,
    temperature_problem,
)
from pathology_scaat.metrics.functional.localisation import pixel_auroc, pixel_average_precision
from pathology_scaat.metrics.functional.ranking import pixel_ap, pixel_auroc_batch
from pathology_scaat.metrics.functional.roc import roc_auc
from pathology_scaat.metrics.functional.statistics import clustered_auc
from pathology_scaat.training.augment import AugmentDraw, apply, draw, to_float
from pathology_scaat.training.backbones import (
    create_backbone,
    load_backbone_weights,
    read_weight_file,
    set_trainable,
    train_mode,
)
from pathology_scaat.training.builders import learning_rate
from pathology_scaat.training.config import AugmentConfig, TrainConfig
from pathology_scaat.training.data import BatchLoader, make_table
from pathology_scaat.training.positive_class import choose_positive_class, positive_class
from pathology_scaat.training.results import TrainingSlide
from pathology_scaat.training.sampling import class_weights, epoch_batches


@given(
    st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=4, max_size=60).filter(
        lambda v: len({b for _, b in v}) == 2
    )
)
def test_auc_equals_sklearn_ties_included(values: list[tuple[int, bool]]) -> None:
    score = np.array([v for v, _ in values], float)
    positive = np.array([b for _, b in values])
    assert roc_auc(score, positive) == pytest.approx(roc_auc_score(positive, score))


def test_scores_of_a_perfect_and_a_blind_model() -> None:
    labels = np.array([0, 1, 2, 0, 1, 2])
    perfect = scores(np.eye(3)[labels] * 20, labels)
    assert perfect["auc"] == 1
    assert perfect["accuracy"] == 1
    assert perfect["ece"] == pytest.approx(0, abs=1e-6)
    blind = scores(np.zeros((6, 3)), labels)
    assert blind["auc"] == pytest.approx(0.5)
    assert blind["loss"] == pytest.approx(math.log(3))
    assert "auc" not in scores(np.zeros((3, 2)), np.zeros(3, int))


def test_temperature_undoes_overconfidence() -> None:
    rng = np.random.default_rng(0)
    honest = rng.normal(0, 1.5, (4000, 2))
    labels = (rng.random(4000) < softmax(honest)[:, 1]).astype(int)
    found = fit_temperature(honest * 3, labels)
    assert found == pytest.approx(3, rel=0.15)
    assert temperature_problem(found) is None


def test_a_temperature_at_its_bound_says_so() -> None:
    perfect = np.eye(2)[np.arange(40) % 2]
    low = fit_temperature(perfect, np.arange(40) % 2)
    assert low == pytest.approx(TEMPERATURES[0], rel=1e-3)
    assert "lower bound" in (temperature_problem(low) or "")
    high = fit_temperature(100 * perfect, (np.arange(40) + 1) % 2)
    assert "upper bound" in (temperature_problem(high) or "")


def test_calibration_error_is_that_of_torchmetrics() -> None:
    from torchmetrics.functional.classification import binary_calibration_error

    rng = np.random.default_rng(0)
    confidence = 0.5 + rng.random(500) / 2  # off the edges, which torchmetrics puts elsewhere
    correct = rng.random(500) < 0.8
    expected = binary_calibration_error(
        torch.from_numpy(confidence), torch.from_numpy(correct), n_bins=15
    )
    assert calibration_error(confidence, correct) == pytest.approx(float(expected), abs=1e-6)
    logits = rng.normal(0, 2, (300, 3))
    labels = rng.integers(0, 3, 300)
    assert scores(logits, labels)["ece"] == expected_calibration_error(logits, labels)


@given(
    st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=40).filter(
        lambda v: len({b for _, b in v}) == 2
    )
)
def test_one_auc_and_one_average_precision(values: list[tuple[int, bool]]) -> None:
    """Every way to them in the package gives scikit-learn's number."""
    score = np.array([v for v, _ in values], np.float32)
    positive = np.array([b for _, b in values])
    maps, masks = torch.from_numpy(score)[None, None], torch.from_numpy(positive)[None, None]
    auc, ap = roc_auc_score(positive, score), average_precision_score(positive, score)
    assert roc_auc(score, positive) == pytest.approx(auc)
    assert pixel_auroc(score, positive) == pytest.approx(auc)
    assert float(pixel_auroc_batch(maps, masks)) == pytest.approx(auc, abs=1e-6)
    assert clustered_auc(score, positive, np.arange(len(score))).value == pytest.approx(auc)
    assert pixel_average_precision(score, positive) == pytest.approx(ap)
    assert float(pixel_ap(maps, masks)) == pytest.approx(ap, abs=1e-6)


def test_class_weights_are_even_and_have_mean_one() -> None:
    labels = np.array([0] * 90 + [1] * 10)
    weights = class_weights(labels, 2)
    assert weights[labels].mean() == pytest.approx(1)
    assert 90 * weights[0] == pytest.approx(10 * weights[1])
    assert class_weights(np.zeros(5, int), 2).tolist() == [1.0, 0.0]


def test_balanced_sampling_evens_out_the_classes() -> None:
    labels = np.array([0] * 950 + [1] * 50)
    batches = epoch_batches(labels, 2, 50, np.random.default_rng(0), balanced=True, max_steps=None)
    assert labels[np.concatenate(batches)].mean() == pytest.approx(0.5, abs=0.06)


def test_plain_epochs_show_everything_once() -> None:
    batches = epoch_batches(
        np.zeros(100, int), 2, 25, np.random.default_rng(0), balanced=False, max_steps=None
    )
    assert sorted(np.concatenate(batches)) == list(range(100))
    few = epoch_batches(
        np.zeros(3, int), 2, 25, np.random.default_rng(0), balanced=False, max_steps=None
    )
    assert [len(b) for b in few] == [3]


@settings(max_examples=30)
@given(seed=st.integers(0, 1000), stain=st.floats(0, 1), colour=st.floats(0, 1))
def test_augmented_patches_stay_images(seed: int, stain: float, colour: float) -> None:
    rng = np.random.default_rng(seed)
    config = AugmentConfig(
        stain=stain, stain_shift=stain / 10, brightness=colour, contrast=colour, saturation=colour
    )
    patches = torch.from_numpy(rng.integers(0, 256, (4, 8, 8, 3), dtype=np.uint8))
    x = apply(patches, draw(4, config, rng))
    assert x.shape == (4, 3, 8, 8)
    assert bool(torch.isfinite(x).all())
    assert float(x.min()) >= 0
    assert float(x.max()) <= 1


def test_no_augmentation_is_the_patch() -> None:
    patches = torch.randint(0, 256, (2, 6, 6, 3), dtype=torch.uint8)
    drawn = draw(2, AugmentConfig.off(), np.random.default_rng(0))
    torch.testing.assert_close(apply(patches, drawn), to_float(patches))


def test_stain_matrix_of_no_change_is_the_patch() -> None:
    patches = torch.randint(1, 256, (2, 6, 6, 3), dtype=torch.uint8)
    same = torch.cat([torch.eye(3), torch.zeros(1, 3)]).expand(2, 4, 3)
    drawn = AugmentDraw(torch.zeros(2, dtype=torch.int64), same, None, None)
    torch.testing.assert_close(apply(patches, drawn), to_float(patches), rtol=1e-5, atol=1e-5)


def test_parts_of_a_draw_are_the_whole() -> None:
    patches = torch.randint(0, 256, (6, 8, 8, 3), dtype=torch.uint8)
    drawn = draw(6, AugmentConfig(), np.random.default_rng(1))
    whole = apply(patches, drawn)
    for part in (slice(0, None, 2), slice(1, None, 2)):
        torch.testing.assert_close(apply(patches[part], drawn.part(part)), whole[part])


@pytest.mark.parametrize(
    ("name", "side"), [("scaat-small", 48), ("resnet18", 64), ("vit_tiny_patch16_224", 96)]
)
def test_weights_from_a_local_file(name: str, side: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = create_backbone(name, 7, side)  # another head than the target
    save_file(
        {k: v.contiguous() for k, v in source.state_dict().items()}, tmp_path / "w.safetensors"
    )
    torch.save({"state_dict": source.state_dict()}, tmp_path / "w.pt")
    for file in ("w.safetensors", "w.pt"):
        target = create_backbone(name, 2, side)
        said = load_backbone_weights(target, tmp_path / file)
        assert "99." in said or "100.0% of the network" in said  # what was matched
        assert file not in said  # kept in the bundle: a file's name may be a patient's
        assert str(tmp_path) not in said
        head = {id(p) for p in target.get_classifier().parameters()}  # type: ignore[operator]
        for key, parameter in target.named_parameters():
            if id(parameter) not in head:
                assert torch.equal(parameter, source.state_dict()[key])


@pytest.mark.parametrize("options", [{}, {"reg_tokens": 4, "init_values": 1e-5}], ids=str)
def test_positions_are_resampled_to_the_patch_size(options: dict[str, Any], tmp_path: Path) -> None:
    """An encoder's file, without head and for another patch size: no position stays random."""
    torch.manual_seed(0)
    name = "vit_tiny_patch16_224"
    source = create_backbone(name, 0, 96, options)
    with torch.no_grad():  # a ramp from left to right, which the other grid must show too
        ramp = torch.linspace(0, 1, 6).repeat(6)[None, :, None]
        source.pos_embed[:, -36:] = ramp.expand(-1, -1, source.embed_dim)  # type: ignore[index, operator]
    save_file(
        {k: v.contiguous() for k, v in source.state_dict().items()}, tmp_path / "w.safetensors"
    )
    target = create_backbone(name, 2, 64, options)
    said = load_backbone_weights(target, tmp_path / "w.safetensors")
    assert "positions resampled" in said
    assert f"{len(target.state_dict()) - 2} of {len(target.state_dict())} tensors" in said
    found = target.state_dict()["pos_embed"]
    prefix = found.shape[1] - 16
    assert torch.equal(found[:, :prefix], source.state_dict()["pos_embed"][:, :prefix])
    rows = found[0, prefix:].reshape(4, 4, -1)
    assert bool((rows.diff(dim=1) > 0.1).all())
    torch.testing.assert_close(rows[0], rows[3])
    same = create_backbone(name, 2, 96, options)
    assert "resampled" not in load_backbone_weights(same, tmp_path / "w.safetensors")


def test_weight_files_that_do_not_fit_or_are_code(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(TrainingError, match="fits only"):
        load_backbone_weights(create_backbone("scaat-small", 2, 32), tmp_path / "other.safetensors")
    with pytest.raises(TrainingError, match="not there"):
        read_weight_file(tmp_path / "no.pt")
    sprung = tmp_path / "sprung"

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (sprung,)

    torch.save({"w": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(TrainingError, match="safely"):
        read_weight_file(tmp_path / "trap.pt")
    assert not sprung.exists()


def test_a_file_without_counters_of_batches_is_whole(tmp_path: Path) -> None:
    network = create_backbone("tf_efficientnet_lite0", 0, 64)
    state = {k: v for k, v in network.state_dict().items() if "num_batches" not in k}
    for kept in (state, network.state_dict()):
        torch.save(kept, tmp_path / "w.pt")
        said = load_backbone_weights(network, tmp_path / "w.pt", whole=True)
        assert said.endswith(f"{len(state)} of {len(state)} tensors, 100.0% of the network")


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0"])
def test_weights_of_this_network_under_another_librarys_names_are_said_to_be_so(
    name: str, tmp_path: Path
) -> None:
    state = create_backbone(name, 1000, 64).state_dict()
    other = {f"_{key.replace('weight', 'kernel')}": value for key, value in state.items()}
    torch.save(other, tmp_path / "theirs.pt")
    first = next(iter(state))
    for n_classes in (0, 2):  # a model of slides has no classifier of its own
        with pytest.raises(TrainingError, match="names its tensors otherwise") as error:
            load_backbone_weights(create_backbone(name, n_classes, 64), tmp_path / "theirs.pt")
        assert f"'_{first.replace('weight', 'kernel')}' for '{first}'" in str(error.value)
    with pytest.raises(TrainingError, match="fits only"):  # another network's
        load_backbone_weights(create_backbone("resnet34", 2, 64), tmp_path / "theirs.pt")


@pytest.mark.parametrize(
    "name", ["scaat-small", "resnet18", "convnext_atto", "vit_tiny_patch16_224"]
)
def test_partial_fine_tuning(name: str) -> None:
    counts = []
    for trainable in ("head", "last-1", "all"):
        model = create_backbone(name, 2, 32)
        set_trainable(model, trainable)
        counts.append(sum(p.numel() for p in model.parameters() if p.requires_grad))
        train_mode(model)
        for module in model.modules():
            own = list(module.parameters())
            if own and not any(p.requires_grad for p in own):
                assert not module.training
    assert 0 < counts[0] < counts[1] < counts[2]
    with pytest.raises(UsageError, match="blocks"):
        set_trainable(create_backbone(name, 2, 32), "last-99")


def test_unknown_backbone() -> None:
    with pytest.raises(UsageError, match="unknown"):
        create_backbone("resnet_of_nobody", 2, 32)
    with pytest.raises(UsageError, match="norm"):
        create_backbone("scaat-small", 2, 32, {"norm": "layer"})


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("Normal", "Tumor"), "Tumor"),
        (("Tumor", "normal"), "Tumor"),
        (("non-tumour", "tumour"), "tumour"),
        (("a", "b"), "b"),
        (("Metaplasia", "background"), "Metaplasia"),
        (("Peritumoral stroma", "Tumor"), "Tumor"),
        (("Stroma, tumor-associated", "Tumor"), "Tumor"),
        (("Cancer-free", "Invasive"), "Invasive"),
        (("Invasive tumor", "Normal", "Tumor"), "Tumor"),
        (("Gastric", "Normal"), "Gastric"),
        (("normal mucosa", "adenocarcinoma"), "adenocarcinoma"),
        (("Tumor adjacent normal", "malignant gland"), "malignant gland"),
    ],
)
def test_positive_class_by_name(names: tuple[str, ...], expected: str) -> None:
    assert choose_positive_class(names).name == expected
    assert f"'{expected}'" in choose_positive_class(names).note


@pytest.mark.parametrize(
    ("names", "doubtful"),
    [
        (("LUAD", "LUSC", "Normal"), True),
        (("Metastasis", "Normal", "Tumor"), True),
        (("a", "b"), True),
        (("Normal", "Tumor"), False),
        (("Gastric", "Normal"), False),
    ],
)
def test_a_guessed_positive_class_is_reported_as_one(
    names: tuple[str, ...], doubtful: bool
) -> None:
    assert ("do not say" in choose_positive_class(names).note) == doubtful


def test_the_positive_class_asked_for_is_matched_and_checked() -> None:
    assert positive_class("TUMOR", ("Normal", "Tumor")).name == "Tumor"
    with pytest.raises(TrainingError, match="did you mean 'Tumor'"):
        positive_class("Tumour", ("Normal", "Tumor"))


def test_learning_rate_rises_and_falls() -> None:
    config = TrainConfig(learning_rate=1.0, warmup_share=0.1, final_rate_share=0.01)
    rates = [learning_rate(config, step, 100) for step in range(100)]
    assert max(rates) == pytest.approx(1.0, abs=0.01)
    assert rates.index(max(rates)) == 10
    assert rates[-1] == pytest.approx(0.01, abs=0.01)
    assert rates[0] > 0


def test_the_loader_counts_what_is_waited_for_patches(
    slides: tuple[TrainingSlide, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = make_table([slides[0]], False, 0.5)
    loader = BatchLoader(table, 0, torch.device("cpu"))
    batches = [np.arange(8) + 8 * k for k in range(6)]
    read = loader._read

    def slow(index: np.ndarray) -> torch.Tensor:
        time.sleep(0.1)
        return read(index)

    monkeypatch.setattr(loader, "_read", slow)
    for index, patches in loader(batches):  # nobody works: all the reading is waited for
        np.testing.assert_array_equal(patches.numpy(), table.read(index))
    starved = loader.waited_s()
    assert starved > 0.5
    for _ in loader(batches):  # who works for longer than reading takes waits for the first only
        time.sleep(0.2)
    assert loader.waited_s() < 0.7 * starved
