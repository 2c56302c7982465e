"""The model registry: versions of `alexnet-<dataset>`, and who carries which alias.

`champion` is what others load, `previous` what a rollback goes back to, `challenger` the last one
that lost. A version that is crowned keeps the number of the one before in its tag `succeeds`, so
that one can go back again and again. Promoters come one after the other (turn.py; the tickets are
tags of the registered model). Chosen: aliases, not stages; a model that is a version already is not
registered again. Left out: a person at the registry's page takes no ticket, so whoever crowns looks
first whether the champion is still the one that was judged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alexnet_mlflow import signals, turn
from alexnet_mlflow.options import BadInput
from alexnet_mlflow.reach import IMPATIENT, PATIENT, environment, without_password

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
SUCCEEDS = "succeeds"  # tag of a version: the number of the champion before it
MISSING = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # no model, no alias


@dataclass(frozen=True)
class Version:
    """A version of a registered model."""

    name: str
    number: str
    source: str  # the logged model's URI
    run_id: str
    tags: dict[str, str]
    made: bool = False  # now, by `register`

    @property
    def uri(self) -> str:
        return f"models:/{self.name}/{self.number}"


def registered_name(dataset: str) -> str:
    """`alexnet-<dataset>`, the name by which others load the model."""
    return f"alexnet-{dataset}"


@contextmanager
def answering() -> Iterator[None]:
    """Refuse at once where the registry is not there; what it says later, in one sentence.

    BadInput where it does not answer.
    """
    import mlflow
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with environment(IMPATIENT):
            mlflow.MlflowClient().search_registered_models(max_results=1)
        with environment(PATIENT):
            yield
    except (MlflowException, SQLAlchemyError, ConnectionError) as error:
        reason = without_password(" ".join(str(error).split("\n")[0].split())[:200])
        raise BadInput(
            f"the registry {without_password(mlflow.get_registry_uri())} does not answer as it "
            f"should ({reason}): see that its server runs, then give the same command again"
        ) from error


def champion(name: str) -> Version | None:
    """The version that carries the alias; None where there is no model, or no champion."""
    return _aliased(name, CHAMPION)


@contextmanager
def alone(name: str) -> Iterator[turn.Held]:
    """Promoters of one name come one after the other, in whatever process and on any machine.

    The registered model is made where there is none. BadInput where the turn does not come.
    """
    from mlflow.exceptions import MlflowException

    client = _client()
    try:
        client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code not in MISSING:
            raise
        _create(client, name)
    with turn.alone(_Tags(client, name), name) as held:
        yield held


def register(name: str, source: str, run_id: str, tags: Mapping[str, object]) -> Version:
    """The version of `name` made from a run's logged model `source`: the one there is, or a new."""
    import mlflow

    client = _client()
    texts = {key: str(value) for key, value in tags.items()}
    known = [item for item in _versions(client, name) if item.run_id == run_id]
    if not known:
        with signals.held():
            number = mlflow.register_model(source, name, tags=texts).version
        return _version(client.get_model_version(name, number), made=True)
    with signals.held():
        for key, value in texts.items():
            if known[0].tags.get(key) != value:
                client.set_model_version_tag(name, known[0].version, key, value)
    return _version(client.get_model_version(name, known[0].version))


def crown(version: Version, over: Version | None, held: turn.Held) -> None:
    """Make this version champion in place of `over`, the champion that was judged.

    BadInput where another is champion by now, or this process was given up by others: then nothing
    is changed, and a version that was made for it is taken away again.
    """
    client = _client()
    _check(client, version, over, held)
    # Broken off after any of these writes, the registry has a champion that exists and is not
    # worse: up to the one that crowns it is the old one, and a rollback from it goes where it did
    # before, by its own tag; afterwards the new one, from which a rollback finds the old.
    with signals.held():
        if over is not None:
            client.set_model_version_tag(version.name, version.number, SUCCEEDS, over.number)
            client.set_registered_model_alias(version.name, PREVIOUS, over.number)
        else:
            _untag(client, version, SUCCEEDS)
        client.set_registered_model_alias(version.name, CHAMPION, version.number)
        if _aliases(client, version.name).get(CHALLENGER) == version.number:
            client.delete_registered_model_alias(version.name, CHALLENGER)


def challenge(version: Version) -> None:
    """Give the alias `challenger` to a version that was compared and lost."""
    with signals.held():
        _client().set_registered_model_alias(version.name, CHALLENGER, version.number)


def describe(version: Version, text: str) -> None:
    """The version's description, as the registry's page shows it."""
    with signals.held():
        _client().update_model_version(version.name, version.number, text)


def note(version: Version, text: str) -> None:
    """Add a paragraph to the version's description."""
    known = _client().get_model_version(version.name, version.number).description or ""
    describe(version, f"{known}\n\n{text}".strip())


def before(version: Version) -> Version:
    """The champion that this one succeeded, else who carries `previous`. BadInput without one."""
    client = _client()
    number = version.tags.get(SUCCEEDS) or _aliases(client, version.name).get(PREVIOUS)
    if number is None or number == version.number:
        raise BadInput(
            f"version {version.number} of {version.name} succeeded no other, so there is none to "
            "go back to: give the alias champion to a version in the registry"
        )
    if found := _numbered(client, version.name, number):
        return found
    raise BadInput(
        f"version {number} of {version.name}, the champion before version {version.number}, "
        "is no longer there: give the alias champion to another version in the registry"
    )


def roll_back(version: Version, to: Version, held: turn.Held) -> None:
    """Make `to` champion again in place of `version`, which succeeded it. BadInput as `crown`."""
    client = _client()
    earlier = _numbered(client, to.name, to.tags[SUCCEEDS]) if SUCCEEDS in to.tags else None
    _check(client, to, version, held)
    # As above: whatever it is broken off after, there is a champion, the one or the other.
    with signals.held():
        client.set_registered_model_alias(to.name, CHAMPION, to.number)
        if earlier is not None:
            client.set_registered_model_alias(to.name, PREVIOUS, earlier.number)
        else:
            client.delete_registered_model_alias(to.name, PREVIOUS)
        _untag(client, version, SUCCEEDS)  # else two versions that succeeded each other go round


def _check(client: MlflowClient, version: Version, over: Version | None, held: turn.Held) -> None:
    """The champion is still the one that was judged, and it is still this process's turn."""
    model = client.get_registered_model(version.name)  # both in one look
    now, judged = _numbers(model).get(CHAMPION), over.number if over else None
    if now == judged and held(model.tags):
        return
    if version.made and version.number not in _numbers(model).values():
        client.delete_model_version(version.name, version.number)
    if now != judged:
        raise BadInput(
            f"the champion of {version.name} was moved meanwhile (from {_called(judged)} to "
            f"{_called(now)}): run promote again"
        )
    raise BadInput(
        f"others gave up waiting for this promotion of {version.name}, which stood still for more "
        f"than {turn.SILENT_SECONDS:.0f} seconds: run promote again"
    )


class _Tags:
    """The registered model's tags as the board where promoters hang their tickets."""

    def __init__(self, client: MlflowClient, name: str) -> None:
        self._client, self._name = client, name

    def read(self) -> Mapping[str, str]:
        return dict(self._client.get_registered_model(self._name).tags)

    def write(self, key: str, text: str) -> None:
        with signals.held():
            self._client.set_registered_model_tag(self._name, key, text)

    def erase(self, key: str) -> None:
        with signals.held():
            self._client.delete_registered_model_tag(self._name, key)


def _client() -> MlflowClient:
    from mlflow import MlflowClient

    return MlflowClient()


def _create(client: MlflowClient, name: str) -> None:
    """Make the registered model; another may do so at the same moment."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _untag(client: MlflowClient, version: Version, key: str) -> None:
    if key in version.tags:
        client.delete_model_version_tag(version.name, version.number, key)


def _aliased(name: str, alias: str) -> Version | None:
    from mlflow.exceptions import MlflowException

    try:
        return _version(_client().get_model_version_by_alias(name, alias))
    except MlflowException as error:
        if error.error_code in MISSING or _unmade(name, error.error_code):
            return None
        raise


def _unmade(name: str, code: str) -> bool:
    """Is this model not there? A server with a login answers `forbidden` then, to all but admin."""
    return code == "PERMISSION_DENIED" and not _client().search_registered_models(
        f"name = '{name}'", max_results=1
    )


def _numbered(client: MlflowClient, name: str, number: str) -> Version | None:
    """The version of this number; None where there is none, or no longer."""
    from mlflow.exceptions import MlflowException

    try:
        return _version(client.get_model_version(name, number))
    except MlflowException as error:
        if error.error_code in MISSING:
            return None
        raise


def _aliases(client: MlflowClient, name: str) -> dict[str, str]:
    return _numbers(client.get_registered_model(name))


def _numbers(model: Any) -> dict[str, str]:
    """Alias -> version number."""
    return {alias: str(number) for alias, number in model.aliases.items()}


def _called(number: str | None) -> str:
    return f"version {number}" if number else "none"


def _versions(client: MlflowClient, name: str) -> list[ModelVersion]:
    return list(client.search_model_versions(f"name = '{name}'"))


def _version(entity: ModelVersion, made: bool = False) -> Version:
    return Version(
        entity.name, str(entity.version), entity.source, entity.run_id, dict(entity.tags), made
    )
