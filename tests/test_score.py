"""Every picture counts once, whatever the batch, and what is not a number is never right."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from alexnet_mlflow.augment import normalise, to_pixels
from alexnet_mlflow.model import Servable
from alexnet_mlflow.score import (
    BothWays,
    Scores,
    calibration_error,
    reliability,
    score,
    score_probabilities,
)

N, CLASSES = 43, 3  # 43 is prime: every batch size leaves a smaller last batch


class Broken(nn.Module):
    """Answers nan for the pictures whose first pixel is white, and class 0 for all others."""

    def forward(self, pictures: Tensor) -> Tensor:
        logits = torch.tensor([[2.0, 0.0, 0.0]]).repeat(len(pictures), 1)
        logits[pictures[:, 0, 0, 0] > 2] = math.nan
        return logits


@pytest.fixture(scope="module")
def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(3 * 32 * 32, CLASSES))


@pytest.fixture(scope="module")
def images() -> Tensor:
    numbers = torch.randint(0, 256, (N, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    return numbers.to(torch.uint8)


@pytest.fixture(scope="module")
def labels() -> Tensor:
    return torch.arange(N) % CLASSES


def in_one_piece(network: nn.Module, images: Tensor) -> Tensor:
    """Logits of all pictures at once, without dropout."""
    network.eval()
    with torch.no_grad():
        return network(normalise(to_pixels(images)))


@pytest.mark.parametrize("batch", [1, 10, 42, 43, 250])
def test_every_picture_counts_once(
    network: nn.Module, images: Tensor, labels: Tensor, batch: int
) -> None:
    scores = score(network, images, labels, batch)
    logits = in_one_piece(network, images)
    losses = functional.cross_entropy(logits, labels, reduction="none")
    assert scores.n == N
    np.testing.assert_allclose(scores.losses, losses.numpy(), atol=1e-5)
    np.testing.assert_allclose(scores.probabilities, logits.softmax(dim=1).numpy(), atol=1e-6)
    np.testing.assert_array_equal(scores.labels, labels.numpy())
    np.testing.assert_array_equal(scores.predictions, logits.argmax(dim=1).numpy())
    assert scores.loss == pytest.approx(losses.double().mean().item(), abs=1e-6)
    assert scores.accuracy == (logits.argmax(dim=1) == labels).sum().item() / N


def test_the_loss_is_over_pictures_not_over_batches(
    network: nn.Module, images: Tensor, labels: Tensor
) -> None:
    losses = score(network, images, labels).losses
    of_batches = np.mean([losses[:42].mean(), losses[42:].mean()])
    found = score(network, images, labels, batch=42).loss
    assert found == pytest.approx(losses.mean(), abs=1e-5)
    assert abs(found - of_batches) > 1e-3  # the other way to average tells these apart


@pytest.mark.parametrize("training", [True, False])
def test_the_training_mode_is_left_as_it_was(
    network: nn.Module, images: Tensor, labels: Tensor, training: bool
) -> None:
    network.train(training)
    score(network, images, labels)
    assert network.training is training
    assert network[1].training is training


def test_dropout_is_off(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    network.train()
    first, again = score(network, images, labels), score(network, images, labels)
    np.testing.assert_array_equal(first.losses, again.losses)


def test_one_picture_that_is_not_a_number_spoils_the_loss_and_is_wrong(labels: Tensor) -> None:
    images = torch.zeros((N, 3, 32, 32), dtype=torch.uint8)
    images[0] = 255  # class 0, so that argmax of nan would count it as right
    scores = score(Broken(), images, labels)
    assert not scores.finite
    assert math.isnan(scores.loss)
    assert scores.predictions[0] == -1
    assert scores.correct == (labels == 0).sum().item() - 1


def test_a_model_that_answers_nan_is_never_right(labels: Tensor) -> None:
    scores = score(Broken(), torch.full((N, 3, 32, 32), 255, dtype=torch.uint8), labels)
    assert scores.accuracy == 0
    assert not scores.finite


def test_infinite_weights_are_never_right(images: Tensor, labels: Tensor) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, CLASSES))
    nn.init.constant_(network[1].weight, math.inf)
    scores = score(network, images, labels)
    assert scores.accuracy == 0
    assert not scores.finite


@pytest.mark.parametrize("batch", [10, 250])
def test_a_served_model_scores_the_same(
    network: nn.Module, images: Tensor, labels: Tensor, batch: int
) -> None:
    direct = score(network, images, labels)
    served = score_probabilities(Servable(network).eval(), images, labels, batch)
    np.testing.assert_allclose(served.probabilities, direct.probabilities, atol=1e-6)
    np.testing.assert_allclose(served.losses, direct.losses, atol=1e-4)
    np.testing.assert_array_equal(served.predictions, direct.predictions)
    assert served.n == N


def test_a_probability_of_zero_has_a_finite_loss(images: Tensor, labels: Tensor) -> None:
    class Certain(nn.Module):
        def forward(self, pixels: Tensor) -> Tensor:
            return torch.tensor([[1.0, 0.0, 0.0]]).repeat(len(pixels), 1)

    scores = score_probabilities(Certain(), images, labels)
    assert scores.finite
    assert scores.losses[0] == 0
    assert scores.losses[1] == pytest.approx(-math.log(torch.finfo(torch.float32).tiny))


def test_sums_are_taken_in_double_precision() -> None:
    losses = np.full(300_000, 0.1, dtype=np.float32)
    ones = np.ones((len(losses), 1), dtype=np.float32)
    scores = Scores(np.zeros(len(losses), dtype=np.int64), losses, ones)
    assert scores.loss == float(np.float32(0.1))
    assert scores.accuracy == 1


def scores_of(confidence: list[float], right: list[bool]) -> Scores:
    """Two classes; the first is predicted with this probability."""
    first = np.array(confidence, np.float32)
    labels = np.where(right, 0, 1)
    return Scores(labels, np.zeros(len(first), np.float32), np.stack([first, 1 - first], axis=1))


def test_reliability_counts_every_picture_in_the_bin_of_its_confidence() -> None:
    found = reliability(scores_of([0.55, 0.58, 0.95, 1.0], [True, False, True, True]))
    assert [(one.n, one.correct) for one in found] == [(2, 1), (2, 2)]
    assert [one.confidence for one in found] == pytest.approx([0.565, 0.975])
    assert calibration_error(found) == pytest.approx((2 * 0.065 + 2 * 0.025) / 4)


def test_a_calibrated_model_has_a_small_error_and_a_boastful_one_its_excess() -> None:
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.5, 1, 20_000)
    right = list(rng.random(20_000) < truth)
    assert calibration_error(reliability(scores_of(list(truth), right))) < 0.01
    boasts = scores_of([0.999] * 20_000, right)
    assert calibration_error(reliability(boasts)) == pytest.approx(0.249, abs=0.01)


def test_what_is_not_a_number_is_in_no_bin() -> None:
    assert reliability(scores_of([math.nan, 0.9], [True, True]))[0].n == 1
    assert reliability(scores_of([math.nan], [True])) == []
    assert calibration_error([]) == 0.0


class LeftHalf(nn.Module):
    def forward(self, pixels: Tensor) -> Tensor:
        return pixels[..., :16].mean(dim=(2, 3))


def test_both_ways_is_the_mean_with_the_mirror_image() -> None:
    """Of a model that looks at the left half alone."""
    model = LeftHalf()
    pixels = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = BothWays(model)(pixels)
    assert torch.allclose(found, pixels.mean(dim=(2, 3)), atol=1e-6)
    assert torch.allclose(found, BothWays(model)(pixels.flip(-1)))
    assert not torch.allclose(found, model(pixels), atol=1e-3)
