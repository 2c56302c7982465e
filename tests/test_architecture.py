"""The house keeps its order: who may import what, what exists once, and how large a piece may be.

A rule is a function from a source file to its complaints, read with ast; nothing of the package
is imported but in one subprocess. Below the rules stand violations that each must catch.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "alexnet_mlflow"

# A module imports only from what stands before it.
ORDER = (
    "disk", "options", "refusals", "config", "commands", "signals", "process", "runner",
    "postgres", "server", "data", "augment", "recipe", "winograd", "linear", "model", "score",
    "compare", "contest", "detect", "checks", "device", "distributed", "graph", "malloc",
    "optimizers", "train", "probes", "checkpoint", "alive", "turn", "progress", "space",
    "prune", "plots", "runs", "reach", "journal", "delivery", "exported", "served", "models",
    "track", "registry", "sync", "health", "candidates", "storage", "study", "trial",
    "abreast", "engines", "gate", "resume", "findings", "evaluation", "stages", "course",
    "pipeline", "cli",
)
# Libraries that these modules alone may import ...
ONLY_IN = {
    "mlflow": {
        "track", "delivery", "models", "registry", "served", "sync.stores", "sync.files",
        "sync.runs", "sync.models", "health.stores", "health.orphans", "runner",
    },
    "click": {"cli"},
    "docker": {"stages.docker_run", "health.machine"},
    "optuna": {"storage", "study"},
    "ray": {"engines"},
    "matplotlib": {"plots"},
    "pickle": {"data.cifar10"},
    "boto3": {"server"},
    **dict.fromkeys(("urllib", "urllib3", "httpx", "ftplib"), {"data.fetch"}),
    "requests": {"data.fetch", "stages.docker_run"},  # whose SDK lets its errors through
    "http": {"data.fetch", "server"},  # the server asks itself whether it answers
}
QUIET = {"matplotlib"}  # ... and these others too, for annotations: `if TYPE_CHECKING:`
SEALED = {"load_test", "load_whole"}  # they give test pictures
# By their own names, however they are imported. `torch.load` with weights_only=True is let through.
FORBIDDEN = {
    "eval", "exec", "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput",
    "asyncio.create_subprocess_shell", "shutil.unpack_archive", "yaml.load", "yaml.load_all",
    "torch.load", "torch.serialization.load", "torch.jit.load", "pandas.read_pickle",
    "shelve.open", *(
        f"{library}.{name}"
        for library in ("pickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal")
        for name in ("load", "loads", "Unpickler")
    ),
}
FORBIDDEN_METHODS = {"extractall", "unsafe_load", "full_load", "read_pickle"}  # of anything
ALWAYS = {"shell": False, "allow_pickle": False, "weights_only": True}  # literally, or not at all
LOAD_TEST_IN = {"data", "stages.evaluate"}  # where it is defined, and the one who may look
RESTRICTED_UNPICKLER = ("data.cifar10", "_Unpickler")  # its find_class refuses all but arrays
PACKAGES = {"data", "checks", "sync", "health"}  # their modules may know one another
MEANINGLESS = {"utils", "util", "common", "helpers", "misc", "base"}
FILE_LINES, FUNCTION_LINES = 400, 80


@dataclass(frozen=True)
class Module:
    """A source file: its dotted name within the package ("" is the package itself)."""

    name: str
    text: str
    is_package: bool = False

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def nodes(self) -> Iterator[ast.AST]:
        return ast.walk(self.tree)

    @property
    def place(self) -> str:
        """Where it stands in ORDER: the first part of its name."""
        return self.name.partition(".")[0]

    @property
    def opens(self) -> bool:
        """Is it one of the two files that only open the package?"""
        return self.name in ("", "__main__")


def read(path: Path) -> Module:
    parts = path.relative_to(ROOT / PACKAGE).with_suffix("").parts
    is_package = parts[-1] == "__init__"
    name = ".".join(parts[:-1] if is_package else parts)
    return Module(name, path.read_text(encoding="utf-8"), is_package)


HOUSE = [read(path) for path in sorted((ROOT / PACKAGE).rglob("*.py"))]
NAMES = {module.name for module in HOUSE}


@dataclass(frozen=True)
class Import:
    target: str  # absolute; a submodule where one is imported by name
    line: int
    for_annotations: bool

    @property
    def inside(self) -> str | None:
        """The module within the package, or None for a library."""
        root, _, rest = self.target.partition(".")
        return rest if root == PACKAGE else None


def imports(module: Module) -> Iterator[Import]:
    """Every import of the file, those inside functions and TYPE_CHECKING blocks included."""
    guarded = {
        id(inner)
        for node in module.nodes
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in module.nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, id(node) in guarded)
        elif isinstance(node, ast.ImportFrom):
            source = source_of(module, node)
            for alias in node.names:
                full = f"{source}.{alias.name}"
                known = full.removeprefix(f"{PACKAGE}.") in NAMES
                yield Import(full if known else source, node.lineno, id(node) in guarded)


def source_of(module: Module, node: ast.ImportFrom) -> str:
    """The absolute module that `from X import` names."""
    if not node.level:
        return node.module or ""
    parts = [PACKAGE, *filter(None, module.name.split("."))]
    kept = parts[: len(parts) - node.level + module.is_package]
    return ".".join([*kept, *filter(None, [node.module])])


# The rules


def order(module: Module) -> Iterator[str]:
    """Imports go one way; stages know their package alone, never one another."""
    if not module.opens and module.place not in ORDER:
        yield f"{module.name} has no place in the order"
        return
    for item in imports(module):
        target = item.inside
        if not target:
            continue
        place = target.partition(".")[0]
        if module.opens:
            allowed = module.name == "__main__" and target == "cli"
        elif place == module.place and place in PACKAGES:
            allowed = True
        elif place == module.place == "stages":
            allowed = target == "stages" and not module.is_package
        else:
            allowed = place in ORDER and ORDER.index(place) < ORDER.index(module.place)
        if not allowed:
            yield f"{module.name}:{item.line} imports {target}"


def libraries(module: Module) -> Iterator[str]:
    """Some libraries are known to few modules."""
    for item in imports(module):
        library = item.target.partition(".")[0]
        if module.name in ONLY_IN.get(library, {module.name}):
            continue
        if not (item.for_annotations and library in QUIET):
            yield f"{module.name}:{item.line} imports {item.target}"


def dynamic_imports(module: Module) -> Iterator[str]:
    """Only cli imports by a name that is put together at run time."""
    for node in module.nodes:
        name = getattr(node, "attr", getattr(node, "id", None))
        if name in ("import_module", "__import__") and module.name != "cli":
            yield f"{module.name} imports dynamically"


def sealed_test(module: Module) -> Iterator[str]:
    """The test split is opened in one stage."""
    for node in module.nodes:
        names = {getattr(node, field, None) for field in ("id", "attr", "name", "value")}
        for name in SEALED & {name for name in names if isinstance(name, str)}:
            if module.name not in LOAD_TEST_IN:
                yield f"{module.name} knows {name}"


def meaning(module: Module) -> Iterator[str]:
    """A module is called after what it holds."""
    if MEANINGLESS & set(module.name.split(".")):
        yield f"{module.name} says nothing"


def size(module: Module) -> Iterator[str]:
    """Files and functions that can be read in one go."""
    if (lines := len(module.text.splitlines())) > FILE_LINES:
        yield f"{module.name} has {lines} lines"
    for node in module.nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            if lines > FUNCTION_LINES:
                yield f"{module.name}.{node.name} has {lines} lines"


def docstring(module: Module) -> Iterator[str]:
    """A module opens with what it is."""
    if not (ast.get_docstring(module.tree) or "").strip():
        yield f"{module.name} has no docstring"


def danger(module: Module) -> Iterator[str]:
    """No pickle that could run code, no unpacking of archives, no shell, no eval."""
    known = imported_names(module)
    careful = set(careful_nodes(module, known))
    for node in module.nodes:
        if isinstance(node, ast.Name | ast.Attribute) and id(node) not in careful:
            method = isinstance(node, ast.Attribute) and node.attr in FORBIDDEN_METHODS
            if method or FORBIDDEN & full_names(node, known):
                yield f"{module.name}:{node.lineno} {ast.unparse(node)}"
        elif isinstance(node, ast.ImportFrom):
            source = source_of(module, node)
            for alias in node.names:
                everything = alias.name == "*" and any(
                    name.rpartition(".")[0] == source for name in FORBIDDEN
                )
                if everything or f"{source}.{alias.name}" in FORBIDDEN:
                    yield f"{module.name}:{node.lineno} imports {source}.{alias.name}"
        for name, value in settings_of(node):
            if name in ALWAYS and not literally(value, ALWAYS[name]):
                yield f"{module.name}:{value.lineno} {name}={ast.unparse(value)}"


def imported_names(module: Module) -> dict[str, set[str]]:
    """What each name that an import binds may stand for: `p` for `pickle`."""
    known: dict[str, set[str]] = {}
    for node in module.nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.asname:
                    known.setdefault(alias.asname, set()).add(alias.name)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                full = f"{source_of(module, node)}.{alias.name}"
                known.setdefault(alias.asname or alias.name, set()).add(full)
    return known


def full_names(node: ast.expr, known: dict[str, set[str]]) -> set[str]:
    """What `p.loads` may stand for."""
    first, dot, rest = ast.unparse(node).partition(".")
    return {f"{full}{dot}{rest}" for full in known.get(first, {first})}


def careful_nodes(module: Module, known: dict[str, set[str]]) -> Iterator[int]:
    """The two forbidden names that are let through, where they stand as they should."""
    for node in module.nodes:
        if isinstance(node, ast.ClassDef) and (module.name, node.name) == RESTRICTED_UNPICKLER:
            yield from map(id, node.bases)
        elif isinstance(node, ast.Call) and full_names(node.func, known) == {"torch.load"}:
            if any(item.arg == "weights_only" and literally(item.value, True)
                   for item in node.keywords):
                yield id(node.func)


def settings_of(node: ast.AST) -> Iterator[tuple[object, ast.expr]]:
    """What a call's keywords set, or the keys of a dictionary, which may become keywords."""
    if isinstance(node, ast.Call):
        yield from ((item.arg, item.value) for item in node.keywords)
    elif isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            yield getattr(key, "value", None), value
    elif isinstance(node, ast.Assign):
        for target in node.targets:
            if isinstance(target, ast.Subscript):
                yield getattr(target.slice, "value", None), node.value


def literally(value: ast.expr, wanted: bool) -> bool:
    return isinstance(value, ast.Constant) and value.value is wanted


def twin(module: Module) -> Iterator[str]:
    """Every module has a test file of the same name in the same place."""
    if not module.opens and not module.is_package:
        *folders, leaf = module.name.split(".")
        path = Path("tests", *folders, f"test_{leaf}.py")
        if not (ROOT / path).is_file():
            yield f"{module.name} has no {path}"


Rule = Callable[[Module], Iterator[str]]
RULES: tuple[Rule, ...] = (
    order, libraries, dynamic_imports, sealed_test, meaning, size, docstring, danger, twin,
)


@pytest.mark.parametrize("rule", RULES)
def test_the_house_keeps(rule: Rule) -> None:
    assert [complaint for module in HOUSE for complaint in rule(module)] == []


def test_the_benchmarks_are_as_careful() -> None:
    files = sorted((ROOT / "benchmarks").glob("*.py"))
    read = [Module(f"benchmarks.{file.stem}", file.read_text()) for file in files]
    assert len(read) > 5
    assert [complaint for module in read for complaint in danger(module)] == []
    assert not [item for module in read for item in imports(module) if item.target == "pickle"]


def test_the_whole_house_is_read() -> None:
    assert {"", "__main__", "config", "data", "data.cache", "stages", "stages.search"} <= NAMES
    assert len(HOUSE) > 25
    assert set(ORDER) == {module.place for module in HOUSE if not module.opens}


# What exists once


def calls_of(module: Module, method: str, receivers: tuple[str, ...] = ("",)) -> int:
    """How often a method is called on something whose last name begins with one of these."""
    return sum(
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == method
        and ast.unparse(node.func.value).rpartition(".")[2].lower().startswith(receivers)
        for node in module.nodes
    )


def optimizer_steps(module: Module) -> int:
    return calls_of(module, "step", ("opt", "sgd", "adam"))


@pytest.mark.parametrize(
    "count", [optimizer_steps, lambda module: calls_of(module, "backward")],
    ids=["optimizer.step", "backward"],
)
def test_the_training_step_exists_once(count: Callable[[Module], int]) -> None:
    assert {module.name: count(module) for module in HOUSE if count(module)} == {"train": 1}


# At run time


@pytest.mark.parametrize(("module", "late"), [
    ("cli", {"torch", "mlflow"}),
    ("stages.final", {"torch._dynamo", "torchvision", "scipy.stats", "sklearn", "mlflow"}),
], ids=["cli", "final"])
def test_what_takes_seconds_is_imported_by_those_who_need_it(module: str, late: set[str]) -> None:
    code = f"import sys, {PACKAGE}.{module}; print(*sorted({late} & set(sys.modules)))"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == ""


# The rules catch what they are for


def planted(rule: Rule, name: str, text: str) -> list[str]:
    return list(rule(Module(name, text, is_package=name in ("", "data", "stages"))))


VIOLATIONS: list[tuple[Rule, str, str]] = [
    (order, "model", "import alexnet_mlflow.train"),
    (order, "model", "from alexnet_mlflow.train import fit"),
    (order, "model", "from alexnet_mlflow import augment, train"),
    (order, "model", "def f():\n    from alexnet_mlflow import cli"),
    (order, "config", "from alexnet_mlflow.data import load"),
    (order, "data.cache", "from alexnet_mlflow.augment import draw"),
    (order, "data.cache", "from .. import train"),
    (order, "data.cache", "from ..train import fit"),
    (order, "data", "from ..train import fit"),
    (order, "stages.final", "from alexnet_mlflow.stages import search"),
    (order, "stages.final", "from alexnet_mlflow.stages.search import run"),
    (order, "stages.final", "import alexnet_mlflow.stages.search"),
    (order, "stages.final", "from . import search"),
    (order, "stages.final", "from .search import run"),
    (order, "stages.final", "from alexnet_mlflow import pipeline"),
    (order, "stages", "from alexnet_mlflow.stages import search"),
    (order, "track", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n"
                     "    from alexnet_mlflow.stages import StageResult"),
    (order, "newcomer", "import os"),
    (order, "", "from alexnet_mlflow import cli"),
    (order, "__main__", "from alexnet_mlflow import pipeline"),
    (libraries, "train", "import mlflow"),
    (libraries, "stages.final", "def f():\n    from mlflow.tracking import MlflowClient"),
    (libraries, "stages.final", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n"
                                "    import mlflow"),
    (libraries, "config", "import click"),
    (libraries, "space", "import optuna"),
    (libraries, "stages.evaluate", "import matplotlib.pyplot as plt"),
    (libraries, "data.cifar10", "import urllib.request"),
    (libraries, "track", "import requests"),
    (libraries, "data.fddb", "from http.client import HTTPSConnection"),
    (libraries, "checkpoint", "import pickle"),
    (dynamic_imports, "train", "import importlib\nimportlib.import_module('mlflow')"),
    (dynamic_imports, "train", "__import__('mlflow')"),
    (sealed_test, "stages.final", "from alexnet_mlflow.data import load_test"),
    (sealed_test, "stages.final", "from alexnet_mlflow import data\ndata.load_test(config)"),
    (sealed_test, "train", "getattr(data, 'load_test')"),
    (sealed_test, "stages.final", "from alexnet_mlflow.data import load_whole"),
    (meaning, "data.utils", ""),
    (meaning, "common", ""),
    (size, "train", "x = 1\n" * 401),
    (size, "train", "def f():\n" + "    x = 1\n" * 80),
    (size, "train", "class A:\n    async def f():\n" + "        x = 1\n" * 80),
    (docstring, "train", "import os"),
    (docstring, "train", '"""  """'),
    (danger, "data.cache", "pickle.loads(raw)"),
    (danger, "data.cifar10", "pickle.load(file)"),
    (danger, "data.cifar10", "pickle.Unpickler(file).load()"),
    (danger, "data.cifar10", "class Another(pickle.Unpickler): pass"),
    (danger, "data.folder", "class _Unpickler(pickle.Unpickler): pass"),
    (danger, "data.cifar10", "from pickle import loads"),
    (danger, "data.fetch", "archive.extractall(folder)"),
    (danger, "stages", "subprocess.run(command, shell=True)"),
    (danger, "checkpoint", "torch.load(path, weights_only=False)"),
    (danger, "checkpoint", "torch.load(path)"),
    (danger, "data.cache", "np.load(path, allow_pickle=True)"),
    (danger, "cli", "eval(text)"),
    (danger, "cli", "exec(text)"),
    (danger, "sync.files", "yaml.load(text, Loader=yaml.Loader)"),
    (danger, "sync.files", "yaml.unsafe_load(text)"),
    (danger, "track", "torch.jit.load(path)"),
    (danger, "cli", "os.system(text)"),
    (danger, "cli", "from os import *"),
    (danger, "cli", "list(map(eval, texts))"),
    (danger, "data.fetch", "shutil.unpack_archive(archive, folder)"),
    (danger, "data.fetch", "from shutil import unpack_archive"),
    (danger, "findings", "import pandas as pd\npd.read_pickle(path)"),
    (danger, "findings", "from pandas import read_pickle"),
    (danger, "findings", "frames.read_pickle(path)"),
    (danger, "checkpoint", "from torch import load\nload(path)"),
    (danger, "checkpoint", "from torch import load"),
    (danger, "checkpoint", "import torch as t\nt.load(path)"),
    (danger, "checkpoint", "read = torch.load\nread(path)"),
    (danger, "models", "another.load(path, weights_only=0)"),
    (danger, "track", "import torch.jit as jit\njit.load(path)"),
    (danger, "track", "from torch import jit\njit.load(path)"),
    (danger, "track", "import cloudpickle\ncloudpickle.loads(raw)"),
    (danger, "data.cifar10", "import pickle as p\np.loads(raw)"),
    (danger, "data.cifar10", "import pickle as p\nclass Another(p.Unpickler): pass"),
    (danger, "data.cifar10", "import _pickle\n_pickle.loads(raw)"),
    (danger, "data.cache", "np.load(path, allow_pickle=1)"),
    (danger, "data.cache", "np.load(path, allow_pickle=trusted)"),
    (danger, "data.cache", "np.load(path, **{'allow_pickle': True})"),
    (danger, "stages", "subprocess.run(command, shell=1)"),
    (danger, "stages", "subprocess.run(command, shell=not False)"),
    (danger, "stages", "subprocess.run(command, **{'shell': True})"),
    (danger, "stages", "options = {'text': True, 'shell': True}\nrun(command, **options)"),
    (danger, "stages", "options['shell'] = True\nrun(command, **options)"),
    (twin, "data.nothing", ""),
]


@pytest.mark.parametrize(("rule", "name", "text"), VIOLATIONS)
def test_a_violation_is_caught(rule: Rule, name: str, text: str) -> None:
    assert len(planted(rule, name, text)) >= 1


ALLOWED: list[tuple[Rule, str, str]] = [
    (order, "train", "from alexnet_mlflow import augment, model\nimport torch, os"),
    (order, "data.cache", "from alexnet_mlflow.data.split import SIDE\nfrom . import folder"),
    (order, "data", "from alexnet_mlflow.data import cache\nfrom .split import SIDE"),
    (order, "stages.final", "from alexnet_mlflow.stages import StageResult\nfrom . import close"),
    (order, "pipeline", "from alexnet_mlflow.stages import search"),
    (order, "cli", "from alexnet_mlflow import __version__, pipeline"),
    (order, "__main__", "from alexnet_mlflow.cli import script"),
    (libraries, "track", "def f():\n    import mlflow.pytorch"),
    (libraries, "track", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n"
                         "    from matplotlib.figure import Figure"),
    (libraries, "data.fetch", "import urllib.request"),
    (dynamic_imports, "cli", "import importlib\nimportlib.import_module(name)"),
    (sealed_test, "stages.evaluate", "from alexnet_mlflow.data import load_test"),
    (size, "train", "x = 1\n" * 400),
    (size, "train", "def f():\n" + "    x = 1\n" * 79),
    (danger, "data.cifar10", "class _Unpickler(pickle.Unpickler): pass"),
    (danger, "score", "model.eval()"),
    (danger, "checkpoint", "torch.load(path, weights_only=True)"),
    (danger, "stages", "subprocess.run(command, shell=False, **{'text': True, **more})"),
    (danger, "data.cache", "np.load(path, allow_pickle=False)\nnp.savez(path, **facts)"),
    (danger, "data", "from alexnet_mlflow.data.split import load\nload(config)"),
    (twin, "data.cache", ""),
]


@pytest.mark.parametrize(("rule", "name", "text"), ALLOWED)
def test_what_is_allowed_is_let_through(rule: Rule, name: str, text: str) -> None:
    assert planted(rule, name, text) == []


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("optimizer.step()", 1),
        ("self.optimizer.step()\nadam.step(closure)", 2),
        ("scheduler.step()", 0),
        ("tracker.steps('x')", 0),
    ],
)
def test_steps_are_counted(text: str, count: int) -> None:
    assert optimizer_steps(Module("x", text)) == count
