"""Repeated work: the same results however it is run, and on CUDA by one capture."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

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


class Driver:
    """torch.cuda as far as Captured uses it, on a CPU: it says what is called, and a graph does
    what was called while it was captured. It cannot say whether CUDA could capture that."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[str] = []
        self.recording: list[Callable[[], None]] | None = None
        self.aside = False
        driver = self

        class Stream:
            def __init__(self, device: object = None) -> None:
                pass

            def wait_stream(self, other: object) -> None:
                driver.log.append("wait")

        class Graph:
            def __init__(self) -> None:
                self.recorded: list[Callable[[], None]] = []
                self.generators: list[torch.Generator] = []

            def register_generator_state(self, generator: torch.Generator) -> None:
                driver.log.append("register")
                self.generators.append(generator)

            def replay(self) -> None:
                driver.log.append("replay")
                for work in self.recorded:
                    work()

        @contextmanager
        def stream(stream: object) -> Iterator[None]:
            driver.aside = True
            yield
            driver.aside = False

        @contextmanager
        def graph(of: Graph) -> Iterator[None]:
            driver.recording = of.recorded
            yield
            driver.recording = None

        current = Stream()
        for name, value in (("Stream", Stream), ("stream", stream), ("CUDAGraph", Graph),
                            ("graph", graph), ("current_stream", lambda: current)):
            monkeypatch.setattr(torch.cuda, name, value)

    def launch(self, work: Callable[[], None]) -> None:
        """What a kernel's call is: done now, or recorded for later."""
        if self.recording is not None:
            self.log.append("record")
            self.recording.append(work)
            return
        self.log.append("aside" if self.aside else "plain")
        work()


def test_it_is_warmed_up_aside_captured_once_and_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this order; every call does the work once, on what lies in its tensor then."""
    driver, total, given = Driver(monkeypatch), torch.zeros(()), torch.zeros(())
    captured = Captured(torch.Generator().manual_seed(0))
    assert not captured.capture, "not on a CPU"
    captured.capture = True
    expected, calls, logs = 0, WARM_UP + 3, []
    for number in range(1, calls + 1):
        given.fill_(number)
        captured(lambda: driver.launch(lambda: total.add_(given)))
        expected += number
        assert total.item() == expected
        logs.append(driver.log)
        driver.log = []
    warm, [first, *later] = logs[:WARM_UP], logs[WARM_UP:]
    assert warm == [["wait", "aside", "wait"]] * WARM_UP
    assert first == ["register", "record", "replay"]
    assert later == [["replay"]] * 2
    graph: Any = captured.graph
    assert graph.generators == [captured.generator]


def test_what_is_not_to_be_captured_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """As several processes do, whose slopes must meet."""
    driver, done = Driver(monkeypatch), []
    captured = Captured(torch.Generator(), capture=False)
    for _ in range(WARM_UP + 2):
        captured(lambda: driver.launch(lambda: done.append(1)))
    assert driver.log == ["plain"] * (WARM_UP + 2) and len(done) == WARM_UP + 2
    assert captured.graph is None
