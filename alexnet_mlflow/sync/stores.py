"""The two stores of a sync: are they what they are said to be? What they hold, page by page.

Looking at a store changes nothing: a sqlite file that is not there is not made, a database of an
older MLflow is not migrated, another program's is not touched. The target is opened only when the
source has been found good. A dry run into a store that is not there yet compares with an empty one.
Left out: stores of plain files (`mlruns` without a database), which MLflow migrates itself.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock

from alexnet_mlflow.options import BadInput
from alexnet_mlflow.reach import IMPATIENT, SAFE, SILENT, environment, without_password
from alexnet_mlflow.sync.files import Place

if TYPE_CHECKING:
    from mlflow import MlflowClient

PAGE = 200  # runs a request
QUIET = {**SILENT, "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}
SERVED = ("http://", "https://")
AGAIN = "the same command goes on where it stopped"


@dataclass(frozen=True)
class Store:
    """A tracking store with its registry."""

    option: str  # the option that named it, for what must be told
    shown: str  # the address that was given, without a password
    uri: str
    client: MlflowClient

    def experiments(self) -> Iterator[Any]:
        return _pages(lambda page: self.client.search_experiments(page_token=page))

    def runs(self, experiment_id: str, wanted: str = "", deleted: bool = False) -> Iterator[Any]:
        """Oldest first; `wanted` as MLflow filters. deleted: those that are deleted too."""
        from mlflow.entities import ViewType

        view = ViewType.ALL if deleted else ViewType.ACTIVE_ONLY
        order = ["attributes.start_time ASC"]
        return _pages(lambda page: self.client.search_runs(
            [experiment_id], wanted, view, PAGE, order, page
        ))

    def models(self, experiment_id: str) -> Iterator[Any]:
        """Logged models, oldest first."""
        order = [{"field_name": "creation_timestamp", "ascending": True}]
        return _pages(lambda page: self.client.search_logged_models(
            [experiment_id], max_results=50, order_by=order, page_token=page
        ))

    def registered(self) -> Iterator[Any]:
        return _pages(lambda page: self.client.search_registered_models(page_token=page))

    def versions(self, name: str) -> list[Any]:
        """Versions of a registered model, in the order in which they were made."""
        found = _pages(lambda page: self.client.search_model_versions(
            f"name = {quoted(name)}", page_token=page
        ))
        return sorted(found, key=lambda one: int(one.version))

    def place(self, location: str) -> Place:
        """Where artifacts of this store lie."""
        return Place(location, self.uri)

    def run(self, run_id: str) -> Any | None:
        """A run by its id; None where there is none."""
        return _found(lambda: self.client.get_run(run_id))

    def model(self, model_id: str) -> Any | None:
        """A logged model by its id; None where there is none."""
        return _found(lambda: self.client.get_logged_model(model_id))

    def registered_model(self, name: str) -> Any | None:
        """A registered model by its name; None where there is none."""
        return _found(lambda: self.client.get_registered_model(name))

    def reachable(self, experiment: Any) -> None:
        """BadInput where artifacts lie in a folder of a server's machine, which is not this one, or
        where only a server can tell where they lie.
        """
        from mlflow.utils.file_utils import local_file_uri_to_path

        location = experiment.artifact_location
        if location.startswith("mlflow-artifacts:") and not self.uri.startswith(SERVED):
            raise BadInput(
                f"{self.option}={self.shown} is the database of a server, which keeps the "
                f"artifacts of experiment {experiment.name!r}: start `mlflow server` on it and "
                "give the server's address"
            )
        if not self.uri.startswith(SERVED) or ":" in location and not location.startswith("file:"):
            return
        if not Path(local_file_uri_to_path(location)).is_dir():
            raise BadInput(
                f"{self.option}={self.shown} keeps the artifacts of experiment "
                f"{experiment.name!r} in a folder of its own machine "
                f"({location}): sync there, with the address of its database"
            )


def _pages(ask: Callable[[str | None], Any]) -> Iterator[Any]:
    page = None
    while True:
        found = ask(page)
        yield from found
        page = found.token
        if not page:
            return


def _found(ask: Callable[[], Any]) -> Any | None:
    from mlflow.exceptions import MlflowException

    try:
        return ask()
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


@contextmanager
def opened(source: str, target: str, dry_run: bool) -> Iterator[tuple[Store, Store]]:
    """Both stores, the target as MLflow's own; one sync into a target at a time on this machine.

    BadInput where one is not there, is of another MLflow, refuses, or stops answering later.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.update(SAFE)
    for name in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.WARNING)
    source, target = _address(source, "--from"), _address(target, "--to")
    if source == target:
        raise BadInput(
            f"--from and --to are the same store, {without_password(source)}: give two"
        )
    with environment(IMPATIENT):
        first = _checked(source, "--from")
    assert first is not None
    with tempfile.TemporaryDirectory() as folder:
        with environment(IMPATIENT):
            second = _checked(target, "--to", makes=not dry_run)
            if second is None:
                empty = _client(f"sqlite:///{folder}/empty.db", "--to")
                second = replace(empty, shown=without_password(target))
        with _alone(target, dry_run), _as_default(second.uri), environment(QUIET):
            with _told(first, second):
                yield first, second


def _address(uri: str, option: str) -> str:
    """The address of a store, a sqlite file's in full. BadInput where it is none."""
    from mlflow.store.db.db_types import DATABASE_ENGINES

    scheme = uri.partition(":")[0].partition("+")[0]
    if not uri.startswith(SERVED) and (scheme not in DATABASE_ENGINES or "://" not in uri):
        way = "a folder such as mlruns becomes one by `mlflow migrate-filestore`"
        if uri.endswith(".db"):
            way = f"a file is {option}=sqlite:///{uri}"
        raise BadInput(
            f"{option} must be the address of a database or a server, such as sqlite:///mlflow.db, "
            f"postgresql://... or http://server:5000, got {without_password(uri)!r}: {way}"
        )
    if scheme == "sqlite":
        return f"sqlite:///{Path(uri.partition(':///')[2]).resolve()}"
    return uri.rstrip("/")


def _checked(uri: str, option: str, makes: bool = False) -> Store | None:
    """The store; None for a database that holds none yet, if `makes` does not allow to make one."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        if not uri.startswith(SERVED) and not _holds_store(uri, option):
            if option == "--from":
                raise _refused(uri, option, "it holds no MLflow store")
            if not makes:
                return None
        store = _client(uri, option)
        store.client.search_experiments(max_results=1)
        store.client.search_registered_models(max_results=1)
        store.client.search_logged_models(["0"], max_results=1)
        return store
    except BadInput:
        raise
    except (MlflowException, SQLAlchemyError, OSError, ImportError, ValueError) as error:
        raise _refused(uri, option, _reason(error)) from error


def _client(uri: str, option: str) -> Store:
    from mlflow import MlflowClient

    return Store(option, without_password(uri), uri, MlflowClient(uri, uri))


def _holds_store(uri: str, option: str) -> bool:
    """Is an MLflow store of this version in the database? Nothing is made or migrated."""
    import sqlalchemy
    from mlflow.exceptions import MlflowException
    from mlflow.store.db.utils import _verify_schema

    if uri.startswith("sqlite:///"):
        file = Path(uri.removeprefix("sqlite:///"))
        if not file.exists():
            if option == "--to" and file.parent.is_dir():
                return False
            raise _refused(uri, option, "there is no such file")
    engine = sqlalchemy.create_engine(uri)
    try:
        tables = sqlalchemy.inspect(engine).get_table_names()
        if tables and "experiments" not in tables:
            raise _refused(uri, option, "it holds another program's tables")
        if tables:
            _verify_schema(engine)
        return bool(tables)
    except MlflowException:
        raise BadInput(
            f"{option}={without_password(uri)} is a store of another MLflow version: back it up "
            f"and run `mlflow db upgrade {without_password(uri)}`, with the newer MLflow of the two"
        ) from None
    finally:
        engine.dispose()


def quoted(name: str) -> str:
    """As a search for it takes it: MLflow knows no way to write both marks."""
    return f'"{name}"' if "'" in name else f"'{name}'"


def _reason(error: Exception) -> str:
    text = without_password(" ".join(str(error).split("\n")[0].split())[:200]).rstrip(".")
    if re.search(r"\b40[13]\b(?!\d)|password authentication failed", text):
        return "user or password are wrong"
    return text


def _refused(uri: str, option: str, reason: str) -> BadInput:
    way = "see that it runs, and give its address"
    if "password" in reason and uri.startswith("http"):
        way = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    elif "password" in reason:
        way = "give the user in the address and the password in PGPASSWORD"
    elif uri.startswith("sqlite"):
        way = "give the address of another"
    return BadInput(f"{option}={without_password(uri)} cannot be opened ({reason}): {way}")


@contextmanager
def _told(*stores: Store) -> Iterator[None]:
    """What a store says while it is copied, in one sentence."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        both = " or ".join(store.shown for store in stores)
        raise BadInput(
            f"{both} does not answer as it should ({_reason(error)}): see that it runs, {AGAIN}"
        ) from error


@contextmanager
def _alone(target: str, dry_run: bool) -> Iterator[None]:
    """A lock on this machine; two at once could each make the copy that the other is about to."""
    name = hashlib.sha256(target.encode()).hexdigest()[:16]
    path = Path(tempfile.gettempdir()) / f"alexnet-mlflow-sync-{os.getuid()}-{name}.lock"
    lock = filelock.FileLock(path)
    if dry_run:
        yield
        return
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise BadInput(
            f"another sync into {without_password(target)} is going on: wait until it has ended"
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _as_default(uri: str) -> Iterator[None]:
    """MLflow looks a version's model up in the store that is set for the process."""
    import mlflow

    before, registry = mlflow.get_tracking_uri(), os.environ.pop("MLFLOW_REGISTRY_URI", None)
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)
        if registry is not None:
            os.environ["MLFLOW_REGISTRY_URI"] = registry
