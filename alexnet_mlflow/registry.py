"""The model registry: versions of `alexnet-<dataset>`, and who carries the alias `champion`.

Chosen: aliases, not stages; a model that is a version already is not registered again. Left out
for now: a lock between two promoters, and rolling back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHAMPION = "champion"


@dataclass(frozen=True)
class Version:
    """A version of a registered model."""

    name: str
    number: str
    source: str  # the logged model's URI
    run_id: str
    tags: dict[str, str]

    @property
    def uri(self) -> str:
        return f"models:/{self.name}/{self.number}"


def registered_name(dataset: str) -> str:
    """`alexnet-<dataset>`, the name by which others load the model."""
    return f"alexnet-{dataset}"


def champion(name: str) -> Version | None:
    """The version that carries the alias; None where there is no model, or no champion."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        return _version(MlflowClient().get_model_version_by_alias(name, CHAMPION))
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def register(name: str, source: str, run_id: str, tags: Mapping[str, object]) -> Version:
    """The version of `name` made from a run's logged model `source`: the one there is, or a new."""
    import mlflow

    client = mlflow.MlflowClient()
    texts = {key: str(value) for key, value in tags.items()}
    known = [item for item in _versions(client, name) if item.run_id == run_id]
    if not known:
        made = mlflow.register_model(source, name, tags=texts)
        return _version(client.get_model_version(name, made.version))
    for key, value in texts.items():
        client.set_model_version_tag(name, known[0].version, key, value)
    return _version(client.get_model_version(name, known[0].version))


def crown(version: Version) -> None:
    """Give the alias `champion` to this version."""
    from mlflow import MlflowClient

    MlflowClient().set_registered_model_alias(version.name, CHAMPION, version.number)


def _versions(client: MlflowClient, name: str) -> list[ModelVersion]:
    return list(client.search_model_versions(f"name = '{name}'"))


def _version(entity: ModelVersion) -> Version:
    return Version(
        entity.name, str(entity.version), entity.source, entity.run_id, dict(entity.tags)
    )
