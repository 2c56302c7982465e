"""What a full disk, a read-only one, somebody else's folder, or a lost process come to: a sentence.

Such a refusal can come from any write, wrapped by torch, MLflow or SQLAlchemy in errors of their
own: so it is looked for in the whole chain of an error, once, where the program ends.
Left out: a disk that is full of a cache, which is gone without (data/cache.py).
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator

AGAIN = "then give the same command again"
FULL = f"make room, {AGAIN}"
RIGHTS = f"make it writable, or work in another folder, {AGAIN}"
BY_NUMBER = {
    errno.ENOSPC: ("is on a full disk", FULL),
    errno.EDQUOT: ("is over this user's quota of the disk", FULL),
    errno.EROFS: ("is on a read-only disk", RIGHTS),
    errno.EACCES: ("is not this user's to use (permission denied)", RIGHTS),
    errno.EPERM: ("is not this user's to use (operation not permitted)", RIGHTS),
}
# Of databases, and of libraries that keep only the words.
BY_WORDS = (
    ("database or disk is full|could not extend file", "the database is on a full disk", FULL),
    ("attempt to write a readonly database|read-only transaction", "the database is read-only",
     RIGHTS),
    ("unable to open database file", "the database cannot be opened", RIGHTS),
    ("No space left on device", "a disk is full", FULL),
    ("PytorchStreamWriter failed", "a file of torch could not be written to its end", FULL),
    (r"The run \w+ must be in the 'active' state|[Rr]un with id=?'?\w* not found",
     "the run was deleted in the tracking store while it went on",
     "`mlflow runs restore --run-id ID` brings it back"),
    (r"The experiment \w+ must be in the 'active' state",
     "the experiment was deleted in the tracking store",
     "`mlflow experiments restore --experiment-id ID` brings it back, or set "
     "MLFLOW_EXPERIMENT_NAME to another"),
    ("gloo/transport|ncclRemoteError|ncclSystemError",
     "another process of this training has ended", f"see what it said, {AGAIN} with --resume=last"),
)
# Of a store that is only asked once, and may answer later.
BUSY = "database is locked"
LATER = f"somebody else has locked the database of the tracking store: wait a little, {AGAIN}"


def told(error: BaseException) -> str | None:
    """The sentence; None where the error is of another kind."""
    chain = list(_chain(error))
    for one in chain:
        if isinstance(one, OSError) and one.errno in BY_NUMBER:
            what, way = BY_NUMBER[one.errno]
            return f"{one.filename or 'a file that is being written'} {what}: {way}"
    for one in chain:
        for words, what, way in BY_WORDS:
            if re.search(words, str(one)):
                return f"{what}: {way}"
    return None


def busy(error: BaseException) -> str | None:
    """The sentence, where the same may go well in a moment."""
    return LATER if any(BUSY in str(one) for one in _chain(error)) else None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it came of, each once."""
    seen = list[BaseException]()
    while error is not None and error not in seen:
        yield error
        seen.append(error)
        error = error.__cause__ or error.__context__
