"""Real small things that several tests share: a store on sqlite, a folder of easy pictures.

The store is made once (MLflow's migrations take seconds) and copied for each test.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from PIL import Image

from alexnet_mlflow import model, pipeline, track
from alexnet_mlflow.config import BabysitConfig
from alexnet_mlflow.stages import StageResult
from tests.narrow import HIDDEN

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # asked once, at the first product
EACH = 32  # pictures a class
LONG = {  # files of more than a minute and few tests (measured, two cores)
    "test_kills.py", "test_soak.py",
    "test_container.py", "test_server.py", "test_final.py", "test_search.py", "test_final_kills.py",
    "test_search_kills.py", "test_search_signals.py", "test_promote_together.py",
    "test_distributed.py", "test_served.py", "test_compose.py", "test_entry_points.py",
    "test_study.py", "test_exported.py", "test_course.py",
}


@pytest.hookimpl(wrapper=True)  # xdist reads the groups in the same hook: a wrapper comes first
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> Generator[None]:
    """A file of tests at a time on each core (of the reliability tests each alone, which share
    nothing), and all tests that look at one run of the whole protocol on the same core, so that it
    is run once. The longest come first, so that no core is left alone with one."""
    shared = {item for item in items if "babysat" in getattr(item, "fixturenames", ())}
    for item in items:
        alone = item.path.parent.name == "reliability"
        file = str(item.path.relative_to(config.rootpath))
        group = "babysat" if item in shared else item.nodeid if alone else file
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: (item not in shared, item.path.name not in LONG))
    yield
    if items and config.getoption("loadgroup", False) and "@" not in items[0].nodeid:
        raise pytest.UsageError("pytest-xdist has not grouped the tests: pytest is too new for it")


@pytest.fixture(scope="session", autouse=True)
def _quiet() -> None:
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["ALEXNET_OFFLINE"] = "1"  # what a test downloads comes from servers of its own
    os.environ.pop("MLFLOW_RUN_ID", None)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sqlite file with MLflow's tables and nothing in them."""
    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def store(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder with a store of its own, as the current folder."""
    monkeypatch.chdir(tmp_path)
    yield from _use(empty_store, tmp_path)


def _use(empty_store: Path, folder: Path) -> Iterator[Path]:
    before = mlflow.get_tracking_uri()
    shutil.copy(empty_store, folder / "mlflow.db")
    with sqlite3.connect(folder / "mlflow.db") as database:  # artifacts belong to the copy too
        database.execute("UPDATE experiments SET artifact_location = ?", [f"{folder}/mlruns/0"])
    database.close()
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    yield folder
    assert mlflow.active_run() is None, "a test left a run open"
    mlflow.set_tracking_uri(before)


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this test trains is narrower."""
    monkeypatch.setattr(model, "HIDDEN", HIDDEN)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two classes that any net tells apart: reddish and bluish noise."""
    folder = tmp_path_factory.mktemp("data") / "colours"
    noise = np.random.default_rng(0)
    for channel, name in ((2, "blue"), (0, "red")):
        (folder / name).mkdir(parents=True)
        for number in range(EACH):
            pixels = noise.integers(0, 120, (32, 32, 3), dtype=np.uint8)
            pixels[..., channel] += 120
            Image.fromarray(pixels).save(folder / name / f"{number:03d}.png")
    return folder


@dataclass(frozen=True)
class Babysat:
    """What one run of the whole protocol left behind."""

    folder: Path
    result: StageResult
    runs: dict[str, list[mlflow.entities.Run]]  # by stage, oldest first; of finals the evaluated


@pytest.fixture(scope="session")
def babysat(
    empty_store: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Babysat]:
    """The whole protocol, both optimizers side by side, on easy pictures: run once, looked at by
    many."""
    folder, threads = tmp_path_factory.mktemp("babysat"), torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for _ in _use(empty_store, folder):
            config = BabysitConfig(
                dataset=str(pictures), optimizer="both", batch_size=8, device="cpu",
                trials=4, fine_trials=2, search_epochs=3, epochs=4, seed=2,
                lr_low=1e-4, lr_high=0.1, seeds=2,
            )
            torch.set_num_threads(2)  # one for each
            try:
                result = pipeline.run(config, track.connect())
            finally:
                torch.set_num_threads(threads)
            runs = mlflow.MlflowClient().search_runs(
                ["0"], order_by=["attributes.start_time ASC"], max_results=200
            )
            by_stage: dict[str, list[mlflow.entities.Run]] = {}
            for run in runs:
                by_stage.setdefault(run.data.tags["stage"], []).append(run)
            by_stage["final"].sort(key=lambda run: "test_looks" not in run.data.tags)
            yield Babysat(folder, result, by_stage)
