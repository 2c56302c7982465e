"""Eight faults planted in the real code: each is failed by the check that is named; none when well.

A fault is what people do: it trains without an error, and only the figures are wrong. The healthy
net must fail nothing: three seeds, or as many as ALEXNET_SEEDS says (twenty were run).
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from alexnet_mlflow import optimizers, probes, score, train
from alexnet_mlflow.checks import Check
from alexnet_mlflow.config import SanityConfig, resolve
from alexnet_mlflow.data import Splits, load
from alexnet_mlflow.data.split import Split
from alexnet_mlflow.model import AlexNet

CPU = torch.device("cpu")
SEEDS = int(os.environ.get("ALEXNET_SEEDS", "3"))

Fault = Callable[[pytest.MonkeyPatch, Splits], Splits]


@pytest.fixture(scope="module")
def faces() -> Splits:
    return load(SanityConfig(dataset="faces"))


def softmax_twice(patch: pytest.MonkeyPatch, data: Splits) -> Splits:
    forward = AlexNet.forward
    patch.setattr(AlexNet, "forward", lambda net, given: forward(net, given).softmax(dim=1))
    return data


def softmax_twice_in_the_step(patch: pytest.MonkeyPatch, data: Splits) -> Splits:
    twice = SimpleNamespace(
        cross_entropy=lambda logits, labels: functional.cross_entropy(logits.softmax(1), labels)
    )
    patch.setattr(train, "functional", twice)
    return data


def shuffled_labels(patch: pytest.MonkeyPatch, data: Splits) -> Splits:
    def shuffled(split: Split) -> Split:
        order = np.random.default_rng(0).permutation(len(split))
        return dataclasses.replace(split, labels=split.labels[order])

    return dataclasses.replace(data, train=shuffled(data.train), val=shuffled(data.val))


def frozen_layer(patch: pytest.MonkeyPatch, data: Splits) -> Splits:
    built(patch, lambda net: net.features[3].requires_grad_(False))
    return data


def detached_layers(patch: pytest.MonkeyPatch, data: Splits) -> Splits:
    patch.setattr(
        AlexNet, "forward",
        lambda net, given: net.classifier(net.features(given).flatten(1).detach()),
    )
    return data


def loss_summed(patch: pytest.MonkeyPatch, data: Splits) -> Splits:
    summed = SimpleNamespace(
        cross_entropy=lambda logits, labels: functional.cross_entropy(
            logits, labels, reduction="sum"
        )
    )
    patch.setattr(train, "functional", summed)
    return data


def no_zero_grad(patch: pytest.MonkeyPatch, data: Splits) -> Splits:
    for kind in (torch.optim.SGD, torch.optim.Adam):
        patch.setattr(kind, "zero_grad", lambda optimizer, set_to_none=True: None)
    return data


def dead_relus(patch: pytest.MonkeyPatch, data: Splits) -> Splits:
    built(patch, lambda net: nn.init.constant_(net.classifier[1].bias, -10.0))
    return data


def normalisation_left_out(patch: pytest.MonkeyPatch, data: Splits) -> Splits:
    for module in (train, score):
        patch.setattr(module, "normalise", lambda pixels: pixels)
    return data


def normalised_twice_in_training(patch: pytest.MonkeyPatch, data: Splits) -> Splits:
    once = train.normalise
    patch.setattr(train, "normalise", lambda pixels: once(once(pixels)))
    return data


def validation_in_train(patch: pytest.MonkeyPatch, data: Splits) -> Splits:
    both = {
        name: np.concatenate([getattr(data.train, name), getattr(data.val, name)])
        for name in ("images", "labels", "ids", "groups")
    }
    return dataclasses.replace(data, train=dataclasses.replace(data.train, **both))


def batch_mixed(patch: pytest.MonkeyPatch, data: Splits) -> Splits:
    forward = AlexNet.forward
    patch.setattr(
        AlexNet, "forward", lambda net, given: forward(net, given - given.mean(0, keepdim=True))
    )
    return data


def unseeded_dropout(patch: pytest.MonkeyPatch, data: Splits) -> Splits:
    def noisy(given: Tensor) -> Tensor:
        return normalise(given) + torch.from_numpy(
            np.random.default_rng().normal(size=given.shape).astype(np.float32)
        )

    normalise = train.normalise
    patch.setattr(train, "normalise", noisy)
    return data


def decay_forgotten(patch: pytest.MonkeyPatch, data: Splits) -> Splits:
    make = optimizers.make_optimizer
    patch.setattr(
        optimizers, "make_optimizer",
        lambda net, config, **named: make(
            net, dataclasses.replace(config, weight_decay=0.0), **named
        ),
    )
    return data


def built(patch: pytest.MonkeyPatch, change: Callable[[AlexNet], object]) -> None:
    """Every network of the probes is changed once it is built."""
    build = probes.build

    def changed(classes: int, seed: int, dropout: float = 0.5) -> AlexNet:
        net = build(classes, seed, dropout)
        change(net)
        return net

    patch.setattr(probes, "build", changed)


# The eight, and others that the same checks catch.
FAULTS: list[tuple[Fault, Callable[..., list[Check]], str]] = [
    (softmax_twice, probes.handfuls, "overfits_2"),
    (shuffled_labels, probes.small_part, "held_out_above_chance"),
    (frozen_layer, probes.movement, "all_layers_move"),
    (loss_summed, probes.first_step, "first_step_loss"),
    (no_zero_grad, probes.gradient, "gradient"),
    (dead_relus, probes.movement, "layers_alive"),
    (normalisation_left_out, probes.seen_input, "input_as_stored"),
    (validation_in_train, probes.no_copies, "val_not_in_train"),
    (softmax_twice_in_the_step, probes.gradient, "gradient"),
    (detached_layers, probes.movement, "all_layers_move"),
    (loss_summed, probes.gradient, "gradient"),
    (frozen_layer, probes.gradient, "gradient"),
    (normalised_twice_in_training, probes.seen_input, "input_as_stored"),
    (batch_mixed, probes.independence, "samples_independent"),
    (unseeded_dropout, probes.repeated, "deterministic"),
    (decay_forgotten, probes.first_step, "penalty_raises_loss"),
]


@pytest.mark.parametrize(
    ("fault", "probe", "name"), FAULTS,
    ids=[f"{fault.__name__}-{name}" for fault, _, name in FAULTS],
)
def test_a_fault_is_caught(
    fault: Fault, probe: Callable[..., list[Check]], name: str,
    faces: Splits, monkeypatch: pytest.MonkeyPatch,
) -> None:
    if probe is probes.handfuls:  # it never ends by itself here
        monkeypatch.setattr(probes, "HEART_EPOCHS", 60)
        monkeypatch.setattr(probes, "HANDFULS", (2,))
    monkeypatch.setattr(probes, "PART", 32)  # shuffled labels take long to learn
    data = fault(monkeypatch, faces)
    found = {check.name: check for check in probe(resolve(SanityConfig()), data, CPU)}
    assert found[name].verdict == "fail", found[name]
    assert found[name].sentence.endswith(".")


@pytest.mark.parametrize("seed", range(SEEDS))
def test_the_healthy_net_fails_nothing(seed: int, faces: Splits) -> None:
    optimizer = ("sgd", "adam")[seed % 2]
    found = probes.quick(SanityConfig(seed=seed, optimizer=optimizer), faces, CPU)
    assert [check for check in found if check.verdict == "fail"] == []
