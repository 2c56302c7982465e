"""Where the record of a search lies: an Optuna storage, its address, its patience, its locks.

Knows nothing of trials. Nobody sees a password: not a log, not an error, not another process.
"""

from __future__ import annotations

import os
import socket
import uuid
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock
import optuna
import sqlalchemy
from optuna.storages import RDBStorage
from sqlalchemy.exc import SQLAlchemyError

from alexnet_mlflow.checkpoint import FOLDER
from alexnet_mlflow.config import BadInput

HEARTBEAT_SECONDS = 10
GRACE_SECONDS = 60  # a worker of another machine that is silent for so long is gone
LOCKS = FOLDER / "workers"
LOCK = 0x616C6578  # PostgreSQL's advisory locks are numbers: "alex"


@contextmanager
def quietly() -> Iterator[None]:
    """Optuna warns that heartbeats are new, and that `ask` sends none: here `Claim` does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.filterwarnings("ignore", "Heartbeat of storage", UserWarning)
        yield


def url_of(storage: str) -> str:
    """The storage that --storage or ALEXNET_STORAGE names, else a file in the working folder."""
    url = storage or os.environ.get("ALEXNET_STORAGE") or "sqlite:///optuna.db"
    if url.startswith("sqlite:///") and not url.startswith("sqlite:////"):
        url = f"sqlite:///{Path(url.removeprefix('sqlite:///')).resolve()}"
    return url


def storage_of(url: str) -> RDBStorage:
    """Optuna's storage in a database, patient with others that write to it."""
    patience = {"timeout": 60} if url.startswith("sqlite") else {}
    if url.startswith("postgresql"):
        patience = {"connect_timeout": 10}
    with quietly():
        return RDBStorage(
            url, engine_kwargs={"connect_args": patience, "pool_pre_ping": True},
            heartbeat_interval=HEARTBEAT_SECONDS, grace_period=GRACE_SECONDS,
        )


@contextmanager
def told(url: str) -> Iterator[None]:
    """What a database says on refusing, in one sentence without its password."""
    try:
        yield
    except (SQLAlchemyError, ImportError, OSError, optuna.exceptions.StorageInternalError) as error:
        cause = error.__cause__ or error
        reason = " ".join(str(cause).split("\n")[0].split())[:200]
        raise BadInput(
            f"the search's storage {_shown(url)} does not answer ({_hidden(reason, url)}): start "
            "it, or give --storage another"
        ) from None


def _shown(url: str) -> str:
    try:
        return sqlalchemy.engine.make_url(url).render_as_string(hide_password=True)
    except (SQLAlchemyError, ValueError):
        return repr(url.partition("://")[0])


def _hidden(text: str, url: str) -> str:
    with suppress(SQLAlchemyError, ValueError):
        password = sqlalchemy.engine.make_url(url).password
        if password:
            return text.replace(str(password), "***")
    return text if "://" not in text else "not a database URL"


@contextmanager
def alone(url: str, storage: RDBStorage | None) -> Iterator[None]:
    if url.startswith("sqlite:///") and ":memory:" not in url:
        with filelock.FileLock(url.removeprefix("sqlite:///") + ".lock"):
            yield
    elif url.startswith("postgresql"):
        engine = storage.engine if storage else sqlalchemy.create_engine(url)
        try:
            with engine.connect() as connection:
                connection.execute(sqlalchemy.text(f"SELECT pg_advisory_lock({LOCK})"))
                try:
                    yield
                finally:
                    connection.execute(sqlalchemy.text(f"SELECT pg_advisory_unlock({LOCK})"))
        finally:
            if storage is None:
                engine.dispose()
    else:
        yield


@contextmanager
def living() -> Iterator[dict[str, str]]:
    """Who this process is: a lock that it holds for as long as it lives."""
    LOCKS.mkdir(parents=True, exist_ok=True)
    path = (LOCKS / f"{uuid.uuid4().hex}.lock").resolve()
    with filelock.FileLock(path):
        yield {"host": socket.gethostname(), "lock": str(path)}
    path.unlink(missing_ok=True)


def gone(worker: Mapping[str, str]) -> bool:
    """Has this worker of the same machine ended? Nothing is known of another machine's."""
    path = Path(worker["lock"])
    if worker["host"] != socket.gethostname() or not path.parent.is_dir():
        return False
    if not path.exists():
        return True
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        return False
    path.unlink(missing_ok=True)
    lock.release()
    return True
