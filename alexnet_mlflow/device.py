"""Where it is computed, how exactly, and what is drawn from there."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from alexnet_mlflow.options import BadInput


def pick_device(name: str, deterministic: bool = False) -> torch.device:
    """`auto` is CUDA where there is one; BadInput where `cuda` is asked for and missing.

    `deterministic`: cuBLAS is told, which asks once a process, at its first product.
    """
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # with several streams
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise BadInput("--device cuda: torch finds no CUDA GPU here; use --device auto or cpu")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def pick_precision(name: str, device: torch.device) -> str:
    """`auto` is bf16 on a GPU that has it, else fp32; BadInput for tf32 where there is no CUDA."""
    if name == "tf32" and device.type != "cuda":
        raise BadInput("--precision tf32 is for CUDA GPUs; use --precision auto, fp32 or bf16")
    if name != "auto":
        return name
    able = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if able else "fp32"


def compute_in(precision: str, deterministic: bool) -> None:
    """How CUDA computes from now on.

    float32 is multiplied in TF32 unless precision is fp32. `deterministic`: by algorithms that give
    the same bits each time, if cuBLAS was told (`pick_device`); where there is none, torch warns.
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision != "fp32"
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    if deterministic:
        # All memory is written before it is read here: filling it first would only cost.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def random_state_of(device: torch.device) -> dict[str, Tensor]:
    """What dropout draws from next: of the CPU, and of the device where that is another."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(device: torch.device, state: dict[str, Tensor]) -> None:
    """Go on drawing from there; a CPU's state says nothing to a GPU."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
