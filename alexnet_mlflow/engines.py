"""Where the workers of a search run: processes of this machine, or tasks of a Ray cluster.

A worker is the same command with `--study=NAME`: whoever runs it joins that search. What is told
to a worker passes through its command line and environment alone; what it finds, through the
search's storage and the tracking store.
"""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import torch

from alexnet_mlflow import signals
from alexnet_mlflow.config import SearchConfig
from alexnet_mlflow.options import BadInput, option_name, option_text
from alexnet_mlflow.progress import say

LEAVE_SECONDS = 60  # what a worker may take to end when the search has ended
WORKER = "ALEXNET_WORKER"  # set for a worker: it leads no search and makes none
PARENT = "ALEXNET_LEADER_PID"  # a local worker ends when this process is gone
PASSED_ON = ("MLFLOW_", "ALEXNET_", "AWS_", "PG")  # of the environment, to other machines
NOT_PASSED_ON = ("MLFLOW_RUN_ID",)  # the run of the leader

Failures = Callable[[], str]  # why all workers have gone; empty while one is there


def command(config: SearchConfig, study: str) -> list[str]:
    """The command line of one worker of this search. The storage's password is not in it."""
    changed = {"study": study, "storage": "", "workers": 1, "engine": "local"}
    words = [sys.executable, "-m", "alexnet_mlflow", "search"]
    for item in dataclasses.fields(config):
        value = changed.get(item.name, getattr(config, item.name))
        words.append(f"{option_name(item.name)}={option_text(value)}")
    return words


def is_worker() -> bool:
    """Was this process started by the leader of a search?"""
    return WORKER in os.environ


def leader_gone() -> bool:
    """Is this a local worker whose leader has ended?"""
    pid = os.environ.get(PARENT)
    return pid is not None and os.getppid() != int(pid)


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
    environment = {key: text for key, text in os.environ.items() if key not in NOT_PASSED_ON}
    environment |= {"ALEXNET_STORAGE": storage, WORKER: "1"}
    if config.engine == "ray":
        with _on_ray(config, words, environment) as failures:
            yield failures
    elif config.workers > 1:
        with _on_this_machine(config, words, environment):
            yield lambda: ""
    else:
        yield lambda: ""


@contextmanager
def _on_this_machine(
    config: SearchConfig, words: list[str], environment: dict[str, str]
) -> Iterator[None]:
    """One process more for each worker but the first, which is this one; threads are divided."""
    cards = cards_of(os.environ, torch.cuda.device_count() if config.device != "cpu" else 0)
    threads = max(1, torch.get_num_threads() // config.workers)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    running, said = list[subprocess.Popen[bytes]](), list[IO[bytes]]()
    try:
        for place in range(1, config.workers):
            own = {**environment, "OMP_NUM_THREADS": str(threads), PARENT: str(os.getpid())}
            if cards:
                own["CUDA_VISIBLE_DEVICES"] = cards[place % len(cards)]
            said.append(tempfile.TemporaryFile())  # the leader's bar is the only one
            with signals.held():  # a terminal's Ctrl-C is the leader's, who passes it on once
                running.append(subprocess.Popen(
                    words, env=own, stdout=subprocess.DEVNULL, stderr=said[-1],
                    start_new_session=True,
                ))
                signals.follow(running[-1])
        yield
        for worker, words_of in zip(running, said, strict=True):
            with suppress(subprocess.TimeoutExpired):  # it may load pictures yet: it is ended below
                worker.wait(LEAVE_SECONDS)
            if worker.returncode:
                words_of.seek(0)
                last = words_of.read().decode(errors="replace").strip().split("\n")[-1]
                say(f"A worker ended with exit code {worker.returncode} ({last}); its trials were "
                    "taken over.")
    finally:
        for worker in running:
            if signals.let_go(worker) and worker.poll() is None:
                worker.terminate()
        for worker in running:
            worker.wait()
        for words_of in said:
            words_of.close()
        torch.set_num_threads(before)


def cards_of(environment: Mapping[str, str], count: int) -> list[str]:
    """The names of the GPUs that torch sees, as CUDA_VISIBLE_DEVICES wants them."""
    named = environment.get("CUDA_VISIBLE_DEVICES", "")
    names = [name.strip() for name in named.split(",") if name.strip()]
    return names[:count] if names else [str(number) for number in range(count)]


@contextmanager
def _on_ray(
    config: SearchConfig, words: list[str], environment: dict[str, str]
) -> Iterator[Failures]:
    """Each worker is a Ray task; this process tries no point itself."""
    ray = _cluster(config)
    try:
        card = 1 if config.device != "cpu" and ray.cluster_resources().get("GPU") else 0
        task = ray.remote(num_cpus=1, num_gpus=card, max_retries=0)(_worker)
        passed = {key: text for key, text in environment.items() if key.startswith(PASSED_ON)}
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
