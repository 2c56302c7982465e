"""The documents tell the truth: commands, options, files and links that they name exist."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from alexnet_mlflow.commands import COMMANDS, DATA_COMMANDS
from alexnet_mlflow.config import STAGES, RunConfig
from alexnet_mlflow.options import option_name, option_text

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")])
README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
CONFIGS = [*STAGES.values(), *COMMANDS.values(), *DATA_COMMANDS.values()]
FIELDS = [item for config in CONFIGS for item in dataclasses.fields(config)]
OPTIONS = {option_name(item.name) for item in FIELDS}
# Options of other programs that the documents name.
FOREIGN = {
    "--batch", "--build", "--compile", "--detach", "--env-manager", "--fold", "--gpus", "--help",
    "--lists", "--nproc-per-node", "--report-lr", "--report-weight-decay", "--rm", "--rounds",
    "--standalone", "--strong-lr", "--user",
}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_pictures_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), f"{document.name}: {target}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_and_options_exist(document: Path) -> None:
    text = document.read_text()
    for target in re.findall(r"`make ([a-z-]+)", text):
        assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), f"{document.name}: make {target}"
    for stage in re.findall(r"alexnet-mlflow ([a-z][a-z-]*)", text):
        assert stage in {*STAGES, *COMMANDS, "data"}, f"{document.name}: alexnet-mlflow {stage}"
    for command in re.findall(r"alexnet-mlflow data ([a-z]+)", text):
        assert command in DATA_COMMANDS, f"{document.name}: alexnet-mlflow data {command}"
    for entry in re.findall(r"mlflow run \S+ -e ([a-z]+)", text):
        assert entry in STAGES or entry == "main", f"{document.name}: -e {entry}"
    for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", text):
        assert option in OPTIONS | FOREIGN, f"{document.name}: {option}"


def test_every_make_target_has_its_line_of_help() -> None:
    [phony] = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    for target in phony.split():
        assert re.search(rf"^{target}:.*## \S", MAKEFILE, re.MULTILINE), target


@pytest.mark.parametrize("stage", STAGES)
def test_the_readme_lists_every_option_with_its_default(stage: str) -> None:
    """In the stage's own table, or in the one that all share."""
    parts = README.split("### Parameters")[1].split("\n## ")[0].split("#### ")
    tables = {part.split("\n")[0].strip("` "): part for part in parts}
    own = tables["main" if stage == "babysit" else stage]
    shared = {item.name for item in dataclasses.fields(RunConfig)}
    for item in dataclasses.fields(STAGES[stage]):
        default = option_text(item.default) or '""'
        row = f"| `{item.name}` | `{default}` |"
        assert row in own or (item.name in shared and row in tables["Common to all"]), row


def test_the_tree_names_what_is_there() -> None:
    tree = README.split("## The tree")[1].split("```")[1]
    for line in tree.strip().splitlines():
        name = line.split()[0]
        assert (ROOT / name).exists() or (ROOT / "alexnet_mlflow" / name).exists(), name
    for file in (ROOT / "alexnet_mlflow").glob("[a-z]*.py"):
        assert f"{file.name} " in tree, f"the tree leaves out {file.name}"


def test_no_document_names_a_path_of_some_machine() -> None:
    for document in DOCUMENTS:
        found = re.findall(r"(?<![\w.])/(?:work|root|home)/\w+", document.read_text())
        assert not found, f"{document.name}: {found}"
