"""One of several processes that train together; test_distributed.py starts it with torchrun.

    torchrun ... tests/shared_batches.py FOLDER '[{"optimizer": "sgd", ...}, 0.5, null]'

Each process leaves its history, its weights, and what it would draw next in the folder.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from alexnet_mlflow import distributed
from alexnet_mlflow.config import TrainConfig
from alexnet_mlflow.data import Split, Splits
from alexnet_mlflow.model import build
from alexnet_mlflow.train import fit

CLASSES, TRAINED, BATCH = 3, 21, 10  # the last batch of an epoch is of one picture


def split(name: str, count: int, seed: int) -> Split:
    """Noise whose class is the channel that is brighter than the others."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int64) % CLASSES
    images = rng.integers(0, 100, (count, 3, 32, 32), dtype=np.uint8)
    images[np.arange(count), labels] += 100
    ids = np.array([f"{name}/{row:05d}" for row in range(count)])
    return Split(name, images, labels, ids, ids)


class Blinded(nn.Module):
    """The network, which answers nan for a white picture.

    It computes in float64, where the rounding of another order of sums is far below Adam's epsilon:
    in float32 Adam moves a weight whose slope is nothing but rounding as far as any other.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.double()

    def forward(self, pictures: Tensor) -> Tensor:
        white = pictures.amin(dim=(1, 2, 3)) > 2
        answers: Tensor = self.network(pictures.double()).masked_fill(white.view(-1, 1), math.nan)
        return answers


def pictures(white: int | None = None) -> Splits:
    """white: which of the training pictures is."""
    train = split("train", TRAINED, 0)
    if white is not None:
        train.images[white] = 255
    return Splits(
        name="noise", title="Noise", classes=("red", "green", "blue"), train=train,
        val=split("val", 31, 1), source="nowhere", digest="0" * 64, counts={}, skipped=0,
    )


def trained(
    settings: dict[str, Any], dropout: float, white: int | None = None
) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """The figures of each epoch, and the weights."""
    config = TrainConfig(weight_decay=1e-3, momentum=0.9, batch_size=BATCH, seed=5, **settings)
    model = Blinded(build(CLASSES, 0, dropout))
    history = [
        {**result.figures, "diverged_at": result.diverged_at_step}
        for result in fit(model, pictures(white), config, torch.device("cpu"))
    ]
    return history, {name: weight.detach() for name, weight in model.state_dict().items()}


def main(folder: Path, settings: dict[str, Any], dropout: float, white: int | None) -> None:
    torch.set_num_threads(1)
    with distributed.joined(torch.device("cpu")):
        told = distributed.passed_on([settings, 0.1] if not distributed.place().rank else None)
        assert told == [settings, 0.1], "what the first process gives arrives as it is"
        history, weights = trained(settings, dropout, white)
        place = distributed.place()
        assert place == distributed.started() and place.size > 1
    torch.save(weights, folder / f"{place.rank}.pt")
    found = {"history": history, "next_draw": torch.rand(()).item()}
    (folder / f"{place.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *json.loads(sys.argv[2]))
