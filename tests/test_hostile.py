"""Hostile words at the doors: MLproject's shell, numbers of every option, names that are paths."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from mlflow.projects._project_spec import EntryPoint
from PIL import Image

from alexnet_mlflow.cli import main
from alexnet_mlflow.commands import COMMANDS, DATA_COMMANDS
from alexnet_mlflow.config import STAGES
from alexnet_mlflow.options import LONGEST, option_name
from tests.test_checkpoint import Planted, seal

ROOT = Path(__file__).resolve().parent.parent
PROJECTS = {name: yaml.safe_load((ROOT / name).read_text()) for name in ("MLproject",
                                                                         "docker/MLproject")}
POINTS = [(project, point) for project in PROJECTS for point in PROJECTS[project]["entry_points"]]
PAYLOADS = (
    "$(touch canary)", "`touch canary`", "; touch canary", "x\ntouch canary\n", "| touch canary",
    "&& touch canary", "'; touch canary; '", '"; touch canary; "', "--help", "x --force",
    "--data-dir=/etc", "> canary", "*", "~", "$HOME", "\\", "{lr}", "%s", "é\u202e",
)


# MLproject


def entry(project: str, point: str) -> EntryPoint:
    described = PROJECTS[project]["entry_points"][point]
    return EntryPoint(point, described["parameters"], described["command"])


@pytest.mark.parametrize(("project", "point"), POINTS)
def test_a_placeholder_is_its_options_value_and_nothing_else(project: str, point: str) -> None:
    """Neither bare nor in quotes: bare it could be an option, in double quotes it would run."""
    words = PROJECTS[project]["entry_points"][point]["command"].split()
    held = [word for word in words if "{" in word or "}" in word]
    assert held and all(re.fullmatch(r"--[a-z-]+=\{[a-z_]+\}", word) for word in held)
    assert not set("\"'`$;|&<>()\\\n") & set("".join(words))


@pytest.mark.parametrize(("project", "point"), POINTS)
def test_no_value_leaves_its_option(project: str, point: str, tmp_path: Path) -> None:
    """MLflow's own command, by a real shell that calls a program which writes down its words."""
    made = entry(project, point)
    said, program = tmp_path / "said", tmp_path / "python"
    program.write_text(f"#!{sys.executable}\nimport json, sys\n"
                       f"open({str(said)!r}, 'a').write(json.dumps(sys.argv[1:]) + '\\n')\n")
    program.chmod(0o755)
    commands = []
    for payload in PAYLOADS:
        command = made.compute_command(dict.fromkeys(made.parameters, payload), None)
        if project != "MLproject":  # docker's words follow the image's entry point
            command = f"python {command}"
        commands.append(command)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": "/"}
    done = subprocess.run(["bash", "-c", "\n".join(commands)], cwd=tmp_path, env=environment,
                          capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "" and not (tmp_path / "canary").exists()
    lines = [json.loads(line) for line in said.read_text().splitlines()]
    for payload, words in zip(PAYLOADS, lines, strict=True):
        given = words[-len(made.parameters):]
        assert given == [f"{option_name(name)}={payload}" for name in made.parameters]


def test_what_is_quoted_or_bare_would_run_or_smuggle() -> None:
    """Why the two tests above are needed: MLflow's quoting does not help there."""
    quoted = EntryPoint("x", {"a": "string"}, 'echo "--a={a}"')
    bare = EntryPoint("x", {"a": "string"}, "echo {a}")
    done = subprocess.run(["bash", "-c", quoted.compute_command({"a": "$(echo ran)"}, None)],
                          capture_output=True, text=True)
    assert "$(" not in done.stdout and "ran" in done.stdout
    assert shlex.split(bare.compute_command({"a": "--option"}, None))[1] == "--option"


@pytest.fixture
def by_runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `mlflow run` starts the program; the run it names is never looked for."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_RUN_ID", "a" * 32)


def words_of(project: str, point: str, extra: dict[str, str]) -> list[str]:
    """What the program is given of MLflow's command, from the stage on."""
    made = entry(project, point)
    words = shlex.split(made.compute_command({"dataset": "nothing", **extra}, None))
    return words[words.index("alexnet_mlflow") + 1:] if project == "MLproject" else words


@pytest.mark.parametrize(("project", "point"), POINTS)
def test_what_mlproject_gives_passes(
    store: Path, by_runner: None, capsys: pytest.CaptureFixture[str], project: str, point: str
) -> None:
    """As far as the data set, which is none; empty values are among the words."""
    told = one_sentence(words_of(project, point, {}), capsys)
    assert "No such option" not in told
    assert "neither a name nor a path" in told or "--dataset=nothing" in told


@pytest.mark.parametrize(
    ("name", "value"),
    [("skip-corrupt", "--force"), ("skip-corrupt", "--storage=sqlite:///planted.db"),
     ("dry-run", "--run=abc"), ("help", "1"), ("help", "--help"), ("nonsense", "1"),
     ("nonsense", "--force"), ("", "--force"), ("-", "x"), ("x" * 5000, "1"), ("dry-run", ""),
     ("more=true", "--force"), ("more=true", "-x=1"), ("dataset=faces", "--more=1"),
     ("skip_corrupt=true", "--skip-corrupt=true"), ("-help", "1")],
    ids=lambda text: ascii(text[:30]),
)
@pytest.mark.parametrize(("project", "point"), POINTS)
def test_an_undeclared_parameter_is_no_option(
    by_runner: None, capsys: pytest.CaptureFixture[str], project: str, point: str, name: str,
    value: str,
) -> None:
    """MLflow appends it in two words, and click takes none that begins with - as a value."""
    told = one_sentence(words_of(project, point, {name: value}), capsys)
    assert "No such option '-" in told or "is given twice" in told
    assert ("-P name=value" in told or "give it once" in told) and len(told) < 400


def test_by_hand_an_option_needs_no_value(
    store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["search", "--skip-corrupt", "--force", "--dataset=nothing"]
    assert "neither a name nor a path" in one_sentence(words, capsys)
    monkeypatch.setenv("MLFLOW_RUN_ID", "a" * 32)
    assert "No such option '--skip-corrupt'" in one_sentence(words, capsys)
    assert main(["search", "--help"]) == 2 and capsys.readouterr().out == ""
    assert main(["doctor", "--help"]) == 0, "it is nothing that `mlflow run` starts"


# Numbers

CONFIGS: dict[tuple[str, ...], type[Any]] = {
    **{(name,): config for name, config in {**STAGES, **COMMANDS}.items()},
    **{("data", name): config for name, config in DATA_COMMANDS.items()},
}
NEEDED = {"predict": ["x.png", "--model=models:/x@champion", "--faces"], "get": ["fddb"],
          "check": ["faces"]}
NUMBERS = [
    (words, item.name)
    for words, config in CONFIGS.items() for item in dataclasses.fields(config)
    if "int" in str(item.type) or "float" in str(item.type)
]
MAY_BE = {"seed": 10**18, "split_seed": 10**18}  # a number like another, for a generator


def test_there_are_numbers_to_try() -> None:
    assert len(NUMBERS) > 80 and {words[-1] for words, _ in NUMBERS} >= {*STAGES, "server"} - {
        "evaluate"  # which has none
    }


@pytest.mark.parametrize(("words", "name"), NUMBERS)
def test_a_number_that_is_none_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...], name: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    big = 10**30 if name in MAY_BE else 10**18
    for value in ("nan", "inf", "-inf", "-1", str(-10**18), str(big), "1e999", "9" * 5000):
        started = time.monotonic()
        arguments = [*words, *NEEDED.get(words[-1], []), f"{option_name(name)}={value}"]
        assert main(arguments) == 2, f"{arguments[:3]} takes {value[:30]}"
        caught = capsys.readouterr()
        assert caught.out == "" and caught.err.count("\n") == 1 and "Traceback" not in caught.err
        assert option_name(name) in caught.err and len(caught.err) < LONGEST + 50
        assert time.monotonic() - started < 2
    assert not list(tmp_path.iterdir()), "something was written before the value was looked at"


# Names

NAMES = ("../../x", "/etc/passwd", "x\0y", "x\ny", "x" * 100_000, "..", "-x", "\x1b[2J", "a/b",
         "sqlite:///x", "$(touch canary)", "models:/../../x", "' or 1=1 --")


def one_sentence(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 2, arguments[0]
    caught = capsys.readouterr()
    last = caught.err.rstrip("\n").split("\n")[-1]
    assert caught.out == "" and last.startswith("Error: ") and "Traceback" not in caught.err
    assert last.isprintable() and len(last) < LONGEST + 50
    return last


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name[:20]))
@pytest.mark.parametrize(
    "words",
    [["search", "--study"], ["sanity", "--dataset"], ["final", "--resume"], ["evaluate", "--run"],
     ["promote", "--run"], ["predict", "x.png", "--model"], ["export", "--model"],
     ["promote", "--dataset"], ["evaluate", "--dataset"]],
    ids=" ".join,
)
def test_a_name_that_would_be_something_else(
    store: Path, capsys: pytest.CaptureFixture[str], words: list[str], name: str
) -> None:
    before = sorted(path.name for path in store.parent.iterdir())
    one_sentence([*words[:-1], f"{words[-1]}={name}"], capsys)
    assert sorted(path.name for path in store.iterdir()) == ["mlflow.db"]
    assert sorted(path.name for path in store.parent.iterdir()) == before


# Files


def test_a_poisoned_checkpoint_runs_nothing(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = store / "checkpoints" / "abc"
    folder.mkdir(parents=True)
    torch.save({"config": Planted(store / "canary")}, folder / "last.pt")
    seal(folder / "last.pt")
    for resume in ("abc", "last"):
        told = one_sentence(["final", f"--resume={resume}"], capsys)
        assert "cannot be read" in told and "checksum" not in told
    assert not (store / "canary").exists()


def test_a_poisoned_study_runs_nothing(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (store / "optuna.db").write_bytes(b"\x80\x04cos\nmkdir\n(X\x06\x00\x00\x00canarytR." * 100)
    told = one_sentence(["search", "--storage=sqlite:///optuna.db", "--device=cpu"], capsys)
    assert "optuna.db" in told and not (store / "canary").exists()


@pytest.mark.parametrize("wanted", ["predict", "export"])
def test_a_poisoned_model_runs_nothing(
    store: Path, capsys: pytest.CaptureFixture[str], wanted: str
) -> None:
    model = store / "model"
    (model / "data").mkdir(parents=True)
    Image.new("RGB", (32, 32)).save(store / "x.png")
    (model / "data" / "model.pth").write_bytes(b"")
    (model / "data" / "pickle_module_info.txt").write_text("planted")
    (model / "planted.py").write_text("open('canary', 'w').close()\n")
    (model / "MLmodel").write_text(
        "flavors:\n  pytorch: {code: ., model_data: data, pytorch_version: 2.11.0}\n"
        "  python_function: {loader_module: planted, code: ., env: {}}\n"
    )
    paths = ["x.png"] if wanted == "predict" else []
    assert "code of its own" in one_sentence([wanted, *paths, f"--model={model}"], capsys)
    assert not (store / "canary").exists()


# Dependencies

LOCKS = ("requirements.txt", "requirements-dev.txt", "docker/requirements-server.txt")


@pytest.mark.parametrize("lock", LOCKS)
def test_every_wheel_has_its_hash(lock: str) -> None:
    text = re.sub(r"(?m)^\s*#.*$", "", (ROOT / lock).read_text()).replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip()]
    assert len(lines) > 20
    for line in lines:
        assert re.fullmatch(
            r"[A-Za-z0-9._\[\],-]+==\S+( ;.*?)?(\s+--hash=sha256:[0-9a-f]{64})+\s*", line
        ), line[:80]


def test_the_servers_listen_on_this_machine_alone_and_say_what_they_leave_open() -> None:
    from alexnet_mlflow.commands import ServerConfig

    assert ServerConfig().host == "127.0.0.1"
    makefile = (ROOT / "Makefile").read_text()
    hosts = re.findall(r"bin/mlflow (?:ui|server).*|\(BIN\)/mlflow .*", makefile)
    assert hosts and all("--host 127.0.0.1" in line for line in hosts)
    ports = re.findall(r"^\s+- (\S*:5000)$", (ROOT / "compose.yaml").read_text(), re.MULTILINE)
    assert ports and all(port.startswith("127.0.0.1:") for port in ports)
    for text in ((ROOT / "alexnet_mlflow" / "server.py").read_text(),
                 (ROOT / "SECURITY.md").read_text()):
        assert "Not protected" in text
