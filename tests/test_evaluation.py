"""Tables and figures of an evaluation, counted by hand and against scikit-learn."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient
from sklearn import metrics as sk

from alexnet_mlflow import evaluation
from alexnet_mlflow.compare import counted, wilson
from alexnet_mlflow.data import Split
from alexnet_mlflow.evaluation import Evaluated
from alexnet_mlflow.model import Servable, build
from alexnet_mlflow.score import Scores
from alexnet_mlflow.track import connect


def scores(labels: list[int], probabilities: list[list[float]]) -> Scores:
    chances = np.array(probabilities, np.float32)
    losses = -np.log(chances[np.arange(len(labels)), labels].clip(1e-9))
    return Scores(np.array(labels), losses, chances)


def two(first: list[float], labels: list[int]) -> Scores:
    return scores(labels, [[share, 1 - share] for share in first])


def drawn(n: int, classes: int, seed: int) -> Scores:
    rng = np.random.default_rng(seed)
    return scores(
        rng.integers(0, classes, n).tolist(), rng.dirichlet(np.ones(classes), n).tolist()
    )


def split(count: int) -> Split:
    images = np.random.default_rng(0).integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    ids = np.array([f"test/{row}" for row in range(count)])
    groups = np.array([f"photo {row // 2}" for row in range(count)])
    return Split("test", images, np.arange(count) % 2, ids, groups)


def test_an_accuracy_is_k_of_n_with_its_interval() -> None:
    low, high = wilson(191, 200)
    told = counted(191, 200)
    assert told == f"191 of 200 = 95.50% (Wilson 95 % {low:.2%} to {high:.2%})"
    assert evaluation.share("x", 191, 200) == {"x": 0.955, "x_low": low, "x_high": high}


def test_the_classes_table_is_scikit_learn_s() -> None:
    found = drawn(300, 4, 0)
    table = evaluation.per_class(found, ("a", "b", "c", "d"))
    precision, recall, f1, support = sk.precision_recall_fscore_support(
        found.labels, found.predictions
    )
    assert table["pictures"].tolist() == support.tolist()
    for name, expected in (("precision", precision), ("recall", recall), ("f1", f1)):
        assert table[name].to_numpy() == pytest.approx(expected)
    for row in table.itertuples():
        assert (row.recall_low, row.recall_high) == pytest.approx(wilson(row.correct, row.pictures))
        assert (row.precision_low, row.precision_high) == pytest.approx(
            wilson(row.correct, row.predicted)
        )


def test_a_class_that_is_never_predicted_has_no_precision() -> None:
    table = evaluation.per_class(two([0.9, 0.8, 0.7], [0, 1, 0]), ("a", "b"))
    assert table["correct"].tolist() == [2, 0] and table["f1"].tolist() == [0.8, 0.0]
    assert np.isnan(table["precision"][1]) and table["recall"][1] == 0


def test_thresholds_are_chosen_on_validation_and_counted_on_test() -> None:
    """100 others at 0, .01, ... .99 on validation: 1 % may lie above, so the threshold is .98."""
    others = [place / 100 for place in range(100)]
    validation = two([*others, 0.5], [1] * 100 + [0])
    test = two([0.99, 0.97, 0.3, 0.985, 0.6, 0.1], [0, 0, 0, 1, 1, 1])
    points = evaluation.operating_points(validation, test)
    assert points["threshold"].tolist() == pytest.approx([0.5, 0.98, 0.94])
    assert points["hits"].tolist() == [2, 1, 2] and points["of"].tolist() == [3, 3, 3]
    assert points["false_alarms"].tolist() == [2, 1, 1]
    assert points["hit_rate_low"][0] == pytest.approx(wilson(2, 3)[0])
    for row in points.itertuples():
        alarms = (validation.probabilities[:100, 0] > row.threshold).mean()
        assert row.rule == "0.5" or alarms <= float(row.rule.split("<= ")[1][0]) / 100


def test_few_validation_pictures_allow_no_false_alarm() -> None:
    validation, test = two([0.7, 0.2, 0.9], [1, 1, 0]), two([0.8, 0.1], [0, 1])
    points = evaluation.operating_points(validation, test)
    assert points["threshold"].tolist()[1:] == pytest.approx([0.7, 0.7])


def test_predictions_have_ids_groups_and_the_digest() -> None:
    found = drawn(6, 2, 1)
    seen = Evaluated("x, test", ("a", "b"), split(6), found, None, "abc")
    frame = evaluation.predictions(seen)
    assert frame["id"].tolist() == seen.pictures.ids.tolist()
    assert frame["group"].tolist()[:3] == ["photo 0", "photo 0", "photo 1"]
    assert set(frame["data_digest"]) == {"abc"}
    assert np.allclose(frame[["p_a", "p_b"]], found.probabilities)
    assert frame["prediction"].tolist() == found.predictions.tolist()


def test_a_speed_is_measured() -> None:
    fast = evaluation.speed(Servable(build(2, 0)).eval(), torch.device("cpu"))
    assert fast["pictures_per_second"] > 10 and 0.05 < fast["latency_ms"] < 2000
    assert fast["speed_threads"] == torch.get_num_threads()


@pytest.mark.parametrize(("each", "calls"), [(0.0, 22), (0.4, 5)])
def test_of_what_is_slow_a_speed_is_the_median_of_fewer(each: float, calls: int) -> None:
    made = list[int]()

    class Slow(torch.nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            made.append(len(pixels))
            time.sleep(each)
            return pixels.new_zeros(len(pixels), 2)

    fast = evaluation.speed(Slow().eval(), torch.device("cpu"))
    assert Counter(made) == {250: calls, 1: calls}
    assert 1000 * each <= fast["latency_ms"] < 1000 * (each + 0.2)


@pytest.mark.parametrize("classes", [2, 3])
def test_all_that_there_is_to_see(classes: int, store: Path) -> None:
    found, names = drawn(40, classes, 2), ("a", "b", "c")[:classes]
    validation = drawn(30, classes, 3)
    seen = Evaluated("x, test", names, split(40), found, validation, "abc")
    with connect().child("evaluate", {}) as here:
        told = evaluation.show(seen, here, None, ("x", "abc"))
    client, run = MlflowClient(), str(here.run_id)
    plots = {item.path for item in client.list_artifacts(run, "plots")}
    wanted = {"confusion", "calibration", "mistakes", *(["roc_pr"] if classes == 2 else [])}
    assert plots == {f"plots/{name}.png" for name in wanted}
    files = {item.path for item in client.list_artifacts(run)}
    assert {"per_class.csv", "predictions.parquet"} <= files
    assert ("operating_points.csv" in files) == (classes == 2) == bool(told)
    frame = pd.read_parquet(client.download_artifacts(run, "predictions.parquet"))
    assert len(frame) == 40
    metrics = client.get_run(run).data.metrics
    assert metrics["test_recall_macro"] == pytest.approx(
        sk.recall_score(found.labels, found.predictions, average="macro")
    )


def test_pictures_of_one_class_have_no_curve(store: Path) -> None:
    seen = Evaluated("x", ("a", "b"), split(3), two([0.9, 0.2, 0.6], [0, 0, 0]), None, "abc")
    with connect().child("evaluate", {}) as here:
        assert evaluation.show(seen, here, None, ("x", "abc")) == []


def test_the_surest_mistake_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = {}
    monkeypatch.setattr(
        evaluation.plots, "mistakes",
        lambda images, captions, title: shown.update(captions=captions, title=title),
    )
    found = two([0.6, 0.99, 0.2, 0.9], [1, 1, 1, 0])
    evaluation._mistakes(Evaluated("x", ("a", "b"), split(4), found, None, ""))
    assert shown["captions"] == ["b taken for\na (99%)", "b taken for\na (60%)"]
    assert shown["title"] == "x: 2 mistakes"
    monkeypatch.setattr(evaluation, "MISTAKES", 1)
    evaluation._mistakes(Evaluated("x", ("a", "b"), split(4), found, None, ""))
    assert shown["captions"] == ["b taken for\na (99%)"]
    assert shown["title"] == "x: the surest 1 of 2 mistakes"
    alone = two([0.99, 0.2], [1, 1])
    evaluation._mistakes(Evaluated("x", ("a", "b"), split(2), alone, None, ""))
    assert shown["title"] == "x: 1 mistake"
