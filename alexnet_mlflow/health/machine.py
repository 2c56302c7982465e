"""The machine: room on its disks, what broken-off writes left there, its GPU, its Docker engine."""

from __future__ import annotations

import os
import re
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from alexnet_mlflow.checks import Verdict
from alexnet_mlflow.health import Finding

# A checkpoint with Adam's state and the best weights takes 372 MB, and the old one stays until the
# new one is written; beside them a model (93 MB).
LEAST_BYTES, FEW_BYTES = 1 << 30, 5 << 30
ENGINE_SECONDS, API = 5, "1.41"
LEFT_SECONDS = 3600  # a file that nobody has touched for so long is not being written
# Names that unfinished files have: checkpoints, downloads, cache entries, patches, secrets.
LEFT = re.compile(r".*\.(tmp|part|unfinished)|\..+\.[0-9a-f]{32}")


def disks(places: Mapping[str, Path]) -> list[Finding]:
    """Can each of these folders be written to, and is there room? One that is missing is made
    later: then its parent counts.
    """
    return [_disk(f"disk ({name})", place) for name, place in places.items()]


def _disk(name: str, place: Path) -> Finding:
    there = next(path for path in (place, *place.absolute().parents) if path.exists())
    if not there.is_dir():
        return Finding(name, "fail", f"{there} is a file: move it, or name another folder.")
    if _read_only(there) or not os.access(there, os.W_OK | os.X_OK):
        return Finding(name, "fail", f"{there} cannot be written to: make it writable, or name "
                                     "another folder.")
    free = shutil.disk_usage(there).free
    told = f"{free / 2**30:.1f} GiB free in {place}"
    if free >= FEW_BYTES:
        return Finding(name, "pass", f"{told}.")
    verdict: Verdict = "fail" if free < LEAST_BYTES else "warn"
    return Finding(name, verdict, f"{told}, and a training takes up to "
                                  f"{LEAST_BYTES / 2**30:.0f} GiB: make room.")


def _read_only(folder: Path) -> bool:
    """Root may write anywhere but here."""
    return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)


def leftovers(folders: Mapping[str, Path]) -> Finding:
    """Files that a write left unfinished which was broken off, for good."""
    found = sorted({path for folder in folders.values() for path in _unfinished(folder)})
    if not found:
        return Finding("leftovers", "pass", "no unfinished files of writes that were broken off.")
    size = sum(_size(path) for path in found)
    named = ", ".join(map(str, found[:3])) + (" ..." if len(found) > 3 else "")
    return Finding(
        "leftovers", "warn", f"{len(found)} unfinished, {size / 2**20:.1f} MiB ({named}): nothing "
        "reads them but a download that goes on; delete them.",
    )


def _unfinished(folder: Path) -> Iterator[Path]:
    before = time.time() - LEFT_SECONDS
    for path in (*folder.glob("*"), *folder.glob("*/*")):
        try:
            if LEFT.fullmatch(path.name) and path.lstat().st_mtime < before:
                yield path
        except OSError:
            continue


def _size(path: Path) -> int:
    inside = path.rglob("*") if path.is_dir() and not path.is_symlink() else ()
    return sum(one.lstat().st_size for one in (path, *inside) if not one.is_dir())


def gpu() -> Finding:
    """Is there one that torch can compute on?"""
    driver = shutil.which("nvidia-smi")
    if not torch.cuda.is_available():
        if driver and torch.version.cuda is None:
            return Finding("gpu", "warn", "this torch is built for CPUs, and there is an NVIDIA "
                                          "driver: install torch with CUDA to use its GPU.")
        if driver:
            return Finding("gpu", "warn", "there is an NVIDIA driver, and torch finds no GPU: see "
                                          "what nvidia-smi says, or whether the driver is older "
                                          f"than CUDA {torch.version.cuda}.")
        return Finding("gpu", "pass", "no GPU: CPU.")
    try:
        name = torch.cuda.get_device_name(0)
        free, total = torch.cuda.mem_get_info(0)
        torch.ones(64, 64, device="cuda").mm(torch.ones(64, 64, device="cuda")).sum().item()
    except RuntimeError as error:
        reason = str(error).splitlines()[0][:150]
        return Finding("gpu", "fail", f"torch cannot compute on it ({reason}): see what nvidia-smi "
                                      "says, or give --device=cpu.")
    count = torch.cuda.device_count()
    return Finding(
        "gpu", "pass", f"{count} with CUDA {torch.version.cuda}, the first {name}, "
        f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free.",
    )


def engine() -> Finding:
    """Does a Docker engine answer? Only docker-run and docker/MLproject need one."""
    import docker

    try:
        _knock(os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock"))
        client = docker.from_env(version=API, timeout=ENGINE_SECONDS)  # which asks nothing yet
        try:
            version = client.version(api_version=False)["Version"]
        finally:
            client.close()
    except (docker.errors.DockerException, OSError) as error:
        what = "does not let you in" if isinstance(error, PermissionError) else "does not answer"
        return Finding("engine", "pass", f"a Docker engine {what}: only docker-run and "
                                         "docker/MLproject need one.")
    return Finding("engine", "pass", f"Docker {version} answers.")


def _knock(address: str) -> None:
    """OSError where nobody listens at the engine's socket; the SDK would leave its own end open."""
    if address.startswith("unix://"):
        with socket.socket(socket.AF_UNIX) as door:
            door.settimeout(ENGINE_SECONDS)
            door.connect(address.removeprefix("unix://"))
