"""What a logged model says of pictures on disk, and which faces it sees in photos."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import socket
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from mlflow.models import infer_signature
from PIL import Image
from torch import nn

from alexnet_mlflow.cli import main
from alexnet_mlflow.config import DataConfig
from alexnet_mlflow.data import load
from alexnet_mlflow.model import Servable, build
from alexnet_mlflow.models import load_model
from alexnet_mlflow.score import score_probabilities
from alexnet_mlflow.track import connect
from tests.test_detect import Redness

pytestmark = pytest.mark.usefixtures("narrow")


def logged(module: nn.Module, *classes: str) -> str:
    with connect().child("final", {"stage": "final"}) as run:
        model = run.model(module.eval(), torch.rand(2, 3, 32, 32), classes)
    assert model is not None
    return model.uri


@pytest.fixture
def redness(store: Path) -> str:
    """The URI of a model that sees faces in red spots."""
    return logged(Redness(), "nonface", "face")


@pytest.fixture
def photo(store: Path) -> Path:
    """200x160, blue, with one red spot: a face from 104, 40 to 184, 160."""
    picture = Image.new("RGB", (200, 160), (0, 0, 255))
    picture.paste((255, 0, 0), (124, 70, 164, 130))
    picture.save(store / "photo.png")
    return store / "photo.png"


FACES = ["--faces", "--smallest=40", "--scale-step=2", "--stride=2", "--threshold=0.7"]


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence; exit code 2."""
    capsys.readouterr()
    assert main(["predict", *arguments]) == 2
    caught = capsys.readouterr()
    assert caught.out == ""
    last = caught.err.splitlines()[-1]
    assert last.startswith("Error: ") and "Traceback" not in caught.err
    return last


def predicted(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(["predict", *arguments]) == 0
    return capsys.readouterr().out


def test_pictures_are_decoded_as_for_training(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same probabilities as scoring the split that was read from the same files."""
    noise = np.random.default_rng(0)
    for kind in ("cat", "dog"):
        (store / "pets" / kind).mkdir(parents=True)
        for number in range(24):
            pixels = noise.integers(0, 256, (10, 12, 3), dtype=np.uint8)
            picture = Image.fromarray(pixels).resize((300, 260), Image.Resampling.BICUBIC)
            turned = Image.Exif()
            turned[0x0112] = 1 + number % 8
            ending, format = (("jpg", "JPEG"), ("webp", "WEBP"), ("png", "PNG"))[number % 3]
            picture.save(store / "pets" / kind / f"{number}.{ending}", format, exif=turned)
    data = load(DataConfig(dataset=str(store / "pets")))
    uri = logged(Servable(build(2, seed=3)), *data.classes)
    images, labels = torch.from_numpy(data.train.images), torch.from_numpy(data.train.labels)
    expected = score_probabilities(load_model(uri), images, labels).probabilities
    said = json.loads(predicted([f"--model={uri}", "--json", str(store / "pets")], capsys))
    assert said["classes"] == ["cat", "dog"] and len(said["predictions"]) == 48
    found = {os.path.relpath(row["path"], store / "pets"): row for row in said["predictions"]}
    for id, chances in zip(data.train.ids.tolist(), expected, strict=True):
        assert list(found[id]["probabilities"].values()) == pytest.approx(chances, abs=1e-6)
        assert found[id]["class"] == data.classes[chances.argmax()]
    assert expected.std(axis=0).min() > 1e-4, "all the same: nothing would be seen"


def test_the_bundled_faces_come_out_as_in_their_split(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Written to files of 32x32, which keep every bit."""
    data = load(DataConfig(dataset="faces"))
    uri = logged(Servable(build(2, seed=3)), *data.classes)
    for row, pixels in enumerate(data.val.images):
        Image.fromarray(pixels.transpose(1, 2, 0)).save(store / f"{row:03}.png")
    images, labels = torch.from_numpy(data.val.images), torch.from_numpy(data.val.labels)
    expected = score_probabilities(load_model(uri), images, labels).probabilities
    table = list(csv.DictReader(io.StringIO(
        predicted([f"--model={uri}", "--csv", str(store)], capsys)
    )))
    assert [row["path"] for row in table] == [str(store / f"{row:03}.png") for row in range(16)]
    assert list(table[0]) == ["path", "class", *(f"p_{name}" for name in data.classes)]
    for row, chances in zip(table, expected, strict=True):
        assert [float(row[f"p_{name}"]) for name in data.classes] == pytest.approx(chances)


def test_a_table_ends_in_a_line_of_json_and_no_run_is_made(
    redness: str, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = len(MlflowClient().search_runs(["0"]))
    *lines, last = predicted([f"--model={redness}", str(photo)], capsys).splitlines()
    assert len(lines) == 1 and lines[0].startswith("nonface") and lines[0].endswith(str(photo))
    assert json.loads(last)["counts"] == {"nonface": 1}
    assert len(MlflowClient().search_runs(["0"])) == before


def test_faces_are_boxed_in_a_copy_of_the_photo(
    redness: str, photo: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = photo.read_bytes()
    said = json.loads(predicted([f"--model={redness}", *FACES, "--json", str(photo)], capsys))
    [found] = said["photos"]
    [face] = found["faces"]
    assert face["box"] == pytest.approx([104, 40, 184, 160], abs=20)
    assert 0.7 <= face["probability"] <= 1
    assert said["windows"] == found["windows"] > 100 and said["windows_per_second"] > 0
    assert found["picture"] == "faces/photo-faces.png" and photo.read_bytes() == before
    drawn, left = Image.open(store / "faces" / "photo-faces.png"), round(face["box"][0])
    assert drawn.size == (200, 160) and drawn.getpixel((left, 100)) == (255, 127, 14)


def test_faces_as_csv_and_as_a_table(
    redness: str, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"--model={redness}", *FACES, str(photo)]
    [row] = csv.DictReader(io.StringIO(predicted([*arguments, "--csv", "--out=a"], capsys)))
    assert row["path"] == str(photo) and float(row["right"]) == pytest.approx(184, abs=20)
    first, second, last = predicted([*arguments, "--out=b"], capsys).splitlines()
    assert "1 faces" in first and "pixels at" in second and json.loads(last)["faces"] == 1


def test_a_folder_of_photos_keeps_its_folders(
    redness: str, photo: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for day in ("18", "19"):
        (store / "2002" / day).mkdir(parents=True)
        (store / "2002" / day / "img.png").write_bytes(photo.read_bytes())
    predicted([f"--model={redness}", *FACES, "2002"], capsys)
    drawn = sorted(str(path) for path in Path("faces").rglob("*.png"))
    assert drawn == ["faces/18/img-faces.png", "faces/19/img-faces.png"]


def test_nothing_is_written_over(
    redness: str, photo: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = store / "photo-faces.png"
    mine.write_bytes(b"mine")
    arguments = [f"--model={redness}", *FACES, str(photo)]
    assert "is there already" in refused([*arguments, "--out=."], capsys)
    assert mine.read_bytes() == b"mine"
    twice = refused([*arguments, str(photo)], capsys)
    assert "2 photos would be drawn to" in twice and not (store / "faces").exists()
    assert "cannot be written" in refused([*arguments, "--out=photo.png"], capsys)


def test_nor_is_what_somebody_else_has_written_meanwhile(
    redness: str, photo: Path, store: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    theirs, save = store / "drawn" / "photo-faces.png", Image.Image.save

    def saved(image: Image.Image, target: Path, form: str) -> None:
        theirs.write_bytes(b"theirs")
        save(image, target, form)

    monkeypatch.setattr(Image.Image, "save", saved)
    arguments = [f"--model={redness}", *FACES, str(photo), "--out=drawn"]
    assert "cannot be written (File exists)" in refused(arguments, capsys)
    assert theirs.read_bytes() == b"theirs" and list(theirs.parent.iterdir()) == [theirs]


def test_half_a_drawing_is_not_left(
    redness: str, photo: Path, store: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same command can be given again when there is room."""
    def full(image: Image.Image, target: Path, form: str) -> None:
        target.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    arguments = [f"--model={redness}", *FACES, str(photo), "--out=drawn"]
    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", full)
        assert "No space left" in refused(arguments, capsys)
    assert not list((store / "drawn").iterdir())
    predicted(arguments, capsys)


def test_a_picture_that_does_not_open_is_named_or_left_out(
    redness: str, photo: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (store / "broken.png").write_bytes(photo.read_bytes()[:200])
    (store / "text.png").write_text("no picture")
    for more in ([], FACES):
        arguments = [f"--model={redness}", *more]
        assert "broken.png" in refused([*arguments, str(store)], capsys)
        assert "text.png" in refused([*arguments, "text.png"], capsys)
        assert "none of the pictures" in refused(
            [*arguments, "--skip-corrupt", "text.png"], capsys
        )
        last = predicted([*arguments, "--skip-corrupt", str(store)], capsys).splitlines()[-1]
        assert json.loads(last)["skipped"] == 2


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "Missing argument 'PATH...'"),
        (["nowhere.png"], "'nowhere.png' is not there: give pictures"),
        (["empty"], "the folder 'empty' holds no pictures"),
        (["--faces", "photo.png"], "--faces needs a model with a class 'face'"),
        (["--json", "--csv", "photo.png"], "--json and --csv exclude one another"),
        (["--stride=8", "photo.png"], "--stride is for --faces, got 8 without it"),
        (["--faces", "--threshold=2", "photo.png"], "--threshold must be 0 to 1, got 2.0"),
        (["--faces", "--aspect=nan", "photo.png"], "--aspect must be 0.25 to 4, got nan: give 1.5"),
        (["--faces", "--smallest=1", "photo.png"], "--smallest must be 16 to 10000, got 1"),
        (["--faces", "--scale-step=1", "photo.png"], "--scale-step must be 1.01 to 4, got 1.0"),
        (["--faces", "--stride=0", "photo.png"], "--stride must be 1 to 32, got 0"),
    ],
)
def test_bad_input_is_told_in_a_sentence(
    photo: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], part: str
) -> None:
    Path("empty").mkdir()
    uri = logged(Servable(build(2, seed=0)), "cat", "dog")
    assert part in refused([f"--model={uri}", *arguments], capsys)


@pytest.mark.parametrize(
    "uri",
    ["models:/nothing@champion", "models:/m-0", "runs:/0/model", "nonsense", "http://127.0.0.1:1/x",
     "s3://bucket/x", "torn"],
)
def test_a_model_that_is_not_there_is_told_in_a_sentence(
    photo: Path, capsys: pytest.CaptureFixture[str], uri: str
) -> None:
    Path("torn").mkdir()
    Path("torn/MLmodel").write_text("{{{: no yaml")
    said = refused([f"--model={uri}", str(photo)], capsys)
    assert f"the model {uri!r} cannot be loaded" in said and "MLFLOW_TRACKING_URI" in said


def test_no_model_and_a_model_of_something_else(
    photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "--model must name a logged model" in refused([str(photo)], capsys)
    with connect().child("x", {}) as run:
        other = run.model(nn.Flatten().eval(), torch.rand(2, 1, 4), "abcd")
    assert other is not None
    assert "must take pictures (N, 3, 32, 32)" in refused([f"--model={other.uri}", str(photo)],
                                                          capsys)
    diverged = build(2, seed=0)
    with torch.no_grad():
        diverged.classifier[-1].bias.fill_(float("nan"))  # type: ignore[operator, union-attr]
    uri = logged(Servable(diverged), "cat", "dog")
    assert "answers what are no numbers" in refused([f"--model={uri}", str(photo)], capsys)


def test_a_server_that_is_not_there(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"http://127.0.0.1:{port}")
    try:
        said = refused(["--model=models:/alexnet-fddb@champion", str(photo)], capsys)
    finally:
        mlflow.set_tracking_uri(before)
    assert "does not answer" in said and "MLFLOW_TRACKING_URI" in said


def test_classes_without_names_are_numbered(
    photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example = np.zeros((2, 3, 32, 32), np.float32)
    uri = mlflow.pytorch.log_model(  # as commits before this one logged it
        Redness().eval(), name="older", signature=infer_signature(example, np.zeros((2, 2))),
        input_example=example, serialization_format="pt2", pip_requirements=["torch"],
    ).model_uri
    mlflow.end_run()
    said = json.loads(predicted([f"--model={uri}", "--json", str(photo)], capsys))
    assert said["classes"] == ["class 0", "class 1"]
    assert "--faces needs a model" in refused([f"--model={uri}", "--faces", str(photo)], capsys)
