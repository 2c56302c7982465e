"""A small disk of a test's own, which only root can make: full, or read-only."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted(folder: Path, size: str, mode: str = "rw") -> Iterator[Path]:
    """A tmpfs of this size in the folder; the test is skipped where none can be mounted."""
    folder.mkdir(exist_ok=True)
    options = f"size={size},mode=0777,{mode}"
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        pytest.skip(f"there is no mount: {error}")
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def remount(folder: Path, mode: str) -> None:
    """Make the disk read-only (ro), or writable again (rw)."""
    subprocess.run(["mount", "-o", f"remount,{mode}", str(folder)], check=True)


def fill(folder: Path, leave: int = 0) -> None:
    """Take all the disk's room but so many bytes."""
    block = b"\0" * 4096
    with open(folder / "filling", "wb", buffering=0) as file:
        try:
            while True:
                file.write(block)
        except OSError:
            pass
        os.ftruncate(file.fileno(), max(0, file.tell() - leave))
