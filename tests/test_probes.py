"""What the probes measure, on real pictures; that faults are caught is in test_faults.py."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from alexnet_mlflow import augment, checks, probes, train
from alexnet_mlflow.config import (
    PRESETS,
    OverfitConfig,
    RunConfig,
    SanityConfig,
    SearchConfig,
    resolve,
)
from alexnet_mlflow.data import Splits, load, stratified_part
from alexnet_mlflow.graph import WARM_UP, Captured

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def faces() -> Splits:
    return load(SanityConfig(dataset="faces"))


@pytest.fixture(scope="module")
def digits() -> Splits:
    return load(SanityConfig(dataset="digits"))


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small samples, and no learning by heart."""
    for name in ("PICTURES", "RATE_PICTURES", "BLANK_PICTURES", "SEEN_PICTURES"):
        monkeypatch.setattr(probes, name, 16)
    monkeypatch.setattr(probes, "STEPS", 2)
    monkeypatch.setattr(probes, "HEART_EPOCHS", 1)
    monkeypatch.setattr(probes, "PART", 8)


NAMES = [
    "val_not_in_train", "first_loss", "class_share", "first_step_loss", "penalty_raises_loss",
    "samples_independent", "gradient", "input_as_stored", "deterministic", "all_layers_move",
    "update_ratio", "layers_alive", "blanked_at_majority", "lr_too_low", "lr_too_high",
    "overfits_2", "overfits_20",
]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_network_makes_every_check_and_leaves_the_random_state(
    cheap: None, faces: Splits, optimizer: str
) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    found = list(probes.network(SanityConfig(optimizer=optimizer), faces, CPU))
    assert [check.name for check in found] == NAMES
    assert torch.equal(torch.rand(3), expected)
    assert {check.name for check in found if check.verdict == "fail"} <= {
        "overfits_2", "overfits_20"  # in one epoch
    }


@pytest.mark.parametrize("kind", [SearchConfig, OverfitConfig])
def test_quick_takes_any_config(cheap: None, faces: Splits, kind: type[RunConfig]) -> None:
    found = [check.name for check in probes.quick(kind(dataset="faces"), faces, CPU)]
    assert found == [
        *(name for name in NAMES if name != "update_ratio"), "overfits", "held_out_above_chance",
    ]


def settled(**changes: object) -> SanityConfig:
    return resolve(SanityConfig(**changes))  # type: ignore[arg-type]


def test_copies_are_counted_by_validation_pictures(faces: Splits) -> None:
    images = faces.train.images.copy()
    images[:4] = faces.val.images[[0, 0, 1, 2]]
    train_part = dataclasses.replace(faces.train, images=images)
    [check] = probes.no_copies(settled(), dataclasses.replace(faces, train=train_part), CPU)
    assert check.measured == 3 / len(faces.val) and check.verdict == "fail"


def test_the_penalty_is_what_weight_decay_means(faces: Splits) -> None:
    """Half of it times the squared weights, for both optimizers."""
    net = probes.build(2, 0)
    squares = sum(float(weight.detach().double().square().sum()) for weight in net.parameters())
    for optimizer in ("sgd", "adam"):
        _, check = probes.first_step(settled(optimizer=optimizer), faces, CPU)
        assert check.expected == pytest.approx(0.5e-3 * squares, rel=1e-5)
        assert check.measured == pytest.approx(check.expected, rel=1e-2)


@pytest.mark.parametrize("batch_size", [4, 32])
def test_no_step_that_is_looked_into_would_be_captured(
    faces: Splits, monkeypatch: pytest.MonkeyPatch, batch_size: int
) -> None:
    """On CUDA: a hook that reads what passes ends a capture, and a replay calls no hook."""
    calls = []

    def counted(captured: Captured, work: Callable[[], None]) -> None:
        calls.append(captured)
        work()

    monkeypatch.setattr(Captured, "__call__", counted)
    [found] = probes.seen_input(settled(batch_size=batch_size), faces, CPU)
    assert found.verdict == "pass" and 0 < len(calls) <= WARM_UP


def test_updates_are_those_of_the_rate(faces: Splits) -> None:
    """Without momentum and dropout aside, ten times the rate is about ten times the update."""
    ratios = [
        next(check.measured for check in probes.movement(settled(momentum=0.0, lr=lr), faces, CPU)
             if check.name == "update_ratio")
        for lr in (1e-4, 1e-3)
    ]
    assert ratios[0] and ratios[1] and ratios[1] / ratios[0] == pytest.approx(10, rel=0.1)


def test_an_unheard_of_rate_is_no_fault_of_the_layers(faces: Splits) -> None:
    found = {check.name: check for check in probes.movement(settled(lr=1e6), faces, CPU)}
    assert found["all_layers_move"].verdict == "pass"
    assert found["update_ratio"].verdict == "warn"
    assert "lower" in found["update_ratio"].sentence


def test_batches_are_the_loops_own(faces: Splits) -> None:
    batches = probes._batches(settled(), faces.train, CPU, 100)
    sizes = [len(next(batches)[1]) for _ in range(4)]
    assert sizes == [100, len(faces.train) - 100] * 2  # on and on
    pictures, labels = next(batches)
    assert pictures.dtype == torch.float32 and labels.dtype == torch.int64
    images, _ = train.resident(faces.train, CPU)
    known = {one.numpy().tobytes() for one in augment.normalise(augment.to_pixels(images))}
    assert {one.numpy().tobytes() for one in pictures} <= known


@pytest.mark.parametrize("count", [2, 20])
def test_a_handful_is_of_as_many_classes_as_fit(digits: Splits, count: int) -> None:
    few = probes._handful(digits.train, count, 0)
    assert len(few) == count and len(np.unique(few.labels)) == min(count, 10)


def test_the_part_learnt_by_heart_is_not_scored(faces: Splits) -> None:
    part = stratified_part(faces.train, 64, 0)
    net = copy.deepcopy(probes.build(2, 0))
    check = probes.held_out(net, faces, part, CPU, 0)
    rest = len(faces.train) - 64 + len(faces.val)
    assert f"of {rest} held-out" in check.sentence
    whole = probes.held_out(net, faces, faces.train, CPU, 0)
    assert f"of {len(faces.val)} held-out" in whole.sentence


def test_held_out_pictures_are_capped(digits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "HELD_OUT", 200)
    check = probes.held_out(probes.build(10, 0), digits, stratified_part(digits.train, 64, 0),
                            CPU, 0)
    assert "of 200 held-out" in check.sentence


def test_silent_units_are_counted_by_layer(faces: Splits) -> None:
    net = probes.build(2, 0)
    torch.nn.init.constant_(net.features[0].bias[:16], -100.0)  # a quarter of its channels
    shares = probes._silent(net, torch.zeros(2, 3, 32, 32))
    assert list(shares)[0] == "features.1" and len(shares) == 7
    assert shares["features.1"] >= 0.25
    torch.nn.init.constant_(net.features[0].bias, math.nan)
    assert probes._silent(net, torch.zeros(2, 3, 32, 32))["features.1"] == 0


def test_the_presets_rates_are_those_of_sanity(faces: Splits) -> None:
    _, ratio, _ = probes.movement(settled(dataset="faces", optimizer="adam"), faces, CPU)
    assert f"lr {PRESETS['faces'].sanity_lr['adam']:g}" in ratio.sentence


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no NVIDIA GPU")
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_nothing_fails_on_a_gpu(faces: Splits, optimizer: str) -> None:
    found = probes.quick(SanityConfig(optimizer=optimizer), faces, torch.device("cuda"))
    assert checks.overall(found) != "fail", [one for one in found if one.verdict == "fail"]
