"""docker-run: a command of this package inside its image, as if it ran here.

The working folder stands in the container at its own place, and so does every other folder or file
that the command's words and ALEXNET_DATA name; nothing else of this machine does.
The container has a read-only root, no capabilities and the caller's user, so that what it writes
belongs to the caller. Its two streams and its exit code are passed on, and a signal is passed in.
Left out: building the image (`make docker-gpu`) and MLflow's own runner (docker/MLproject).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from alexnet_mlflow import signals
from alexnet_mlflow.commands import DockerRunConfig
from alexnet_mlflow.data import memory
from alexnet_mlflow.options import BadInput
from alexnet_mlflow.reach import without_password

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

SIGNALS = {130: "SIGINT", 143: "SIGTERM"}  # by the exit code that cli.py leaves with
PATIENCE = 30  # seconds that a stage has to write its checkpoint and leave
STORES = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "ALEXNET_STORAGE")
# What the command inside is to know, where it is set here.
PASSED = (
    *STORES, "ALEXNET_DATA", "ALEXNET_OFFLINE", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID",
    "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_INSECURE_TLS", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS",
)


def run(config: DockerRunConfig, words: Sequence[str]) -> int:
    """Run `alexnet-mlflow WORDS` in the image; its exit code.

    BadInput where no engine answers, the image or a GPU is missing, or the command could not reach
    a store from inside.
    """
    folder = Path.cwd()
    environment = {name: os.environ[name] for name in PASSED if os.environ.get(name)}
    environment["ALEXNET_CACHE"] = str(_cache(folder))
    words = [_expanded(word) for word in words]
    for name in STORES:
        check_reach(name, environment.get(name, ""), config.network, folder)
    with engine() as client:
        container = _created(client, config, words, environment, folder)
        try:
            return _followed(container)
        finally:
            with signals.held(to_the_end=True):
                container.remove(force=True)


def check_reach(name: str, uri: str, network: str, folder: Path) -> None:
    """BadInput where a container with this network and this folder cannot reach a store.

    name: of the variable that holds the address. folder: the absolute one that is mounted.
    """
    try:
        url = make_url(uri) if "://" in uri else None
    except (ArgumentError, ValueError) as error:
        raise BadInput(f"{name} is no address ({error}): give e.g. http://HOST:5000") from error
    if url is None:
        return
    shown = without_password(uri)
    if url.drivername == "sqlite":
        path = (folder / (url.database or "")).resolve()
        if not path.is_relative_to(folder):
            raise BadInput(
                f"{name}={shown} lies outside of {folder}, the one folder that is mounted: start "
                "from the folder of the file, or use a tracking server (make ui)"
            )
    elif network != "host" and _is_loopback(url.host or ""):
        raise BadInput(
            f"{name}={shown} is this machine, and in a container of its own network that is the "
            "container: give --network=host, or the machine's address in your network"
        )


def mounts(words: Sequence[str], named: Sequence[str], folder: Path) -> dict[str, dict[str, str]]:
    """What is to stand in the container: `folder`, and what words and `named` name outside of it.

    A word is a path, or `--option=path`; what does not exist is left for the command to refuse.
    """
    texts = [word.partition("=")[2] if word.startswith("--") else word for word in words]
    found = {folder: folder}  # the name that it has there -> what it is
    for text in filter(None, [*texts, *named]):
        path = _existing(folder / text)
        if path and not path.is_relative_to(folder):
            found[Path(os.path.abspath(folder / text))] = found[path] = path
    return {str(name): {"bind": str(name), "mode": "rw"} for name in sorted(found)}


def _expanded(word: str) -> str:
    """`~` as it is meant here: in the container it is another folder."""
    option, is_option, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return f"{option}{is_option}{os.path.expanduser(value)}"


def _cache(folder: Path) -> Path:
    """The caller's cache of decoded pictures; in the container's /tmp it would be gone each time.

    One that cannot be made is gone without, as it is outside of a container.
    """
    path = Path(os.path.abspath(folder / memory.folder()))
    with suppress(OSError):
        path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def engine() -> Iterator[DockerClient]:
    """The Docker engine of DOCKER_HOST, else this machine's.

    BadInput where none answers, and for whatever it refuses in the block.
    """
    import docker
    import requests

    try:
        client = docker.from_env()
    except (docker.errors.DockerException, ValueError, OSError) as error:
        where = os.environ.get("DOCKER_HOST", "its usual socket")
        if "PermissionError" in str(error):
            raise BadInput(
                f"the Docker engine at {where} does not let you in: join the group docker "
                "(sudo usermod -aG docker $USER, then log in again), or leave docker-run out"
            ) from error
        raise BadInput(
            f"no Docker engine answers at {where}: install and start it (docs.docker.com/engine), "
            "or leave docker-run out: every command runs without a container too"
        ) from error
    try:
        yield client
    except (docker.errors.DockerException, requests.RequestException) as error:
        raise _refused(error) from error
    finally:
        client.close()


def _created(
    client: DockerClient, config: DockerRunConfig, words: Sequence[str],
    environment: Mapping[str, str], folder: Path,
) -> Container:
    """The container, not started yet. BadInput where the image is missing."""
    import docker

    devices = [docker.types.DeviceRequest(count=-1, capabilities=[["gpu"]])] if config.gpu else []
    named = [environment[name] for name in ("ALEXNET_DATA", "ALEXNET_CACHE") if name in environment]
    try:
        container = client.containers.create(
            config.image, list(words), environment=dict(environment),
            volumes=mounts(words, named, folder), working_dir=str(folder),
            user=f"{os.getuid()}:{os.getgid()}", network_mode=config.network,
            device_requests=devices, read_only=True, tmpfs={"/tmp": ""}, cap_drop=["ALL"],
            security_opt=["no-new-privileges"], stdin_open=False,
        )
    except docker.errors.ImageNotFound as error:
        raise BadInput(
            f"the engine has no image {config.image}: build it with `make docker-gpu`, or name "
            "another with --image"
        ) from error
    return container


def _followed(container: Container) -> int:
    """Start it and pass on what it says until it ends; its exit code."""
    import docker

    streams = container.attach(stdout=True, stderr=True, stream=True, logs=True, demux=True)
    container.start()
    try:
        for out, err in streams:
            for stream, text in ((sys.stdout, out), (sys.stderr, err)):
                if text:
                    stream.buffer.write(text)
                    stream.buffer.flush()
        return int(container.wait()["StatusCode"])
    except SystemExit as stopped:
        with signals.held(to_the_end=True), suppress(docker.errors.APIError, OSError):
            # it has ended meanwhile; it takes too long
            container.kill(SIGNALS.get(int(stopped.code or 0), "SIGTERM"))
            container.wait(timeout=PATIENCE)
        raise


def _refused(error: Exception) -> BadInput:
    """What the engine says on not starting a container."""
    text = " ".join(str(getattr(error, "explanation", None) or error).split())[:200]
    if "device driver" in text or "nvidia" in text.lower():
        return BadInput(
            f"the engine can pass no GPU into a container ({text}): install the NVIDIA driver and "
            "the NVIDIA container toolkit, or leave --gpu (GPU=1) out"
        )
    return BadInput(f"the Docker engine refuses this ({text}): mend that, then try again")


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1", "[::1]", "0.0.0.0") or host.startswith("127.")


def _existing(path: Path) -> Path | None:
    try:
        return path.resolve(strict=True)
    except (OSError, ValueError):  # missing, too long, not ours to see; no path at all
        return None
