"""The optimizers, and what a captured step asks of them: tensors that stay where they are.

Learning rate and weight decay of a captured step can be changed only where they are tensors on the
device. torch's fused optimizers take the rate as one, and weight decay as a number of the host: so
a training has it there, and trainings that share a capture decay by a pass of their own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from alexnet_mlflow.config import TrainConfig
from alexnet_mlflow.recipe import RECIPES

OWN = {"lr", "weight_decay", "capturable"}  # the config's and the device's, not a checkpoint's


def make_optimizer(
    model: nn.Module, config: TrainConfig, decays: bool = True
) -> torch.optim.Optimizer:
    """SGD with momentum, or Adam, fused. Weight decay is L2 inside the step, unless the recipe
    decouples Adam's. On CUDA the rate is a tensor there, so that a captured step can be given
    another one. `decays` False: a `Decay` does it instead, and the rate is a tensor anywhere."""
    weights, recipe = list(model.parameters()), RECIPES[config.recipe]
    on_cuda, decay = weights[0].device.type == "cuda", decay_of(config) if decays else 0.0
    on_device = on_cuda or not decays
    lr = torch.tensor(config.lr, device=weights[0].device) if on_device else config.lr
    if config.optimizer == "sgd":
        nesterov = recipe.nesterov and config.momentum > 0
        return torch.optim.SGD(
            weights, lr, config.momentum, weight_decay=decay, nesterov=nesterov, fused=True
        )
    kind = torch.optim.AdamW if recipe.decoupled else torch.optim.Adam
    return kind(weights, lr, weight_decay=decay, capturable=on_cuda, fused=True)


def decouples(config: TrainConfig) -> bool:
    """Does weight decay stand apart from gradient and rate?"""
    return RECIPES[config.recipe].decoupled and config.optimizer == "adam"


def decay_of(config: TrainConfig) -> float:
    """Weight decay as the optimizer has it. Decoupled, `weight_decay` is the share that a step at
    the peak rate takes of a weight."""
    return config.weight_decay / config.lr if decouples(config) else config.weight_decay


class Decay:
    """Weight decay by a number on the device, before each step of an optimizer that has none.

    It reads weights and gradients once more and writes one of them: 280 MB.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, config: TrainConfig) -> None:
        self.decoupled = decouples(config)
        self.share = torch.zeros((), device=optimizer.param_groups[0]["params"][0].device)
        optimizer.register_step_pre_hook(self)

    @torch.no_grad()
    def __call__(self, optimizer: torch.optim.Optimizer, *given: Any) -> None:
        for group in optimizer.param_groups:
            for weight in group["params"]:
                if self.decoupled:
                    weight.mul_(1 - group["lr"] * self.share)
                else:
                    weight.grad.addcmul_(weight, self.share)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The learning rate of the next step."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def set_decay(
    optimizer: torch.optim.Optimizer, decay: Decay | None, config: TrainConfig
) -> None:
    """The weight decay of the next step: the number on the device, or the optimizer's own."""
    if decay:
        decay.share.fill_(decay_of(config))
        return
    for group in optimizer.param_groups:
        group["weight_decay"] = decay_of(config)


def forget(optimizer: torch.optim.Optimizer) -> None:
    """As if it had made no step; its tensors stay where they are."""
    for kept in optimizer.state.values():
        for value in kept.values():
            if isinstance(value, Tensor):
                value.zero_()


def put_back(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Take up a saved state, but for the rates and what is otherwise on another device. Tensors
    that are there are written into."""
    own = [{name: group[name] for name in OWN & group.keys()} for group in optimizer.param_groups]
    there = {weight: dict(kept) for weight, kept in optimizer.state.items()}
    optimizer.load_state_dict(state)
    for group, kept in zip(optimizer.param_groups, own, strict=True):
        group.update(kept)
    for weight, before in there.items():
        found = optimizer.state[weight]
        for name in (name for name, value in before.items() if isinstance(value, Tensor)):
            found[name] = before[name].copy_(found[name])
