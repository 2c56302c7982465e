"""The whole protocol, run for real on easy pictures, as it stands in MLflow afterwards."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean, stdev

import pytest
from mlflow import MlflowClient

from alexnet_mlflow import pipeline, track
from alexnet_mlflow.checks import Verdict
from alexnet_mlflow.compare import mean_difference
from alexnet_mlflow.config import PRESETS, BabysitConfig, Preset
from alexnet_mlflow.course import Course
from alexnet_mlflow.options import BadInput
from alexnet_mlflow.runs import NullTracker
from alexnet_mlflow.stages import StageResult
from tests.conftest import Babysat

EPOCH_METRICS = {
    "train_loss", "train_accuracy", "val_loss", "val_accuracy",
    "learning_rate", "epoch_seconds", "images_per_second",
}


def test_every_stage_ran_under_one_parent(babysat: Babysat) -> None:
    counts = {stage: len(runs) for stage, runs in babysat.runs.items()}
    assert counts.pop("trial") >= 12  # and the repeats of the best
    assert counts == {
        "babysit": 1, "sanity": 2, "overfit": 2, "search": 2, "final": 4, "evaluate": 2,
        "promote": 1,
    }
    [parent] = babysat.runs["babysit"]
    for stage, runs in babysat.runs.items():
        for run in runs:
            assert run.info.status == "FINISHED"
            if stage not in ("babysit", "trial"):
                assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
    searches = {run.info.run_id for run in babysat.runs["search"]}
    parents = {run.data.tags["mlflow.parentRunId"] for run in babysat.runs["trial"]}
    assert parents == searches


def test_each_optimizer_had_a_process_of_its_own(babysat: Babysat) -> None:
    """SGD that of the whole, which promotes either; nothing of Adam's was made good there."""
    def processes(optimizer: str) -> set[str]:
        return {
            run.data.tags["process"] for stage, runs in babysat.runs.items() for run in runs
            if stage != "promote" and run.data.tags["optimizer"] == optimizer
        }

    [parent] = babysat.runs["babysit"]
    assert processes("sgd") == {parent.data.tags["process"]}
    assert len(processes("adam")) == 1 and processes("adam") != processes("sgd")


def test_every_run_carries_its_tags(babysat: Babysat) -> None:
    for stage, runs in babysat.runs.items():
        for run in runs:
            tags = run.data.tags
            wanted = {"stage", "dataset", "optimizer", "seed", "data_digest", "git_commit"}
            assert wanted <= tags.keys(), stage
            assert tags["dataset"] == "colours"
            if stage != "trial":
                assert tags["outcome"] == "completed"
                assert tags["verdict"] in ("pass", "warn")
    assert babysat.runs["babysit"][0].data.tags["verdict"] == "pass"
    assert "forced" not in babysat.runs["babysit"][0].data.tags


def test_training_runs_can_be_compared(babysat: Babysat) -> None:
    client = MlflowClient(f"sqlite:///{babysat.folder}/mlflow.db")
    for run in (*babysat.runs["trial"], *babysat.runs["final"]):
        assert {"lr", "weight_decay", "batch_size", "epochs", "recipe"} <= run.data.params.keys()
        float(run.data.params["lr"])
        if run.data.tags["outcome"] == "completed":
            assert EPOCH_METRICS | {"best_val_accuracy", "best_epoch"} <= run.data.metrics.keys()
            steps = [p.step for p in client.get_metric_history(run.info.run_id, "val_accuracy")]
            assert steps == list(range(1, len(steps) + 1))


def test_the_test_split_shows_in_evaluate_alone(babysat: Babysat) -> None:
    for stage, runs in babysat.runs.items():
        for run in runs:
            seen = {name for name in run.data.metrics if "test_" in name}
            assert bool(seen) == (stage == "evaluate"), (stage, seen)


def test_the_result_names_the_champion(babysat: Babysat) -> None:
    line = json.loads(babysat.result.as_json())
    assert line["stage"] == "babysit" and line["verdict"] == "pass"
    assert line["champion"] == 1 and line["model_uri"] == "models:/alexnet-colours/1"
    assert line["sgd_test_accuracy"] == 1.0 or line["adam_test_accuracy"] == 1.0
    table = [line for line in babysat.result.sentences if line.startswith("| ")]
    assert [row.split("|")[1].strip() for row in table] == ["optimizer", "sgd", "adam"]


def test_both_optimizers_get_the_same(babysat: Babysat) -> None:
    """The same coarse points, the same fresh seeds, the same epochs; rates of their own."""
    points: dict[str, list[tuple[str, str]]] = {"sgd": [], "adam": []}
    for run in babysat.runs["trial"]:
        if run.data.tags.get("phase") == "coarse":
            rates = run.data.params["lr"], run.data.params["weight_decay"]
            points[run.data.tags["optimizer"]].append(rates)
    assert len(points["sgd"]) == 4 and sorted(points["sgd"]) == sorted(points["adam"])
    [parent] = babysat.runs["babysit"]
    for optimizer in ("sgd", "adam"):
        finals = [run for run in babysat.runs["final"] if run.data.tags["optimizer"] == optimizer]
        assert sorted(run.data.tags["seed"] for run in finals) == ["3", "4"]  # the search's is 2
        assert {run.data.params["epochs"] for run in finals} == {"4"}
        assert parent.data.tags["seed"] == "2"


def test_the_comparison_is_that_of_the_finals(babysat: Babysat) -> None:
    [parent] = babysat.runs["babysit"]
    metrics, figures = parent.data.metrics, babysat.result.figures
    got: dict[str, list[float]] = {}
    for name in ("sgd", "adam"):
        finals = sorted(
            (run for run in babysat.runs["final"] if run.data.tags["optimizer"] == name),
            key=lambda run: run.data.tags["seed"],
        )
        got[name] = [run.data.metrics["best_val_accuracy"] for run in finals]
        assert metrics[f"{name}_val_accuracy_mean"] == mean(got[name])
        assert metrics[f"{name}_val_accuracy_std"] == pytest.approx(stdev(got[name]))
        assert metrics[f"{name}_val_accuracy"] == max(got[name])
    expected = mean_difference(got["adam"], got["sgd"])
    assert metrics["difference_val_accuracy"] == pytest.approx(expected.mean)
    assert metrics["difference_val_accuracy_low"] == pytest.approx(expected.low)
    assert metrics["difference_val_accuracy_high"] == pytest.approx(expected.high)
    assert metrics.items() <= figures.items()
    client = MlflowClient(f"sqlite:///{babysat.folder}/mlflow.db")
    kept = json.loads(Path(client.download_artifacts(parent.info.run_id, "comparison.json"))
                      .read_text())
    assert kept["seeds"] == [3, 4]
    assert {name: kept["optimizers"][name]["best_val_accuracy"] for name in got} == got
    assert kept["difference"]["mean"] == pytest.approx(expected.mean)
    assert kept["sentence"] in babysat.result.sentences
    table = Path(client.download_artifacts(parent.info.run_id, "table.md")).read_text()
    assert "| val mean +- sd " in table and "(n = 2)" in table
    assert table.splitlines()[-1] == kept["sentence"]


def test_the_best_of_the_seeds_is_evaluated(babysat: Babysat) -> None:
    for run in babysat.runs["evaluate"]:
        rivals = [
            other for other in babysat.runs["final"]
            if other.data.tags["optimizer"] == run.data.tags["optimizer"]
        ]
        best = max(
            rivals,
            key=lambda one: (
                one.data.metrics["best_val_accuracy"], -one.data.metrics["best_val_loss"],
            ),
        )
        assert run.data.tags["final_run"] == best.info.run_id
        looked = [other.info.run_id for other in rivals if "test_looks" in other.data.tags]
        assert looked == [best.info.run_id]


# Gates


def test_a_stage_that_says_no_stops_the_protocol(
    store: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one epoch the part is not learnt by heart: no search follows. The other optimizer comes
    next all the same, here in the same process."""
    hurried = Preset(batch_size=8, overfit_epochs=1)
    monkeypatch.setitem(PRESETS, str(pictures), hurried)
    monkeypatch.setattr(pipeline, "meanwhile", None)
    config = BabysitConfig(
        dataset=str(pictures), device="cpu", optimizer="both", side_by_side=False
    )
    result = pipeline.run(config, track.connect())
    assert result.verdict == "fail"
    for said, name in zip(result.sentences[-2:], ("sgd", "adam"), strict=True):
        assert said.startswith(f"{name}: overfit said no: ") and "not learnt by heart" in said
    runs = MlflowClient().search_runs(["0"])
    assert {run.data.tags["stage"] for run in runs} == {"babysit", "sanity", "overfit"}
    assert len(runs) == 5
    failed = {run.data.tags["stage"] for run in runs if run.info.status == "FAILED"}
    assert failed == {"babysit", "overfit"}


def test_force_goes_on_and_is_on_record(
    store: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PRESETS, str(pictures), Preset(batch_size=8, overfit_epochs=1))
    config = BabysitConfig(
        dataset=str(pictures), device="cpu", force=True, trials=2, fine_trials=1, repeats=0,
        search_epochs=2, epochs=1, lr_low=1e-3, lr_high=0.05,
    )
    result = pipeline.run(config, track.connect())
    assert result.verdict == "warn" and result.model_uri == "models:/alexnet-colours/1"
    assert result.sentences[-1].startswith("sgd: overfit said no, and --force goes on: ")
    assert "are not learnt by heart" in result.sentences[-1]
    parent = MlflowClient().get_run(str(result.run_id))
    assert parent.data.tags["forced"] == "true" and parent.data.tags["verdict"] == "warn"
    assert parent.info.status == "FINISHED"
    assert not any("mean" in name or "difference" in name for name in result.figures)
    heads = result.sentences[0].split("|")[1:-1]
    assert tuple(head.strip() for head in heads) == pipeline.HEADS  # one seed: no column more


def stage_result(stage: str, verdict: Verdict = "pass", **figures: object) -> StageResult:
    return StageResult(stage, stage, verdict, (f"What {stage} found.",), figures)


def test_a_promotion_that_is_refused_undoes_no_training(store: Path) -> None:
    """Nothing was evaluated in this store, so that promote refuses; what was trained stays."""
    course = Course("sgd", force=False)
    course.goes_on(StageResult("evaluate", "1", "pass", ()))
    with track.connect().child("babysit", {}) as here:
        promoted, told = pipeline._promoted(BabysitConfig(), [course], here)
    assert promoted is None and told[0].startswith("promote refused: there is no evaluated final")
    assert pipeline._verdict([course], refused=True) == "warn"
    assert pipeline._verdict([course], refused=False) == "pass"


# SGD against Adam


def test_seeds_of_the_finals() -> None:
    assert pipeline._seeds(BabysitConfig(seed=5)) == (5,)
    assert pipeline._seeds(BabysitConfig(seed=5, optimizer="both")) == (6, 7, 8)
    assert pipeline._seeds(BabysitConfig(seed=5, optimizer="both", seeds=1)) == (6,)


def test_a_last_seed_too_large_is_told_at_once() -> None:
    config = BabysitConfig(seed=2**63 - 2, optimizer="both")
    with pytest.raises(BadInput, match="--seed must be below"):
        pipeline.run(config, NullTracker())


def course(name: str, *accuracies: float, evaluated: bool = True) -> Course:
    made = Course(name, force=True)
    for accuracy in accuracies:
        made.results.append(stage_result(
            "final", best_val_accuracy=accuracy, best_val_loss=1 - accuracy, lr=0.1,
            weight_decay=1e-4,
        ))
    if evaluated:
        made.results.append(stage_result(
            "evaluate", best_val_accuracy=max(accuracies), test_accuracy=0.5,
            test_accuracy_low=0.4, test_accuracy_high=0.6,
        ))
    return made


@pytest.mark.parametrize(
    ("sgd", "adam", "told"),
    [
        ((0.80, 0.81, 0.82), (0.90, 0.91, 0.92),
         "+10.00 points (95 % +7.73 to +12.27): Adam is better here."),
        ((0.90, 0.91, 0.92), (0.80, 0.81, 0.82),
         "-10.00 points (95 % -12.27 to -7.73): SGD is better here."),
        ((0.80, 0.90, 0.85), (0.86, 0.81, 0.88), "no difference shown. This covers"),
        ((0.9, 0.9, 0.9), (0.9, 0.9, 0.9), "no difference shown, as neither varies"),
        ((0.9, 0.9, 0.9), (0.8, 0.8, 0.8), "no difference shown, as neither varies"),
    ],
)
def test_what_the_difference_says(sgd: tuple[float, ...], adam: tuple[float, ...], told: str
                                  ) -> None:
    difference, sentence = pipeline._compared([course("sgd", *sgd), course("adam", *adam)], 3)
    assert told in sentence
    assert sentence.startswith("Adam - SGD, best validation accuracy, mean of 3 fresh seeds each")
    assert difference == mean_difference(adam, sgd)


@pytest.mark.parametrize(
    ("sgd", "adam", "seeds", "told"),
    [
        (course("sgd", 0.9), course("adam", 0.8), 1, "one seed shows no difference"),
        (course("sgd", 0.9, 0.8, 0.9), course("adam", 0.8, evaluated=False), 3,
         "No comparison: adam did not reach the end."),
        (course("sgd", 0.9, 0.8), course("adam", 0.8, 0.9, 0.8), 3,
         "No comparison: 1 of 3 finals of sgd diverged."),
    ],
)
def test_where_nothing_can_be_compared(sgd: Course, adam: Course, seeds: int, told: str) -> None:
    difference, sentence = pipeline._compared([sgd, adam], seeds)
    assert difference is None and told in sentence
    kept = pipeline._comparison([sgd, adam], range(seeds), difference, sentence)
    assert json.loads(json.dumps(kept, allow_nan=False))["difference"] is None


def test_a_table_of_one_seed_is_as_before_and_of_several_has_the_spread() -> None:
    one = pipeline._table([course("sgd", 0.9)], several=False).splitlines()
    assert one[2].split("|")[4:6] == [" 90.00%       ", " 50.00% (40.00% to 60.00%) "]
    many = pipeline._table([course("sgd", 0.9, 0.8), course("adam", 0.7)], several=True)
    rows = [[cell.strip() for cell in line.split("|")] for line in many.splitlines()]
    assert rows[0][4:6] == ["val mean +- sd", "val accuracy"]
    assert rows[2][4:6] == ["85.00% +- 7.07% (n = 2)", "90.00%"]
    assert rows[3][4:6] == ["70.00% (n = 1)", "70.00%"]
