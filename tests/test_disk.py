"""What is flushed is a file or a folder; what is not there is an error."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from alexnet_mlflow.disk import flush, replaced, written


def test_a_file_and_a_folder_reach_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    flushed, fsync = list[str](), os.fsync

    def told(handle: int) -> None:
        flushed.append(os.readlink(f"/proc/self/fd/{handle}"))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", told)
    flush(tmp_path / "file")
    flush(tmp_path)
    assert flushed == [str(tmp_path / "file"), str(tmp_path)]
    opened = [os.path.realpath(place) for place in Path("/proc/self/fd").iterdir()]
    assert not [place for place in opened if place.startswith(str(tmp_path))]


def test_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        flush(tmp_path / "gone")


def test_the_moment_of_the_last_write_and_of_what_is_gone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    os.utime(tmp_path / "file", (5.0, 7.0))
    assert written(tmp_path / "file") == 7.0 and written(tmp_path / "gone") == 0.0


def no_links(*_: object) -> None:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


@pytest.mark.parametrize("links", ["links", "none"])
def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path, links: str) -> None:
    file = tmp_path / "plot.png"
    for text in ("one", "two"):
        with replaced(file) as draft:
            assert draft.suffix == ".png"
            draft.write_text(text)
        assert file.read_text() == text
    with pytest.raises(OSError, match="full"), replaced(file) as draft:
        draft.write_text("half")
        raise OSError("full")
    with pytest.raises(FileExistsError), replaced(file, new=True) as draft:
        draft.write_text("three")
    assert [path.name for path in tmp_path.iterdir()] == ["plot.png"]
    with pytest.MonkeyPatch.context() as patch:
        if links == "none":
            patch.setattr(os, "link", no_links)
        with replaced(tmp_path / "new.png", new=True) as draft:
            draft.write_text("new")
        with pytest.raises(FileExistsError), replaced(file, new=True) as draft:
            draft.write_text("three")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.png", "plot.png"]
    assert file.read_text() == "two"
