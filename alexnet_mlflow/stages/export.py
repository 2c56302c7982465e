"""`export`: a logged model as one file for programs without MLflow. No run is made.

ONNX for onnxruntime and others, or torch.export's pt2. Pixels (N, 3, 32, 32) float32, 0..1, go in,
probabilities (N, C) come out, for any N; the names of the classes are inside, as a JSON list under
`classes` (ONNX metadata; an extra file of a pt2). The file is run on pictures of noise and compared
with the model before it gets its name: a file that differs is not left behind.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from alexnet_mlflow.commands import ExportConfig
from alexnet_mlflow.model import PICTURE
from alexnet_mlflow.options import BadInput
from alexnet_mlflow.stages import Loaded, StageResult, loaded

COUNTS = (1, 3)  # pictures at a time that the file is tried with
TOLERANCE = 1e-4  # of a probability
NAME = "classes"


def run(config: ExportConfig) -> StageResult:
    """Write and try the file; `fail`, and no file, where it answers otherwise than the model."""
    _require_packages(config.format)
    model = loaded(config.model, torch.device("cpu"))
    out = Path(config.out or f"model.{config.format}")
    unchecked = out.with_name(f"{out.name}.unchecked")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            WRITERS[config.format](_program(model), model.classes, unchecked)
            difference = largest_difference(model, unchecked, config.format)
            size = unchecked.stat().st_size
            if agrees := difference <= TOLERANCE:  # not where it is nan
                os.replace(unchecked, out)
        finally:
            unchecked.unlink(missing_ok=True)
    except OSError as error:
        raise BadInput(
            f"{str(out)!r} cannot be written ({error.strerror or error}): give another file with "
            "--out"
        ) from None
    text = f"probabilities that differ from the model's by {difference:.1e} at most"
    sentence = (
        f"{out}: {size / 2**20:.1f} MiB; run on {' and '.join(map(str, COUNTS))} pictures it "
        f"answers {text}." if agrees else f"The file answers {text}: it is not kept."
    )
    return StageResult(
        "export", None, "pass" if agrees else "fail", (sentence,),
        {"model": model.uri, "classes": model.classes, "format": config.format,
         "file": str(out) if agrees else None, "bytes": size,
         "largest_difference": difference if difference < 2 else None},
    )


def largest_difference(model: Loaded, path: Path, form: str) -> float:
    """Between the file's probabilities and the model's, on seeded noise; nan where one has nan."""
    answer, noise, gaps = RUNNERS[form](path), torch.Generator().manual_seed(0), []
    for count in COUNTS:
        pixels = _coarse_noise(count, noise)
        with torch.inference_mode():
            gaps.append((answer(pixels) - model.network(pixels)).abs().max())
    return float(torch.stack(gaps).max())


def _coarse_noise(count: int, noise: torch.Generator) -> Tensor:
    """(N, 3, 32, 32) float32, 0..1: smooth, nearly grey, a little grainy.

    Of fine noise a trained network is so sure that it would not show what is wrong (measured: faces
    0.0004 to 0.04, of this 0.02 to 0.19).
    """
    grey, tint = (torch.rand(count, layers, 2, 2, generator=noise) for layers in (1, 3))
    smooth = functional.interpolate(0.6 * grey + 0.3 * tint, PICTURE[1:], mode="bilinear")
    return smooth + 0.1 * torch.rand(count, *PICTURE, generator=noise)


def _program(model: Loaded) -> torch.export.ExportedProgram:
    dynamic = {0: torch.export.Dim("pictures")}
    return torch.export.export(
        model.network, (torch.zeros(2, *PICTURE),), dynamic_shapes=(dynamic,)
    )


def _write_pt2(
    program: torch.export.ExportedProgram, classes: tuple[str, ...], path: Path
) -> None:
    with open(path, "wb") as file:
        torch.export.save(program, file, extra_files={NAME: json.dumps(classes)})


def _write_onnx(
    program: torch.export.ExportedProgram, classes: tuple[str, ...], path: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of its converter
        made = torch.onnx.export(
            program, input_names=["pixels"], output_names=["probabilities"], verbose=False
        )
    assert made is not None
    made.model.metadata_props[NAME] = json.dumps(classes)
    made.save(path, external_data=False)


def _run_pt2(path: Path) -> Callable[[Tensor], Tensor]:
    with open(path, "rb") as file:
        module: Callable[[Tensor], Tensor] = torch.export.load(file).module()
    return module


def _run_onnx(path: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda pixels: torch.from_numpy(session.run(None, {"pixels": pixels.numpy()})[0])


def _require_packages(form: str) -> None:
    """BadInput where ONNX is asked for and its packages are not installed."""
    if form != "onnx":
        return
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise BadInput(
            f"--format=onnx needs packages that are not here ({error}): give "
            "`pip install 'alexnet-mlflow[onnx]'`, or --format=pt2"
        ) from None


Writer = Callable[[torch.export.ExportedProgram, tuple[str, ...], Path], None]
WRITERS: dict[str, Writer] = {"onnx": _write_onnx, "pt2": _write_pt2}
RUNNERS: Mapping[str, Callable[[Path], Callable[[Tensor], Tensor]]] = {
    "onnx": _run_onnx, "pt2": _run_pt2
}
