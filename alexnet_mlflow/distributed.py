"""Several processes of one machine that train one network, each on its share of every batch.

`torchrun --nproc-per-node=2 -m alexnet_mlflow final ...` starts them. All see the same batches in
the same order and draw the same augmentation; each learns from every `size`-th picture of a batch,
and DistributedDataParallel sums the gradients. But for dropout, which each draws for its own
pictures, and for the order of sums, that equals one process with the whole batch.

The first process (rank 0) alone tracks, writes and speaks. The others follow: they wait for what
to train, and train it. Orders pass as JSON; nothing is pickled.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch import distributed as dist

from alexnet_mlflow.options import BadInput

# One that is lost is a closed connection at once; one that waits for a store may take hours.
PATIENCE = timedelta(days=7)


class Place(NamedTuple):
    """Which of how many processes this is."""

    rank: int = 0
    size: int = 1


def started() -> Place:
    """As torchrun has started this process; alone without it."""
    if not dist.is_torchelastic_launched():
        return Place()
    return Place(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))


def place() -> Place:
    """Among those that it has joined."""
    return Place(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else Place()


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Together with the others that torchrun has started, for as long as the block lasts.

    BadInput where they are on other machines, which share no checkpoints, or more than there are
    GPUs.
    """
    here = started()
    if here.size == 1:
        yield
        return
    if os.environ["LOCAL_WORLD_SIZE"] != str(here.size):
        raise BadInput(
            "torchrun has started processes on several machines, which share no checkpoints: "
            "start all of them on one, with --nnodes=1"
        )
    if device.type == "cuda":
        cards = torch.cuda.device_count()
        if cards < here.size:
            raise BadInput(
                f"torchrun has started {here.size} processes, and torch finds {cards} GPUs: give "
                f"it --nproc-per-node={cards}, or the stage --device=cpu"
            )
        torch.cuda.set_device(here.rank)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=PATIENCE)
    yield
    dist.destroy_process_group()  # not after an error: the others may wait for something else


def passed_on(value: Any = None) -> Any:
    """What the first process gives, in all of them: anything that JSON holds."""
    if place().size == 1:
        return value
    text = json.dumps(value).encode()
    length = torch.tensor(len(text))
    dist.broadcast(length, 0)
    words = torch.tensor(list(text), dtype=torch.uint8)
    if place().rank:
        words = torch.empty(int(length), dtype=torch.uint8)
    dist.broadcast(words, 0)
    return json.loads(bytes(words.tolist()))


def in_step(model: nn.Module) -> nn.Module:
    """The same network, whose gradients are the means over all processes after a backward."""
    if place().size == 1:
        return model
    return nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)


def summed(value: Tensor) -> None:
    """In place: the sum over all processes."""
    if place().size > 1:
        dist.all_reduce(value)


def least(value: Tensor) -> None:
    """In place: the smallest of all processes."""
    if place().size > 1:
        dist.all_reduce(value, dist.ReduceOp.MIN)
