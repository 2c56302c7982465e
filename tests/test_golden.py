"""Golden losses: twenty steps of each recipe and optimizer, exactly as they were recorded.

An epoch is one batch here, so that `train_loss` is the loss of that step and `val_loss` that of the
weights after it. The kernels differ with the CPU: floats are compared exactly where torch computes
as it did on the machine that recorded them, else within what other kernels were seen to change.

After a change that is meant to change them, on a machine of each kind (here one with AVX2):
python -m tests.test_golden > tests/golden/AVX2.json
"""

from __future__ import annotations

import json
import os
import platform
import re
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

RECORDS = sorted(Path(__file__).with_name("golden").glob("*.json"))  # one a kind of CPU
PICTURES, CLASSES, STEPS = 16, 4, 20
RATES = {"sgd": 0.05, "adam": 1e-3}
# Nats, of losses near ln 4 = 1.386. AVX512, and kernels for other CPUs on the same one, changed
# three steps by 1e-5 at most; then what is rounded grows, with SGD to 6e-5, with Adam to 7e-2.
FIRST, FIRST_TOLERANCE, TOLERANCE = 3, 5e-5, {"sgd": 1e-3, "adam": 0.3}
OTHER_KERNELS = {"ATEN_CPU_CAPABILITY": "default"}  # with oneDNN's and MKL's it takes a minute


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
        "vendor": vendor(),  # whose kernels MKL and oneDNN choose
        "torch": torch.__version__,
        "losses": {
            f"{recipe} {optimizer}": losses(recipe, optimizer)
            for recipe in NAMES for optimizer in OPTIMIZERS
        },
    }


def vendor() -> str:
    """Who made the CPU, where the kernel tells it."""
    try:
        told = Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
    found = re.search(r"^vendor_id\s*:\s*(.+)$", told, re.MULTILINE)
    return found[1] if found else ""


def found(**environment: str) -> dict[str, Any]:
    """Taken in a process of its own, with one thread and no other test's state."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.test_golden"], capture_output=True, text=True, check=True,
        cwd=Path(__file__).parents[1], env={**os.environ, **environment},
    )
    return dict(json.loads(done.stdout))


@pytest.fixture(scope="module", params=RECORDS, ids=lambda path: path.stem)
def recorded(request: pytest.FixtureRequest) -> dict[str, Any]:
    return dict(json.loads(request.param.read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def now() -> dict[str, Any]:
    return found()


def near(losses: dict[str, Any], recorded: dict[str, Any]) -> None:
    """Fails where other kernels do not explain the difference."""
    assert losses.keys() == recorded.keys()
    for name, expected in recorded.items():
        away = np.abs(np.subtract(losses[name], expected)).max(axis=1)
        assert away[:FIRST].max() < FIRST_TOLERANCE, name
        assert away.max() < TOLERANCE[name.split()[1]], name


def test_the_losses_are_near_those_of_every_cpu(
    now: dict[str, Any], recorded: dict[str, Any]
) -> None:
    near(now["losses"], recorded["losses"])


def test_the_losses_are_exactly_those_of_this_kind_of_cpu(
    now: dict[str, Any], recorded: dict[str, Any]
) -> None:
    kind = {name: value for name, value in recorded.items() if name != "losses"}
    if any(now[name] != value for name, value in kind.items()):
        pytest.skip(f"they were taken with {', '.join(kind.values())}")
    assert now["losses"] == recorded["losses"]


@pytest.fixture(scope="module")
def other() -> dict[str, Any]:
    return found(**OTHER_KERNELS)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the switches are x86's")
def test_other_kernels_stay_near(
    now: dict[str, Any], other: dict[str, Any], recorded: dict[str, Any]
) -> None:
    assert other["losses"] != now["losses"], "they are the same: the switches do nothing"
    near(other["losses"], recorded["losses"])


def test_both_kinds_of_our_machines_are_on_record() -> None:
    kinds = {path.stem: json.loads(path.read_text())["cpu_capability"] for path in RECORDS}
    assert kinds == {"AVX2": "AVX2", "AVX512": "AVX512"}


def test_the_record_tells_recipes_and_optimizers_apart(recorded: dict[str, Any]) -> None:
    first = [np.array(taken[:FIRST]) for taken in recorded["losses"].values()]
    assert len(first) == len(NAMES) * len(OPTIMIZERS)
    for place, one in enumerate(first):
        assert all(np.abs(one - other).max() > 10 * FIRST_TOLERANCE for other in first[:place])


if __name__ == "__main__":
    print(json.dumps(taken(), indent=1))
