"""Who becomes champion, and why not; what is left on record, and what refusing leaves alone."""

from __future__ import annotations

import json
from pathlib import Path
from threading import Thread
from typing import Any

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient

from alexnet_mlflow import registry
from alexnet_mlflow.cli import main
from alexnet_mlflow.config import PromoteConfig
from alexnet_mlflow.options import BadInput
from alexnet_mlflow.runs import Tracker
from alexnet_mlflow.stages import StageResult, promote
from alexnet_mlflow.track import connect
from tests.conftest import Babysat
from tests.evaluations import evaluated, predictions

NAME = "alexnet-x"
N = 100


@pytest.fixture
def root(store: Path) -> Tracker:
    return connect()


def model(root: Tracker, right: int, **tags: Any) -> str:
    """An evaluated final that gets so many of 100 pictures right: the evaluation's id."""
    return evaluated(root, predictions(np.arange(N) < right), right / N, **tags)[1]


def promoted(root: Tracker, **options: Any) -> StageResult:
    return promote.run(PromoteConfig(dataset="x", **options), root)


def state() -> object:
    """All that the registry holds, and how many runs of this stage there are."""
    client = MlflowClient()
    models = [
        (one.name, dict(one.aliases), dict(one.tags)) for one in client.search_registered_models()
    ]
    versions = [
        (one.name, one.version, dict(one.tags), one.description)
        for one in client.search_model_versions()
    ]
    return models, versions, len(client.search_runs(["0"], "tags.stage = 'promote'"))


def aliases() -> dict[str, str]:
    found = MlflowClient().get_registered_model(NAME).aliases
    return {alias: str(number) for alias, number in found.items()}


def decision(result: StageResult) -> dict[str, Any]:
    text = mlflow.artifacts.load_text(f"runs:/{result.run_id}/decision.json")
    found: dict[str, Any] = json.loads(text)
    return found


def test_the_first_is_champion_and_a_second_look_changes_nothing(
    babysat: Babysat, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On what real trainings and evaluations leave."""
    monkeypatch.chdir(babysat.folder)
    [first] = babysat.runs["promote"]
    assert "there was none" in first.data.tags["decision"]
    champion = registry.champion("alexnet-colours")
    assert champion is not None and champion.number == "1"
    assert {"test_accuracy", "final_run", "data_digest", "test_digest"} <= champion.tags.keys()
    assert champion.tags["trained_on"] == "colours"
    result = promote.run(PromoteConfig(dataset=str(pictures)), connect())
    assert "is the champion already" in result.sentences[1]
    assert result.figures["champion"] == result.figures["version"] == 1
    assert len(MlflowClient().search_model_versions("name = 'alexnet-colours'")) == 1


def test_the_other_of_two_real_models_is_compared(
    babysat: Babysat, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(babysat.folder)
    champion = registry.champion("alexnet-colours")
    assert champion is not None
    [other] = [
        run.info.run_id for run in babysat.runs["evaluate"]
        if run.data.tags["final_run"] != champion.run_id
    ]
    config = PromoteConfig(dataset=str(pictures), run=other, dry_run=True)
    result = promote.run(config, connect())
    assert result.figures["policy"] == "proven" and "McNemar's exact test" in result.sentences[1]


def test_the_better_on_validation_is_chosen(babysat: Babysat) -> None:
    by_validation = max(
        babysat.runs["evaluate"],
        key=lambda run: (run.data.metrics["best_val_accuracy"], -run.data.metrics["best_val_loss"]),
    )
    client = MlflowClient(f"sqlite:///{babysat.folder}/mlflow.db")
    found = client.get_model_version("alexnet-colours", "1")
    assert found.run_id == by_validation.data.tags["final_run"]


def test_what_is_proven_becomes_champion_and_is_on_record(root: Tracker) -> None:
    first = promoted(root, run=model(root, 70))
    second = promoted(root, run=(evaluation := model(root, 80, optimizer="adam", seed="7")))
    assert first.figures["policy"] == "better" and second.figures["policy"] == "proven"
    assert aliases() == {"champion": "2", "previous": "1"}
    assert second.sentences[1].startswith(
        "Version 2 (adam, 80 of 100 = 80.00% (Wilson 95 % 71.12% to 86.66%) on test) becomes "
        "champion instead of version 1: +10.00 points"
    )
    run = MlflowClient().get_run(str(second.run_id))
    assert run.info.status == "FINISHED" and run.data.tags["decision"] == second.sentences[1]
    assert (run.data.tags["stage"], run.data.tags["dataset"]) == ("promote", "x")
    assert run.data.params["policy"] == "proven"
    found = decision(second)
    assert found["sentence"] == second.sentences[1] and found["champion_before"] == "1"
    cells = ("both", "challenger_only", "champion_only", "neither")
    assert [found["comparison"][cell] for cell in cells] == [70, 10, 0, 20]
    for key in ("gain", "gain_low", "gain_high", "p_value"):
        assert found[key] == run.data.metrics[key] == second.figures[key]
    assert run.data.metrics["pictures_challenger_only"] == 10
    version = MlflowClient().get_model_version(NAME, "2")
    assert version.tags["evaluate_run"] == evaluation and version.tags["seed"] == "7"
    assert {"data_digest", "test_accuracy", "test_accuracy_low", "test_accuracy_high", "final_run",
            "git_commit", "test_digest"} <= version.tags.keys()
    assert "Test: 80 of 100 = 80.00% (Wilson 95 %" in version.description
    assert second.sentences[1] in version.description
    assert [row["evaluate_run"] for row in json.loads(
        mlflow.artifacts.load_text(f"runs:/{second.run_id}/candidates.json")
    )] == [evaluation]


def test_no_proven_difference_is_a_good_answer(
    root: Tracker, capsys: pytest.CaptureFixture[str]
) -> None:
    promoted(root, run=model(root, 80))
    model(root, 83)
    assert main(["promote", "--dataset=x"]) == 0
    *_, told, line = capsys.readouterr().out.strip().splitlines()
    assert "no proven difference: +3.00 points" in told and "version 1 stays champion" in (
        told[0].lower() + told[1:]
    )
    assert json.loads(line)["champion"] == 1 and json.loads(line)["verdict"] == "pass"
    assert aliases() == {"champion": "1", "challenger": "2"}
    [kept] = MlflowClient().search_runs(["0"], "tags.model_version = '2'")
    assert kept.data.metrics["promoted"] == 0 and kept.data.tags["decision"] == told
    better = promoted(root, policy="better")
    assert better.figures["promoted"] and aliases() == {"champion": "2", "previous": "1"}


def test_a_minimum_gain(root: Tracker) -> None:
    promoted(root, run=model(root, 70))
    model(root, 80)
    assert "below --min-gain=0.2" in promoted(root, min_gain=0.2).sentences[1]
    assert promoted(root, min_gain=0.1).figures["promoted"]


def test_back_and_back_again(root: Tracker) -> None:
    for right in (60, 75, 90):
        promoted(root, run=model(root, right))
    for champion, previous in (("2", {"previous": "1"}), ("1", {})):
        assert "Dry run" in promoted(root, rollback=True, dry_run=True).sentences[0]
        result = promoted(root, rollback=True)
        assert result.figures["champion"] == int(champion) and result.verdict == "pass"
        assert aliases() == {"champion": champion, **previous}
        assert MlflowClient().get_run(str(result.run_id)).data.tags["decision"] == (
            result.sentences[0]
        )
        for number in (champion, str(int(champion) + 1)):
            page = MlflowClient().get_model_version("alexnet-x", number).description
            assert page.endswith(result.sentences[0]), "the page tells who is champion"
    before = state()
    with pytest.raises(BadInput, match="succeeded no other"):
        promoted(root, rollback=True)
    assert state() == before


def test_a_dry_run_changes_nothing(root: Tracker) -> None:
    evaluation = model(root, 70)
    for _ in range(2):
        before = state()
        result = promoted(root, run=evaluation, dry_run=True)
        assert state() == before and result.run_id is None
        assert "the candidate (sgd" in result.sentences[1].replace("The", "the")
        promoted(root, run=evaluation)
        evaluation = model(root, 90)


def test_a_champion_on_other_pictures_is_not_compared(root: Tracker) -> None:
    promoted(root, run=model(root, 70))
    other = model(root, 90, test_digest="another")
    before = state()
    with pytest.raises(BadInput, match="version 1 of alexnet-x was tested on other pictures"):
        promoted(root, run=other)
    assert state() == before


def test_a_champion_that_was_evaluated_again_on_these_pictures_is(root: Tracker) -> None:
    final, old = evaluated(root, predictions(np.arange(N) < 70), test_digest="old")
    promoted(root, run=old)
    evaluated(root, predictions(np.arange(N) < 60), final=final)
    result = promoted(root, run=model(root, 90))
    assert result.figures["gain"] == pytest.approx(0.3) and aliases()["champion"] == "2"


def test_a_model_of_other_classes_is_not_compared(root: Tracker) -> None:
    promoted(root, run=model(root, 70))
    table = predictions(np.arange(N) < 90, classes=("cat", "cow", "dog"))
    _, other = evaluated(root, table, test_digest="another")
    before = state()
    with pytest.raises(BadInput, match="tells cat and dog apart, the candidate cat and cow and do"):
        promoted(root, run=other)
    assert state() == before


def test_predictions_that_are_not_on_record(root: Tracker) -> None:
    first, second = model(root, 70), model(root, 90)
    promoted(root, run=first)
    before = state()
    for lost, told in ((second, f"the evaluation {second} has no"), (first, "are not on record")):
        uri = MlflowClient().get_run(lost).info.artifact_uri
        file = Path(uri.removeprefix("file://")) / "predictions.parquet"
        aside = file.rename(file.with_suffix(".aside"))
        with pytest.raises(BadInput, match=told):
            promoted(root, run=second)
        aside.rename(file)
    assert state() == before


def test_photos_are_compared_as_a_whole(root: Tracker) -> None:
    photos = [f"photo {number // 10}" for number in range(N)]
    for right in (70, 80):
        _, evaluation = evaluated(root, predictions(np.arange(N) < right, photos))
        result = promoted(root, run=evaluation)
    found = decision(result)["comparison"]
    assert found["clusters"] == 10 and "clustered by photo" in found["method"]
    assert result.figures["p_value"] == 1 and not result.figures["promoted"]


def test_a_champion_that_a_person_moves_meanwhile(
    root: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the registry's page, while the candidate is being registered."""
    for right in (60, 75):
        promoted(root, run=model(root, right))
    challenger, register = model(root, 90), registry.register

    def moved(*words: Any) -> registry.Version:
        made = register(*words)
        MlflowClient().set_registered_model_alias(NAME, "champion", "1")
        return made

    monkeypatch.setattr(registry, "register", moved)
    with pytest.raises(BadInput, match=r"moved meanwhile \(from version 2 to version 1\)"):
        promoted(root, run=challenger)
    assert aliases() == {"champion": "1", "previous": "1"}
    assert len(MlflowClient().search_model_versions(f"name = '{NAME}'")) == 2
    monkeypatch.undo()
    assert promoted(root, run=challenger).figures["promoted"]
    assert aliases() == {"champion": "4", "previous": "1"}


def test_a_new_version_that_a_person_crowns_meanwhile_stays(
    root: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was made for this promotion, but it is somebody's champion by now."""
    promoted(root, run=model(root, 60))
    challenger, register = model(root, 90), registry.register

    def crowned(*words: Any) -> registry.Version:
        made = register(*words)
        MlflowClient().set_registered_model_alias(NAME, "champion", made.number)
        return made

    monkeypatch.setattr(registry, "register", crowned)
    with pytest.raises(BadInput, match="moved meanwhile"):
        promoted(root, run=challenger)
    assert aliases() == {"champion": "2"}


def test_a_champion_that_another_promoter_made_meanwhile_is_judged(
    root: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the judgement without the lock and the one with it."""
    promoted(root, run=model(root, 60))
    middle, best = model(root, 75), model(root, 90)
    alone, waiting = registry.alone, [True]

    def overtaken(name: str) -> Any:
        if waiting.pop():
            waiting.append(False)
            thread = Thread(target=promoted, args=(connect(),), kwargs={"run": best})
            thread.start()
            thread.join()
        return alone(name)

    monkeypatch.setattr(registry, "alone", overtaken)
    result = promoted(root, run=middle, policy="better")
    assert not result.figures["promoted"] and result.figures["gain"] == pytest.approx(-0.15)
    assert aliases() == {"champion": "2", "previous": "1", "challenger": "3"}


def test_a_refusal_is_one_sentence(root: Tracker, capsys: pytest.CaptureFixture[str]) -> None:
    promoted(root, run=model(root, 70))
    other, before = model(root, 90, test_digest="another"), state()
    capsys.readouterr()
    for words in (
        ["--run=nonsense"], [f"--run={other}"], ["--min-gain=1"], ["--min-gain=nan"],
        ["--policy=x"], ["--rollback"], ["--rollback", "--run=x"], ["--dataset=y"],
        ["--dataset=y", "--rollback"],
    ):
        assert main(["promote", "--dataset=x", *words]) == 2
        told = capsys.readouterr()
        assert told.err.startswith("Error: ") and told.err.count("\n") == 1 and not told.out
    assert state() == before
