"""The image, built by a real engine and run as strictly as it may be; skipped without one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from docker.models.images import Image

ROOT = Path(__file__).resolve().parent.parent
TAG = "alexnet-mlflow:gpu"


@pytest.fixture(scope="module")
def engine() -> Iterator[docker.DockerClient]:
    if "ALEXNET_SLOW" not in os.environ:
        pytest.skip("ALEXNET_SLOW is not set: building the image takes minutes")
    try:
        client = docker.from_env()
        client.ping()
    except docker.errors.DockerException as error:
        pytest.skip(f"no Docker engine answers: {error}")
    yield client
    client.close()


@pytest.fixture(scope="module")
def image(engine: docker.DockerClient) -> Image:
    arguments = {"COMMIT": "0" * 40}
    made, _ = engine.images.build(
        path=str(ROOT), tag=TAG, rm=True, network_mode="host", buildargs=arguments
    )
    return made


def test_the_image_says_what_it_is(image: Image) -> None:
    assert image.attrs["Config"]["User"] == "1000:1000"
    assert image.labels["org.opencontainers.image.revision"] == "0" * 40
    assert image.attrs["Config"]["Cmd"] == ["--help"]


def test_a_stage_runs_with_nothing_but_its_folder(
    engine: docker.DockerClient, image: Image, tmp_path: Path
) -> None:
    """Read-only root, no capabilities; what it writes belongs to the caller."""
    output = engine.containers.run(
        image, ["overfit", "--optimizer=adam", "--pictures=16"],
        remove=True, read_only=True, tmpfs={"/tmp": ""}, cap_drop=["ALL"],
        security_opt=["no-new-privileges"], network_mode="none",
        user=f"{os.getuid()}:{os.getgid()}", volumes={str(tmp_path): {"bind": "/work"}},
    )
    last = json.loads(output.decode().splitlines()[-1])
    assert last["stage"] == "overfit" and last["verdict"] == "pass"
    assert (tmp_path / "mlflow.db").stat().st_uid == os.getuid()


def test_its_torch_is_the_cuda_build(engine: docker.DockerClient, image: Image) -> None:
    code = "import torch, torchvision; print(torch.version.cuda)"
    output = engine.containers.run(
        image, ["-c", code], entrypoint="python", remove=True, network_mode="none"
    )
    assert output.decode().strip().split(".")[0] in ("12", "13")
