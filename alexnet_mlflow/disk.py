"""What must be on the disk before the next thing is done, and when it was put there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def flush(path: Path) -> None:
    """Have the disk hold what was written to this file or folder. May raise OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def replaced(path: Path, new: bool = False) -> Iterator[Path]:
    """A name beside this one, with its suffix, to write to: when the block ends that file is this
    one; where it fails, nothing of it stays. new: FileExistsError where there is one already.
    """
    draft = path.with_name(f".unfinished-{os.getpid()}{path.suffix}")
    try:
        yield draft
        flush(draft)
        if new:
            os.link(draft, path)
        else:
            os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def written(path: Path) -> float:
    """When it was written last, in seconds since 1970; of one that has just been removed, 0."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
