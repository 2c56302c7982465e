"""Where the record of a search lies: an Optuna storage, its address, its patience, its lock.

Knows nothing of trials. Nobody sees a password: not a log, not an error, not another process.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock
import optuna
import sqlalchemy
from optuna.storages import RDBStorage
from sqlalchemy.exc import SQLAlchemyError

from alexnet_mlflow.options import BadInput
from alexnet_mlflow.reach import without_password

HEARTBEAT_SECONDS = 10
GRACE_SECONDS = 60  # a worker of another machine that is silent for so long is gone
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
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        cause = error.__cause__ or error
        raise _refused(url, str(cause)) from None


@contextmanager
def opening(url: str) -> Iterator[None]:
    """The same for the first access, where an address can be wrong in more ways."""
    try:
        if url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).parent.is_dir():
            raise OSError("its folder does not exist")
        with told(url):
            _own(url)
            yield
    except BadInput:
        raise
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        raise _refused(url, str(error)) from None


def _own(url: str) -> None:
    """A database that another program migrates (MLflow's!) is none for Optuna; both would break."""
    engine = sqlalchemy.create_engine(url)
    try:
        seen = sqlalchemy.inspect(engine)
        if seen.has_table("alembic_version") and not seen.has_table("studies"):
            raise OSError("it holds another program's tables; give it a database of its own")
    finally:
        engine.dispose()


def _refused(url: str, reason: str) -> BadInput:
    reason = without_password(" ".join(reason.split("\n")[0].split())[:200])
    with suppress(SQLAlchemyError, ValueError):
        if password := sqlalchemy.engine.make_url(url).password:
            reason = reason.replace(str(password), "***")
    return BadInput(
        f"the search's storage {without_password(url)} does not answer ({reason}): start it, or "
        "give --storage another; the same command goes on with the search"
    )


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
