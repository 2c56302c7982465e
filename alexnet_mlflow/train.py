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
import ctypes
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from alexnet_mlflow.augment import mirrors, normalise
from alexnet_mlflow.config import TrainConfig
from alexnet_mlflow.data import Split, Splits
from alexnet_mlflow.options import BadInput
from alexnet_mlflow.recipe import RECIPES
from alexnet_mlflow.score import score

# Reading the loss waits for the device: free on a CPU, a stop of the pipeline on a GPU.
STEPS_BETWEEN_LOOKS = {"cpu": 1}
STEPS_BETWEEN_LOOKS_ELSEWHERE = 50

# glibc's malloc.h: M_TRIM_THRESHOLD -1, M_MMAP_THRESHOLD -3, M_MMAP_MAX -4. By itself glibc raises
# the thresholds to 32 and 64 MiB once memory of that size has been freed.
MALLOC_KEEPS = {-4: 0, -1: 2**31 - 1}
MALLOC_BY_ITSELF = {-4: 65536, -3: 32 << 20, -1: 64 << 20}

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
    sound: bool
    learning_rate: float  # of the last step


def pick_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one; BadInput where `cuda` is asked for and missing."""
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise BadInput("--device cuda: torch finds no CUDA GPU here; use --device auto or cpu")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def resident(split: Split, device: torch.device) -> tuple[Tensor, Tensor]:
    """A split's pictures (N, 3, 32, 32) uint8 and labels (N,) int64, on the device."""
    return torch.from_numpy(split.images).to(device), torch.from_numpy(split.labels).to(device)


def keep_freed_memory(keep: bool = True) -> bool:
    """Tell glibc to keep freed memory for the next step instead of giving it back to the kernel.

    The gradients of the fully connected layers are 84 MB, freed and allocated anew each step: by
    default each step takes 16,385 page faults and 37 ms of the kernel's time (measured; batch 16
    122 -> 82 ms, batch 32 158 -> 115 ms a step). The process stays as large as it ever was.
    `keep=False` goes back to what glibc does by itself. False where there is no glibc.
    """
    try:
        library = ctypes.CDLL(None)
        mallopt, trim = library.mallopt, library.malloc_trim
    except (AttributeError, OSError, TypeError):
        return False
    changes = MALLOC_KEEPS if keep else MALLOC_BY_ITSELF
    done = [mallopt(name, value) == 1 for name, value in changes.items()]
    if not keep:
        trim(0)
    return all(done)


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """SGD with momentum, or Adam, fused. Weight decay is L2 inside the step, unless the recipe
    decouples Adam's, whose share is `weight_decay` at the peak rate then."""
    weights, decay, recipe = model.parameters(), config.weight_decay, RECIPES[config.recipe]
    if config.optimizer == "sgd":
        nesterov = recipe.nesterov and config.momentum > 0
        return torch.optim.SGD(
            weights, config.lr, config.momentum, weight_decay=decay, nesterov=nesterov, fused=True
        )
    if recipe.decoupled:
        return torch.optim.AdamW(weights, config.lr, weight_decay=decay / config.lr, fused=True)
    return torch.optim.Adam(weights, config.lr, weight_decay=decay, fused=True)


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
) -> Iterator[EpochResult]:
    """Train `model` in place, one result an epoch, until `config.epochs` or divergence.

    `resume` is the `state()` of an earlier result, as read back from a checkpoint. Validation is of
    the averaged weights where the recipe averages: `kept_weights(state)` are those.
    """
    if device.type == "cpu":
        keep_freed_memory()
    model.to(device).to(memory_format=torch.channels_last).train()
    train, val = resident(data.train, device), resident(data.val, device)
    recipe = RECIPES[config.recipe]
    averaged = copy.deepcopy(model) if recipe.average else model
    generator = torch.Generator(device).manual_seed(config.seed)
    live = Live(model, averaged, make_optimizer(model, config), generator)
    torch.manual_seed(config.seed)  # dropout draws from the global generator
    epoch, step = 0, 0
    if resume is not None:
        epoch, step = _restore(resume, live)
    random_state = _random_state(device)
    while epoch < config.epochs:
        epoch += 1
        _set_random_state(device, random_state)
        started = time.perf_counter()
        done = _train_epoch(live, train, config, epoch)
        trained = time.perf_counter()
        scores = score(averaged, *val)
        step += done.steps
        random_state = _random_state(device)
        diverged_at = None if done.sound and scores.finite else step
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


def _train_epoch(
    live: Live, train: tuple[Tensor, Tensor], config: TrainConfig, epoch: int
) -> Pass:
    """One pass over the pictures in a fresh order; ends early once the loss is not finite."""
    images, labels = train
    device, recipe = images.device, RECIPES[config.recipe]
    look_every = STEPS_BETWEEN_LOOKS.get(device.type, STEPS_BETWEEN_LOOKS_ELSEWHERE)
    loss_sum = torch.zeros((), dtype=torch.float64, device=device)
    correct = torch.zeros((), dtype=torch.int64, device=device)
    mirrored = mirrors(len(images), config.seed, device) ^ (epoch % 2 == 1)
    order = torch.randperm(len(images), generator=live.generator, device=device)
    batches = order.split(config.batch_size)
    before, steps = (epoch - 1) * len(batches), config.epochs * len(batches)
    for step, chosen in enumerate(batches, before + 1):
        rate = recipe.lr_at(step - 1, steps, config.lr)
        set_rate(live.optimizer, rate)
        pictures = normalise(recipe.augment(images[chosen], live.generator, mirrored[chosen]))
        logits, loss = train_step(
            live.model, live.optimizer, pictures, labels[chosen], recipe.smoothing
        )
        if recipe.averages(step):
            average(live.averaged, live.model, recipe.kept(step, steps))
        loss_sum += loss * len(chosen)
        correct += (logits.argmax(dim=1) == labels[chosen]).sum()
        if (step - before) % look_every == 0 and not math.isfinite(loss_sum.item()):
            break
    total = loss_sum.item()
    return Pass(total, int(correct.item()), step - before, math.isfinite(total), rate)


def train_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, pictures: Tensor, labels: Tensor,
    smoothing: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Forward, loss, backward, step. Returns the detached logits (N, C) and mean loss ().

    The loss told is the plain cross entropy, also where smoothed labels are learnt from.
    """
    optimizer.zero_grad(set_to_none=True)
    logits = model(pictures.contiguous(memory_format=torch.channels_last))
    loss = goal = functional.cross_entropy(logits, labels)
    if smoothing:
        goal = functional.cross_entropy(logits, labels, label_smoothing=smoothing)
    goal.backward()
    optimizer.step()
    return logits.detach(), loss.detach()


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The learning rate of the next step."""
    for group in optimizer.param_groups:
        group["lr"] = rate


@torch.no_grad()
def average(averaged: nn.Module, model: nn.Module, kept: float) -> None:
    """Move the averaged weights towards the model's; `kept` is the share they keep, 0 to 1."""
    for mean, weight in zip(averaged.parameters(), model.parameters(), strict=True):
        mean.lerp_(weight, 1 - kept)


def kept_weights(state: State) -> State:
    """The weights that were validated: the averaged ones where there are any."""
    weights: State = state["averaged" if "averaged" in state else "model"]
    return weights


def _random_state(device: torch.device) -> State:
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def _set_random_state(device: torch.device, state: State) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


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
    live.optimizer.load_state_dict(state["optimizer"])
    if state["generator"].numel() == live.generator.get_state().numel():
        live.generator.set_state(state["generator"])  # a CPU's says nothing to a GPU's generator
    _set_random_state(live.generator.device, state["random"])
    return int(state["epoch"]), int(state["step"])
