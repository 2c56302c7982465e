"""Augmentation: pure functions on a whole batch, on the device the batch lies on.

Recipe `report` is the report's: horizontal flip, vertical flip, ColorJitter(brightness=2), which
draws one factor a picture uniformly from [0, 3]. It equals torchvision's functions for the same
draw (tests/test_augment.py). Drawing and applying are apart, so that a draw can be repeated.

The report augments before it resizes; here pictures are resized once, when they are decoded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Generator, Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # torchvision's, and the report's
IMAGENET_STD = (0.229, 0.224, 0.225)

FLIP_PROBABILITY = 0.5
BRIGHTNESS_HIGH = 3.0  # ColorJitter(brightness=2): uniform in [max(0, 1 - 2), 1 + 2]


class Draw(NamedTuple):
    """One random choice a picture, each a tensor of shape (N,)."""

    horizontal: Tensor  # bool
    vertical: Tensor  # bool
    brightness: Tensor  # float32, 0..3


def to_pixels(images: Tensor) -> Tensor:
    """(N, 3, H, W) uint8, 0..255 -> float32, 0..1."""
    return images.float().div_(255.0)


def normalise(pixels: Tensor) -> Tensor:
    """(N, 3, H, W) float32, 0..1 -> each channel minus ImageNet's mean, over its deviation."""
    mean = torch.tensor(IMAGENET_MEAN, device=pixels.device).view(1, 3, 1, 1)
    std = torch.tensor(IMAGENET_STD, device=pixels.device).view(1, 3, 1, 1)
    return (pixels - mean) / std


def draw(count: int, generator: Generator) -> Draw:
    """The random choices for `count` pictures, on the generator's device."""
    numbers = torch.rand((3, count), generator=generator, device=generator.device)
    return Draw(
        numbers[0] < FLIP_PROBABILITY, numbers[1] < FLIP_PROBABILITY, numbers[2] * BRIGHTNESS_HIGH
    )


def apply(images: Tensor, chosen: Draw) -> Tensor:
    """(N, 3, H, W) uint8 -> float32, 0..1: flipped and brightened, not yet normalised."""
    images = torch.where(chosen.horizontal.view(-1, 1, 1, 1), images.flip(-1), images)
    images = torch.where(chosen.vertical.view(-1, 1, 1, 1), images.flip(-2), images)
    return to_pixels(images).mul_(chosen.brightness.view(-1, 1, 1, 1)).clamp_(0.0, 1.0)


def report(images: Tensor, generator: Generator) -> Tensor:
    """The report's augmentation of a batch: (N, 3, H, W) uint8 -> float32, 0..1."""
    return apply(images, draw(len(images), generator))


def plain(images: Tensor, generator: Generator) -> Tensor:
    """No augmentation: what overfitting on purpose needs."""
    return to_pixels(images)


RECIPES: dict[str, Callable[[Tensor, Generator], Tensor]] = {"report": report, "plain": plain}
