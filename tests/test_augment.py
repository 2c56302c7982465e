"""Augmentation equals torchvision's functions for the same draw, and draws what it says."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor
from torchvision.models import AlexNet_Weights
from torchvision.transforms.v2 import functional as torchvision

from alexnet_mlflow import augment

MANY = 20_000


@pytest.fixture
def images() -> Tensor:
    numbers = torch.randint(0, 256, (24, 3, 32, 32), generator=Generator().manual_seed(1))
    return numbers.to(torch.uint8)


@pytest.fixture(scope="module")
def many() -> augment.Draw:
    return augment.draw(MANY, Generator().manual_seed(0))


def by_torchvision(image: Tensor, horizontal: bool, vertical: bool, brightness: float) -> Tensor:
    """One picture (3, H, W) uint8 through torchvision: flips, then brightness on float pixels."""
    if horizontal:
        image = torchvision.horizontal_flip(image)
    if vertical:
        image = torchvision.vertical_flip(image)
    return torchvision.adjust_brightness(image.float() / 255, brightness)


@pytest.mark.parametrize("seed", range(4))
def test_a_batch_equals_torchvision_picture_by_picture(images: Tensor, seed: int) -> None:
    chosen = augment.draw(len(images), Generator().manual_seed(seed))
    choices = zip(*(part.tolist() for part in chosen), strict=True)
    expected = torch.stack([
        by_torchvision(image, *choice) for image, choice in zip(images, choices, strict=True)
    ])
    torch.testing.assert_close(augment.apply(images, chosen), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("horizontal", [False, True])
@pytest.mark.parametrize("vertical", [False, True])
def test_each_flip_alone(images: Tensor, horizontal: bool, vertical: bool) -> None:
    count = len(images)
    chosen = augment.Draw(
        torch.full((count,), horizontal), torch.full((count,), vertical), torch.ones(count)
    )
    expected = torch.stack([by_torchvision(image, horizontal, vertical, 1.0) for image in images])
    torch.testing.assert_close(augment.apply(images, chosen), expected, rtol=0, atol=1e-6)


def test_brightness_stays_between_black_and_white(images: Tensor) -> None:
    still = torch.zeros(len(images), dtype=torch.bool)
    dark = augment.apply(images, augment.Draw(still, still, torch.zeros(len(images))))
    bright = augment.apply(images, augment.Draw(still, still, torch.full((len(images),), 3.0)))
    assert dark.max() == 0
    assert bright.max() == 1
    assert bright.mean() > augment.to_pixels(images).mean()


def test_normalise_equals_torchvision(images: Tensor) -> None:
    pixels = augment.to_pixels(images)
    expected = torchvision.normalize(
        pixels, list(augment.IMAGENET_MEAN), list(augment.IMAGENET_STD)
    )
    torch.testing.assert_close(augment.normalise(pixels), expected, rtol=0, atol=1e-6)


def test_the_constants_are_imagenets() -> None:
    published = AlexNet_Weights.IMAGENET1K_V1.transforms()
    assert list(augment.IMAGENET_MEAN) == published.mean
    assert list(augment.IMAGENET_STD) == published.std


def test_pixels_are_the_bytes_over_255() -> None:
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    pixels = augment.to_pixels(images)
    assert pixels.dtype == torch.float32
    torch.testing.assert_close(pixels.flatten(), torch.arange(256) / 255, rtol=0, atol=1e-7)


def test_brightness_is_uniform_from_0_to_3(many: augment.Draw) -> None:
    factors = many.brightness
    assert 0 <= factors.min() < 0.01
    assert 2.99 < factors.max() <= 3
    assert factors.mean().item() == pytest.approx(1.5, abs=0.03)  # 5 standard errors
    assert factors.var().item() == pytest.approx(9 / 12, abs=0.03)


def test_half_of_the_pictures_are_flipped_either_way(many: augment.Draw) -> None:
    for flips in (many.horizontal, many.vertical):
        assert flips.dtype == torch.bool
        assert flips.float().mean().item() == pytest.approx(0.5, abs=0.02)


def test_the_three_choices_are_independent(many: augment.Draw) -> None:
    table = torch.stack([part.float() for part in many]).corrcoef()
    assert (table - torch.eye(3)).abs().max() < 0.03


def test_the_generator_decides() -> None:
    first, again, other = (augment.draw(16, Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_the_global_generator_is_not_touched(images: Tensor) -> None:
    before = torch.get_rng_state()
    augment.report(images, Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_generator_goes_on(images: Tensor) -> None:
    generator = Generator().manual_seed(0)
    assert not torch.equal(augment.report(images, generator), augment.report(images, generator))


def test_report_draws_and_applies(images: Tensor) -> None:
    chosen = augment.draw(len(images), Generator().manual_seed(3))
    augmented = augment.RECIPES["report"](images, Generator().manual_seed(3))
    assert torch.equal(augmented, augment.apply(images, chosen))


def test_plain_changes_nothing_and_draws_nothing(images: Tensor) -> None:
    generator = Generator().manual_seed(3)
    before = generator.get_state()
    assert torch.equal(augment.RECIPES["plain"](images, generator), augment.to_pixels(images))
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("recipe", augment.RECIPES)
def test_the_batch_that_goes_in_is_left_as_it_was(images: Tensor, recipe: str) -> None:
    before = images.clone()
    augmented = augment.RECIPES[recipe](images, Generator().manual_seed(0))
    pixels = augmented.clone()
    augment.normalise(augmented)
    assert torch.equal(images, before)
    assert torch.equal(augmented, pixels)
