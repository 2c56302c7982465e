"""Files that are whole: flushed before the next thing is done, replaced at once; and their age."""

from __future__ import annotations

import errno
import os
import uuid
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
    draft = path.with_name(f".{uuid.uuid4().hex}{path.suffix}")
    try:
        yield draft
        flush(draft)
        if not new or not _linked(draft, path):
            os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _linked(draft: Path, path: Path) -> bool:
    """Give a file another name, which must be new. False where the file system has no links."""
    try:
        os.link(draft, path)
    except OSError:
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        return False
    return True


def written(path: Path) -> float:
    """When it was written last, in seconds since 1970; of one that has just been removed, 0."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
