"""Who becomes champion, and why not."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from alexnet_mlflow import registry
from alexnet_mlflow.config import PromoteConfig
from alexnet_mlflow.options import BadInput
from alexnet_mlflow.registry import Version
from alexnet_mlflow.runs import FoundRun
from alexnet_mlflow.stages import promote
from alexnet_mlflow.track import connect
from tests.conftest import Babysat


def evaluated(accuracy: float, val: float = 0.9, digest: str = "d") -> FoundRun:
    metrics = {"test_accuracy": accuracy, "best_val_accuracy": val, "best_val_loss": 0.1}
    return FoundRun("e", {}, metrics, {"test_digest": digest, "final_run": "f"})


def version(number: str, accuracy: float) -> Version:
    tags = {"test_accuracy": str(accuracy), "test_digest": "d"}
    return Version("alexnet-x", number, "models:/m", "f", tags)


@pytest.mark.parametrize(
    ("accuracy", "reigning", "wins"), [(0.9, 0.8, True), (0.9, 0.9, False), (0.8, 0.9, False)]
)
def test_more_of_the_same_pictures_wins(accuracy: float, reigning: float, wins: bool) -> None:
    challenger, champion = version("2", accuracy), version("1", reigning)
    decision, why = promote._judge(evaluated(accuracy), challenger, champion)
    assert decision is wins
    assert f"{accuracy:.2%}" in why and f"{reigning:.2%}" in why


def test_the_first_is_champion_and_a_second_look_changes_nothing(
    babysat: Babysat, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(babysat.folder)
    [first] = babysat.runs["promote"]
    assert "there was none" in first.data.tags["decision"]
    champion = registry.champion("alexnet-colours")
    assert champion is not None and champion.number == "1"
    assert {"test_accuracy", "final_run", "data_digest", "test_digest"} <= champion.tags.keys()
    result = promote.run(PromoteConfig(dataset=str(pictures)), connect())
    assert "is the champion already" in result.sentences[1]
    assert result.figures["champion"] == result.figures["version"] == 1
    assert len(MlflowClient().search_model_versions("name = 'alexnet-colours'")) == 1


def test_the_better_on_validation_is_chosen(babysat: Babysat) -> None:
    by_validation = max(
        babysat.runs["evaluate"],
        key=lambda run: (run.data.metrics["best_val_accuracy"], -run.data.metrics["best_val_loss"]),
    )
    client = MlflowClient(f"sqlite:///{babysat.folder}/mlflow.db")
    found = client.get_model_version("alexnet-colours", "1")
    assert found.run_id == by_validation.data.tags["final_run"]


def test_a_champion_tested_on_other_pictures_is_not_compared(
    babysat: Babysat, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(babysat.folder)
    client = MlflowClient()
    digest = client.get_model_version("alexnet-colours", "1").tags["test_digest"]
    client.set_model_version_tag("alexnet-colours", "1", "test_digest", "another")
    try:
        champion = registry.champion("alexnet-colours")
        assert champion is not None
        wins, why = promote._judge(evaluated(1.0, digest=digest), version("2", 1.0), champion)
        assert not wins and "it was tested on other pictures" in why
    finally:
        client.set_model_version_tag("alexnet-colours", "1", "test_digest", digest)


def test_without_an_evaluation_there_is_nothing_to_promote(store: Path) -> None:
    with pytest.raises(BadInput, match="alexnet-mlflow evaluate --dataset=faces"):
        promote.run(PromoteConfig(), connect())


def test_candidates_share_the_pictures_of_the_latest(store: Path) -> None:
    """An older evaluation on another division is not ranked with a newer one."""
    root = connect()
    for optimizer, digest in (("sgd", "old"), ("adam", "old"), ("adam", "new")):
        tags = {"stage": "evaluate", "dataset": "x", "optimizer": optimizer, "verdict": "pass"}
        with root.child("evaluate", {**tags, "data_digest": digest}):
            pass
    found = promote._candidates("x", root)
    assert [(run.tags["optimizer"], run.tags["data_digest"]) for run in found] == [("adam", "new")]
