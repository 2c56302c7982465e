"""MLproject = command line = config: the same names and defaults; and `mlflow run` for real."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from alexnet_mlflow.cli import commands, options_of
from alexnet_mlflow.config import STAGES
from alexnet_mlflow.options import option_name, option_text

ROOT = Path(__file__).resolve().parent.parent
PROJECT = yaml.safe_load((ROOT / "MLproject").read_text())
ENTRY_POINTS = {"babysit": "main"}


@pytest.mark.parametrize("stage", STAGES)
def test_an_entry_point_is_its_command_and_its_config(stage: str) -> None:
    entry = PROJECT["entry_points"][ENTRY_POINTS.get(stage, stage)]
    fields = {item.name: item for item in dataclasses.fields(STAGES[stage])}
    declared = {name: str(spec["default"]) for name, spec in entry["parameters"].items()}
    assert declared == {name: option_text(item.default) for name, item in fields.items()}
    options = {option.name: option for option in options_of(STAGES[stage])}
    assert options.keys() == declared.keys() == {p.name for p in commands.commands[stage].params}
    words = entry["command"].split()
    assert words[:4] == ["python", "-m", "alexnet_mlflow", stage]
    assert words[4:] == [f"{option_name(name)}={{{name}}}" for name in fields]


@pytest.mark.parametrize("stage", STAGES)
def test_the_declared_defaults_give_the_default_config(stage: str) -> None:
    """Parsed as the command line parses them, every default is the config's own."""
    entry = PROJECT["entry_points"][ENTRY_POINTS.get(stage, stage)]
    words = [f"{option_name(name)}={spec['default']}" for name, spec in entry["parameters"].items()]
    with commands.commands[stage].make_context(stage, words) as context:
        assert STAGES[stage](**context.params) == STAGES[stage]()


def test_there_is_no_other_entry_point() -> None:
    assert set(PROJECT["entry_points"]) == {ENTRY_POINTS.get(stage, stage) for stage in STAGES}


def test_placeholders_stand_neither_bare_nor_quoted() -> None:
    """`{lr}` alone would let an option through; quotes around it would execute `$(...)`."""
    for entry in PROJECT["entry_points"].values():
        command = entry["command"]
        assert not set("\"'`$;|&") & set(command)
        held = re.findall(r"--[a-z-]+=\{[a-z_]+\}", command)
        assert len(held) == command.count("{")


def test_the_environment_is_the_lock() -> None:
    conda = yaml.safe_load((ROOT / PROJECT["conda_env"]).read_text())
    names = [item.split("=")[0] for item in conda["dependencies"] if isinstance(item, str)]
    assert names == ["python", "pip"], "uv and virtualenv can read no other conda package"
    assert conda["dependencies"][-1] == {"pip": ["-r requirements.txt"]}
    lock = (ROOT / "requirements.txt").read_text()
    pinned = re.findall(r"^[a-z0-9._-]+==\S+.*\\$", lock, flags=re.MULTILINE)
    bare = [line for line in re.findall(r"^[a-z0-9].*$", lock, re.MULTILINE) if "\\" not in line]
    assert len(pinned) > 90 and bare == [], "a package without a hash"


def mlflow_run(
    store: Path, *words: str, manager: str = "local"
) -> subprocess.CompletedProcess[str]:
    """`mlflow run` of this project, in a store of its own."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "MLFLOW_TRACKING_URI": f"sqlite:///{store}/mlflow.db",
        "MLFLOW_ENV_ROOT": str(store / "envs"),
        "UV_COMPILE_BYTECODE": "1",
    }
    mlflow = Path(sys.executable).parent / "mlflow"
    command = [str(mlflow), "run", str(ROOT), "--env-manager", manager, *words]
    return subprocess.run(command, cwd=store, env=environment, capture_output=True, text=True)


def test_mlflow_run_uses_the_runners_own_run(store: Path, pictures: Path) -> None:
    done = mlflow_run(
        store, "-e", "overfit", "-P", f"dataset={pictures}", "-P", "optimizer=adam",
        "-P", "batch_size=8", "-P", "pictures=8", "-P", "device=cpu",
    )
    assert done.returncode == 0, done.stderr
    [run] = MlflowClient().search_runs(["0"])
    assert run.info.status == "FINISHED" and run.data.tags["stage"] == "overfit"
    assert run.data.tags["mlflow.project.entryPoint"] == "overfit"
    assert run.data.params["lr"] == "auto" and run.data.params["resolved_lr"] == "0.0003"


def test_a_stage_that_says_no_makes_the_runners_run_failed(store: Path, pictures: Path) -> None:
    done = mlflow_run(
        store, "-e", "overfit", "-P", f"dataset={pictures}", "-P", "epochs=1", "-P", "lr=1e-9",
        "-P", "batch_size=8", "-P", "device=cpu",
    )
    assert done.returncode != 0
    [run] = MlflowClient().search_runs(["0"])
    assert run.info.status == "FAILED" and run.data.tags["verdict"] == "fail"


def test_mlflow_run_refuses_an_unknown_option(store: Path) -> None:
    done = mlflow_run(store, "-e", "sanity", "-P", "nonsense=1")
    assert done.returncode != 0 and "No such option '--nonsense'" in done.stderr
    [run] = MlflowClient().search_runs(["0"])
    assert run.info.status == "FAILED"


@pytest.mark.skipif(
    "ALEXNET_SLOW" not in os.environ, reason="ALEXNET_SLOW is not set: builds a whole environment"
)
def test_mlflow_run_builds_its_environment_with_uv(store: Path, pictures: Path) -> None:
    done = mlflow_run(
        store, "-e", "overfit", "-P", f"dataset={pictures}", "-P", "optimizer=adam",
        "-P", "batch_size=8", "-P", "pictures=8", manager="uv",
    )
    shutil.rmtree(store / "envs", ignore_errors=True)
    assert done.returncode == 0, done.stderr
    assert "using uv" in done.stderr
    [run] = MlflowClient().search_runs(["0"])
    assert run.info.status == "FINISHED" and run.data.tags["verdict"] == "pass"
