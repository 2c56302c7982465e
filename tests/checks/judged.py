"""What every check keeps, whatever it judges."""

from __future__ import annotations

import math

from alexnet_mlflow.checks import Check


def judge(check: Check, verdict: str) -> None:
    """It has this verdict, finite figures that JSON takes, and one sentence."""
    assert check.verdict == verdict, check
    assert check.measured is None or math.isfinite(check.measured)
    assert math.isfinite(check.expected) and math.isfinite(check.tolerance)
    assert check.sentence.endswith(".") and "\n" not in check.sentence
