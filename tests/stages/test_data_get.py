"""`data get`: CIFAR-10 from mirrors on loopback, FDDB's patches, and what is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from PIL import Image

from alexnet_mlflow.cli import main
from alexnet_mlflow.commands import GetConfig
from alexnet_mlflow.config import DataConfig
from alexnet_mlflow.data import DataError, cifar10, fetch, load
from alexnet_mlflow.options import BadInput
from alexnet_mlflow.stages import data_get
from tests.data.mirrors import Mirror
from tests.data.test_cifar10 import write_parquet


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty data folder, with downloads allowed."""
    monkeypatch.delenv("ALEXNET_OFFLINE", raising=False)
    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "data"


def offered(paths: list[Path], mirrors: list[Mirror]) -> tuple[fetch.Remote, ...]:
    return tuple(
        fetch.Remote(path.name, path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest(),
                     (mirror.url,))
        for path, mirror in zip(paths, mirrors, strict=True)
    )


@pytest.mark.parametrize("command", ["get", "stage"])
def test_cifar10_comes_from_its_mirrors(
    command: str, online: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = list(write_parquet(tmp_path / "there"))
    with Mirror(paths[0].read_bytes()) as one, Mirror(paths[1].read_bytes()) as two:
        monkeypatch.setattr(fetch, "CIFAR10", (offered(paths, [one, two]),))
        if command == "get":
            config = GetConfig(dataset="cifar10", data_dir=str(online))
            result = data_get.run(config)
            assert result.verdict == "warn"  # a toy is not the official copy
            assert result.figures["source"] == f"{one.url} and {two.url}"
            assert data_get.run(config).figures == result.figures
        data = load(DataConfig(dataset="cifar10", data_dir=str(online)))
        assert data.source == f"{one.url} and {two.url}" and data.title == cifar10.UNVERIFIED
        assert [len(one.asked), len(two.asked)] == [1, 1]


def test_what_is_there_is_not_downloaded(
    online: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = list(write_parquet(tmp_path / "there"))
    write_parquet(online / "plain_text")
    with Mirror(paths[0].read_bytes()) as one, Mirror(paths[1].read_bytes()) as two:
        monkeypatch.setattr(fetch, "CIFAR10", (offered(paths, [one, two]),))
        result = data_get.run(GetConfig(dataset="cifar10", data_dir=str(online)))
        assert one.asked == two.asked == []
    assert result.figures["source"] == str(online / "plain_text")


@pytest.mark.parametrize("way", ["option", "environment"])
def test_offline_touches_no_network(
    way: str, online: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = list(write_parquet(tmp_path / "there"))
    if way == "environment":
        monkeypatch.setenv("ALEXNET_OFFLINE", "1")
    with Mirror(paths[0].read_bytes()) as one, Mirror(paths[1].read_bytes()) as two:
        monkeypatch.setattr(fetch, "CIFAR10", (offered(paths, [one, two]),))
        for ask in (
            lambda: data_get.run(
                GetConfig(dataset="cifar10", data_dir=str(online), offline=way == "option")
            ),
            lambda: load(
                DataConfig(dataset="cifar10", data_dir=str(online), offline=way == "option")
            ),
        ):
            with pytest.raises(DataError, match="alexnet-mlflow data get cifar10"):
                ask()
        assert one.asked == two.asked == []
    assert not online.exists()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["data", "get", "mnist"], "cifar10"),
        (["data", "get", "fddb", "--rotate=10"], "--rotate must be 0 to 9"),
        (["data", "get", "fddb", "--photos=~nobody-at-all/x"], "--photos"),
        (["data", "get", "fddb", f"--photos={'x' * 300}"], "--photos"),
        (["data", "get", "cifar10", "--hard"], "--hard is for fddb"),
        (["data", "get", "fddb", "--photos=nowhere.tar.gz"], "--photos"),
        (["data", "get", "fddb"], "originalPics.tar.gz"),
        (["data", "get", "cifar10", "--offline"], "alexnet-mlflow data get cifar10"),
        (["data", "check", "nothing"], "neither a name nor a path"),
        (["data", "check"], "DATASET"),
        (["data", "nonsense"], "nonsense"),
    ],
)
def test_bad_input_gets_one_sentence(
    arguments: list[str], part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ALEXNET_DATA", raising=False)
    assert main(arguments) == 2
    caught = capsys.readouterr()
    assert caught.out == "" and caught.err.startswith("Error: ") and caught.err.count("\n") == 1
    assert part in caught.err and list(tmp_path.iterdir()) == []


def test_fddb_from_the_real_archives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = _shared()
    words = ["data", "get", "fddb", f"--photos={shared}/originalPics.tar.gz",
             f"--folds={shared}/FDDB-folds.tgz", f"--data-dir={tmp_path}"]
    assert main(words) == 2
    assert "2,645 of the 2,845 photos" in capsys.readouterr().err and not list(tmp_path.iterdir())
    identities = []
    for extra in ((), (), ("--hard",), ("--rotate=3",)):
        assert main([*words, "--allow-missing", *extra]) == 0
        said = json.loads(capsys.readouterr().out.splitlines()[-1])
        identities.append(said["data_digest"])
        with Image.open(said["contact_sheet"]) as sheet:
            assert sheet.width > 1000
        data = load(DataConfig(dataset=said["dataset"], data_dir=str(tmp_path)))
        assert data.digest == said["data_digest"] and data.name == said["dataset"]
        assert data.counts["train"]["face"] == data.counts["train"]["nonface"]
    assert identities[0] == identities[1] and len(set(identities)) == 3


def _shared() -> Path:
    import os

    place = os.environ.get("ALEXNET_SHARED_DATA")
    if not place:
        pytest.skip("ALEXNET_SHARED_DATA does not name the folder with fddb/")
    return Path(place) / "fddb"


def test_what_is_named_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "FDDB-folds.tgz").touch()
    with pytest.raises(BadInput, match="'gone.tgz' is not there: .* --folds"):
        data_get.run(GetConfig(dataset="fddb", data_dir=str(tmp_path), folds="gone.tgz",
                               photos=str(tmp_path)))
