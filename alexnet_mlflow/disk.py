"""What must be on the disk before the next thing is done, and when it was put there."""

from __future__ import annotations

import os
from pathlib import Path


def flush(path: Path) -> None:
    """Have the disk hold what was written to this file or folder. May raise OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def written(path: Path) -> float:
    """When it was written last, in seconds since 1970; of one that has just been removed, 0."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
