"""What stands in the container, which stores it can reach, and how an engine's absence is told.

tests/test_container.py runs it for real.
"""

from __future__ import annotations

import gc
import os
import socket
import warnings
from pathlib import Path

import pytest

from alexnet_mlflow.cli import main
from alexnet_mlflow.commands import DockerRunConfig
from alexnet_mlflow.options import BadInput
from alexnet_mlflow.stages import docker_run
from alexnet_mlflow.stages.docker_run import check_reach, engine, mounts


@pytest.mark.parametrize(
    ("uri", "network"),
    [
        ("", "none"), ("mlruns", "none"), ("sqlite:///mlflow.db", "none"),
        ("sqlite:////here/below/mlflow.db", "none"), ("http://tracking:5000", "bridge"),
        ("http://127.0.0.1:5000", "host"), ("postgresql://u:p@localhost/x", "host"),
    ],
)
def test_a_store_within_reach(uri: str, network: str) -> None:
    check_reach("MLFLOW_TRACKING_URI", uri, network, Path("/here"))


@pytest.mark.parametrize(
    ("uri", "network", "way_out"),
    [
        ("sqlite:////elsewhere/mlflow.db", "host", "start from the folder of the file"),
        ("sqlite:///../mlflow.db", "host", "start from the folder of the file"),
        ("http://localhost:5000", "bridge", "give --network=host"),
        ("http://[::1]:5000", "none", "give --network=host"),
        ("postgresql://user:secret@127.0.0.1/x", "bridge", "give --network=host"),
        ("http://:::", "bridge", "is no address"),
    ],
)
def test_a_store_out_of_reach(uri: str, network: str, way_out: str) -> None:
    with pytest.raises(BadInput) as refused:
        check_reach("ALEXNET_STORAGE", uri, network, Path("/here"))
    text = str(refused.value)
    assert way_out in text and "ALEXNET_STORAGE" in text and "secret" not in text


def test_what_words_name_is_mounted_at_its_own_place(tmp_path: Path) -> None:
    here, data, picture = tmp_path / "here", tmp_path / "data", tmp_path / "one.png"
    for folder in (here / "own", data):
        folder.mkdir(parents=True)
    picture.touch()
    words = ["predict", f"--model={data}/missing", "--limit=3", "own", "../one.png"]
    found = mounts(words, [str(data)], here)
    assert list(found) == sorted(map(str, (here, data, picture)))
    assert all(found[path] == {"bind": path, "mode": "rw"} for path in found)


def test_a_link_is_there_under_its_own_name_and_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, data = tmp_path / "here", tmp_path / "data"
    here.mkdir()
    data.mkdir()
    (tmp_path / "link").symlink_to(data)
    found = mounts([f"--dataset={tmp_path}/link"], [], here)
    assert set(found) == {str(here), str(data), f"{tmp_path}/link"}
    monkeypatch.setenv("HOME", str(tmp_path))
    words = [docker_run._expanded(word) for word in ("~/data", "--data-dir=~/data", "--lr=1")]
    assert words == [str(data), f"--data-dir={data}", "--lr=1"]


def test_a_word_that_is_no_path_mounts_nothing(tmp_path: Path) -> None:
    words = ["x" * 5000, "--", "", "--lr=1e-3", "a\0b"]
    assert list(mounts(words, [], tmp_path)) == [str(tmp_path)]


def refused_by(address: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("DOCKER_HOST", address)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the SDK leaves its socket open
        with pytest.raises(BadInput) as refused:
            engine().__enter__()
        text = str(refused.value)
        del refused
        gc.collect()
    return text


def test_no_engine_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = refused_by(f"unix://{tmp_path}/none", monkeypatch)
    assert "no Docker engine answers at" in text and "install and start it" in text


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_no_permission_on_the_socket_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    file = Path("/tmp") / f"alexnet-socket-{os.getpid()}"  # others may look there, unlike tmp_path
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(file))
        listening.listen()
        file.chmod(0o600)
        os.seteuid(65534)
        try:
            assert "join the group docker" in refused_by(f"unix://{file}", monkeypatch)
        finally:
            os.seteuid(0)
            file.unlink()


def test_only_networks_that_docker_has() -> None:
    with pytest.raises(BadInput, match="--network must be one of bridge, host, none"):
        DockerRunConfig(network="mine")


def test_its_own_options_stand_before_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen = []
    monkeypatch.setattr(
        "alexnet_mlflow.stages.docker_run.run", lambda *given: seen.append(given) or 7
    )
    assert main(["docker-run", "--gpu", "search", "--gpu", "--network=none", "-x"]) == 7
    assert seen == [(DockerRunConfig(gpu=True), ("search", "--gpu", "--network=none", "-x"))]
