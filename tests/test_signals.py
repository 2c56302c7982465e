"""A signal that comes during a held block is raised after it, once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from alexnet_mlflow import signals


@pytest.fixture
def seen() -> Iterator[list[int]]:
    """What a handler of SIGTERM got."""
    got: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: got.append(number))
    yield got
    signal.signal(signal.SIGTERM, before)


def test_it_waits_for_the_end_of_the_outermost_block(seen: list[int]) -> None:
    with signals.held():
        with signals.held():
            signal.raise_signal(signal.SIGTERM)
        assert seen == []
    assert seen == [signal.SIGTERM]
    signal.raise_signal(signal.SIGTERM)
    assert seen == [signal.SIGTERM] * 2, "the handler was not put back"


def test_an_error_in_the_block_is_the_one_that_is_told(seen: list[int]) -> None:
    with pytest.raises(ValueError, match="mine"), signals.held():
        signal.raise_signal(signal.SIGTERM)
        raise ValueError("mine")
    signal.raise_signal(signal.SIGTERM)
    assert seen == [signal.SIGTERM]


def test_in_another_thread_it_does_nothing() -> None:
    errors: list[BaseException] = []

    def work() -> None:
        try:
            with signals.held():
                pass
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert errors == []
