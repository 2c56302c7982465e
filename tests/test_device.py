"""Where it is computed and how exactly; what is drawn goes on from where it was."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from alexnet_mlflow.device import (
    compute_in,
    pick_device,
    pick_precision,
    random_state_of,
    set_random_state,
)
from alexnet_mlflow.options import BadInput

CPU = torch.device("cpu")

needs_gpu = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="torch finds no CUDA GPU on this machine"
)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA GPU here")
def test_cuda_that_is_not_there_is_refused() -> None:
    with pytest.raises(BadInput, match="--device cuda: .* use --device auto or cpu"):
        pick_device("cuda")
    assert pick_device("auto") == CPU


def test_the_cpu_is_always_there() -> None:
    assert pick_device("cpu") == CPU


@pytest.mark.gpu
@needs_gpu
def test_auto_takes_the_gpu() -> None:
    assert pick_device("auto").type == pick_device("cuda").type == "cuda"


def test_tf32_is_cuda_s() -> None:
    with pytest.raises(BadInput, match="use --precision auto, fp32 or bf16"):
        pick_precision("tf32", CPU)
    assert pick_precision("auto", CPU) == "fp32" and pick_precision("bf16", CPU) == "bf16"


@pytest.fixture
def switches(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """They are the process's: put back."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    yield
    compute_in("fp32", deterministic=False)


@pytest.mark.usefixtures("switches")
def test_tf32_multiplies_unless_it_is_to_be_exact() -> None:
    for precision, expected in (("bf16", True), ("tf32", True), ("fp32", False)):
        compute_in(precision, deterministic=False)
        assert torch.backends.cuda.matmul.allow_tf32 is expected
        assert torch.backends.cudnn.allow_tf32 is expected


@pytest.mark.usefixtures("switches")
def test_deterministic_asks_torch_and_cublas_and_can_be_taken_back() -> None:
    pick_device("cpu")
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    pick_device("cpu", deterministic=True)  # before anything is multiplied
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    compute_in("fp32", deterministic=True)
    assert torch.are_deterministic_algorithms_enabled()
    compute_in("fp32", deterministic=False)
    assert not torch.are_deterministic_algorithms_enabled()


def test_what_is_drawn_goes_on() -> None:
    with torch.random.fork_rng(devices=[]):
        state = random_state_of(CPU)
        first = torch.rand(3)
        set_random_state(CPU, state)
        assert torch.equal(torch.rand(3), first) and not torch.equal(torch.rand(3), first)
