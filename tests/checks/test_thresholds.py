"""Thresholds that belong together are in order, and each is said to come from somewhere."""

from __future__ import annotations

import ast
from pathlib import Path

from alexnet_mlflow.checks import thresholds


def test_each_stands_below_a_comment() -> None:
    lines = Path(thresholds.__file__).read_text().splitlines()
    tree = ast.parse("\n".join(lines))
    rows = [node.lineno for node in tree.body if isinstance(node, ast.Assign)]
    assert len(rows) > 15
    for row in rows:
        above = lines[row - 2]
        assert above.startswith("#") or row - 1 in rows, f"line {row} has no source"


def test_pairs_are_in_order() -> None:
    assert thresholds.FIRST_LOSS_TOLERANCE < thresholds.FIRST_LOSS_MOST
    assert thresholds.DEAD_SHARE < thresholds.DEAD_LAYER
    assert thresholds.UPDATE_LOW < thresholds.UPDATE_HIGH
    assert thresholds.STILL_TOLERANCE < thresholds.FIRST_LOSS_TOLERANCE < thresholds.EXPLODED
