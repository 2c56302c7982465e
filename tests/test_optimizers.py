"""What the optimizers are, what decays weights, and that their tensors stay where they are."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from alexnet_mlflow import optimizers
from alexnet_mlflow.config import TrainConfig
from alexnet_mlflow.optimizers import make_optimizer
from tests.test_train import settings, small, weights


def stepped(
    config: TrainConfig, steps: int = 3, decay: bool = False
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A network after some steps along gradients that are drawn."""
    model, draws = small(), torch.Generator().manual_seed(0)
    optimizer = make_optimizer(model, config, decays=not decay)
    if decay:
        optimizers.set_decay(optimizer, optimizers.Decay(optimizer, config), config)
    for _ in range(steps):
        for weight in model.parameters():
            weight.grad = torch.randn(weight.shape, generator=draws)
        optimizer.step()
    return model, optimizer


def test_the_optimizers_are_what_they_are_called() -> None:
    sgd = make_optimizer(small(), settings(momentum=0.8, weight_decay=0.01))
    adam = make_optimizer(small(), settings(optimizer="adam", weight_decay=0.01))
    assert isinstance(sgd, torch.optim.SGD) and isinstance(adam, torch.optim.Adam)
    assert sgd.defaults["momentum"] == 0.8
    assert sgd.defaults["weight_decay"] == adam.defaults["weight_decay"] == 0.01
    assert sgd.defaults["fused"] and adam.defaults["fused"]


def test_strong_has_nesterov_where_there_is_momentum_and_decouples_adams_decay() -> None:
    sgd = make_optimizer(small(), settings(recipe="strong"))
    assert sgd.defaults["nesterov"] and sgd.defaults["weight_decay"] == 1e-3
    still = make_optimizer(small(), settings(recipe="strong", momentum=0.0))
    assert not still.defaults["nesterov"]
    adam = make_optimizer(small(), settings(recipe="strong", optimizer="adam", lr=0.01))
    assert isinstance(adam, torch.optim.AdamW) and adam.defaults["fused"]
    assert not isinstance(make_optimizer(small(), settings(optimizer="adam")),
                          torch.optim.AdamW)


@pytest.mark.parametrize("lr", [1e-4, 1e-2])
def test_adams_decoupled_decay_does_not_depend_on_the_rate(lr: float) -> None:
    model = small()
    before = weights(model)
    config = settings(recipe="strong", optimizer="adam", lr=lr, weight_decay=0.01)
    optimizer = make_optimizer(model, config)
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    for old, new in zip(before, model.parameters(), strict=True):
        assert torch.allclose(new, 0.99 * old, rtol=1e-5, atol=0)


KINDS = [(optimizer, recipe) for optimizer in ("sgd", "adam") for recipe in ("report", "strong")]


@pytest.mark.parametrize(("optimizer", "recipe"), KINDS)
def test_a_decay_on_the_device_decays_as_the_optimizer_does(optimizer: str, recipe: str) -> None:
    config = settings(optimizer=optimizer, recipe=recipe, weight_decay=0.1)
    without = settings(optimizer=optimizer, recipe=recipe, weight_decay=0.0)
    own, device, none = (
        weights(stepped(one, decay=decay)[0])
        for one, decay in ((config, False), (config, True), (without, True))
    )
    for a, b, c in zip(own, device, none, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
        assert (b - c).abs().max() > 1e-4


@pytest.mark.parametrize(("optimizer", "recipe"), KINDS)
def test_what_is_forgotten_or_put_back_stays_in_its_tensors(optimizer: str, recipe: str) -> None:
    config = settings(optimizer=optimizer, recipe=recipe)
    model, one = stepped(config)
    saved = copy.deepcopy(one.state_dict())
    other = stepped(config, steps=5)[1]
    other.param_groups[0].update(lr=0.5, weight_decay=0.25)
    places = {id(value) for kept in other.state.values() for value in kept.values()}
    optimizers.put_back(other, saved)
    for mine, theirs in zip(one.state.values(), other.state.values(), strict=True):
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert {id(value) for kept in other.state.values() for value in kept.values()} == places
    assert (other.param_groups[0]["lr"], other.param_groups[0]["weight_decay"]) == (0.5, 0.25)
    optimizers.forget(other)
    assert all((value == 0).all() for kept in other.state.values() for value in kept.values())
    assert {id(value) for kept in other.state.values() for value in kept.values()} == places


def test_put_back_fills_an_optimizer_that_has_made_no_step() -> None:
    model, one = stepped(settings())
    fresh = make_optimizer(model, settings())
    optimizers.put_back(fresh, copy.deepcopy(one.state_dict()))
    for mine, theirs in zip(one.state.values(), fresh.state.values(), strict=True):
        assert torch.equal(mine["momentum_buffer"], theirs["momentum_buffer"])
