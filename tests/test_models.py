"""A model is logged and loaded without pickle, and knows the names of its classes."""

from __future__ import annotations

from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from mlflow.models import infer_signature

from alexnet_mlflow import models
from alexnet_mlflow.model import Servable, build
from alexnet_mlflow.models import load_model, model_classes
from alexnet_mlflow.options import BadInput
from alexnet_mlflow.track import connect

pytestmark = pytest.mark.usefixtures("narrow")


def test_a_model_loads_without_pickle_and_takes_any_batch(store: Path) -> None:
    servable = Servable(build(2, seed=1)).eval()
    with connect().child("x", {}) as run:
        model = run.model(servable, torch.rand(2, 3, 32, 32), ["a", "b"])
    assert model is not None
    loaded = load_model(model.uri)
    for count in (1, 3, 40):
        pixels = torch.rand(count, 3, 32, 32)
        with torch.inference_mode():
            assert torch.allclose(loaded(pixels), servable(pixels), atol=1e-6)
    info = mlflow.models.get_model_info(model.uri)
    assert info.signature is not None and "(-1, 3, 32, 32)" in str(info.signature.inputs)
    assert info.saved_input_example_info is not None
    files = [file.name for file in (store / "mlruns").rglob("*") if file.is_file()]
    assert "model.pt2" in files and not [name for name in files if name.endswith((".pth", ".pkl"))]


def test_a_model_knows_the_names_of_its_classes(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    servable, example = Servable(build(2, seed=1)).eval(), torch.rand(2, 3, 32, 32)
    with connect().child("x", {}) as run:
        named = run.model(servable, example, ("cat", "dog"))
        with pytest.raises(AssertionError, match="a name for each class"):
            models.log(str(run.run_id), servable, example, ("cat",))
        nameless = mlflow.pytorch.log_model(
            servable, name="older", signature=infer_signature(example.numpy(), np.zeros((2, 2))),
            input_example=example.numpy(), serialization_format="pt2", pip_requirements=["torch"],
        )  # as commits before this one logged it
    assert named is not None
    assert model_classes(named.uri) == ("cat", "dog")
    assert mlflow.models.get_model_info(named.uri).metadata == {"classes": ["cat", "dog"]}
    capsys.readouterr()
    assert model_classes(nameless.model_uri) == ("class 0", "class 1")
    assert "does not name its classes" in capsys.readouterr().err
    with pytest.raises(BadInput, match="'models:/x@champion' cannot be loaded"):
        model_classes("models:/x@champion")


def test_a_pickled_model_is_refused(store: Path) -> None:
    with mlflow.start_run():
        info = mlflow.pytorch.log_model(
            build(2, 0), name="bad", serialization_format="pickle", pip_requirements=["torch"]
        )
    with pytest.raises(BadInput, match="cannot be loaded"):
        load_model(info.model_uri)
