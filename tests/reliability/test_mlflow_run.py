"""Real `mlflow run`, every entry point: whatever the parameters say, nothing but the stage runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from tests.test_entry_points import ROOT, mlflow_run

POINTS = yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"]
PAYLOAD = "$(touch canary)`touch canary`; touch canary\ntouch canary # '\" --force"
HOSTILE = [(point, PAYLOAD) for point in POINTS]
HOSTILE += [("sanity", "--help"), ("sanity", "x" * 2**20)]


@pytest.mark.parametrize(
    ("point", "payload"), HOSTILE,
    ids=[f"{point}-{len(payload)}" for point, payload in HOSTILE],
)
def test_nothing_but_the_stage_runs(store: Path, point: str, payload: str) -> None:
    """All parameters at once, for a data set that is none; a megabyte is refused by MLflow."""
    texts = [name for name, spec in POINTS[point]["parameters"].items() if "run" != name]
    done = (
        mlflow_run(store, "-e", point, "-P", f"dataset={payload}") if len(payload) < 2**17
        else long_run(store, point, payload)
    )
    assert done.returncode != 0 and texts
    for folder in (store, ROOT):
        assert not list(folder.glob("canary"))
    if len(payload) < 2**17:
        assert "Usage:" not in done.stdout, "an option was smuggled in"
        assert re.search(r"^Error: ", done.stderr, re.MULTILINE), done.stderr[-2000:]
    for run in MlflowClient().search_runs(["0"]):
        if len(payload) < 2**17:
            assert run.info.status == "FAILED"
        else:  # MLflow's runner leaves its own run open when it refuses a parameter
            assert "stage" not in run.data.tags, "the program was started"


def long_run(store: Path, point: str, payload: str):  # type: ignore[no-untyped-def]
    """By MLflow's own function: the system takes no such word on a command line."""
    import subprocess
    import sys

    (store / "payload").write_text(payload)
    code = (
        "import mlflow, pathlib\n"
        f"mlflow.projects.run({str(ROOT)!r}, {point!r}, env_manager='local',\n"
        "    parameters={'dataset': pathlib.Path('payload').read_text()})\n"
    )
    return subprocess.run(
        [sys.executable, "-c", code], cwd=store, capture_output=True, text=True,
    )
