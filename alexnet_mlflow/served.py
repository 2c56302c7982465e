"""The model as MLflow serves it: each class's probability under the class's name.

MLflow's own wrapper for torch answers bare numbers. This module is the flavour with which models
are saved (a pt2 file, no pickle, as mlflow.pytorch saves it) and the loader that
`mlflow models serve` and `mlflow.pyfunc.load_model` find in the MLmodel file; both need this
package where the model is served. `mlflow.pytorch.load_model` needs it not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow.pytorch
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from alexnet_mlflow import exported

CLASSES = "classes"  # the names, in order, in the model's metadata
MLMODEL = "MLmodel"


def save_model(path: str, mlflow_model: Model, **options: Any) -> None:
    """Save as mlflow.pytorch does, to be served by this module."""
    mlflow.pytorch.save_model(path=path, mlflow_model=mlflow_model, **options)
    mlflow_model.flavors["python_function"]["loader_module"] = __name__
    mlflow_model.save(str(Path(path) / MLMODEL))


def _load_pyfunc(path: str, model_config: dict[str, Any] | None = None) -> Served:
    """What MLflow calls; `path` is the flavour's data folder within the model's."""
    exported.check_data(Path(path))
    loaded = mlflow.pytorch._load_pyfunc(path, model_config)
    described = Model.load(str(Path(path).parent / MLMODEL))
    return Served(loaded, tuple(described.metadata[CLASSES]))


class Served:
    """(N, 3, 32, 32) float32 in 0..1 -> a row a picture, a column a class, rows that sum to 1."""

    def __init__(self, model: Any, classes: tuple[str, ...]) -> None:
        self.model, self.classes = model, classes

    def predict(
        self, model_input: np.ndarray, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """MlflowException (HTTP 400) where a value is no pixel; shapes are the signature's."""
        if not ((model_input >= 0) & (model_input <= 1)).all():  # nan is neither
            raise MlflowException(
                "pixels must be finite and lie in 0..1: divide those of 0..255 by 255",
                error_code=INVALID_PARAMETER_VALUE,
            )
        answers = self.model.predict(np.ascontiguousarray(model_input, np.float32), params)
        return pd.DataFrame(answers, columns=list(self.classes))
