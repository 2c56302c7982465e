"""Presets fill every auto; a wrong value is refused with its option's name and a way out."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from alexnet_mlflow.config import (
    PRESETS,
    STAGES,
    BabysitConfig,
    DataConfig,
    EvaluateConfig,
    FinalConfig,
    OverfitConfig,
    Preset,
    RunConfig,
    SanityConfig,
    SearchConfig,
    resolve,
)
from alexnet_mlflow.options import BadInput, option_name

TRAINING = (SanityConfig, OverfitConfig, SearchConfig, FinalConfig, BabysitConfig)
# What is left to others: the search decides the rates, the data's size the part to overfit, and
# the final stage, whose preset it is, the epochs of the whole protocol's final training.
LEFT = {
    FinalConfig: {"lr", "weight_decay"}, OverfitConfig: {"pictures"}, BabysitConfig: {"epochs"}
}


@pytest.mark.parametrize("stage", TRAINING)
@pytest.mark.parametrize("dataset", [*PRESETS, "./pets"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_every_auto_is_filled(stage: type[RunConfig], dataset: str, optimizer: str) -> None:
    config = resolve(stage(dataset=dataset, optimizer=optimizer))
    empty = {item.name for item in dataclasses.fields(config) if getattr(config, item.name) is None}
    assert empty <= LEFT.get(stage, set())


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (SanityConfig(dataset="cifar10"), {"lr": 1e-3, "batch_size": 32}),
        (SanityConfig(dataset="cifar10", optimizer="adam"), {"lr": 1e-4}),
        (SanityConfig(dataset="fddb"), {"lr": 1e-4}),
        (OverfitConfig(dataset="fddb"), {"lr": 1e-2, "pictures": 128, "epochs": 300}),
        (OverfitConfig(dataset="fddb", optimizer="adam"), {"lr": 3e-4}),
        (OverfitConfig(dataset="cifar10"), {"pictures": None}),
        (SearchConfig(dataset="cifar10"), {"epochs": 5}),
        (SearchConfig(dataset="fddb"), {"epochs": 10}),
        (FinalConfig(dataset="cifar10"), {"epochs": 20, "lr": None, "weight_decay": None}),
        (BabysitConfig(dataset="fddb"), {"search_epochs": 10}),
        (SearchConfig(dataset="faces"), {"batch_size": 16}),
        (SearchConfig(dataset="./pets"), {"batch_size": Preset().batch_size}),
    ],
)
def test_the_presets_of_the_report(config: RunConfig, expected: dict[str, Any]) -> None:
    found = resolve(config)
    assert {name: getattr(found, name) for name in expected} == expected


def test_what_was_given_is_kept() -> None:
    given = SanityConfig(dataset="fddb", lr=0.5, batch_size=7, seed=3)
    assert resolve(given) == given


def test_resolving_twice_changes_nothing() -> None:
    once = resolve(SearchConfig(optimizer="adam"))
    assert resolve(once) == once


@pytest.mark.parametrize(
    ("config", "wrong"),
    [
        (DataConfig, {"val_fraction": 0.0}),
        (DataConfig, {"val_fraction": 1.0}),
        (DataConfig, {"test_fraction": math.nan}),
        (DataConfig, {"test_fraction": -0.1}),
        (DataConfig, {"limit": -1}),
        (DataConfig, {"split_seed": -1}),
        (RunConfig, {"optimizer": "rmsprop"}),
        (RunConfig, {"recipe": "plain"}),
        (RunConfig, {"device": "tpu"}),
        (RunConfig, {"seed": -1}),
        (RunConfig, {"seed": 2**63}),
        (RunConfig, {"batch_size": 0}),
        (RunConfig, {"momentum": -0.1}),
        (RunConfig, {"momentum": 1.0}),
        (RunConfig, {"momentum": math.nan}),
        (SanityConfig, {"lr": 0.0}),
        (SanityConfig, {"lr": math.nan}),
        (SanityConfig, {"low_lr": -1.0}),
        (SanityConfig, {"high_lr": math.inf}),
        (OverfitConfig, {"lr": -1.0}),
        (OverfitConfig, {"pictures": 0}),
        (OverfitConfig, {"epochs": 0}),
        (SearchConfig, {"trials": 0}),
        (SearchConfig, {"fine_trials": -1}),
        (SearchConfig, {"epochs": -5}),
        (SearchConfig, {"lr_low": 0.0}),
        (SearchConfig, {"lr_high": math.inf}),
        (SearchConfig, {"lr_low": 1.0, "lr_high": 1.0}),
        (SearchConfig, {"weight_decay_low": 0.0}),
        (SearchConfig, {"weight_decay_low": 1e-2}),
        (FinalConfig, {"lr": 0.0}),
        (FinalConfig, {"weight_decay": -1e-4}),
        (FinalConfig, {"epochs": 0}),
        (EvaluateConfig, {"optimizer": "both"}),
        (EvaluateConfig, {"device": "gpu"}),
        (BabysitConfig, {"optimizer": "all"}),
        (BabysitConfig, {"search_epochs": 0}),
        (BabysitConfig, {"fine_trials": -1}),
        (BabysitConfig, {"seed": -1}),
    ],
)
def test_a_wrong_value_is_refused(config: type[Any], wrong: dict[str, Any]) -> None:
    name, value = next(iter(wrong.items()))
    with pytest.raises(BadInput) as refusal:
        config(**wrong)
    sentence = str(refusal.value)
    assert sentence.startswith(option_name(name).removesuffix("-low").removesuffix("-high"))
    assert str(value) in sentence
    assert ": " in sentence  # rule and value, then the way out
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("config", "edge"),
    [
        (DataConfig, {"limit": 0, "split_seed": 0, "val_fraction": 1e-9}),
        (RunConfig, {"seed": 2**63 - 1, "momentum": 0.0, "batch_size": 1}),
        (SearchConfig, {"fine_trials": 0, "lr_low": 1e-30, "lr_high": 1e12}),
        (FinalConfig, {"weight_decay": 0.0}),
        (BabysitConfig, {"optimizer": "both"}),
    ],
)
def test_the_last_good_value_is_taken(config: type[Any], edge: dict[str, Any]) -> None:
    made = config(**edge)
    assert {name: getattr(made, name) for name in edge} == edge


@pytest.mark.parametrize("config", [*STAGES.values(), DataConfig, RunConfig])
def test_every_option_has_a_help_and_defaults_are_good(config: type[Any]) -> None:
    made = config()
    for item in dataclasses.fields(config):
        assert item.metadata["help"].endswith(".")
        assert getattr(made, item.name) == item.default
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.dataset = "digits"


def test_a_stage_is_found_by_its_name() -> None:
    assert all(config.stage == name for name, config in STAGES.items())
    assert next(iter(STAGES)) == "babysit"


def test_where_the_data_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ALEXNET_DATA", raising=False)
    assert DataConfig().data_root == Path("data")
    monkeypatch.setenv("ALEXNET_DATA", "/elsewhere")
    assert DataConfig().data_root == Path("/elsewhere")
    assert DataConfig(data_dir="here").data_root == Path("here")


def test_nothing_heavy_is_imported() -> None:
    code = "import sys, alexnet_mlflow.config; print({'torch', 'mlflow', 'numpy'} & {*sys.modules})"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        cwd=Path(__file__).parents[1],
    )
    assert found.stdout.strip() == "set()"
