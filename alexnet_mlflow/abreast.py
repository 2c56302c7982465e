"""Further processes of this program beside this one: the cores are divided, or each has a GPU.

They end with it: a signal is passed on at once, an error of this one ends them. What each is to
know passes through its command line and environment alone. Left out: other machines (engines.py).
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import IO

import torch

from alexnet_mlflow import signals
from alexnet_mlflow.config import RunConfig
from alexnet_mlflow.options import option_name, option_text
from alexnet_mlflow.signals import STARTER

NOT_PASSED_ON = ("MLFLOW_RUN_ID",)  # the run of this process


@dataclass(frozen=True)
class Other:
    """A process beside this one, and what it has said: where this one's bar is, nothing else can
    be shown."""

    process: subprocess.Popen[bytes]
    output: IO[bytes]
    errors: IO[bytes]

    def said(self, since: int = 0) -> bytes:
        """Its standard error from this byte on."""
        return _read(self.errors, since)

    @property
    def last_words(self) -> str:
        """The last line of its standard error."""
        return _last_line(self.said())

    @property
    def result(self) -> str:
        """The last line of its standard output."""
        return _last_line(_read(self.output))


def _read(file: IO[bytes], since: int = 0) -> bytes:
    """What is in it from this byte on. The place where the other process writes is not moved."""
    size = os.fstat(file.fileno()).st_size
    return os.pread(file.fileno(), size - since, since)


def _last_line(text: bytes) -> str:
    return text.decode(errors="replace").strip().split("\n")[-1]


def command(config: RunConfig, **changes: object) -> list[str]:
    """The command line of the same stage with these options changed."""
    words = [sys.executable, "-m", "alexnet_mlflow", config.stage]
    for item in dataclasses.fields(config):
        value = changes.get(item.name, getattr(config, item.name))
        words.append(f"{option_name(item.name)}={option_text(value)}")
    return words


def places(device: str) -> int:
    """How many processes can compute at once: GPUs where there are any, else threads."""
    return len(_cards(device)) or torch.get_num_threads()


@contextmanager
def running(
    commands: Sequence[list[str]], device: str, changes: Mapping[str, str]
) -> Iterator[list[Other]]:
    """These commands as processes, for as long as the block lasts; this one's threads are fewer.

    device: auto, cpu or cuda. changes: of their environment.
    """
    cards, before = _cards(device), torch.get_num_threads()
    threads = max(1, before // (len(commands) + 1))
    passed = {key: text for key, text in os.environ.items() if key not in NOT_PASSED_ON}
    own = {**passed, **changes, "OMP_NUM_THREADS": str(threads), STARTER: str(os.getpid())}
    others = list[Other]()
    torch.set_num_threads(max(1, before - threads * len(commands)))
    with ExitStack() as files:
        try:
            for place, words in enumerate(commands, 1):
                if cards:
                    own["CUDA_VISIBLE_DEVICES"] = cards[place % len(cards)]
                output = files.enter_context(tempfile.TemporaryFile())
                errors = files.enter_context(tempfile.TemporaryFile())
                with signals.held():  # none comes between its start and `follow`
                    process = subprocess.Popen(
                        words, env=own, stdout=output, stderr=errors,
                        start_new_session=True,  # a terminal's Ctrl-C comes from here, once
                    )
                    others.append(Other(process, output, errors))
                    signals.follow(process)
            yield others
        finally:
            for other in others:
                if signals.let_go(other.process) and other.process.poll() is None:
                    other.process.terminate()
            for other in others:
                other.process.wait()
            torch.set_num_threads(before)


def _cards(device: str) -> list[str]:
    return cards_of(os.environ, torch.cuda.device_count() if device != "cpu" else 0)


def cards_of(environment: Mapping[str, str], count: int) -> list[str]:
    """The names of the GPUs that torch sees, as CUDA_VISIBLE_DEVICES wants them."""
    named = environment.get("CUDA_VISIBLE_DEVICES", "")
    names = [name.strip() for name in named.split(",") if name.strip()]
    return names[:count] if names else [str(number) for number in range(count)]
