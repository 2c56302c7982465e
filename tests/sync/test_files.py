"""Artifacts from folder to folder: what is missing, byte for byte; an MLmodel in its new words."""

from __future__ import annotations

from pathlib import Path

import pytest

from alexnet_mlflow.sync.files import Place, copy


@pytest.fixture
def ends(tmp_path: Path) -> tuple[Place, Place]:
    for path, raw in {"a.bin": b"\0\1", "in/ner/ä b.txt": b"text", "MLmodel": b"OLD OLD"}.items():
        (tmp_path / "old" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "old" / path).write_bytes(raw)
    uri = f"sqlite:///{tmp_path}/unused.db"
    return Place(f"{tmp_path}/old", uri), Place(f"{tmp_path}/new", uri)


def words(text: str) -> str:
    return text.replace("OLD", "NEW")


def test_every_file_is_found_and_copied(ends: tuple[Place, Place], tmp_path: Path) -> None:
    source, target = ends
    tree = source.tree()
    assert tree == [("MLmodel", 7), ("a.bin", 2), ("in/ner/ä b.txt", 4)] and target.tree() == []
    (tmp_path / "old" / "MLmodel").write_text(f"{source.location} OLD")
    assert copy(source, target, tree, False, words) == (3, 13)
    assert (tmp_path / "new/a.bin").read_bytes() == b"\0\1"
    assert (tmp_path / "new/in/ner/ä b.txt").read_text() == "text"
    assert (tmp_path / "new/MLmodel").read_text() == f"{target.location} NEW"


def test_only_what_is_missing_unless_it_may_have_changed(
    ends: tuple[Place, Place], tmp_path: Path
) -> None:
    source, target = ends
    copy(source, target, source.tree(), False, words)
    (tmp_path / "new/a.bin").write_bytes(b"\0")  # cut off
    (tmp_path / "old/in/ner/ä b.txt").write_text("TEXT")  # of the same length
    assert copy(source, target, source.tree(), False, words) == (2, 9)  # and the MLmodel
    assert (tmp_path / "new/a.bin").read_bytes() == b"\0\1"
    assert (tmp_path / "new/in/ner/ä b.txt").read_text() == "text"
    assert copy(source, target, source.tree(), True, words)[0] == 3
    assert (tmp_path / "new/in/ner/ä b.txt").read_text() == "TEXT"
