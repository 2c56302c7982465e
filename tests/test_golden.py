"""Golden losses: twenty steps of each recipe and optimizer, exactly as they were recorded.

An epoch is one batch here, so that `train_loss` is the loss of that step and `val_loss` that of the
weights after it. The kernels differ with the CPU: floats are compared exactly where torch computes
as it did on the machine that recorded them, else within TOLERANCE.

After a change that is meant to change them: python -m tests.test_golden > tests/golden.json
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alexnet_mlflow.config import OPTIMIZERS, TrainConfig
from alexnet_mlflow.config import RECIPES as NAMES
from alexnet_mlflow.data import Split, Splits
from alexnet_mlflow.model import build
from alexnet_mlflow.train import fit

RECORD = Path(__file__).with_name("golden.json")
PICTURES, CLASSES, STEPS = 16, 4, 20
RATES = {"sgd": 0.05, "adam": 1e-3}
TOLERANCE = 1e-4  # nats; the losses are near ln 4 = 1.386


def split(name: str, seed: int) -> Split:
    """Noise whose class is the quarter that is brighter than the others."""
    rng = np.random.default_rng(seed)
    labels = np.arange(PICTURES, dtype=np.int64) % CLASSES
    images = rng.integers(0, 100, (PICTURES, 3, 32, 32), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[:, 16 * (label // 2) :, 16 * (label % 2) :][:, :16, :16] += 100
    ids = np.array([f"{name}/{row}" for row in range(PICTURES)])
    return Split(name, images, labels, ids, ids)


def losses(recipe: str, optimizer: str) -> list[list[float]]:
    """[train loss, validation loss] a step."""
    data = Splits(
        name="quarters", title="Quarters", classes=("a", "b", "c", "d"), train=split("train", 0),
        val=split("val", 1), source="nowhere", digest="0" * 64, counts={}, skipped=0,
    )
    config = TrainConfig(
        optimizer=optimizer, lr=RATES[optimizer], weight_decay=1e-3, momentum=0.9,
        batch_size=PICTURES, epochs=STEPS, recipe=recipe, seed=0,
    )
    results = fit(build(CLASSES, 0), data, config, torch.device("cpu"))
    return [[result.train_loss, result.val_loss] for result in results]


def taken() -> dict[str, Any]:
    """Every recipe's and optimizer's losses, and what computed them."""
    torch.set_num_threads(1)
    return {
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "losses": {
            f"{recipe} {optimizer}": losses(recipe, optimizer)
            for recipe in NAMES for optimizer in OPTIMIZERS
        },
    }


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """Taken in a process of its own, with one thread and no other test's state."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.test_golden"], capture_output=True, text=True, check=True,
        cwd=RECORD.parents[1],
    )
    return dict(json.loads(done.stdout))


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    return dict(json.loads(RECORD.read_text(encoding="utf-8")))


def test_the_losses_are_those_on_record(found: dict[str, Any], recorded: dict[str, Any]) -> None:
    alike = all(found[name] == recorded[name] for name in ("cpu_capability", "machine", "torch"))
    assert found["losses"].keys() == recorded["losses"].keys()
    for name, expected in recorded["losses"].items():
        if alike:
            assert found["losses"][name] == expected, name
        else:
            np.testing.assert_allclose(found["losses"][name], expected, atol=TOLERANCE, rtol=0)


def test_the_record_tells_recipes_and_optimizers_apart(recorded: dict[str, Any]) -> None:
    last = [taken[-1] for taken in recorded["losses"].values()]
    assert len(last) == len(NAMES) * len(OPTIMIZERS)
    for place, one in enumerate(last):
        others = last[:place]
        assert all(abs(one[0] - other[0]) > 10 * TOLERANCE for other in others)


if __name__ == "__main__":
    print(json.dumps(taken(), indent=1))
