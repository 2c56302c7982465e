"""Registered models: versions in their order, with tags and descriptions, and who has which alias.

Promoters of the target wait meanwhile (registry.alone). Numbers may differ where the target has
versions of its own, so aliases and the tag `succeeds` are translated. What the target has decided
since stands: an alias follows the source only while it is where an earlier sync has put it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from alexnet_mlflow import reach, registry, signals
from alexnet_mlflow.registry import SUCCEEDS
from alexnet_mlflow.sync.marks import (
    MARK,
    STATE,
    VERSIONS,
    alias_tag,
    origin,
    plain,
    version_mark,
    version_state,
)
from alexnet_mlflow.sync.runs import Task
from alexnet_mlflow.turn import PREFIX as TICKET

PROMPT = "mlflow.prompt.is_prompt"
MODEL_ID = re.compile(r"m-[0-9a-f]{32}")


@dataclass
class Item:
    """A version of the source and what stands for it in the target."""

    version: Any
    mark: str
    number: str | None  # in the target; None where it is not there
    state: str | None = None
    itself: bool = False  # no copy, but the version itself
    old: Any = None  # as the target has it

    @property
    def changed(self) -> bool:
        return not self.itself and self.state != version_state(self.version)


def copy(task: Task) -> None:
    """Every registered model of the source."""
    for model in task.source.registered():
        if PROMPT not in model.tags:
            _model(task, model)


def _model(task: Task, model: Any) -> None:
    there = task.target.registered_model(model.name)
    items = _items(task, model.name, there is not None)
    for one in items:
        kind = task.updated if one.state else task.copied
        (kind if one.changed else task.there)["versions"] += 1
    (task.there if there else task.copied)["registered models"] += 1
    if task.dry_run:
        return
    _head(task, model, there)
    moves = there is None or _moves(model, there, items)
    if not (moves or any(one.changed for one in items)):
        return
    with registry.alone(model.name):
        items = _items(task, model.name, True)  # others may have come before
        for one in items:
            if one.number is None:
                _make(task, one)
        numbers = {str(one.version.version): one.number for one in items if one.number}
        for one in items:
            if one.number and one.changed:
                _finish(task, one, numbers)
        _aliases(task, model, items)


def _items(task: Task, name: str, there: bool) -> list[Item]:
    known = {}
    for one in task.target.versions(name) if there else []:
        known[origin(one.tags, _mark(one))] = one
    found = []
    for version in task.source.versions(name):
        mark = origin(version.tags, _mark(version))
        old = known.get(mark)
        if old is None:
            found.append(Item(version, mark, None))
        else:
            number = str(old.version)
            itself = MARK not in old.tags or _mark(old) == _mark(version)
            found.append(Item(version, mark, number, old.tags.get(STATE), itself, old))
    return found


def _mark(version: Any) -> str:
    source = version.run_id or version.source or ""
    return version_mark(str(version.version), version.creation_timestamp, source)


def _head(task: Task, model: Any, there: Any | None) -> None:
    """The registered model itself: made, or given the tags and the description that it lacks."""
    tags = {
        key: text for key, text in plain(model.tags).items() if not key.startswith(TICKET)
    }
    client = task.target.client
    if there is None:
        with signals.held(seconds=reach.ANSWER_SECONDS):
            client.create_registered_model(model.name, tags, model.description)
        return
    for key in tags.keys() - there.tags.keys():
        client.set_registered_model_tag(model.name, key, tags[key])
    if model.description and not there.description:
        client.update_registered_model(model.name, model.description)


def _make(task: Task, item: Item) -> None:
    """A new version, its mark on it from the start."""
    version = item.version
    found = _source(task, version)
    if found is None:
        task.copied["versions"] -= 1
        task.notes.append(
            f"Version {version.version} of {version.name} is left out: its model is deleted."
        )
        return
    source, model_id = found
    run_id = task.ids.get(version.run_id)
    with signals.held(seconds=reach.ANSWER_SECONDS):
        made = task.target.client.create_model_version(
            version.name, source, run_id, {**_tags(task, version), MARK: item.mark},
            description=_description(task, version), await_creation_for=0, model_id=model_id,
        )
    item.number, item.old = str(made.version), made


def _source(task: Task, version: Any) -> tuple[str, str | None] | None:
    """What the version is made of in the target, and the logged model's id; None where nothing."""
    if found := MODEL_ID.search(version.source):
        model_id = task.ids.get(found[0])
        return (f"models:/{model_id}", model_id) if model_id else None
    if version.source.startswith("models:/"):  # made of another version: its files are that one's
        return None
    if not version.run_id:
        return version.source, None
    run_id = task.ids.get(version.run_id)
    if run_id is None:
        return None
    old = task.source.client.get_run(version.run_id).info.artifact_uri
    new = task.target.client.get_run(run_id).info.artifact_uri
    if version.source.startswith(old):
        return new + version.source.removeprefix(old), None
    return task.ids(version.source), None


def _tags(task: Task, version: Any) -> dict[str, str]:
    """Without `succeeds`, which waits until all versions have their numbers."""
    found = plain(version.tags).items()
    return {key: task.ids(text) for key, text in found if key != SUCCEEDS}


def _description(task: Task, version: Any) -> str | None:
    """With the run ids and the address to load it of its copy."""
    return task.ids(version.description) if version.description else None


def _finish(task: Task, item: Item, numbers: dict[str, str]) -> None:
    """The tags as the source has them now, `succeeds` with the target's number; the digest last."""
    version, client = item.version, task.target.client
    name, number, old = version.name, str(item.number), item.old
    tags = _tags(task, version)
    if succeeded := numbers.get(version.tags.get(SUCCEEDS, "")):
        tags[SUCCEEDS] = succeeded
    elif SUCCEEDS in old.tags:
        client.delete_model_version_tag(name, number, SUCCEEDS)
    for key, text in tags.items():
        if old.tags.get(key) != text:
            client.set_model_version_tag(name, number, key, text)
    told = _description(task, version)
    if told and told != old.description:
        client.update_model_version(name, number, told)
    _list(task, item)
    client.set_model_version_tag(name, number, STATE, version_state(version))


def _list(task: Task, item: Item) -> None:
    """Its logged model names the version, as the UI shows it; a server does so by itself."""
    found = MODEL_ID.search(item.old.source)
    model = task.target.model(found[0]) if found else None
    if model is None:
        return
    known = json.loads(model.tags.get(VERSIONS, "[]"))
    name = item.version.name
    if not any(one["name"] == name and str(one["version"]) == item.number for one in known):
        text = json.dumps([*known, {"name": name, "version": item.old.version}])
        task.target.client.set_logged_model_tags(model.model_id, {VERSIONS: text})


def _moves(model: Any, there: Any, items: list[Item]) -> bool:
    """Is there an alias that is not where it should be, or not yet known to be?"""
    return any(_move(alias, model, there, items) for alias in _all(model, there))


def _all(model: Any, there: Any) -> list[str]:
    kept = [key.removeprefix(alias_tag("")) for key in there.tags if key.startswith(alias_tag(""))]
    return sorted({*model.aliases, *kept})


def _move(alias: str, model: Any, there: Any, items: list[Item]) -> tuple[Item | None, bool] | None:
    """Which version is to have the alias, and whether it is to be moved; None: nothing to do.

    It is moved where it is nobody's, or where the last sync has put it. A note of that (the mark of
    the version) is a tag of the registered model, so that two source stores do not take an alias
    from one another, and a rollback in the target is not undone.
    """
    now, noted = there.aliases.get(alias), there.tags.get(alias_tag(alias))
    now = None if now is None else str(now)
    carried = str(model.aliases.get(alias))
    wanted = next((one for one in items if str(one.version.version) == carried), None)
    before = next((one for one in items if one.mark == noted), None)
    if wanted is not None and wanted.number is None:
        return None
    if wanted is not None and now == wanted.number:
        return None if noted == wanted.mark or wanted.itself else (wanted, False)
    if noted is None:
        return (wanted, True) if wanted and now is None else None
    if before is None or before.number != now:  # another store's, or moved in the target
        return None
    return wanted, True


def _aliases(task: Task, model: Any, items: list[Item]) -> None:
    client, name = task.target.client, model.name
    there = client.get_registered_model(name)
    for alias in _all(model, there):
        move = _move(alias, model, there, items)
        if move is None:
            continue
        wanted, moved = move
        with signals.held(seconds=reach.ANSWER_SECONDS):
            if wanted is None:
                client.delete_registered_model_alias(name, alias)
                client.delete_registered_model_tag(name, alias_tag(alias))
                continue
            if moved:
                client.set_registered_model_alias(name, alias, str(wanted.number))
            client.set_registered_model_tag(name, alias_tag(alias), wanted.mark)
        task.copied["aliases"] += moved
    _told(task, model, client.get_registered_model(name), items)


def _told(task: Task, model: Any, there: Any, items: list[Item]) -> None:
    """A sentence for each alias that stays where the target has it."""
    numbers = {str(one.version.version): one.number for one in items}
    for alias, number in sorted(model.aliases.items()):
        now, wanted = there.aliases.get(alias), numbers.get(str(number))
        if wanted and str(now) != wanted:
            is_now = f"with version {now}" if now else "with none"
            task.notes.append(
                f"Alias {alias} of {model.name} stays {is_now} in the target; the source's is "
                f"version {wanted} there. `promote` in the target decides."
            )
