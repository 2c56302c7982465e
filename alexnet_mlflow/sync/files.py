"""Artifacts from one place to another, file by file, through a server where the place is one's.

One file at a time is on this machine. MLflow writes a file whole or not at all; one of the same
size is taken as copied when a broken copy goes on. An MLmodel is rewritten, for it names its own
run, model and folder; every other file stays as it is, byte for byte.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

REWRITTEN = "MLmodel"


@dataclass(frozen=True)
class Place:
    """A run's or a logged model's artifacts: their address, and the store it belongs to."""

    location: str
    tracking_uri: str

    def tree(self) -> list[tuple[str, int]]:
        """(path, bytes) of every file, below all folders."""
        return sorted(self._below(None))

    def _below(self, folder: str | None) -> Iterator[tuple[str, int]]:
        for one in self._files.list_artifacts(folder):
            if one.is_dir:
                yield from self._below(one.path)
            else:
                yield one.path, int(one.file_size or 0)

    @property
    def _files(self):  # type: ignore[no-untyped-def]
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        return get_artifact_repository(self.location, self.tracking_uri)

    def fetch(self, path: str, folder: str) -> Path:
        """One file, in this folder."""
        return Path(self._files.download_artifacts(path, folder))

    def put(self, file: Path, path: str) -> None:
        """Write a file as this artifact."""
        parent = str(PurePosixPath(path).parent)
        self._files.log_artifact(str(file), None if parent == "." else parent)


def copy(
    source: Place, target: Place, tree: list[tuple[str, int]], again: bool,
    translated: Callable[[str], str],
) -> tuple[int, int]:
    """Copy the files of `tree` that the target lacks: how many, and their bytes.

    again: also those it has, because they may have changed. translated: for the text of an MLmodel.
    """
    there = set() if again or not tree else set(target.tree())
    count = size = 0
    for path, length in tree:
        rewritten = PurePosixPath(path).name == REWRITTEN
        if (path, length) in there and not rewritten:
            continue
        with tempfile.TemporaryDirectory() as folder:
            file = source.fetch(path, folder)
            if rewritten:
                text = file.read_text(encoding="utf-8").replace(source.location, target.location)
                file.write_text(translated(text), encoding="utf-8")
            target.put(file, path)
        count, size = count + 1, size + length
    return count, size
