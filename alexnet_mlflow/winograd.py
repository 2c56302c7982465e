"""3x3 convolutions by Winograd's minimal filtering, F(2x2, 3x3): 4 products instead of 9.

Two rows and two columns of the result at a time are linear maps of 4x4 pixels and of the weights,
multiplied with one another point by point (arXiv 1509.09308): sixteen products of matrices instead
of one nine times as wide, forward and in both passes backward. The maps add and halve; in float32
the result differs from the direct one by some 2e-6 of its largest number, as another order of sums
does. For the training step on a CPU, where oneDNN computes convolutions directly.
Left out: sizes that are odd, strides, and a GPU, where cuDNN chooses by itself.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# The paper's B^T, G and A^T, of one dimension.
PICTURE = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
WEIGHT = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
RESULT = ((1, 1, 1, 0), (0, 1, -1, -1))


@functools.cache
def _maps(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Of two dimensions: (16, 16) of pixels, (16, 9) of weights, (4, 16) of the result."""
    once = (torch.tensor(rows, dtype=dtype) for rows in (PICTURE, WEIGHT, RESULT))
    picture, weight, result = (torch.kron(one, one) for one in once)
    return picture, weight, result


def convolved(pictures: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """What `conv2d(pictures, weight, bias, padding=1)` gives, up to rounding; with its gradients.

    pictures: (N, C, H, W), H and W even; weight: (O, C, 3, 3); bias: (O,); all of one float type,
    on the CPU, best in memory format channels_last -> (N, O, H, W) in that format.
    """
    result: Tensor = _Convolution.apply(pictures, weight, bias)
    return result


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pictures: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        n, channels, height, width = pictures.shape
        of_picture, of_weight, of_result = _maps(pictures.dtype)
        pixels = _windows(pictures)
        points = (of_picture @ pixels).view(16, -1, channels)
        weights = (of_weight @ weight.permute(2, 3, 0, 1).reshape(9, -1)).view(16, -1, channels)
        products = torch.bmm(points, weights.transpose(1, 2))
        pairs = (of_result @ products.view(16, -1)).view(2, 2, n, height // 2, width // 2, -1)
        result = torch.empty(  # no view, which a ReLU in place could not change
            (n, len(weight), height, width), dtype=weight.dtype, memory_format=torch.channels_last
        )
        rows = result.permute(0, 2, 3, 1).view(n, height // 2, 2, width // 2, 2, -1)
        torch.add(pairs.permute(2, 3, 0, 4, 1, 5), bias, out=rows)
        ctx.save_for_backward(points, weights)
        ctx.shape = pictures.shape
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        points, weights = ctx.saved_tensors
        n, channels, height, width = ctx.shape
        of_picture, of_weight, of_result = _maps(points.dtype)
        slope = slopes[0].permute(0, 2, 3, 1)
        pairs = slope.reshape(n, height // 2, 2, width // 2, 2, -1).permute(2, 4, 0, 1, 3, 5)
        products = (of_result.t() @ pairs.reshape(4, -1)).view(16, points.shape[1], -1)
        of_weights = torch.bmm(products.transpose(1, 2), points).view(16, -1)
        weight = (of_weight.t() @ of_weights).view(3, 3, -1, channels).permute(2, 3, 0, 1)
        pictures = None
        if ctx.needs_input_grad[0]:
            pixels = of_picture.t() @ torch.bmm(products, weights).view(16, -1)
            pictures = _added(pixels.view(4, 4, n, height // 2, width // 2, channels))
        return pictures, weight, slope.sum((0, 1, 2))


def _windows(pictures: Tensor) -> Tensor:
    """(N, C, H, W) -> (16, N * H/2 * W/2 * C): pixels of every other 4x4 window, padded by 0."""
    n, channels, height, width = pictures.shape
    padded = torch.nn.functional.pad(pictures.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    whole, row, column, _ = padded.stride()
    return padded.as_strided(
        (4, 4, n, height // 2, width // 2, channels),
        (row, column, whole, 2 * row, 2 * column, 1),
    ).reshape(16, -1)


def _added(windows: Tensor) -> Tensor:
    """(4, 4, N, H/2, W/2, C) -> (N, C, H, W): the windows' pixels, added where they overlap."""
    n, height, width, channels = (windows.shape[2], 2 * windows.shape[3], 2 * windows.shape[4],
                                  windows.shape[5])
    padded = windows.new_zeros(n, height + 2, width + 2, channels)
    for row in range(4):
        for column in range(4):
            padded[:, row : row + height - 1 : 2, column : column + width - 1 : 2].add_(
                windows[row, column]
            )
    return padded[:, 1:-1, 1:-1].permute(0, 3, 1, 2)
