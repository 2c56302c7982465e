"""Augmentation: pure functions on a whole batch, on the device the batch lies on.

Recipe `report` is the report's: horizontal flip, vertical flip, ColorJitter(brightness=2), which
draws one factor a picture uniformly from [0, 3]. It equals torchvision's functions for the same
draw (tests/test_augment.py). Drawing and applying are apart, so that a draw can be repeated.

The report augments before it resizes; here pictures are resized once, when they are decoded.

Recipe `strong` moves a picture by up to CROP_PADDING pixels, its edge reflected, and mirrors it in
every other epoch, beginning with the first or the second (airbench, arXiv 2404.00498): in two
epochs both sides of every picture are seen.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Generator, Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # torchvision's, and the report's
IMAGENET_STD = (0.229, 0.224, 0.225)

FLIP_PROBABILITY = 0.5
CROP_PADDING = 4  # pixels of 32, as is usual for CIFAR-10
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
    mean, std = _moments(pixels.device)
    return (pixels - mean) / std


@functools.cache
def _moments(device: torch.device) -> tuple[Tensor, Tensor]:
    """Once a device: while a CUDA graph is captured nothing can be sent there."""
    return (
        torch.tensor(IMAGENET_MEAN, device=device).view(1, 3, 1, 1),
        torch.tensor(IMAGENET_STD, device=device).view(1, 3, 1, 1),
    )


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


def report(images: Tensor, generator: Generator, mirror: Tensor | None = None) -> Tensor:
    """The report's augmentation of a batch: (N, 3, H, W) uint8 -> float32, 0..1.

    It draws its own mirrors.
    """
    return apply(images, draw(len(images), generator))


def mirrors(count: int, seed: int, device: torch.device) -> Tensor:
    """(count,) bool: which pictures are mirrored in the epochs with an even number.

    The same on every device, whatever else is drawn.
    """
    numbers = torch.rand(count, generator=Generator().manual_seed(seed))
    return (numbers < FLIP_PROBABILITY).to(device)


def shifted(images: Tensor, down: Tensor, right: Tensor, mirror: Tensor) -> Tensor:
    """Pictures cut out of themselves, the edge reflected, then some mirrored.

    images: (N, 3, H, W); down, right: (N,) int64, where the cut begins, -H < down < H;
    mirror: (N,) bool.
    """
    height, width = images.shape[-2:]
    y = _reflected(torch.arange(height, device=images.device) + down.view(-1, 1), height)
    x = _reflected(torch.arange(width, device=images.device) + right.view(-1, 1), width)
    x = torch.where(mirror.view(-1, 1), x.flip(-1), x)
    rows = torch.arange(len(images), device=images.device).view(-1, 1, 1, 1)
    channels = torch.arange(images.shape[1], device=images.device).view(1, -1, 1, 1)
    return images[rows, channels, y[:, None, :, None], x[:, None, None, :]]


def _reflected(place: Tensor, size: int) -> Tensor:
    """-1 is 1, and size is size - 2."""
    return size - 1 - (size - 1 - place.abs()).abs()


def strong(images: Tensor, generator: Generator, mirror: Tensor) -> Tensor:
    """Recipe `strong`: (N, 3, H, W) uint8 -> float32, 0..1. mirror: (N,) bool, of this epoch."""
    size, device = (2, len(images)), generator.device
    moves = torch.randint(-CROP_PADDING, CROP_PADDING + 1, size, generator=generator, device=device)
    return to_pixels(shifted(images, moves[0], moves[1], mirror))


def plain(images: Tensor, generator: Generator, mirror: Tensor | None = None) -> Tensor:
    """No augmentation: what overfitting on purpose needs."""
    return to_pixels(images)
