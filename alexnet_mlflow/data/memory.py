"""Room for pictures: in memory as long as they are few, in a mapped file when they are many.

Chosen: above IN_MEMORY_BYTES an array of pictures lies in a file without a name in the cache's
folder, mapped into memory. The kernel keeps what is in use and drops the rest, so a data set
larger than memory trains; the file is gone when the process is, however it ends. Its blocks are
reserved at once, so that a full disk is an error here and not a signal in the middle of an epoch.
Left out: anything that remembers; that is the cache.
"""

from __future__ import annotations

import logging
import mmap
import os
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

IN_MEMORY_BYTES = 1 << 30  # 350,000 pictures; training itself takes about 1.3 GiB (measured)
BLOCK = 10_000  # pictures copied at a time

Images = npt.NDArray[np.uint8]

logger = logging.getLogger(__name__)


def folder() -> Path:
    """ALEXNET_CACHE, else alexnet_mlflow in XDG_CACHE_HOME, else in ~/.cache."""
    if chosen := os.environ.get("ALEXNET_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "alexnet_mlflow"


def blank(shape: tuple[int, ...]) -> Images:
    """An array of bytes to be filled, in memory or in a mapped file."""
    size = int(np.prod(shape))
    if size <= IN_MEMORY_BYTES:
        return np.empty(shape, np.uint8)
    try:
        folder().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder()) as file:
            os.posix_fallocate(file.fileno(), 0, size)
            mapped = mmap.mmap(file.fileno(), size)
    except OSError as error:
        logger.warning("going on in memory, since %s cannot hold the pictures: %s", folder(), error)
        return np.empty(shape, np.uint8)
    return np.frombuffer(mapped, np.uint8).reshape(shape)


def taken(images: Images, rows: npt.NDArray[np.int64]) -> Images:
    """A copy of these rows (N,) of the pictures, in C order, block by block."""
    copy = blank((len(rows), *images.shape[1:]))
    for start in range(0, len(rows), BLOCK):
        block = slice(start, start + BLOCK)
        copy[block] = images[rows[block]]
        if copy.nbytes > IN_MEMORY_BYTES:
            let_go(images)
            let_go(copy)
    return copy


def let_go(array: Images) -> None:
    """Take a mapped array's pages out of this process; nothing is lost, they come back when used.

    Does nothing to an array that lies in memory.
    """
    base: object = array
    while isinstance(base, (np.ndarray, memoryview)):
        base = base.obj if isinstance(base, memoryview) else base.base
    if isinstance(base, mmap.mmap):
        base.madvise(mmap.MADV_DONTNEED)
