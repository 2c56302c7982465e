"""Eight promoters at once: the alias ends on the best version, on sqlite and on a real server.

ALEXNET_ROUNDS is how often (2 where it is not set; 20 take ten minutes). The processes are forked
from one that has imported everything and started nothing.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient

from alexnet_mlflow import registry
from alexnet_mlflow.config import PromoteConfig
from alexnet_mlflow.stages import promote
from alexnet_mlflow.track import connect
from tests.evaluations import evaluated, predictions
from tests.tracking_server import serving

PROMOTERS = 8
ROUNDS = int(os.environ.get("ALEXNET_ROUNDS", "2"))
NAME = "alexnet-x"
PATIENCE_SECONDS = 300  # for a loaded machine
PRELOADED = [
    "alexnet_mlflow.stages.promote", "pyarrow.parquet", "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.store.tracking.rest_store", "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.model_registry.rest_store",
]

_start: Any = None


def begin(start: Any, uri: str, folder: str, locked: bool, pauses: dict[str, float]) -> None:
    """A promoter's process: where it works, whether it waits for its turn, how slow it is."""
    global _start
    _start = start
    os.chdir(folder)
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    mlflow.set_tracking_uri(uri)
    if not locked:
        registry.alone = lambda name: nullcontext(lambda seen: True)  # type: ignore[assignment]
    if pauses:
        check = registry._check

        def slowly(client: Any, version: Any, over: Any, held: Any) -> None:
            check(client, version, over, held)
            if not locked:
                _start.wait(PATIENCE_SECONDS)  # neither has found a champion
            time.sleep(pauses[version.run_id])

        registry._check = slowly


def promoted(run_id: str) -> str:
    """One promotion, begun when all are ready; what it said."""
    _start.wait(PATIENCE_SECONDS)
    config = PromoteConfig(dataset="x", run=run_id, policy="better")
    try:
        return promote.run(config, connect()).sentences[1]
    except Exception as error:
        return f"{type(error).__name__}: {error}"


@contextmanager
def promoters(
    number: int, uri: str, folder: Path, locked: bool = True,
    pauses: dict[str, float] | None = None,
) -> Iterator[Pool]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    start = context.Barrier(number)
    arguments = (start, uri, str(folder), locked, pauses or {})
    with context.Pool(number, begin, arguments) as pool:
        yield pool


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an MLflow server of the tests' own, two processes behind it."""
    with serving(tmp_path_factory.mktemp("server"), workers=2) as uri:
        yield uri


@pytest.fixture(params=["sqlite", "http"])
def uri(request: pytest.FixtureRequest, store: Path) -> str:
    """Where the store answers; no model is registered in it."""
    if request.param == "http":
        mlflow.set_tracking_uri(request.getfixturevalue("server"))
    from_nothing(MlflowClient())
    return mlflow.get_tracking_uri()


def trained(*rights: int) -> list[str]:
    """Evaluated finals that get so many of 100 pictures right: the evaluations' ids."""
    root = connect()
    return [
        evaluated(root, predictions(np.arange(100) < right), right / 100)[1] for right in rights
    ]


def from_nothing(client: MlflowClient) -> None:
    if client.search_registered_models(f"name = '{NAME}'"):
        client.delete_registered_model(NAME)


def from_the_worst(client: MlflowClient) -> None:
    versions = client.search_model_versions(f"name = '{NAME}'")
    worst = min(versions, key=lambda one: float(one.tags["test_accuracy"]))
    client.set_registered_model_alias(NAME, "champion", worst.version)


def test_eight_at_once_end_on_the_best(uri: str, store: Path) -> None:
    rights = [50 + 5 * number for number in range(PROMOTERS)]
    evaluations, client = trained(*rights), MlflowClient()
    order = np.random.default_rng(0)
    with promoters(PROMOTERS, uri, store) as pool:
        for number in range(ROUNDS):
            (from_the_worst if number % 2 else from_nothing)(client)
            mixed = order.permutation(evaluations).tolist()
            told = pool.map_async(promoted, mixed, chunksize=1).get(PATIENCE_SECONDS)
            champion = client.get_model_version_by_alias(NAME, "champion")
            assert champion.tags["test_accuracy"] == str(max(rights) / 100), told
            model = client.get_registered_model(NAME)
            assert model.tags == {}, "a ticket is left behind"
            assert all("champion" in each for each in told) and not any(
                "Error" in each or "BadInput" in each for each in told
            ), told
            assert len(client.search_model_versions(f"name = '{NAME}'")) == PROMOTERS
            previous = model.aliases.get("previous")
            assert previous is None or str(previous) != str(champion.version)


def killed(start: Any, uri: str, folder: str, run_id: str, final: str) -> None:
    """A promoter that stands still between judging and crowning."""
    begin(start, uri, folder, True, {final: PATIENCE_SECONDS})
    promoted(run_id)


def test_a_promoter_that_was_killed_holds_up_nobody(uri: str, store: Path) -> None:
    """kill -9 in the middle of its turn: the next one does not wait, the champion is whole."""
    first, second, third = trained(60, 70, 80)
    client = MlflowClient()
    promote.run(PromoteConfig(dataset="x", run=first), connect())
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    final = client.get_run(third).data.tags["final_run"]
    start = context.Barrier(1)
    victim = context.Process(target=killed, args=(start, uri, str(store), third, final))
    victim.start()
    for _ in range(PATIENCE_SECONDS * 10):
        if len(client.search_model_versions(f"name = '{NAME}'")) == 2:  # it has registered its own
            break
        assert victim.is_alive()
        time.sleep(0.1)
    victim.kill()
    victim.join()
    assert len(client.get_registered_model(NAME).tags) == 1, "it held no ticket"
    assert str(client.get_model_version_by_alias(NAME, "champion").version) == "1"
    started = time.monotonic()
    result = promote.run(PromoteConfig(dataset="x", run=second, policy="better"), connect())
    assert result.figures["champion"] == 3 and time.monotonic() - started < 30
    assert client.get_registered_model(NAME).tags == {}


@pytest.mark.parametrize("locked", [True, False])
def test_without_taking_turns_a_worse_one_would_end_as_champion(
    locked: bool, uri: str, store: Path
) -> None:
    """Both find no champion; the better is crowned first, the worse, slower, over it."""
    better, worse = trained(90, 60)
    finals = {one: MlflowClient().get_run(one).data.tags["final_run"] for one in (better, worse)}
    pauses = {finals[better]: 1.5, finals[worse]: 3.0}
    with promoters(2, uri, store, locked, pauses) as pool:
        told = pool.map_async(promoted, [better, worse], chunksize=1).get(PATIENCE_SECONDS)
    champion = MlflowClient().get_model_version_by_alias(NAME, "champion")
    assert (champion.tags["evaluate_run"] == better) == locked, told
