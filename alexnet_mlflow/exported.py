"""A logged model's files, looked at before torch or MLflow act on them: nothing in them may run.

That pickle is forbidden is not enough. An MLmodel file may put a folder of code before all others
on Python's path, and name a module of it to be imported. And a pt2 file without any pickle holds
texts that torch.export turns into code: formulas of sizes (sympy's `sympify` is an `eval`), guards,
names of functions and of their arguments. The code folder and the formula were tried with torch
2.15 and MLflow 3.17, pickle forbidden: each ran a planted command (tests/test_exported.py).

Chosen: a list of what may stand there, and no more; each archive member once, and read by torch's
own reader, so that no second one is seen in its place. Left out: what a network of allowed
operations can do by itself, such as to want all the memory there is.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import torch

DATA, FILE = "data", "model.pt2"
MEMBERS = re.compile(
    r"data/(weights|constants)/\w+(\.json)?|models/model\.json|data/sample_inputs/model\.pt"
    r"|archive_format|archive_version|byteorder|version|\.data/\w+|\.format_version"
    r"|\.storage_alignment"
)
LARGEST_BYTES = 64 << 20  # of a text; AlexNet's has 47,000
PLAIN = re.compile(r"[\w.,;:<>\[\] /+#@-]*")
NAME = re.compile(r"\w*")
FORMULA = re.compile(
    r"(Symbol\('[a-z]+\d+'(, [a-z]+=(True|False))*\)|-?\d+"
    r"|(Add|Mul|Pow|Max|Min|Mod|PythonMod|FloorDiv|CleanDiv|Integer|Rational)\(|[-+*(), ]"
    r"|[su]\d+)*"
)
OPERATION = re.compile(
    r"torch\.ops\.aten\.\w+\.\w+|torch\.sym_\w+"
    r"|_operator\.(getitem|add|sub|mul|truediv|floordiv|mod|pow|neg|eq|ne|lt|le|gt|ge)"
)
# What may stand under a key of the program. FREE is shown to people at most.
FREE = ("stack_trace", "nn_module_stack", "torch_fn", "source_fn_stack", "from_node")
RULES = {
    "expr_str": FORMULA, "target": OPERATION, "forward_arg_names": NAME, "name": NAME,
    "as_name": NAME, "graph_name": NAME,
}
SPECS = ("in_spec", "out_spec")
CONTAINERS = (None, "builtins.tuple", "builtins.list", "builtins.dict")


class Forbidden(ValueError):
    """What stands in a model's file and must not."""


def check(folder: Path, flavour: Mapping[str, Any]) -> None:
    """Forbidden unless the model in this folder is a pt2 file and nothing else that is loaded.

    flavour: what its MLmodel file says of `pytorch`.
    """
    if flavour.get("code"):
        raise Forbidden("it brings code of its own")
    if flavour["model_data"] != DATA:
        raise Forbidden(f"its data lie in {str(flavour['model_data'])[:100]!r}, not in {DATA!r}")
    check_data(folder / DATA)


def check_data(folder: Path) -> None:
    """The same for the folder with the pt2 file alone."""
    if not folder.is_dir():
        raise Forbidden("its data are one file, which torch would unpickle")
    if others := sorted({path.name for path in folder.iterdir()} - {FILE}):
        raise Forbidden(f"beside {FILE} there is {others[0][:100]!r}")
    for fault in _faults(folder / FILE):
        raise Forbidden(fault)


def _faults(file: Path) -> Iterator[str]:
    with zipfile.ZipFile(file) as archive:
        seen = [PurePosixPath(name).parts for name in archive.namelist()]
    names = ["/".join(parts[1:]) for parts in seen]
    reader = torch._C.PyTorchFileReader(str(file))
    if len({name.lower() for name in names}) < len(names) or len({parts[0] for parts in seen}) > 1:
        yield "a member of its archive stands there twice"
    if set(reader.get_all_records()) != set(names):
        yield "its archive is not what torch would read"
    for name in names:
        if not MEMBERS.fullmatch(name):
            yield f"its archive holds {name[:100]!r}"
    raw = reader.get_record("models/model.json")
    if len(raw) > LARGEST_BYTES:
        yield f"its program has {len(raw):,} bytes"
    program = json.loads(raw)
    if program.get("guards_code"):
        yield "it has guards, which torch would execute"
    yield from _texts(program, "")


def _texts(value: Any, key: str) -> Iterator[str]:
    """What is wrong with the texts in this value, which stands under this key."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if not PLAIN.fullmatch(name):
                yield f"its program has the name {name[:100]!r}"
            yield from _texts(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner, key)
    elif isinstance(value, str):
        if key in SPECS:
            yield from _containers(json.loads(value))
        elif key not in FREE and not RULES.get(key, PLAIN).fullmatch(value):
            yield f"its program has {value[:100]!r} as {key}"


def _containers(spec: Any) -> Iterator[str]:
    """What is wrong with the containers in which arguments come."""
    if isinstance(spec, dict):
        if spec.get("type") not in CONTAINERS:
            yield f"its program wants {str(spec.get('type'))[:100]!r} as an argument"
        if not PLAIN.fullmatch(str(spec.get("context") or "").translate({34: None})):
            yield f"its program has the argument {str(spec['context'])[:100]!r}"
        spec = spec.get("children_spec", [])
    for inner in spec if isinstance(spec, list) else ():
        yield from _containers(inner)
