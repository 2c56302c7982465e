"""Evaluated finals without a training: runs with tags, figures and predictions as evaluate leaves.

Their models are empty, for nothing loads them: a version needs a source, no more.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
from mlflow import MlflowClient

from alexnet_mlflow.runs import Tracker

CLASSES = ("cat", "dog")


def predictions(
    right: Sequence[bool] | np.ndarray, groups: Sequence[str] | None = None,
    classes: Sequence[str] = CLASSES,
) -> pd.DataFrame:
    """A row a picture, as evaluate writes it; all are of the first class."""
    right = np.asarray(right, bool)
    ids = [f"{number:04d}.png" for number in range(len(right))]
    frame = pd.DataFrame({"id": ids, "label": 0, "prediction": (~right).astype(int), "loss": 0.5})
    if groups is not None:
        frame.insert(1, "group", list(groups))
    for name in classes:
        frame[f"p_{name}"] = 1 / len(classes)
    return frame


def evaluated(
    tracker: Tracker, table: pd.DataFrame, val: float = 0.9, dataset: str = "x",
    final: str | None = None, **tags: str,
) -> tuple[str, str]:
    """A final run and its evaluation, of this table: their ids. final: evaluate that one again."""
    client = MlflowClient()
    right = float((table["label"] == table["prediction"]).mean())
    common = {
        "dataset": dataset, "optimizer": "sgd", "recipe": "report", "seed": "0",
        "data_digest": "all", "git_commit": "abc", "verdict": "pass", **tags,
    }
    if final is None:
        with tracker.child("final", {**common, "stage": "final"}) as run:
            final = str(run.run_id)
            model = client.create_logged_model("0", name="model", source_run_id=final)
            client.finalize_logged_model(model.model_id, "READY")
            run.tags({"model_uri": model.model_uri})
    uri = mlflow.get_run(final).data.tags["model_uri"]
    kept = {
        "stage": "evaluate", "test_digest": "test", "trained_on": dataset, "final_run": final,
        "model_uri": uri,
    }
    with tracker.child("evaluate", {**kept, **common}) as run:
        run.metrics({
            "best_val_accuracy": val, "best_val_loss": 1 - val, "test_accuracy": right,
            "test_accuracy_low": right - 0.01, "test_accuracy_high": right + 0.01,
            "test_correct": round(right * len(table)), "test_pictures": len(table),
            "val_pictures": 100,
        })
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "predictions.parquet"
            table.to_parquet(file, index=False)
            run.file(file)
    return final, str(run.run_id)
