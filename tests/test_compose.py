"""compose.yaml as the words it is made of; with a Compose, what that makes of it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "compose.yaml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
STANDING = ("db", "s3", "mlflow")  # what `up` starts; `train` is called
EXAMPLE = (ROOT / ".env.example").read_text()
SECRET = re.compile(r"PASSWORD|SECRET|ACCESS_KEY")


def test_what_stands_comes_back_and_says_how_it_is() -> None:
    assert {name for name, one in SERVICES.items() if "profiles" not in one} == set(STANDING)
    for name in STANDING:
        assert SERVICES[name]["restart"] == "unless-stopped"
    for name in ("db", "s3"):
        assert SERVICES[name]["healthcheck"]["test"]
    image = (ROOT / "docker" / "server.Dockerfile").read_text()
    assert "/health" in image.split("HEALTHCHECK")[1]
    assert {one["condition"] for one in SERVICES["mlflow"]["depends_on"].values()} == {
        "service_healthy"
    }


def test_it_is_reached_from_this_machine_alone() -> None:
    ports = {name: one["ports"] for name, one in SERVICES.items() if "ports" in one}
    assert ports == {"mlflow": ["127.0.0.1:${PORT:-5000}:5000"]}
    assert COMPOSE["networks"]["inside"] == {"internal": True}
    assert all(SERVICES[name]["networks"] == ["inside"] for name in ("db", "s3"))
    assert not any(one.get("network_mode") or one.get("privileged") for one in SERVICES.values())


def test_the_data_lies_in_named_volumes() -> None:
    for name in ("db", "s3"):
        [volume] = SERVICES[name]["volumes"]
        assert volume.partition(":")[0] in COMPOSE["volumes"]


def test_every_secret_comes_from_the_environment_and_must_be_there() -> None:
    asked = set()
    for one in SERVICES.values():
        for key, text in one["environment"].items():
            if SECRET.search(key):
                [name] = re.findall(r"^\$\{(\w+):\?[^}]+\}$", text)
                asked.add(name)
        assert not any(SECRET.search(str(word)) for word in one.get("command", []))
    assert asked == set(re.findall(r"^(\w+)=$", EXAMPLE, re.MULTILINE))
    explained = set(re.findall(r"^#?(\w+)=", EXAMPLE, re.MULTILINE))
    assert explained == set(re.findall(r"\$\{(\w+)", TEXT))
    assert ".env" in (ROOT / ".gitignore").read_text().splitlines()


def test_jobs_and_telemetry_are_off_and_images_have_tags() -> None:
    given = SERVICES["mlflow"]["environment"]
    assert given["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert given["MLFLOW_DISABLE_TELEMETRY"] == "true"
    for one in SERVICES.values():
        assert re.search(r":[\w.-]+$", one["image"]) and not one["image"].endswith(":latest")


def test_only_the_overlay_asks_for_a_gpu() -> None:
    overlay = yaml.safe_load((ROOT / "compose.gpu.yaml").read_text())
    [device] = overlay["services"]["train"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"] and list(overlay["services"]) == ["train"]
    assert "deploy" not in SERVICES["train"]


@pytest.fixture(scope="module")
def compose() -> list[str]:
    for words in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(words[0]):
            done = subprocess.run([*words, "version"], capture_output=True)
            if done.returncode == 0:
                return words
    pytest.skip("no Docker Compose is installed")


def config(
    compose: list[str], empty: Path, *files: str, **given: str
) -> subprocess.CompletedProcess[str]:
    words = [word for file in ("compose.yaml", *files) for word in ("--file", str(ROOT / file))]
    return subprocess.run(
        [*compose, "--env-file", str(empty), *words, "config"], capture_output=True, text=True,
        env={"PATH": os.environ["PATH"], **given},
    )


def test_compose_takes_it_with_all_secrets_and_not_without_one(
    compose: list[str], tmp_path: Path
) -> None:
    (empty := tmp_path / "env").touch()  # and not somebody's .env
    secrets = dict.fromkeys(re.findall(r"^(\w+)=$", EXAMPLE, re.MULTILINE), "x" * 12)
    done = config(compose, empty, "compose.gpu.yaml", **secrets)
    assert done.returncode == 0, done.stderr
    for name in secrets:
        done = config(compose, empty, **{**secrets, name: ""})
        assert done.returncode != 0 and "into .env" in done.stderr
