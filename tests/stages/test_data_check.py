"""`data check`: what it finds in a planted data set, what it writes, and what sanity logs of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

from alexnet_mlflow.cli import main
from alexnet_mlflow.commands import CheckConfig
from alexnet_mlflow.options import BadInput
from alexnet_mlflow.stages import data_check
from tests.conftest import Babysat


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """Two classes of smooth noise in train, val and test; three test pictures stand in train."""
    noise = np.random.default_rng(0)
    for part, count in (("train", 40), ("val", 10), ("test", 10)):
        for channel, name in ((2, "blue"), (0, "red")):
            place = tmp_path / "planted" / part / name
            place.mkdir(parents=True)
            for number in range(count):
                coarse = noise.integers(0, 120, (8, 8, 3), dtype=np.uint8)
                coarse[..., channel] += 120
                picture = Image.fromarray(coarse).resize((32, 32), Image.Resampling.BICUBIC)
                picture.save(place / f"{number}.png")
    for number in range(3):
        train, test = (tmp_path / "planted" / part / "red" for part in ("train", "test"))
        with Image.open(train / f"{number}.png") as copied:
            copied.save(test / f"{number}.png")
    return tmp_path / "planted"


def test_what_is_planted_is_found_and_written(planted: Path, tmp_path: Path) -> None:
    result = data_check.run(CheckConfig(dataset=str(planted), out=str(tmp_path / "out")))
    assert result.verdict == "warn" and result.run_id is None
    assert result.figures["leaked_pictures"] == 3
    assert result.figures["baseline_pixels_val_accuracy"] == 1.0
    place = tmp_path / "out" / "planted"
    report = json.loads((place / "report.json").read_text())
    verdicts = {check["name"]: check["verdict"] for check in report["checks"]}
    assert verdicts["no_duplicates_across"] == "warn" and verdicts["classes_balanced"] == "pass"
    assert report["exact"]["count"] == 3 and report["counts"]["test"] == {"blue": 10, "red": 10}
    for name in ("near_duplicates.png", "suspect_labels.png"):
        with Image.open(place / name) as figure:
            assert figure.width > 400


def test_the_report_needs_a_place(planted: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="give another folder with --out"):
        data_check.run(CheckConfig(dataset=str(planted), out=str(tmp_path / "file")))


def test_the_command_line(
    planted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["data", "check", str(planted)]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert json.loads(last)["verdict"] == "warn"
    assert any("3 of 20 test pictures have a copy" in line for line in lines)
    assert not (tmp_path / "mlflow.db").exists()


def test_sanity_logs_the_same_and_results_carry_the_baselines(babysat: Babysat) -> None:
    client = MlflowClient(f"sqlite:///{babysat.folder}/mlflow.db")
    sanity = babysat.runs["sanity"][0]
    names = {item.path for item in client.list_artifacts(sanity.info.run_id)}
    plots = {item.path for item in client.list_artifacts(sanity.info.run_id, "plots")}
    assert "data_check.json" in names
    assert {"plots/near_duplicates.png", "plots/suspect_labels.png"} <= plots
    for stage, split in (("sanity", "val"), ("search", "val"), ("final", "val"),
                         ("evaluate", "test")):
        for run in babysat.runs[stage]:
            for name in ("statistics", "pixels"):
                assert run.data.metrics[f"baseline_{name}_{split}_accuracy"] >= 0.5, stage
    assert not [name for name in babysat.runs["final"][0].data.metrics if "test_accuracy" in name]
