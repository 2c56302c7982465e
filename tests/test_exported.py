"""Models whose files would run a command, as two of them do with MLflow alone: none does here."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow.pytorch
import numpy as np
import pytest
import torch
from mlflow.models import infer_signature
from torch import nn

from alexnet_mlflow import served
from alexnet_mlflow.exported import FORMULA, OPERATION, Forbidden, check_data
from alexnet_mlflow.model import Servable, build
from alexnet_mlflow.models import load_model
from alexnet_mlflow.options import BadInput

Poison = Callable[[Path, Path], None]  # the model's folder, the canary
MLFLOW = "import sys, mlflow.pytorch; mlflow.pytorch.load_model(sys.argv[1])"


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 32 * 32, 2)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        half = torch.constant_pad_nd(pixels[:, :, ::2], [1, 1, 0, 16])[..., 1:-1]
        return self.linear(half.reshape(pixels.shape[0], -1)).softmax(1)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model as the package saves it."""
    folder = tmp_path_factory.mktemp("model") / "good"
    example = np.zeros((2, 3, 32, 32), np.float32)
    served.save_model(
        str(folder), mlflow.models.Model(metadata={served.CLASSES: ["a", "b"]}),
        pytorch_model=Small().eval(), input_example=example, serialization_format="pt2",
        signature=infer_signature(example, np.zeros((2, 2), np.float32)),
        pip_requirements=["torch"],
    )
    return folder


@pytest.fixture
def model(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "model"))


def rewritten(
    file: Path, change: Callable[[dict[str, Any]], Any], more: dict[str, bytes] | None = None
) -> None:
    """The archive with another program, and with these members."""
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    [program] = [name for name in members if name.endswith("models/model.json")]
    top = program.partition("/")[0]
    body = json.loads(members[program])
    change(body)
    members[program] = json.dumps(body).encode()
    for name, raw in (more or {}).items():
        members[f"{top}/{name}"] = raw
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, raw in members.items():
            archive.writestr(name, raw)


def placed(value: Any, key: str, text: str) -> None:
    """Put a text wherever the key stands."""
    if isinstance(value, dict):
        for name in value:
            if name == key and isinstance(value[name], str):
                value[name] = text
            else:
                placed(value[name], key, text)
    elif isinstance(value, list):
        for inner in value:
            placed(inner, key, text)


def with_code(model: Path, canary: Path) -> None:
    """Code of its own, and a module of it that is to be imported."""
    (model / "code").mkdir()
    (model / "code" / "planted.py").write_text(f"open({str(canary)!r}, 'w').close()\n")
    (model / "data" / "model.pth").write_bytes(b"")
    (model / "data" / "pickle_module_info.txt").write_text("planted")
    text = (model / "MLmodel").read_text()
    changed = text.replace("  pytorch:\n    code: null\n", "  pytorch:\n    code: code\n")
    if changed == text:
        changed = text.replace("  pytorch:\n", "  pytorch:\n    code: code\n")
    (model / "MLmodel").write_text(changed)


def with_formula(model: Path, canary: Path) -> None:
    """A size that is computed by a command."""
    text = f"__import__('os').mkdir({str(canary)!r}) or 3"
    rewritten(model / "data" / "model.pt2", lambda body: placed(body, "expr_str", text))


def with_guard(model: Path, canary: Path) -> None:
    """A condition that is a command."""
    def change(body: dict[str, Any]) -> None:
        body["guards_code"] = [f"L['pixels'].__class__ and __import__('os').mkdir({str(canary)!r})"]

    rewritten(model / "data" / "model.pt2", change)


RUN: dict[str, Poison] = {"code": with_code, "formula": with_formula}


@pytest.mark.parametrize("poison", RUN.values(), ids=RUN)
def test_what_mlflow_alone_would_run_is_refused_and_not_run(
    model: Path, tmp_path: Path, poison: Poison
) -> None:
    canary = tmp_path / "canary"
    poison(model, canary)
    with pytest.raises(BadInput, match="cannot be loaded") as refused:
        load_model(str(model))
    assert not canary.exists() and "\n" not in str(refused.value)
    environment = {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "PATH": "/usr/bin:/bin"}
    subprocess.run([sys.executable, "-c", MLFLOW, str(model)], env=environment,
                   capture_output=True)
    assert canary.exists(), "the poison is none: MLflow alone does not run it"


def change_of(key: str, text: str) -> Poison:
    return lambda model, canary: rewritten(
        model / "data" / "model.pt2", lambda body: placed(body, key, text)
    )


def member(name: str) -> Poison:
    return lambda model, canary: rewritten(
        model / "data" / "model.pt2", lambda body: None, {name: b"x"}
    )


def beside(name: str) -> Poison:
    return lambda model, canary: (model / "data" / name).touch()


def torchscript(model: Path, canary: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated
        traced = torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2))
        torch.jit.save(traced, model / "data" / "model.pt2")


def pickled(model: Path, canary: Path) -> None:
    (model / "data" / "model.pt2").unlink()
    torch.save(nn.Linear(2, 2), model / "data" / "model.pt2")


def one_file(model: Path, canary: Path) -> None:
    shutil.rmtree(model / "data")
    torch.save(nn.Linear(2, 2), model / "data")


def twice(model: Path, canary: Path) -> None:
    with zipfile.ZipFile(model / "data" / "model.pt2", "a") as archive:
        [name] = [name for name in archive.namelist() if name.endswith("model.json")]
        archive.writestr(name.replace("model.json", "MODEL.json"), b"{}")


def other_place(model: Path, canary: Path) -> None:
    text = (model / "MLmodel").read_text()
    (model / "MLmodel").write_text(text.replace("model_data: data", "model_data: ../../data"))


REFUSED: dict[str, tuple[Poison, str]] = {
    "guard": (with_guard, "guards"),
    "operation": (change_of("target", "torch.hub.os.system"), "os.system"),
    "operator": (change_of("target", "_operator.methodcaller"), "methodcaller"),
    "argument": (change_of("name", "x, y=open('z', 'w')"), "open("),
    "text": (change_of("type", "cpu'); import os"), "import os"),
    "container": (change_of("in_spec", '[1, {"type": "os.system"}]'), "os.system"),
    "library": (member("data/aotinductor/model/x.so"), "x.so"),
    "second program": (member("models/other.json"), "other.json"),
    "twice": (twice, "twice"),
    "beside": (beside("model.pth"), "model.pth"),
    "torchscript": (torchscript, ""),
    "pickled": (pickled, ""),
    "one file": (one_file, "one file"),
    "other place": (other_place, "not in 'data'"),
}


@pytest.mark.parametrize(("poison", "part"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_belong_there_is_refused(
    model: Path, tmp_path: Path, poison: Poison, part: str
) -> None:
    poison(model, tmp_path / "canary")
    with pytest.raises(BadInput, match="cannot be loaded") as refused:
        load_model(str(model))
    assert part in str(refused.value) and not (tmp_path / "canary").exists()


def test_a_good_one_is_loaded(model: Path) -> None:
    pixels = torch.rand(5, 3, 32, 32)
    with torch.inference_mode():
        assert load_model(str(model))(pixels).shape == (5, 2)


def test_alexnet_is_allowed(tmp_path: Path) -> None:
    net = Servable(build(2, 0)).eval()
    sizes = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(net, (torch.rand(2, 3, 32, 32),), dynamic_shapes=sizes)
    torch.export.save(program, tmp_path / "model.pt2")
    check_data(tmp_path)


def test_the_served_model_is_looked_at_too(model: Path, tmp_path: Path) -> None:
    assert served._load_pyfunc(str(model / "data")).classes == ("a", "b")
    with_formula(model, tmp_path / "canary")
    with pytest.raises(Forbidden):
        served._load_pyfunc(str(model / "data"))
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("Symbol('s81', positive=True, integer=True)", True), ("s0", True), ("4", True),
        ("Mul(Integer(2), Symbol('s1', integer=True))", True), ("2*s0 + 1", True),
        ("Symbol('s1')(1)", True), ("exec(1)", False), ("Symbol('x y')", False), ("s0.x", False),
        ("__import__", False), ("Symbol('s1').__class__", False), ("lambda: 0", False),
        ("''", False), ("[1]", False), ("chr(9)", False),
    ],
)
def test_formulas(text: str, allowed: bool) -> None:
    assert bool(FORMULA.fullmatch(text)) == allowed


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("torch.ops.aten.conv2d.default", True), ("_operator.getitem", True),
        ("torch.sym_max", True), ("torch.ops.load_library", False), ("torch.load", False),
        ("torch.os.system", False), ("torch.ops.aten.__class__", False), ("_operator.call", False),
        ("torch.ops.aten.add.Tensor.__call__", False), ("math.__loader__", False),
    ],
)
def test_operations(text: str, allowed: bool) -> None:
    assert bool(OPERATION.fullmatch(text)) == allowed
