"""What the tests of stages share."""

from __future__ import annotations

from pathlib import Path

import pytest

from alexnet_mlflow.config import SearchConfig
from alexnet_mlflow.data import load
from alexnet_mlflow.track import connect


@pytest.fixture
def checked(store: Path, pictures: Path) -> None:
    """Sanity and overfit are on record, so that a search does not measure for a minute first."""
    data = load(SearchConfig(dataset=str(pictures)))
    for stage in ("sanity", "overfit"):
        for optimizer in ("sgd", "adam"):
            tags = {"stage": stage, "dataset": data.name, "optimizer": optimizer,
                    "recipe": "report", "data_digest": data.digest, "verdict": "pass"}
            with connect().child(stage, tags):
                pass
