"""Real `mlflow run`, every entry point: whatever the parameters say, nothing but the stage runs."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from tests.test_entry_points import ROOT, mlflow_run

POINTS = yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"]
PAYLOAD = "$(touch canary)`touch canary`; touch canary\ntouch canary # '\" --force"
MEGABYTE = "x" * 2**20
# By MLflow's own function: the system takes no such word on a command line.
LONG_RUN = """
import mlflow, pathlib, sys
mlflow.projects.run(sys.argv[1], "sanity", env_manager="local",
                    parameters={"dataset": pathlib.Path("payload").read_text()})
"""


@pytest.mark.parametrize(
    ("point", "payload"), [*((point, PAYLOAD) for point in POINTS), ("main", "--help")],
    ids=[*POINTS, "option"],
)
def test_nothing_but_the_stage_runs(store: Path, point: str, payload: str) -> None:
    """As the name of the data set: it reaches the program as it is, which knows no such set."""
    done = mlflow_run(store, "-e", point, "-P", f"dataset={payload}")
    assert done.returncode != 0
    assert not [*store.glob("canary"), *ROOT.glob("canary")]
    assert "Usage:" not in done.stdout, "an option was smuggled in"
    assert re.search(r"^Error: ", done.stderr, re.MULTILINE), done.stderr[-2000:]
    runs = MlflowClient().search_runs(["0"])
    assert runs and {run.info.status for run in runs} == {"FAILED"}
    # MLflow's runner logs the value as it has quoted it.
    assert {run.data.params["dataset"] for run in runs} <= {payload, shlex.quote(payload)}


def test_of_a_megabyte_nothing_is_started(store: Path) -> None:
    """MLflow refuses the parameter, and leaves its own run open."""
    (store / "payload").write_text(MEGABYTE)
    command = [sys.executable, "-c", LONG_RUN, str(ROOT)]
    done = subprocess.run(command, cwd=store, capture_output=True, text=True)
    assert done.returncode != 0
    assert not [run for run in MlflowClient().search_runs(["0"]) if "stage" in run.data.tags]
