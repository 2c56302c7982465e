"""Where the workers of a search run: processes of this machine, or tasks of a Ray cluster.

A worker is the same command with `--study=NAME`: whoever runs it joins that search. What is told
to a worker passes through its command line and environment alone; what it finds, through the
search's storage and the tracking store.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from alexnet_mlflow import abreast, runner
from alexnet_mlflow.config import SearchConfig
from alexnet_mlflow.options import BadInput
from alexnet_mlflow.progress import say

LEAVE_SECONDS = 60  # what a worker may take to end when the search has ended
WORKER = "ALEXNET_WORKER"  # set for a worker: it leads no search and makes none
PASSED_ON = ("MLFLOW_", "ALEXNET_", "AWS_", "PG")  # of the environment, to other machines

Failures = Callable[[], str]  # why all workers have gone; empty while one is there


def command(config: SearchConfig, study: str) -> list[str]:
    """The command line of one worker of this search. The storage's password is not in it."""
    return abreast.command(config, study=study, storage="", workers=1, engine="local")


def is_worker() -> bool:
    """Was this process started by the leader of a search?"""
    return WORKER in os.environ


def leader_gone() -> bool:
    """Is this a worker whose leader has ended? Who leads is sent a signal (runner.watch)."""
    return is_worker() and runner.starter_gone()


def ready(config: SearchConfig, url: str) -> None:
    """BadInput at once where the workers could not be started later."""
    if config.engine == "ray":
        here = config.ray_address.startswith(("auto", "local", "127.", "ray://127."))
        if not here and url.startswith("sqlite"):
            raise BadInput(
                "--engine=ray on other machines needs a database that all of them reach, not a "
                "sqlite file: give --storage=postgresql://... or ALEXNET_STORAGE"
            )
        _cluster(config)


@contextmanager
def workers(config: SearchConfig, study: str, storage: str) -> Iterator[Failures]:
    """The search's other workers, for as long as the block lasts."""
    words = command(config, study)
    changes = {"ALEXNET_STORAGE": storage, WORKER: "1"}
    if config.engine == "ray":
        with _on_ray(config, words, changes) as failures:
            yield failures
    elif config.workers > 1:
        with _on_this_machine(config, words, changes):
            yield lambda: ""
    else:
        yield lambda: ""


@contextmanager
def _on_this_machine(
    config: SearchConfig, words: list[str], changes: dict[str, str]
) -> Iterator[None]:
    """One process more for each worker but the first, which is this one."""
    with abreast.running([words] * (config.workers - 1), config.device, changes) as others:
        yield
        for worker in others:
            with suppress(subprocess.TimeoutExpired):  # it may load pictures yet: it is ended below
                worker.process.wait(LEAVE_SECONDS)
            if code := worker.process.returncode:
                say(f"A worker ended with exit code {code} ({worker.last_words}); its trials were "
                    "taken over.")


@contextmanager
def _on_ray(
    config: SearchConfig, words: list[str], changes: dict[str, str]
) -> Iterator[Failures]:
    """Each worker is a Ray task; this process tries no point itself."""
    ray = _cluster(config)
    try:
        card = 1 if config.device != "cpu" and ray.cluster_resources().get("GPU") else 0
        task = ray.remote(num_cpus=1, num_gpus=card, max_retries=0)(_worker)
        passed = {
            key: text for key, text in os.environ.items()
            if key.startswith(PASSED_ON) and key not in abreast.NOT_PASSED_ON
        } | changes
        tasks = [task.remote(words[1:], passed, os.getcwd()) for _ in range(config.workers)]
        yield lambda: _failures(ray, tasks)
    finally:
        ray.shutdown()


def _cluster(config: SearchConfig) -> Any:
    """Ray, connected to the cluster."""
    try:
        import ray
    except ImportError:
        raise BadInput(
            "--engine=ray needs Ray: pip install 'alexnet-mlflow[ray]', or use --engine=local"
        ) from None
    if ray.is_initialized():
        return ray
    _answers(config.ray_address)
    try:
        ray.init(
            address=config.ray_address, log_to_driver=False, logging_level="ERROR",
            include_dashboard=False if config.ray_address == "local" else None,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = str(error).split("\n")[0][:150]
        raise BadInput(
            f"no Ray cluster answers at --ray-address={config.ray_address} ({reason}): start one "
            "with `ray start --head`, or give --ray-address=local"
        ) from None
    return ray


def _failures(ray: Any, tasks: list[Any]) -> str:
    """What the workers said, where all of them have ended."""
    ended, running = ray.wait(tasks, num_returns=len(tasks), timeout=0)
    if running:
        return ""
    said = []
    for task in ended:
        try:
            said.append(ray.get(task))
        except ray.exceptions.RayError as error:
            said.append(str(error).strip().split("\n")[-1])
    return next((text for text in said if text), "") or "all Ray workers have ended"


def _worker(words: list[str], environment: dict[str, str], folder: str) -> str:
    """Run on the cluster: one worker process. Returns its last words where it failed."""
    done = subprocess.run(
        [sys.executable, *words], env={**os.environ, **environment}, text=True,
        cwd=folder if Path(folder).is_dir() else None, capture_output=True,
    )
    return done.stderr.strip().split("\n")[-1] if done.returncode else ""


def _answers(address: str) -> None:
    """BadInput where nobody listens; Ray itself would try for minutes and end the process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address in ("auto", "local"):
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError, OverflowError) as error:
        raise BadInput(
            f"no Ray cluster answers at --ray-address={address} ({error}): start one with "
            "`ray start --head`, or give --ray-address=local"
        ) from None
