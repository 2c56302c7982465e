"""The sealed test split is opened once a call, on the final run's own division."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient
from PIL import Image

from alexnet_mlflow.compare import wilson
from alexnet_mlflow.config import DataConfig, EvaluateConfig, PromoteConfig
from alexnet_mlflow.data import load, load_test
from alexnet_mlflow.models import load_model
from alexnet_mlflow.options import BadInput
from alexnet_mlflow.runs import FoundRun
from alexnet_mlflow.score import Scores
from alexnet_mlflow.stages import evaluate, promote
from alexnet_mlflow.track import connect
from tests.conftest import Babysat


@pytest.fixture
def client(babysat: Babysat) -> MlflowClient:
    return MlflowClient(f"sqlite:///{babysat.folder}/mlflow.db")


def predictions(client: MlflowClient, run_id: str) -> pd.DataFrame:
    return pd.read_parquet(client.download_artifacts(run_id, "predictions.parquet"))


def test_the_figures_are_those_of_the_predictions(babysat: Babysat, client: MlflowClient) -> None:
    for run in babysat.runs["evaluate"]:
        frame, metrics = predictions(client, run.info.run_id), run.data.metrics
        correct = int((frame["label"] == frame["prediction"]).sum())
        assert metrics["test_correct"] == correct and metrics["test_pictures"] == len(frame) == 12
        assert metrics["test_accuracy"] == correct / len(frame)
        assert (metrics["test_accuracy_low"], metrics["test_accuracy_high"]) == pytest.approx(
            wilson(correct, len(frame))
        )
        chances = frame[["p_blue", "p_red"]].to_numpy()
        assert np.allclose(chances.sum(axis=1), 1, atol=1e-5)
        losses = -np.log(chances[np.arange(len(frame)), frame["label"]])
        assert metrics["test_loss"] == pytest.approx(losses.mean(), abs=1e-5)
        assert math.isclose(frame["loss"].mean(), metrics["test_loss"], abs_tol=1e-6)


def test_the_pictures_are_the_test_splits(
    babysat: Babysat, client: MlflowClient, pictures: Path
) -> None:
    config = DataConfig(dataset=str(pictures))
    test, data = load_test(config), load(config)
    for run in babysat.runs["evaluate"]:
        frame = predictions(client, run.info.run_id)
        assert frame["id"].tolist() == test.ids.tolist()
        assert not set(frame["id"]) & {*data.train.ids.tolist(), *data.val.ids.tolist()}
        assert run.data.tags["test_digest"] == test.digest


def test_everything_to_look_at_is_there(babysat: Babysat, client: MlflowClient) -> None:
    for run in babysat.runs["evaluate"]:
        names = {item.path for item in client.list_artifacts(run.info.run_id, "plots")}
        shown = ("confusion", "roc_pr", "mistakes", "calibration")
        assert names == {f"plots/{name}.png" for name in shown}
        files = {item.path for item in client.list_artifacts(run.info.run_id)}
        assert {"predictions.parquet", "per_class.csv", "operating_points.csv"} <= files
        assert run.data.metrics["latency_ms"] > 0 and run.data.metrics["pictures_per_second"] > 0
        table = pd.read_csv(client.download_artifacts(run.info.run_id, "per_class.csv"))
        assert table["class"].tolist() == ["blue", "red"]
        assert table["pictures"].sum() == 12


def test_the_metrics_are_linked_to_model_and_data_set(
    babysat: Babysat, client: MlflowClient
) -> None:
    run = babysat.runs["evaluate"][0]
    model = client.get_logged_model(run.data.tags["model_uri"].removeprefix("models:/"))
    linked = {metric.key: metric for metric in model.metrics}
    assert linked["test_accuracy"].value == run.data.metrics["test_accuracy"]
    assert linked["test_accuracy"].dataset_name == "colours"
    assert run.data.tags["data_digest"].startswith(linked["test_accuracy"].dataset_digest)


def test_each_look_is_counted(
    babysat: Babysat, client: MlflowClient, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(babysat.folder)
    final = babysat.runs["final"][1].info.run_id
    looks = int(client.get_run(final).data.tags["test_looks"])
    config = EvaluateConfig(dataset=str(pictures), optimizer="adam", run=final, device="cpu")
    result = evaluate.run(config, connect())
    assert result.figures["test_looks"] == looks + 1
    assert client.get_run(final).data.tags["test_looks"] == str(looks + 1)


def test_looks_at_the_same_moment_are_all_counted(
    babysat: Babysat, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have read the final run before either has written to it."""
    final = final_of(babysat, monkeypatch)
    before = int(final.tags["test_looks"])
    tags = {"stage": "evaluate", "final_run": final.run_id, **evaluate.LOOKED}
    tracker = connect()
    with tracker.child("one", tags) as one, one.child("other", tags) as other:
        assert evaluate._look(final, one) == evaluate._look(final, other) == before + 2
    assert client.get_run(final.run_id).data.tags["test_looks"] == str(before + 2)
    client.delete_run(str(one.run_id))
    with tracker.child("third", tags) as third:
        assert evaluate._look(final, third) == before + 3


def test_with_the_mirror_images_is_told_apart(
    babysat: Babysat, client: MlflowClient, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(babysat.folder)
    run = client.get_run(babysat.runs["evaluate"][0].info.run_id)
    final = run.data.tags["final_run"]
    assert not any("flip" in name for name in run.data.metrics)
    config = EvaluateConfig(dataset=str(pictures), run=final, device="cpu", flip=True)
    result = evaluate.run(config, connect())
    again = client.get_run(str(result.run_id)).data.metrics
    for name in ("test_accuracy", "test_loss", "test_calibration_error"):
        alone = pytest.approx(run.data.metrics[name], rel=1e-5)  # by another number of threads
        assert again[name] == alone, "what the model alone does has changed"
    test = load_test(DataConfig(dataset=str(pictures)))
    pixels = torch.from_numpy(test.images) / 255
    model = load_model(run.data.tags["model_uri"])
    with torch.inference_mode():
        both = (model(pixels) + model(pixels.flip(-1))) / 2
    correct = int((both.argmax(dim=1).numpy() == test.labels).sum())
    assert again["test_accuracy_flip"] == result.figures["test_accuracy_flip"] == correct / 12
    low, high = wilson(correct, 12)
    assert (again["test_accuracy_flip_low"], again["test_accuracy_flip_high"]) == (low, high)
    assert any("mirror images too: " in sentence for sentence in result.sentences)


def test_other_pictures_are_refused(
    babysat: Babysat, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of the same name with one picture less is another data set."""
    monkeypatch.chdir(babysat.folder)
    other = tmp_path / pictures.name
    for file in sorted(pictures.rglob("*.png"))[1:]:
        copy = other / file.relative_to(pictures)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    with pytest.raises(BadInput, match="are not those that run"):
        evaluate.run(EvaluateConfig(dataset=str(other), device="cpu"), connect())
    with pytest.raises(BadInput, match="tells blue, red apart, .* has face, "):
        run_id = babysat.runs["final"][0].info.run_id
        evaluate.run(EvaluateConfig(dataset="faces", run=run_id), connect())


def test_test_pictures_that_training_has_seen_are_counted_apart(
    babysat: Babysat, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder has none; where two are planted, the accuracy without them stands beside."""
    opened = evaluate._opened(
        EvaluateConfig(dataset=str(pictures)),
        final_of(babysat, monkeypatch), torch.device("cpu"),
    )
    assert opened.seen.tolist() == [] and opened.compared == len(opened.test)
    n = len(opened.test)
    probabilities = np.full((n, 2), 0.5, np.float32)
    probabilities[:, 0] += np.where(opened.test.labels == 0, 0.1, -0.1)
    probabilities[[1, 4]] = probabilities[[1, 4], ::-1]
    scores = Scores(opened.test.labels, np.zeros(n, np.float32), probabilities)
    figures, told = evaluate._unseen(scores, opened.seen, n)
    assert figures == {"test_pictures_seen": 0} and told == ()
    figures, [sentence] = evaluate._unseen(scores, np.array([1, 2]), n)
    assert figures["test_accuracy_unseen"] == (n - 3) / (n - 2)
    assert "Without the 2 pictures" in sentence and f"{n - 3} of {n - 2}" in sentence
    _, [sentence] = evaluate._unseen(scores, np.array([1]), n)
    assert sentence.startswith("Without the 1 picture that has an exact")


def test_on_another_data_set_all_pictures_count_and_the_copies_apart(
    babysat: Babysat, pictures: Path, client: MlflowClient, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A folder of the same classes with three of the training pictures in it."""
    monkeypatch.chdir(babysat.folder)
    noise = np.random.default_rng(7)
    for channel, name in ((2, "blue"), (0, "red")):
        (tmp_path / "other" / name).mkdir(parents=True)
        for number in range(10):
            pixels = noise.integers(0, 120, (32, 32, 3), dtype=np.uint8)
            pixels[..., channel] += 120
            Image.fromarray(pixels).save(tmp_path / "other" / name / f"x{number}.png")
    for known in load(DataConfig(dataset=str(pictures))).train.ids[:3]:
        copy = tmp_path / "other" / known
        copy.write_bytes((pictures / known).read_bytes())
    final = babysat.runs["final"][0]
    looks = client.get_run(final.info.run_id).data.tags["test_looks"]
    config = EvaluateConfig(dataset=str(tmp_path / "other"), run=final.info.run_id, device="cpu")
    result = evaluate.run(config, connect())
    assert result.figures["test_pictures"] == 23 and result.figures["test_pictures_seen"] == 3
    frame = predictions(client, str(result.run_id))
    others = frame[frame["id"].str.contains("/x")]
    correct = (others["prediction"] == others["label"]).mean()
    assert len(others) == 20 and result.figures["test_accuracy_unseen"] == correct
    run = client.get_run(str(result.run_id))
    assert run.data.tags["dataset"] == "other" and run.data.tags["trained_on"] == "colours"
    assert client.get_run(final.info.run_id).data.tags["test_looks"] == looks
    with pytest.raises(BadInput, match="no evaluated final run of other"):
        promote.run(PromoteConfig(dataset=str(tmp_path / "other")), connect())


def test_a_few_pictures_of_ones_own_and_nothing_to_learn_from(
    babysat: Babysat, pictures: Path, client: MlflowClient, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A folder with test/ alone, one picture of a class, one that does not open."""
    monkeypatch.chdir(babysat.folder)
    for known in load_test(DataConfig(dataset=str(pictures))).ids[[0, 1, -1]]:
        copy = tmp_path / "own/test" / str(known)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((pictures / str(known)).read_bytes())
    (copy.parent / "torn.png").write_bytes(b"no picture")
    run = babysat.runs["final"][0].info.run_id
    config = EvaluateConfig(dataset=str(tmp_path / "own"), run=run, device="cpu")
    with pytest.raises(BadInput, match="--skip-corrupt"):
        evaluate.run(config, connect())
    looks = int(client.get_run(run).data.tags["test_looks"])
    result = evaluate.run(dataclasses.replace(config, skip_corrupt=True), connect())
    assert result.figures["test_pictures"] == 3
    assert client.get_run(run).data.tags["test_looks"] == str(looks + 1), "they are its sealed ones"
    assert any("3 of these pictures are of its own sealed" in told for told in result.sentences)
    frame = predictions(client, str(result.run_id))
    assert sorted(Path(name).parts[0] for name in frame["id"]) == ["test"] * 3


def final_of(babysat: Babysat, monkeypatch: pytest.MonkeyPatch) -> FoundRun:
    """The final run of the protocol that was run."""
    monkeypatch.chdir(babysat.folder)
    found = connect().found(babysat.runs["final"][0].info.run_id)
    assert found
    return found
