"""By what a copy is found again, and what tells that its original has changed: pure functions.

Ids are translated wherever they stand, in tags, parameters and texts, so that no list of tags that
hold ids has to be kept: 32 hexadecimal digits that are the id of a copied thing mean that thing.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from alexnet_mlflow.runs import SYNCED_FROM

MARK = SYNCED_FROM
STATE = "synced_state"  # digest of the original as it was when the copy was last complete
VERSIONS = "mlflow.modelVersions"  # tag of a logged model: in another registry they differ
ID = re.compile(r"(?<![0-9A-Za-z])(?:m-)?[0-9a-f]{32}(?![0-9A-Za-z])")


class Ids:
    """Which id in the target stands for which in the source."""

    def __init__(self) -> None:
        self._new: dict[str, str] = {}

    def add(self, old: str, new: str) -> None:
        self._new[old] = new

    def get(self, old: str | None) -> str | None:
        """The id in the target; None for what was not copied."""
        return self._new.get(old) if old else None

    def __call__(self, text: str) -> str:
        """The text with every id that is known replaced by the target's."""
        return ID.sub(lambda found: self._new.get(found[0], found[0]), text)


def origin(tags: Mapping[str, str], own: str) -> str:
    """The first original's mark: that of a copy, else its own."""
    return tags.get(MARK, own)


def plain(tags: Mapping[str, str]) -> dict[str, str]:
    """The tags without those that syncing sets, and the list of a model's version numbers."""
    own = (MARK, STATE, VERSIONS)
    return {key: text for key, text in tags.items() if key not in own and not _alias(key)}


def alias_tag(alias: str) -> str:
    """Tag of a registered model: the mark of the version that an alias was last copied for."""
    return f"{MARK}.{alias}"


def _alias(key: str) -> bool:
    return key.startswith(f"{MARK}.")


def version_mark(number: str, made_at_ms: int, source: str) -> str:
    """A version's mark. Numbers repeat from store to store: the moment and what it was made of
    tell them apart.
    """
    return f"{number}@{made_at_ms}:{source}"[:5000]


def place(point: Any) -> tuple[int, int, str]:
    """What tells two points of a metric's history apart: step, time (ms), value; nan is itself."""
    return point.step, point.timestamp, "nan" if math.isnan(point.value) else repr(point.value)


def digest(*parts: Any) -> str:
    """The same for the same numbers, texts, lists and dicts."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def run_state(run: Any, files: Iterable[tuple[str, int]]) -> str:
    """Of an MLflow run and its artifacts (path, bytes): another one where there is more to copy.

    A point that is added to a metric's past, before the latest step, does not show.
    """
    data, inputs, outputs = run.data, run.inputs, run.outputs
    return digest(
        run.info.status, run.info.end_time, run.info.run_name, data.params, plain(data.tags),
        sorted((one.key, *place(one)) for one in data._metric_objs),
        sorted((one.dataset.name, one.dataset.digest) for one in inputs.dataset_inputs),
        sorted(one.model_id for one in inputs.model_inputs or []),
        sorted((one.model_id, one.step) for one in outputs.model_outputs if outputs),
        sorted(files),
    )


def model_state(model: Any, files: Iterable[tuple[str, int]]) -> str:
    """The same of a logged model."""
    metrics = [(one.key, *place(one), one.run_id) for one in model.metrics or []]
    return digest(
        str(model.status), model.params, plain(model.tags), sorted(metrics), sorted(files)
    )


def version_state(version: Any) -> str:
    """The same of a version of a registered model."""
    return digest(plain(version.tags), version.description)
