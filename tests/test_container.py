"""The image, built by a real engine and run as strictly as it may be; skipped without one.

Containers are on this machine's network: an engine may have no other.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
import yaml
from docker.models.containers import Container
from docker.models.images import Image
from mlflow import MlflowClient

import alexnet_mlflow
from alexnet_mlflow import checkpoint
from tests.tracking_server import serving

ROOT = Path(__file__).resolve().parent.parent
TAG = "alexnet-mlflow:gpu"
SPARE = "alexnet-mlflow:changed"
COMMIT = subprocess.run(
    ["git", "describe", "--always", "--exclude=*", "--abbrev=40", "--dirty=+changes"],
    cwd=ROOT, capture_output=True, text=True,
).stdout.strip() or "unknown"  # the image stays, under the name that others use


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


def built(engine: docker.DockerClient, folder: Path, tag: str) -> tuple[Image, list[str]]:
    """The image of a folder, and for each step whether it came from the cache."""
    image, log = engine.images.build(
        path=str(folder), tag=tag, rm=True, network_mode="host", buildargs={"COMMIT": COMMIT},
    )
    return image, "".join(line.get("stream", "") for line in log).split("\nStep ")


@pytest.fixture(scope="module")
def image(engine: docker.DockerClient) -> Image:
    return built(engine, ROOT, TAG)[0]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("server")) as uri:
        yield uri


def test_the_image_says_what_it_is(image: Image) -> None:
    assert image.attrs["Config"]["User"] == "1000:1000"
    assert image.attrs["Config"]["Entrypoint"] == ["alexnet-mlflow"]
    assert image.attrs["Config"]["Cmd"] == ["--help"]
    labels = {key.rpartition(".")[2]: text for key, text in image.labels.items()}
    assert labels["revision"] == COMMIT
    assert labels["version"] == alexnet_mlflow.__version__
    assert labels["title"] == "alexnet-mlflow" and labels["licenses"] == "MIT"


def test_without_words_it_helps(engine: docker.DockerClient, image: Image) -> None:
    text = engine.containers.run(image, remove=True, network_mode="none").decode()
    assert text.startswith("Usage: alexnet-mlflow") and "babysit" in text


def test_its_torch_is_the_cuda_build_and_trains(engine: docker.DockerClient, image: Image) -> None:
    """Much was taken out: a step works."""
    code = (
        "import torch\n"
        "net = torch.nn.Conv2d(3, 8, 3)\n"
        "net(torch.rand(2, 3, 8, 8)).sum().backward()\n"
        "torch.optim.Adam(net.parameters(), fused=True).step()\n"
        "print(torch.version.cuda)"
    )
    output = engine.containers.run(
        image, ["-c", code], entrypoint="python", remove=True, network_mode="none"
    )
    assert output.decode().strip().split(".")[0] in ("12", "13")


def test_what_runs_is_the_image_s_code_compiled(
    engine: docker.DockerClient, image: Image, tmp_path: Path
) -> None:
    """A folder with a package of that name, as a clone of the project is, changes nothing."""
    (tmp_path / "alexnet_mlflow").mkdir()
    (tmp_path / "alexnet_mlflow" / "__init__.py").write_text("raise SystemExit('the wrong one')")
    text = engine.containers.run(
        image, ["--help"], remove=True, network_mode="none", working_dir="/mine",
        volumes={str(tmp_path): {"bind": "/mine", "mode": "ro"}},
    ).decode()
    assert text.startswith("Usage: alexnet-mlflow")
    script = "find /app /opt/venv -name '*.pyc' | sed 's/.*__pycache__.//' | grep -c ."
    compiled = engine.containers.run(
        image, ["-c", script], entrypoint="sh", remove=True, network_mode="none"
    )
    assert int(compiled) > 1000


def test_it_holds_no_tools_caches_or_secrets(engine: docker.DockerClient, image: Image) -> None:
    script = (
        "for tool in pip uv gcc cc make git; do command -v $tool; done;"
        "ls -A /root /tmp /var/lib/apt/lists;"
        "find / -xdev \\( -name '.git' -o -name '.env' -o -name 'id_rsa*' -o -name '*.whl' \\)"
    )
    output = engine.containers.run(
        image, ["-c", f"({script}) 2>/dev/null || true"], entrypoint="sh", user="0", remove=True,
        network_mode="none",
    )
    listed = {line for line in output.decode().split("\n") if line and not line.endswith(":")}
    assert listed <= {".bashrc", ".profile"}


def test_a_change_of_code_leaves_the_packages_in_the_cache(
    engine: docker.DockerClient, image: Image, tmp_path: Path
) -> None:
    for name in ("Dockerfile", ".dockerignore", "requirements.txt"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("docker", "alexnet_mlflow"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    with open(tmp_path / "alexnet_mlflow" / "__init__.py", "a") as source:
        source.write("# changed\n")
    changed, steps = built(engine, tmp_path, SPARE)
    engine.images.remove(SPARE)
    assert changed.id != image.id
    [packages] = [step for step in steps if "RUN sh packages.sh" in step]
    [code] = [step for step in steps if "COPY alexnet_mlflow" in step]
    assert "Using cache" in packages and "Using cache" not in code


def docker_run(folder: Path, uri: str, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "alexnet_mlflow", "docker-run", "--network=host", *words],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "MLFLOW_TRACKING_URI": uri, "PYTHONPATH": str(ROOT)},
    )


def ended(running: subprocess.Popen[str]) -> dict[str, Any]:
    """What a command says in its last line."""
    out, err = running.communicate(timeout=600)
    assert running.returncode == 0, err
    return dict(json.loads(out.splitlines()[-1]))


def container_of(engine: docker.DockerClient, running: subprocess.Popen[str]) -> Container:
    """The container that a docker-run has started."""
    for _ in range(600):
        if found := engine.containers.list(filters={"ancestor": TAG}):
            return found[0]
        assert running.poll() is None, running.communicate()
        time.sleep(0.1)
    raise AssertionError("no container")


def test_stages_run_in_it_against_a_server_outside(
    engine: docker.DockerClient, image: Image, server: str, tmp_path: Path
) -> None:
    """Read-only root, no capabilities."""
    sanity = docker_run(tmp_path, server, "sanity", "--optimizer=adam")
    host = container_of(engine, sanity).attrs["HostConfig"]
    assert host["ReadonlyRootfs"] and host["CapDrop"] == ["ALL"] and not host["Privileged"]
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert ended(sanity)["stage"] == "sanity"
    final = ended(docker_run(
        tmp_path, server, "final", "--optimizer=adam", "--lr=3e-4", "--weight-decay=1e-4",
        "--epochs=2",
    ))
    client = MlflowClient(server)
    run = client.get_run(final["run_id"])
    assert run.info.status == "FINISHED" and run.data.tags["git_commit"] == COMMIT
    assert len(client.get_metric_history(final["run_id"], "val_loss")) == 2
    assert {item.path for item in client.list_artifacts(final["run_id"])} >= {"plots"}
    assert engine.containers.list(all=True, filters={"ancestor": TAG}) == []


def test_a_signal_goes_through(
    engine: docker.DockerClient, image: Image, server: str, tmp_path: Path
) -> None:
    """The stage inside ends too; what it leaves belongs to the caller."""
    final = docker_run(
        tmp_path, server, "final", "--optimizer=adam", "--lr=3e-4", "--weight-decay=1e-4",
        "--epochs=500",
    )
    assert final.stderr is not None
    for line in final.stderr:
        if "epoch 1/500" in line:
            break
    final.send_signal(signal.SIGTERM)
    final.communicate(timeout=60)
    assert final.returncode == 143
    assert engine.containers.list(all=True, filters={"ancestor": TAG}) == []
    [run] = MlflowClient(server).search_runs(
        ["0"], "attributes.status = 'KILLED' and tags.stage = 'final'"
    )
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(run.info.run_id in str(path) for path in left), "nothing to resume from"
    assert {(path.stat().st_uid, path.stat().st_gid) for path in left} == {
        (os.getuid(), os.getgid())
    }


def test_docker_stop_is_a_sigterm_to_the_stage(
    engine: docker.DockerClient, image: Image, server: str, tmp_path: Path
) -> None:
    """The program is the container's first process: it has left long before the engine kills it."""
    words = [
        "final", "--optimizer=adam", "--lr=2e-4", "--weight-decay=1e-4", "--epochs=500",
        "--device=cpu",
    ]
    container = engine.containers.run(
        image, words, detach=True, network_mode="host", working_dir=str(tmp_path),
        user=f"{os.getuid()}:{os.getgid()}", volumes={str(tmp_path): {"bind": str(tmp_path)}},
        environment={"MLFLOW_TRACKING_URI": server},
    )
    try:
        for _ in range(600):
            if b"epoch 2/500" in container.logs():
                break
            time.sleep(0.1)
        came = time.monotonic()
        container.stop(timeout=30)
        took = time.monotonic() - came
        assert container.wait()["StatusCode"] == 143 and took < 5
    finally:
        container.remove(force=True)
    [run] = MlflowClient(server).search_runs(["0"], "params.lr = '0.0002'")
    assert run.info.status == "KILLED"
    path = checkpoint.path_of(run.info.run_id, tmp_path / checkpoint.FOLDER)
    assert checkpoint.load(path)["training"]["epoch"] >= 2


def test_a_gpu_is_passed_in_or_refused_in_a_sentence(
    engine: docker.DockerClient, image: Image, server: str, tmp_path: Path
) -> None:
    asked = docker_run(tmp_path, server, "--gpu", "overfit", "--pictures=2", "--device=cuda")
    out, err = asked.communicate(timeout=600)
    if asked.returncode == 0:
        assert json.loads(out.splitlines()[-1])["stage"] == "overfit"
        return
    assert asked.returncode == 2 and "NVIDIA container toolkit" in err and err.count("\n") == 1
    assert engine.containers.list(all=True, filters={"ancestor": TAG}) == []


def test_mlflow_runs_it(engine: docker.DockerClient, image: Image, server: str) -> None:
    mlflow = Path(sys.executable).parent / "mlflow"
    done = subprocess.run(
        [str(mlflow), "run", str(ROOT / "docker"), "-A", "network=host", "-e", "sanity",
         "-P", "optimizer=adam"],
        env={**os.environ, "MLFLOW_TRACKING_URI": server}, capture_output=True, text=True,
    )
    assert done.returncode == 0, done.stderr
    [run] = MlflowClient(server).search_runs(["0"], "tags.`mlflow.project.env` = 'docker'")
    assert run.data.tags["mlflow.docker.image.uri"] == TAG
    assert run.info.status == "FINISHED" and run.data.tags["stage"] == "sanity"
    [told] = [line for line in done.stdout.splitlines() if line.startswith("{")]
    assert json.loads(told)["run_id"] == run.info.run_id


def test_mlflows_project_in_docker_is_the_other_one() -> None:
    """The same entry points, parameters and defaults; the image's ENTRYPOINT is the program."""
    local, inside = (
        yaml.safe_load((ROOT / path).read_text()) for path in ("MLproject", "docker/MLproject")
    )
    for entry in local["entry_points"].values():
        entry["command"] = entry["command"].removeprefix("python -m alexnet_mlflow ")
    assert inside["entry_points"] == local["entry_points"]
    assert inside["docker_env"]["image"] == TAG
