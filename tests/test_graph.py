"""Repeated work: the same results however it is run, and on CUDA by one capture."""

from __future__ import annotations

import pytest
import torch

from alexnet_mlflow.graph import WARM_UP, Captured

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(
        not torch.cuda.is_available(), reason="torch finds no CUDA GPU here")]),
]


@pytest.mark.parametrize("device", DEVICES)
def test_every_call_does_the_work_once_on_what_lies_in_its_tensors(device: str) -> None:
    """Before, at and after the capture; what changes is written into the tensors."""
    given, total = (torch.zeros((), device=device) for _ in range(2))
    captured = Captured(torch.Generator(device).manual_seed(0))
    expected = 0
    for number in range(1, WARM_UP + 4):
        given.fill_(number)
        captured(lambda: total.add_(given * 2))
        expected += 2 * number
        assert total.item() == expected


@pytest.mark.parametrize("device", DEVICES)
def test_draws_differ_from_call_to_call_and_repeat_with_the_seed(device: str) -> None:
    def drawn() -> list[float]:
        generator = torch.Generator(device).manual_seed(3)
        torch.manual_seed(3)
        value, other = (torch.zeros((), device=device) for _ in range(2))

        def draw() -> None:
            value.copy_(torch.rand((), generator=generator, device=device))
            other.copy_(torch.rand((), device=device))

        captured, found = Captured(generator), []
        for _ in range(WARM_UP + 3):
            captured(draw)
            found += [value.item(), other.item()]
        return found

    first = drawn()
    assert len(set(first[::2])) == len(set(first[1::2])) == WARM_UP + 3
    assert drawn() == first
