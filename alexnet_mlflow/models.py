"""Logged models: how one is logged, and how one is loaded, without pickle both ways.

Left out: versions and aliases (registry.py), and what a served model answers (served.py).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_mlflow import exported, reach
from alexnet_mlflow.options import BadInput
from alexnet_mlflow.progress import say
from alexnet_mlflow.runs import LoggedModel

if TYPE_CHECKING:
    from torch import Tensor, nn


def log(run_id: str, model: nn.Module, example: Tensor, classes: Sequence[str]) -> LoggedModel:
    """Log a module that lies on the CPU, in evaluation mode, as torch.export's pt2."""
    import mlflow
    import numpy as np
    import torch
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    from alexnet_mlflow import served

    with torch.inference_mode():
        answers = model(example).shape[1]
    assert len(classes) == answers, "a name for each class"
    pixels = TensorSpec(np.dtype("float32"), (-1, *example.shape[1:]))
    signature = ModelSignature(
        Schema([pixels]), Schema([ColSpec("float", name) for name in classes])
    )
    packages = [f"torch=={torch.__version__.split('+')[0]}", f"mlflow=={mlflow.__version__}"]
    client = mlflow.MlflowClient()
    run = client.get_run(run_id)  # Model.log by itself takes the experiment of the environment
    made = client.create_logged_model(
        run.info.experiment_id, "model", source_run_id=run_id, params=run.data.params
    )
    info = Model.log(
        artifact_path=None,
        name="model",
        model_id=made.model_id,
        run_id=run_id,
        flavor=served,
        metadata={served.CLASSES: list(classes)},
        pytorch_model=model,
        signature=signature,
        input_example=example.numpy(),
        serialization_format="pt2",
        pip_requirements=[*packages, f"numpy=={np.__version__}"],
    )
    return LoggedModel(info.model_uri, info.model_id)


def load_model(uri: str) -> nn.Module:
    """A logged model, on the CPU; nothing in its files is run. BadInput where it cannot be."""
    os.environ.update(reach.SAFE)
    import mlflow.pytorch
    from mlflow.models import Model

    try:
        with reach.environment(reach.PATIENT):
            folder = mlflow.artifacts.download_artifacts(uri)
        exported.check(Path(folder), Model.load(folder).flavors["pytorch"])
        model: nn.Module = mlflow.pytorch.load_model(folder, device="cpu")
    except Exception as error:  # a dozen types, from URIs that are none to files that are cut off
        raise _no_model(uri, error) from error
    return model


def model_classes(uri: str) -> tuple[str, ...]:
    """The names of what a logged model answers, in order; `class 0` ... where it has none.

    Raises BadInput where the model is not there, or does not say what it answers.
    """
    from mlflow.models import Model

    from alexnet_mlflow.served import CLASSES

    try:
        with reach.environment(reach.PATIENT):
            info = Model.load(uri)
        if names := (info.metadata or {}).get(CLASSES):
            return tuple(map(str, names))
        count = info.signature.outputs.inputs[0].shape[-1]
    except Exception as error:  # as above; and a model without a signature
        raise _no_model(uri, error) from error
    say(f"The model {uri} does not name its classes: they are called class 0, class 1 and so on.")
    return tuple(f"class {number}" for number in range(count))


def _no_model(uri: str, error: Exception) -> BadInput:
    reason = (str(error) or type(error).__name__).splitlines()[0][:200]
    return BadInput(
        f"the model {uri!r} cannot be loaded ({reach.without_password(reason).rstrip('.')}): give "
        "the URI of one that was logged, such as models:/alexnet-faces@champion, and in "
        "MLFLOW_TRACKING_URI the store that has it"
    )
