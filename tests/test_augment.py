"""Augmentation equals torchvision's functions for the same draw, and draws what it says."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor
from torch.nn import functional
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
    augmented = augment.report(images, Generator().manual_seed(3))
    assert torch.equal(augmented, augment.apply(images, chosen))


def test_plain_changes_nothing_and_draws_nothing(images: Tensor) -> None:
    generator = Generator().manual_seed(3)
    before = generator.get_state()
    assert torch.equal(augment.plain(images, generator), augment.to_pixels(images))
    assert torch.equal(generator.get_state(), before)


def test_shifted_is_a_cut_out_of_the_reflected_picture(images: Tensor) -> None:
    """torch's own padding, a picture at a time."""
    down, right = torch.randint(-4, 5, (2, len(images)), generator=Generator().manual_seed(5))
    mirror = torch.arange(len(images)) % 3 == 0
    found = augment.shifted(images, down, right, mirror)
    assert found.dtype == torch.uint8
    padded = functional.pad(images.float(), (4, 4, 4, 4), mode="reflect").to(torch.uint8)
    for row, (y, x, flipped) in enumerate(zip(down, right, mirror, strict=True)):
        cut = padded[row, :, 4 + y :, 4 + x :][:, : images.shape[2], : images.shape[3]]
        assert torch.equal(found[row], cut.flip(-1) if flipped else cut)


def test_strong_draws_every_shift_and_mirrors_as_it_is_told(images: Tensor) -> None:
    ramp = torch.arange(32, dtype=torch.uint8).view(1, 1, 1, -1).expand(2000, 3, 32, 32)
    mirror = torch.arange(2000) % 2 == 0
    found = augment.strong(ramp, Generator().manual_seed(0), mirror).mul(255).round()
    middle = found[:, 0, 0, 16] - torch.where(mirror, 15, 16)
    counts = torch.bincount((middle + 4).long(), minlength=9)
    assert len(counts) == 9 and (counts > 150).all()  # 222 expected
    rising = found[:, 0, 0, 20] > found[:, 0, 0, 12]
    assert torch.equal(rising, ~mirror)


def test_mirrors_are_a_fair_coin_of_the_seed() -> None:
    found = augment.mirrors(10_000, 3, torch.device("cpu"))
    assert found.dtype == torch.bool and 0.48 < found.float().mean() < 0.52
    before = torch.get_rng_state()
    assert torch.equal(found, augment.mirrors(10_000, 3, torch.device("cpu")))
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(found, augment.mirrors(10_000, 4, torch.device("cpu")))


@pytest.mark.parametrize("recipe", ["report", "plain", "strong"])
def test_the_batch_that_goes_in_is_left_as_it_was(images: Tensor, recipe: str) -> None:
    before = images.clone()
    mirror = torch.arange(len(images)) % 2 == 0
    augmented = getattr(augment, recipe)(images, Generator().manual_seed(0), mirror)
    pixels = augmented.clone()
    augment.normalise(augmented)
    assert torch.equal(images, before)
    assert torch.equal(augmented, pixels)
