"""It is the convolution, to rounding, with its gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from alexnet_mlflow import winograd

SIZES = [(5, 3, 2, 2, 2), (1, 1, 1, 4, 4), (3, 4, 5, 8, 4), (32, 64, 192, 8, 8)]  # N, C, O, H, W


def given(size: tuple[int, int, int, int, int], dtype: torch.dtype) -> tuple[Tensor, ...]:
    n, channels, results, height, width = size
    draws = torch.Generator().manual_seed(0)
    shapes = (n, channels, height, width), (results, channels, 3, 3), (results,)
    return tuple(
        torch.randn(shape, generator=draws, dtype=dtype).requires_grad_() for shape in shapes
    )


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", SIZES)
def test_it_equals_torchs_convolution_with_its_gradients(
    size: tuple[int, int, int, int, int], memory: torch.memory_format
) -> None:
    """In float64, where rounding hides nothing."""
    pictures, weight, bias = given(size, torch.float64)
    laid = pictures.to(memory_format=memory), weight.to(memory_format=memory), bias
    ours, theirs = winograd.convolved(*laid), functional.conv2d(pictures, weight, bias, padding=1)
    torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=1e-10)
    assert ours.is_contiguous(memory_format=torch.channels_last)
    slope = torch.randn(theirs.shape, generator=torch.Generator().manual_seed(1),
                        dtype=torch.float64)
    for mine, other in zip(
        torch.autograd.grad(ours, (pictures, weight, bias), slope),
        torch.autograd.grad(theirs, (pictures, weight, bias), slope), strict=True,
    ):
        torch.testing.assert_close(mine, other, atol=1e-9, rtol=1e-9)


def test_in_float32_it_is_as_near_as_another_order_of_sums() -> None:
    pictures, weight, bias = given(SIZES[-1], torch.float32)
    exact = functional.conv2d(pictures.double(), weight.double(), bias.double(), padding=1)
    ours = winograd.convolved(pictures, weight, bias)
    assert (ours - exact).abs().max() < 4e-6 * exact.abs().max()


def test_a_gradient_that_nobody_asks_for_is_not_computed() -> None:
    pictures, weight, bias = given(SIZES[2], torch.float64)
    slopes = torch.autograd.grad(winograd.convolved(pictures.detach(), weight, bias).sum(), weight)
    plain = functional.conv2d(pictures.detach(), weight, bias, padding=1).sum()
    torch.testing.assert_close(slopes, torch.autograd.grad(plain, weight))
