"""The options of commands that are no stages: each has a help, wrong values are refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from alexnet_mlflow.commands import COMMANDS, DATA_COMMANDS, GetConfig
from alexnet_mlflow.options import BadInput


@pytest.mark.parametrize("name", [*DATA_COMMANDS, *COMMANDS])
def test_every_option_has_a_help_and_defaults_are_good(name: str) -> None:
    config = {**DATA_COMMANDS, **COMMANDS}[name]
    assert config.command == name
    fields = {item.name for item in dataclasses.fields(config)}
    given = {"model": "models:/x@champion"} if "model" in fields else {}
    made = config(**given)
    for item in dataclasses.fields(config):
        assert item.metadata["help"].endswith(".")
        assert getattr(made, item.name) == given.get(item.name, item.default)


def test_what_is_for_faces_alone_is_an_option() -> None:
    config = COMMANDS["predict"]
    assert {item.name for item in dataclasses.fields(config)} > set(config.of_faces)


@pytest.mark.parametrize(
    ("wrong", "part"),
    [
        ({"dataset": "fddb", "rotate": 10}, "--rotate must be 0 to 9, got 10"),
        ({"dataset": "fddb", "rotate": -1}, "--rotate must be at least 0"),
        ({"dataset": "fddb", "seed": -1}, "--seed must be at least 0"),
        ({"dataset": "faces"}, "--dataset must be one of cifar10, fddb"),
        ({"hard": True}, "--hard is for fddb, got it with cifar10: leave it out"),
        ({"photos": "x"}, "--photos is for fddb"),
    ],
)
def test_a_wrong_value_is_refused(wrong: dict[str, Any], part: str) -> None:
    with pytest.raises(BadInput) as refused:
        GetConfig(**wrong)
    assert part in str(refused.value) and "\n" not in str(refused.value)
