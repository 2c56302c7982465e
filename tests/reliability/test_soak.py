"""500 trials of a search in one process leave nothing behind: no memory, files, threads, children.

All of a trial is real but the network: its claim in the study, its run and the journal, two epochs
of training, its checkpoint, its result. The network is small, so that 500 take minutes, and little
can hide beside it. With AlexNet and one epoch there are few: what is left of one is 93 MB. Its heap
settles late: a weight of 64 MB that finds no hole large enough takes new room, once or twice.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from torch import nn

from alexnet_mlflow import checkpoint
from alexnet_mlflow.config import SearchConfig
from alexnet_mlflow.malloc import keep_freed_memory
from alexnet_mlflow.model import build
from alexnet_mlflow.stages import search
from alexnet_mlflow.track import connect
from tests.killed import started
from tests.stages.conftest import checked as checked

TRIALS, FEW = int(os.environ.get("ALEXNET_TRIALS", "500")), 120
GROWTH = 1.05  # at most, from when it has settled to the last trials
PATIENCE_SECONDS = 900
USED = Path("used")


def small(classes: int, seed: int, dropout: float = 0.5) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 8 * 8, 64),
        nn.Dropout(dropout), nn.Linear(64, classes),
    )


def used() -> dict[str, int]:
    """What this process holds now."""
    status = Path("/proc/self/status").read_text()
    children = [one.read_text().split() for one in Path("/proc/self/task").glob("*/children")]
    return {
        "KiB": int(re.search(r"VmRSS:\s+(\d+)", status)[1]),  # type: ignore[index]
        "files": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "children": sum(map(len, children)),  # zombies among them
    }


def _search(config: SearchConfig, net: Callable[..., nn.Module]) -> None:
    """A search with this network; what the process holds after each trial goes to a file."""
    trial, seen = search._trial, list[dict[str, int]]()

    def watched(*given: Any) -> None:
        if not seen:
            keep_freed_memory(False)  # the checks before the search were of the whole AlexNet
        trial(*given)
        seen.append(used())

    checkpoint.SECONDS_BETWEEN = 0  # after every epoch but the last
    search._trial, search.build = watched, net  # type: ignore[assignment]
    search.run(config, connect())
    USED.write_text(json.dumps(seen))


@pytest.mark.parametrize(
    ("net", "trials", "settled", "epochs"),
    [(build, FEW, FEW // 3, 1), (small, TRIALS, TRIALS // 10, 2)], ids=["alexnet", "small"],
)
def test_many_trials_leave_nothing_behind(
    store: Path, pictures: Path, checked: None,
    net: Callable[..., nn.Module], trials: int, settled: int, epochs: int,
) -> None:
    config = SearchConfig(
        dataset=str(pictures), batch_size=23, optimizer="adam", trials=trials, fine_trials=0,
        repeats=0, epochs=epochs, exhaustive=True, force=True, device="cpu",
        lr_low=1e-5, lr_high=1e-3,
    )
    process = started(_search, config, net)
    process.join(PATIENCE_SECONDS)
    assert process.exitcode == 0, "see what it said"
    seen = json.loads(USED.read_text())
    assert len(seen) == trials
    for name in seen[0]:
        # What is left behind is there after each of ten trials; a thread that is ending is not.
        before, after = (min(one[name] for one in some)
                         for some in (seen[settled:settled + 10], seen[-10:]))
        print(f"{before} -> {after} {name}")
        assert after <= GROWTH * before, f"{before} -> {after} {name}"
    assert len(MlflowClient().search_runs(["0"], "tags.stage = 'trial'")) == trials
    assert not list(checkpoint.FOLDER.rglob("*.pt"))
