"""What a recipe does beside the plain step: its rate, its average, and what strong never does."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Generator

from alexnet_mlflow import config, recipe
from alexnet_mlflow.recipe import RECIPES, Recipe, constant, one_cycle


def test_every_recipe_of_the_options_exists() -> None:
    assert {*config.RECIPES, "plain"} == RECIPES.keys()


def test_a_recipe_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        RECIPES["report"].smoothing = 0.5  # type: ignore[misc]


@pytest.mark.parametrize("name", ["report", "plain"])
def test_the_report_has_a_plain_step(name: str) -> None:
    found = RECIPES[name]
    assert found == Recipe(found.augment)
    assert [found.lr_at(step, 10, 0.3) for step in range(10)] == [0.3] * 10
    assert not any(found.averages(step) for step in range(1, 11))


def test_a_constant_rate() -> None:
    assert {constant(step, 7, 0.1) for step in range(7)} == {0.1}


@pytest.mark.parametrize("steps", [10, 101, 5000])
def test_one_cycle_rises_once_and_falls_once(steps: int) -> None:
    rates = np.array([one_cycle(step, steps, 2.0) for step in range(steps)])
    peak = int(rates.argmax())
    assert peak / (steps - 1) == pytest.approx(recipe.WARM_UP, abs=1 / (steps - 1))
    assert rates[0] == pytest.approx(2.0 * recipe.COLD)
    assert rates[-1] == pytest.approx(2.0 * recipe.END)
    assert rates.max() <= 2.0 and rates.max() == pytest.approx(2.0, rel=0.2)
    assert (np.diff(rates[: peak + 1]) > 0).all() and (np.diff(rates[peak:]) < 0).all()


def test_one_cycle_is_the_same_cycle_with_a_larger_batch() -> None:
    """Half the steps: every other rate."""
    long = [one_cycle(step, 101, 1.0) for step in range(0, 101, 2)]
    assert [one_cycle(step, 51, 1.0) for step in range(51)] == pytest.approx(long)


def test_one_cycle_of_a_single_step_is_a_rate() -> None:
    assert one_cycle(0, 1, 1.0) == pytest.approx(recipe.COLD)


def test_the_average_takes_weights_in_now_and_then_and_from_the_start() -> None:
    found = [step for step in range(1, 21) if RECIPES["strong"].averages(step)]
    assert found == [1, 2, 3, 4, 5, 10, 15, 20]


def test_the_average_keeps_little_early_and_most_at_the_end() -> None:
    found = [RECIPES["strong"].kept(step, 100) for step in range(1, 101)]
    assert found[0] < 1e-5
    assert (np.diff(found) > 0).all()
    most = RECIPES["strong"].average ** recipe.STEPS_BETWEEN_AVERAGES
    assert found[-1] == pytest.approx(most)


def test_strong_neither_turns_pictures_upside_down_nor_blackens_them() -> None:
    """A picture whose rows brighten downwards does so still, and no grey level is new."""
    rows = torch.arange(32, dtype=torch.uint8).mul(5).add(60)
    images = rows.view(1, 1, -1, 1).expand(200, 3, 32, 32)
    mirror = torch.arange(200) % 2 == 0
    found = RECIPES["strong"].augment(images, Generator().manual_seed(0), mirror).mul(255).round()
    assert (found[:, :, 24] > found[:, :, 8]).all()
    assert set(found.unique().tolist()) <= set(rows.tolist())


@pytest.mark.parametrize("optimizer", config.OPTIMIZERS)
def test_strong_brings_rates_that_grow_with_the_batch(optimizer: str) -> None:
    lr, decay = RECIPES["strong"].rates[optimizer]
    assert RECIPES["strong"].rates_at(optimizer, 32) == (lr, decay)
    assert RECIPES["strong"].rates_at(optimizer, 128) == pytest.approx((2 * lr, decay))
    assert RECIPES["report"].rates_at(optimizer, 32) is None
