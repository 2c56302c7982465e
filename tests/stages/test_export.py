"""A model as a file: it answers as the model does, or it is not kept."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from alexnet_mlflow.cli import main
from alexnet_mlflow.commands import ExportConfig
from alexnet_mlflow.model import Servable, build
from alexnet_mlflow.models import load_model
from alexnet_mlflow.stages import Loaded, export
from alexnet_mlflow.track import connect

CLASSES = ("cat", "dög", "fox")


@pytest.fixture
def uri(store: Path) -> str:
    with connect().child("final", {"stage": "final"}) as run:
        net = Servable(build(len(CLASSES), seed=1)).eval()
        model = run.model(net, torch.rand(2, 3, 32, 32), CLASSES)
    assert model is not None
    return model.uri


def exported(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["export", *arguments]) == 0
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 2, "a converter wrote to standard output"
    result: dict[str, Any] = json.loads(out[-1])
    return result


def test_a_pt2_answers_as_the_model_and_names_its_classes(
    uri: str, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = exported([f"--model={uri}", "--format=pt2", "--out=new/net.pt2"], capsys)
    assert said["largest_difference"] <= 1e-6 and said["file"] == "new/net.pt2"
    assert said["bytes"] == Path("new/net.pt2").stat().st_size
    more = {"classes": ""}
    module = torch.export.load("new/net.pt2", extra_files=more).module()
    assert json.loads(more["classes"]) == list(CLASSES)
    model = load_model(uri)
    for count in (1, 2, 7, 300):
        pixels = torch.rand(count, 3, 32, 32)
        with torch.inference_mode():
            assert torch.allclose(module(pixels), model(pixels), atol=1e-6)
    assert [path.name for path in Path("new").iterdir()] == ["net.pt2"]


def test_an_onnx_answers_as_the_model_and_names_its_classes(
    uri: str, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")
    pytest.importorskip("onnxscript", reason="the extra [onnx] is not installed")
    said = exported([f"--model={uri}"], capsys)
    assert said["largest_difference"] <= 1e-4 and said["file"] == "model.onnx"
    session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
    names = session.get_modelmeta().custom_metadata_map["classes"]
    assert json.loads(names) == list(CLASSES)
    model = load_model(uri)
    for count in (1, 2, 7, 300):
        pixels = torch.rand(count, 3, 32, 32)
        [answer] = session.run(["probabilities"], {"pixels": pixels.numpy()})
        with torch.inference_mode():
            assert torch.allclose(torch.from_numpy(answer), model(pixels), atol=1e-5)
    assert sorted(path.name for path in store.glob("model*")) == ["model.onnx"]


@pytest.mark.parametrize("wrong", ["mean", "channels"])
def test_a_wrong_constant_or_order_of_channels_shows(tmp_path: Path, wrong: str) -> None:
    right, other = (Servable(build(2, seed=1)).eval() for _ in range(2))
    if wrong == "mean":
        other.mean.add_(0.1)
    else:
        first = other.network.features[0].weight  # type: ignore[index, union-attr]
        first.data = first.data.flip(1)  # type: ignore[union-attr]
    export._write_pt2(export._program(Loaded("x", other, CLASSES)), CLASSES, tmp_path / "a.pt2")
    gap = export.largest_difference(Loaded("x", right, CLASSES), tmp_path / "a.pt2", "pt2")
    assert gap > 2 * export.TOLERANCE


@pytest.mark.parametrize("broken", ["another model", "nan"])
def test_a_file_that_differs_is_not_kept(
    uri: str, store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    broken: str,
) -> None:
    other = build(len(CLASSES), seed=2)
    if broken == "nan":
        torch.nn.init.constant_(other.features[0].weight, torch.nan)  # type: ignore[arg-type]

    def wrong(program: torch.export.ExportedProgram, classes: object, path: Path) -> None:
        wrongly = export._program(Loaded("x", Servable(other).eval(), CLASSES))
        export._write_pt2(wrongly, CLASSES, path)

    monkeypatch.setitem(export.WRITERS, "pt2", wrong)
    Path("model.pt2").write_text("an older one")
    assert main(["export", f"--model={uri}", "--format=pt2"]) == 1
    sentence, last = capsys.readouterr().out.splitlines()
    assert "it is not kept" in sentence and json.loads(last)["verdict"] == "fail"
    assert Path("model.pt2").read_text() == "an older one"
    assert [path.name for path in store.glob("model*")] == ["model.pt2"]


def test_bad_input_is_told_in_a_sentence(
    uri: str, store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*arguments: str) -> str:
        capsys.readouterr()
        assert main(["export", *arguments]) == 2
        caught = capsys.readouterr()
        assert caught.out == "" and "Traceback" not in caught.err
        return caught.err.splitlines()[-1]

    assert "--model must name a logged model" in refused("--format=pt2")
    assert "cannot be loaded" in refused("--model=models:/x@champion", "--format=pt2")
    assert "'torchscript' is not one of" in refused(f"--model={uri}", "--format=torchscript")
    Path("folder.pt2").mkdir()
    said = refused(f"--model={uri}", "--format=pt2", "--out=folder.pt2")
    assert "'folder.pt2' cannot be written" in said
    assert [path.name for path in store.glob("folder*")] == ["folder.pt2"]
    original = builtins.__import__

    def without_onnx(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("onnx"):
            raise ModuleNotFoundError(f"No module named {name!r}")
        return original(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without_onnx)
    assert "pip install 'alexnet-mlflow[onnx]'" in refused(f"--model={uri}", "--format=onnx")


def test_the_config_refuses_what_is_no_format() -> None:
    with pytest.raises(ValueError, match="--format must be one of onnx, pt2"):
        ExportConfig(model="models:/x@champion", format="h5")
