"""The one training loop. It knows of pictures, a network and an optimizer, and of nothing else.

`fit` yields after every epoch; the caller logs, prunes, saves or stops between two results. The
whole split lies on the device as uint8; sums stay there and are read once an epoch. A non-finite
loss ends training at once, whatever the accuracy says: divergence is an outcome. What differs from
recipe to recipe (recipe.py) is computed from step, epoch and seed.

Same seed, same CPU, same thread count: the same weights, bit for bit. The random state travels
in `EpochResult.state`, so that a resumed training equals an uninterrupted one.
"""

from __future__ import annotations

import copy
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from alexnet_mlflow import distributed, optimizers
from alexnet_mlflow.augment import mirrors, normalise
from alexnet_mlflow.config import TrainConfig
from alexnet_mlflow.data import Split, Splits
from alexnet_mlflow.device import (
    compute_in,
    pick_precision,
    random_state_of,
    set_random_state,
)
from alexnet_mlflow.graph import Captured
from alexnet_mlflow.malloc import keep_freed_memory
from alexnet_mlflow.options import BadInput
from alexnet_mlflow.recipe import RECIPES
from alexnet_mlflow.score import score

# Reading the loss waits for the device: free on a CPU, a stop of the pipeline on a GPU.
LOOKS_EACH_STEP = {"cpu"}

EPOCH_METRICS = (
    "train_loss",
    "train_accuracy",
    "val_loss",
    "val_accuracy",
    "learning_rate",
    "epoch_seconds",
    "images_per_second",
)

State = dict[str, Any]  # what a checkpoint holds: tensors, numbers, texts and dicts of them


@dataclass(frozen=True)
class EpochResult:
    """What one epoch did. Losses are means over pictures; accuracies are fractions, 0 to 1."""

    epoch: int  # from 1
    train_loss: float  # running: each picture when its batch was trained, augmented; not smoothed
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    learning_rate: float  # of the epoch's last step
    epoch_seconds: float  # training and validation
    images_per_second: float  # training alone
    diverged_at_step: int | None  # the step, from 1, at which the loss was first seen non-finite
    state: Callable[[], State] = field(repr=False, compare=False)  # the live state, not a copy

    @property
    def diverged(self) -> bool:
        return self.diverged_at_step is not None

    def bare(self) -> EpochResult:
        """The same without the live state, which would keep network and optimizer in memory."""
        return replace(self, state=dict)

    @property
    def figures(self) -> dict[str, float]:
        """The epoch's metrics under the names that MLflow shows."""
        return {name: getattr(self, name) for name in EPOCH_METRICS}


def better(result: EpochResult, best: EpochResult | None) -> bool:
    """Is this epoch the better one on validation? By accuracy, then by loss. Never if diverged."""
    if result.diverged or best is None:
        return not result.diverged
    return (result.val_accuracy, -result.val_loss) > (best.val_accuracy, -best.val_loss)


def divergence(last: EpochResult) -> dict[str, float]:
    """Where training stopped being a number, as metrics."""
    assert last.diverged_at_step is not None
    return {"diverged_at_step": last.diverged_at_step, "diverged_at_epoch": last.epoch}


@dataclass(frozen=True)
class Pass:
    """The sums of one pass over the training pictures."""

    loss_sum: float
    correct: int
    steps: int
    diverged_at: int | None  # the step of this pass, from 1, whose loss was first not finite
    learning_rate: float  # of the last step


class Sums(NamedTuple):
    """What a pass adds up on the device: each (); read when it is over."""

    loss: Tensor  # float64
    correct: Tensor  # int64
    sound: Tensor  # int64: steps before the loss was first not finite

    @classmethod
    def zero(cls, device: torch.device) -> Sums:
        return cls(
            torch.zeros((), dtype=torch.float64, device=device),
            torch.zeros((), dtype=torch.int64, device=device),
            torch.zeros((), dtype=torch.int64, device=device),
        )

    def add(self, logits: Tensor, loss: Tensor, labels: Tensor) -> None:
        self.loss.add_(loss * len(labels))
        self.correct.add_((logits.argmax(dim=1) == labels).sum())
        self.sound.add_(torch.isfinite(self.loss))


def resident(split: Split, device: torch.device) -> tuple[Tensor, Tensor]:
    """A split's pictures (N, 3, 32, 32) uint8 and labels (N,) int64, on the device."""
    return torch.from_numpy(split.images).to(device), torch.from_numpy(split.labels).to(device)


class Live(NamedTuple):
    """What changes while a training goes on."""

    model: nn.Module
    averaged: nn.Module  # the model itself where the recipe averages nothing
    optimizer: torch.optim.Optimizer
    generator: torch.Generator


def fit(
    model: nn.Module,
    data: Splits,
    config: TrainConfig,
    device: torch.device,
    resume: State | None = None,
    shared: Shared | None = None,
) -> Iterator[EpochResult]:
    """Train `model` in place, one result an epoch, until `config.epochs` or divergence.

    `resume` is the `state()` of an earlier result, as read back from a checkpoint. Validation is of
    the averaged weights where the recipe averages: `kept_weights(state)` are those. `shared`: where
    it shares, a network of its own is trained, which begins with the weights of `model`.
    """
    if device.type == "cpu":
        keep_freed_memory()
    made = shared.batches if shared and shared.shares(device) else _Batches
    batches = made(model, data, config, device)
    live, val = batches.live, batches.val
    torch.manual_seed(config.seed)  # dropout draws from the global generator
    epoch, step = 0, 0
    if resume is not None:
        try:
            epoch, step = _restore(resume, live)
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise BadInput("the checkpoint is of another network or optimizer: start anew, without "
                           "--resume; if it is a search's, remove its folder") from error
    random_state = random_state_of(device)
    compute_in(batches.precision, config.deterministic and device.type == "cuda")
    while epoch < config.epochs:
        epoch += 1
        set_random_state(device, random_state)
        if rank := distributed.place().rank:  # a draw of its own, which no checkpoint needs to keep
            torch.manual_seed(random.Random(f"{config.seed} {epoch} {rank}").getrandbits(63))
        started = time.perf_counter()
        done = _train_epoch(batches, config, epoch)
        trained = time.perf_counter()
        scores = score(live.averaged, *val)
        diverged_at = step + done.diverged_at if done.diverged_at else None
        step += done.steps
        random_state = random_state_of(device)
        if not scores.finite:
            diverged_at = diverged_at or step
        yield EpochResult(
            epoch=epoch,
            train_loss=done.loss_sum / len(data.train),
            train_accuracy=done.correct / len(data.train),
            val_loss=scores.loss,
            val_accuracy=scores.accuracy,
            learning_rate=done.learning_rate,
            epoch_seconds=time.perf_counter() - started,
            images_per_second=len(data.train) / (trained - started),
            diverged_at_step=diverged_at,
            state=partial(_state, epoch, step, live, random_state),
        )
        if diverged_at is not None:
            return


class _Batches:
    """The pictures of a training, and what is done with a batch of them.

    Whole batches go through one captured step, whose tensors stay where they are.
    """

    def __init__(
        self, model: nn.Module, data: Splits, config: TrainConfig, device: torch.device,
        for_many: bool = False,
    ) -> None:
        model.to(device).to(memory_format=torch.channels_last).train()
        self.recipe = RECIPES[config.recipe]
        self.precision = pick_precision(config.precision, device)
        self.images, self.labels = resident(data.train, device)
        self.val = resident(data.val, device)
        optimizer = optimizers.make_optimizer(model, config, decays=not for_many)
        self.decay = optimizers.Decay(optimizer, config) if for_many else None
        averaged = copy.deepcopy(model) if self.recipe.average else model
        generator = torch.Generator(device).manual_seed(config.seed)
        self.live = Live(model, averaged, optimizer, generator)
        self.sums = Sums.zero(device)
        self.mirror = mirrors(len(self.images), config.seed, device)  # in even epochs
        self.mirrored = torch.zeros_like(self.mirror)  # in this epoch
        self.rows = torch.zeros(config.batch_size, dtype=torch.int64, device=device)
        self.here = distributed.place()
        self.network = distributed.in_step(model)
        self.whole = Captured(generator, capture=self.here.size == 1)

    def anew(self, model: nn.Module, config: TrainConfig) -> None:
        """Begin another training, from the weights of `model`: in the same tensors."""
        live = self.live
        live.model.load_state_dict(model.state_dict())
        live.averaged.load_state_dict(model.state_dict())
        optimizers.forget(live.optimizer)
        optimizers.set_decay(live.optimizer, self.decay, config)
        live.generator.manual_seed(config.seed)
        self.mirror.copy_(mirrors(len(self.images), config.seed, self.mirror.device))

    def begin(self, epoch: int) -> Tensor:
        """A fresh order of the pictures, (N,) int64; the sums are zero again."""
        for each in self.sums:
            each.zero_()
        self.mirrored.copy_(self.mirror ^ (epoch % 2 == 1))
        generator = self.live.generator
        return torch.randperm(len(self.images), generator=generator, device=self.images.device)

    def learn(self, chosen: Tensor) -> None:
        """Train on these pictures, (B,) int64."""
        if len(chosen) == len(self.rows):
            self.rows.copy_(chosen)
            self.whole(lambda: self._learn(self.rows))
        else:  # the last ones of an epoch
            self._learn(chosen)

    def _learn(self, chosen: Tensor) -> None:
        live, labels = self.live, self.labels[chosen]
        mirrored = self.mirrored[chosen]
        pictures = normalise(self.recipe.augment(self.images[chosen], live.generator, mirrored))
        mine, own = slice(None), len(chosen)
        if self.here.size > 1:
            mine, own = self._mine(len(chosen))
        logits, loss = train_step(
            self.network, live.optimizer, pictures[mine], labels[mine], self.recipe.smoothing,
            self.precision, weight=own * self.here.size / len(chosen),
        )
        self.sums.add(logits[:own], loss, labels[mine][:own])

    def _mine(self, count: int) -> tuple[slice, int]:
        """Which of a batch of `count` pictures this process learns from, and how many they are.

        Where there are fewer pictures than processes, one goes through the network and counts
        for nothing.
        """
        rank, size = self.here
        own = len(range(rank, count, size))
        return (slice(rank, None, size), own) if own else (slice(0, 1), 0)


class Shared:
    """What the trainings of a search have in common: a network, an optimizer, the pictures on the
    device, and there one captured step for all.

    They differ by rates, seed, epochs and first weights. `on_device`: weight decay is a number
    there, as a capture needs it, or is not; None: it is, and where nothing is captured they share
    nothing.
    """

    def __init__(self, on_device: bool | None = None) -> None:
        self.on_device = on_device
        self._batches: _Batches | None = None
        self._data: Splits | None = None
        self._of: tuple[object, ...] = ()

    def shares(self, device: torch.device) -> bool:
        """Not on a CPU, which gains nothing by it: its heap grew to 5 % more in 20 trials."""
        return device.type == "cuda" or self.on_device is not None

    def batches(
        self, model: nn.Module, data: Splits, config: TrainConfig, device: torch.device
    ) -> _Batches:
        """Ready to begin with the weights of `model`, which is left as it is."""
        of = (device, replace(config, lr=1.0, weight_decay=0.0, seed=0, epochs=1))
        if self._batches is None or self._data is not data or self._of != of:
            many = device.type == "cuda" if self.on_device is None else self.on_device
            self._batches = _Batches(copy.deepcopy(model), data, config, device, for_many=many)
            self._data, self._of = data, of
        self._batches.anew(model, config)
        return self._batches


def _train_epoch(batches: _Batches, config: TrainConfig, epoch: int) -> Pass:
    """One pass over the pictures in a fresh order.

    On a CPU it ends once the loss is not finite; a GPU is not asked before the pass is over, nor
    are several processes, which must end together.
    """
    live, recipe, sums = batches.live, batches.recipe, batches.sums
    chosen = batches.begin(epoch).split(config.batch_size)
    looks = batches.images.device.type in LOOKS_EACH_STEP and batches.here.size == 1
    before, steps = (epoch - 1) * len(chosen), config.epochs * len(chosen)
    for step, rows in enumerate(chosen, before + 1):
        rate = recipe.lr_at(step - 1, steps, config.lr)
        optimizers.set_rate(live.optimizer, rate)
        batches.learn(rows)
        if recipe.averages(step):
            average(live.averaged, live.model, recipe.kept(step, steps))
        if looks and not math.isfinite(sums.loss.item()):
            break
    distributed.summed(sums.loss)
    distributed.summed(sums.correct)
    distributed.least(sums.sound)
    sound, done = int(sums.sound.item()), step - before
    diverged_at = sound + 1 if sound < done else None
    return Pass(sums.loss.item(), int(sums.correct.item()), done, diverged_at, rate)


def train_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, pictures: Tensor, labels: Tensor,
    smoothing: float = 0.0, precision: str = "fp32", weight: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Forward, loss, backward, step. Returns the detached logits (N, C) and mean loss ().

    The loss told is the plain cross entropy, also where smoothed labels are learnt from. With
    precision bf16 layers multiply in it; weights, loss and update stay float32. `weight` is that of
    this loss among those of several processes.
    """
    optimizer.zero_grad(set_to_none=True)
    low = precision == "bf16"  # the cache of cast weights would outlive a captured step
    with torch.autocast(pictures.device.type, torch.bfloat16, low, cache_enabled=False):
        logits = model(pictures.contiguous(memory_format=torch.channels_last)).float()
    loss = goal = functional.cross_entropy(logits, labels)
    if smoothing:
        goal = functional.cross_entropy(logits, labels, label_smoothing=smoothing)
    (goal if weight == 1 else goal * weight).backward()
    optimizer.step()
    return logits.detach(), loss.detach()


@torch.no_grad()
def average(averaged: nn.Module, model: nn.Module, kept: float) -> None:
    """Move the averaged weights towards the model's; `kept` is the share they keep, 0 to 1."""
    for mean, weight in zip(averaged.parameters(), model.parameters(), strict=True):
        mean.lerp_(weight, 1 - kept)


def kept_weights(state: State) -> State:
    """The weights that were validated: the averaged ones where there are any."""
    weights: State = state["averaged" if "averaged" in state else "model"]
    return weights


def _state(epoch: int, step: int, live: Live, random_state: State) -> State:
    state: State = {
        "epoch": epoch,
        "step": step,
        "model": live.model.state_dict(),
        "optimizer": live.optimizer.state_dict(),
        "generator": live.generator.get_state(),
        "random": random_state,
    }
    if live.averaged is not live.model:
        state["averaged"] = live.averaged.state_dict()
    return state


def _restore(state: State, live: Live) -> tuple[int, int]:
    """Put a saved state into the live objects; returns its epoch and step."""
    live.model.load_state_dict(state["model"])
    live.averaged.load_state_dict(kept_weights(state))
    optimizers.put_back(live.optimizer, state["optimizer"])
    if state["generator"].numel() == live.generator.get_state().numel():
        live.generator.set_state(state["generator"])  # a CPU's says nothing to a GPU's generator
    set_random_state(live.generator.device, state["random"])
    return int(state["epoch"]), int(state["step"])
