"""A served model answers over HTTP: names, any number of pictures, sentences for what is wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.exceptions import MlflowException

from alexnet_mlflow.model import Servable, build
from alexnet_mlflow.models import load_model
from alexnet_mlflow.track import connect
from tests.tracking_server import free_port

CLASSES = ("face", "no $face", "third")


@pytest.fixture(scope="module")
def model(
    tmp_path_factory: pytest.TempPathFactory, empty_store: Path
) -> Iterator[tuple[str, Path]]:
    """A logged model's address, and the folder of its store."""
    folder = tmp_path_factory.mktemp("served")
    before = mlflow.get_tracking_uri()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
        with connect().child("final", {}) as run:
            logged = run.model(Servable(build(3, 0)).eval(), torch.rand(2, 3, 32, 32), CLASSES)
        assert logged
        yield logged.uri, folder
    mlflow.set_tracking_uri(before)


def pixels(count: int) -> np.ndarray:
    return np.random.default_rng(count).random((count, 3, 32, 32), np.float32)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_loaded_it_answers_probabilities_under_names(model: tuple[str, Path], count: int) -> None:
    uri, _ = model
    answer = mlflow.pyfunc.load_model(uri).predict(pixels(count))
    assert isinstance(answer, pd.DataFrame) and tuple(answer.columns) == CLASSES
    assert np.allclose(answer.sum(axis=1), 1, atol=1e-5) and len(answer) == count
    with torch.inference_mode():
        plain = load_model(uri)(torch.from_numpy(pixels(count))).numpy()
    assert np.allclose(answer, plain, atol=1e-6)


def test_no_pickle_is_in_it(model: tuple[str, Path]) -> None:
    folder = Path(mlflow.artifacts.download_artifacts(model[0]))
    names = {file.name for file in folder.rglob("*") if file.is_file()}
    assert "MLmodel" in names and not any(name.endswith((".pkl", ".pth", ".py")) for name in names)


@pytest.mark.parametrize("value", [255.0, -0.1, np.nan, np.inf])
def test_what_is_no_pixel_is_refused(model: tuple[str, Path], value: float) -> None:
    wrong = pixels(1)
    wrong[0, 0, 0, 0] = value
    with pytest.raises(MlflowException, match=r"must be finite and lie in 0\.\.1"):
        mlflow.pyfunc.load_model(model[0]).predict(wrong)


@pytest.fixture(scope="module")
def address(model: tuple[str, Path]) -> Iterator[str]:
    """`mlflow models serve`, as a user starts it."""
    uri, folder = model
    port = free_port()
    words = [sys.executable, "-m", "mlflow", "models", "serve", "-m", uri, "--env-manager", "local",
             "--host", "127.0.0.1", "--port", str(port)]
    environment = {
        **os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    with open(folder / "serve.log", "w") as log, subprocess.Popen(
        words, env=environment, stdout=log, stderr=log, start_new_session=True
    ) as server:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5).close()
                break
            except OSError:
                assert server.poll() is None, (folder / "serve.log").read_text()
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/invocations"
        os.killpg(server.pid, signal.SIGTERM)


def asked(address: str, body: object) -> tuple[int, dict[str, object]]:
    request = urllib.request.Request(
        address, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


@pytest.mark.parametrize("count", [1, 3])
def test_it_answers_over_http(address: str, model: tuple[str, Path], count: int) -> None:
    code, answer = asked(address, {"inputs": pixels(count).tolist()})
    assert code == 200
    expected = mlflow.pyfunc.load_model(model[0]).predict(pixels(count))
    told = pd.DataFrame(answer["predictions"])
    assert list(told.columns) == list(CLASSES) and np.allclose(told, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("wrong", "part"),
    [
        (np.zeros((1, 3, 28, 28)), "shape"),
        (np.zeros((3, 32, 32)), "shape"),
        (np.zeros((2, 1, 32, 32)), "shape"),
        (np.full((1, 3, 32, 32), 200.0), "divide those of 0..255 by 255"),
    ],
)
def test_bad_input_is_a_sentence_and_the_client_s_fault(
    address: str, wrong: np.ndarray, part: str
) -> None:
    code, answer = asked(address, {"inputs": wrong.tolist()})
    assert 400 <= code < 500 and part in str(answer["message"])
    code, answer = asked(address, {"nonsense": 1})
    assert 400 <= code < 500
