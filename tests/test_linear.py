"""It is the fully connected layer, to rounding, with its gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from alexnet_mlflow import linear

SIZES = [(1, 16, 32), (5, 48, 16), (32, 1024, 4096)]  # pictures, in, out


def given(size: tuple[int, int, int], dtype: torch.dtype) -> tuple[Tensor, ...]:
    n, inputs, outputs = size
    draws = torch.Generator().manual_seed(0)
    return tuple(
        torch.randn(shape, generator=draws, dtype=dtype).requires_grad_()
        for shape in ((n, inputs), (outputs, inputs), (outputs,))
    )


@pytest.mark.parametrize("size", SIZES)
def test_it_equals_torchs_layer_with_its_gradients(size: tuple[int, int, int]) -> None:
    three = given(size, torch.float64)
    ours, theirs = linear.connected(*three), functional.linear(*three)
    torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=1e-10)
    assert ours.is_contiguous()
    slope = torch.randn(theirs.shape, generator=torch.Generator().manual_seed(1),
                        dtype=torch.float64)
    for mine, other in zip(
        torch.autograd.grad(ours, three, slope), torch.autograd.grad(theirs, three, slope),
        strict=True,
    ):
        torch.testing.assert_close(mine, other, atol=1e-9, rtol=1e-9)


def test_a_gradient_that_nobody_asks_for_is_not_computed() -> None:
    values, weight, bias = given(SIZES[1], torch.float64)
    ours = torch.autograd.grad(linear.connected(values.detach(), weight, bias).sum(), weight)
    theirs = torch.autograd.grad(functional.linear(values.detach(), weight, bias).sum(), weight)
    torch.testing.assert_close(ours, theirs)
