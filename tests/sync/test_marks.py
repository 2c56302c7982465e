"""Ids are found inside texts, marks tell things apart, digests show what has changed."""

from __future__ import annotations

from types import SimpleNamespace as Thing
from typing import Any

from alexnet_mlflow.sync.marks import Ids, alias_tag, digest, origin, place, plain, version_mark

RUN, OTHER, MODEL = "a" * 32, "b" * 32, "m-" + "a" * 32


def test_ids_are_translated_wherever_they_stand() -> None:
    ids = Ids()
    ids.add(RUN, "1" * 32)
    ids.add(MODEL, "m-" + "2" * 32)
    assert ids(f"{RUN},{OTHER}; models:/{MODEL}/x") == f"{'1' * 32},{OTHER}; models:/m-{'2' * 32}/x"
    assert ids(RUN + RUN) == RUN + RUN, "a digest of twice the length is no id"
    assert ids("m-" + RUN[:-1]) == "m-" + RUN[:-1] and ids("") == ""
    assert ids.get(RUN) == "1" * 32 and ids.get(OTHER) is None and ids.get(None) is None


def test_a_copy_of_a_copy_keeps_the_first_mark() -> None:
    assert origin({"synced_from": RUN}, OTHER) == RUN and origin({}, OTHER) == OTHER


def test_what_syncing_sets_is_not_copied() -> None:
    tags = {"synced_from": "x", "synced_state": "y", alias_tag("champion"): "z", "stage": "final"}
    assert plain({**tags, "mlflow.modelVersions": "[]"}) == {"stage": "final"}


def test_points_are_told_apart_and_nan_is_itself() -> None:
    def point(step: int, timestamp: int, value: float) -> Any:
        return Thing(step=step, timestamp=timestamp, value=value)

    nan = float("nan")
    assert place(point(1, 2, nan)) == place(point(1, 2, -nan)) != place(point(1, 2, 0.0))
    points = [point(1, 2, 3.0), point(1, 2, 3.1), point(1, 3, 3.0), point(2, 2, 3.0)]
    assert len({place(one) for one in points}) == 4


def test_digests_and_versions() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 2, "b": 1})
    assert len(digest("x")) == 32
    marks = {version_mark("1", 5, RUN), version_mark("2", 5, RUN), version_mark("1", 6, RUN)}
    assert len(marks | {version_mark("1", 5, OTHER)}) == 4
