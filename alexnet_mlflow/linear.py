"""A wide fully connected layer's three products, laid out and cut for a few pictures on a CPU.

With 32 rows of pictures against 4096 x 4096 weights, torch's own calls (x W^T, dY W, dY^T X) leave
MKL at half its rate: measured, two AVX2 cores, 58 ms instead of 35. Here the weights stand first,
and what is wide is cut into BLOCKS that are multiplied as a batch. The sums are the same but for
their order. Left out: layers whose width BLOCKS does not divide, and GPUs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCKS = 16


def connected(values: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """What `linear(values, weight, bias)` gives, up to rounding; with its gradients.

    values: (N, I); weight: (O, I), contiguous; bias: (O,); of one float type, on the CPU -> (N, O).
    """
    result: Tensor = _Connected.apply(values, weight, bias)
    return result


class _Connected(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(values, weight)
        result = torch.empty((len(values), len(weight)), dtype=weight.dtype)
        return torch.add(torch.mm(weight, values.t()).t(), bias, out=result)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        values, weight = ctx.saved_tensors
        (n, inputs), outputs, [slope] = values.shape, len(weight), slopes
        rows = slope.t().reshape(BLOCKS, -1, n)
        of_weight = torch.bmm(rows, values.expand(BLOCKS, n, inputs)).view(outputs, inputs)
        of_values = None
        if ctx.needs_input_grad[0]:
            columns = weight.view(outputs, BLOCKS, -1).transpose(0, 1)
            cut = torch.bmm(slope.expand(BLOCKS, n, outputs), columns)
            of_values = cut.transpose(0, 1).reshape(n, inputs)
        return of_values, of_weight, slope.sum(0)
