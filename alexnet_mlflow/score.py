"""A model on a whole split: every picture counts once, in evaluation mode, summed over pictures.

Batch means are never averaged: that was the report's mistake (its last batch is smaller).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from alexnet_mlflow.augment import normalise, to_pixels

SCORE_BATCH = 250


@dataclass(frozen=True, eq=False)
class Scores:
    """What a model said of each picture of a split of C classes."""

    labels: np.ndarray  # (N,) int64
    losses: np.ndarray  # (N,) float32, cross entropy in nats
    probabilities: np.ndarray  # (N, C) float32

    @property
    def n(self) -> int:
        return len(self.labels)

    @property
    def loss(self) -> float:
        """Mean over pictures; nan or inf where the model has diverged."""
        return float(self.losses.sum(dtype=np.float64) / self.n)

    @property
    def finite(self) -> bool:
        return math.isfinite(self.loss)

    @property
    def predictions(self) -> np.ndarray:
        """(N,) int64: the most probable class, -1 where the probabilities are not numbers."""
        sound = np.isfinite(self.probabilities).all(axis=1)
        return np.where(sound, self.probabilities.argmax(axis=1), -1)

    @property
    def correct(self) -> int:
        return int((self.predictions == self.labels).sum())

    @property
    def accuracy(self) -> float:
        """A fraction, 0 to 1. argmax of nan is class 0: such a picture counts as wrong here."""
        return self.correct / self.n


@torch.inference_mode()
def score(model: nn.Module, images: Tensor, labels: Tensor, batch: int = SCORE_BATCH) -> Scores:
    """Score resident pictures.

    images: (N, 3, 32, 32) uint8 on the model's device; labels: (N,) int64 there.
    The model's training mode is left as it was.
    """
    was_training = model.training
    model.eval()
    logits = torch.cat([model(normalise(to_pixels(part))).float() for part in images.split(batch)])
    model.train(was_training)
    losses = functional.cross_entropy(logits, labels, reduction="none")
    probabilities = logits.softmax(dim=1)
    return Scores(labels.cpu().numpy(), losses.cpu().numpy(), probabilities.cpu().numpy())


def score_probabilities(
    model: nn.Module, images: Tensor, labels: Tensor, batch: int = SCORE_BATCH
) -> Scores:
    """Score a served model, which takes (N, 3, 32, 32) float32, 0..1 and answers probabilities.

    A probability of 0 counts as the smallest float32, so that one picture's loss stays finite.
    """
    with torch.inference_mode():
        parts = [model(to_pixels(part)).float() for part in images.split(batch)]
    probabilities = torch.cat(parts)
    tiny = torch.finfo(torch.float32).tiny
    losses = functional.nll_loss(probabilities.clamp_min(tiny).log(), labels, reduction="none")
    return Scores(labels.cpu().numpy(), losses.cpu().numpy(), probabilities.cpu().numpy())


class BothWays(nn.Module):
    """A served model that answers with the mean of a picture and its mirror image."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        answers: Tensor = (self.model(pixels) + self.model(pixels.flip(-1))) / 2
        return answers


@dataclass(frozen=True)
class Bin:
    """Pictures of about the same confidence: the probability of the predicted class."""

    n: int
    correct: int
    confidence: float  # mean


def reliability(scores: Scores, bins: int = 10) -> list[Bin]:
    """Confidence against accuracy in bins of equal width over 0 .. 1; empty ones are left out.

    Pictures whose probabilities are not numbers belong to no bin.
    """
    chosen = np.where(np.isfinite(scores.probabilities).all(axis=1), scores.probabilities.T, -1.0)
    confidence = chosen.max(axis=0)
    right = scores.predictions == scores.labels
    places = np.minimum((confidence * bins).astype(int), bins - 1)
    found = [(confidence >= 0) & (places == place) for place in range(bins)]
    return [
        Bin(int(mine.sum()), int(right[mine].sum()), float(confidence[mine].mean()))
        for mine in found if mine.any()
    ]


def calibration_error(bins: Sequence[Bin]) -> float:
    """Expected calibration error: mean |accuracy - confidence| over pictures (Naeini 2015)."""
    off = sum(abs(one.correct - one.n * one.confidence) for one in bins)
    return off / max(1, sum(one.n for one in bins))
