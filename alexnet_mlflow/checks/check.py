"""One judgement, and the worst of several."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["pass", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """One judgement, as it stands in checks.json."""

    name: str
    verdict: Verdict
    expected: float
    measured: float | None  # None where it was not a finite number
    tolerance: float
    sentence: str


def overall(checks: Iterable[Check]) -> Verdict:
    """The worst verdict of all; `pass` where there is none."""
    verdicts = {check.verdict for check in checks}
    return "fail" if "fail" in verdicts else "warn" if "warn" in verdicts else "pass"


def judge(
    name: str,
    good: bool,
    expected: float,
    measured: float,
    tolerance: float,
    sentences: tuple[str, str],
    otherwise: Verdict = "fail",
) -> Check:
    """`pass` with the first sentence, or `otherwise` with the second."""
    verdict: Verdict = "pass" if good else otherwise
    number = measured if math.isfinite(measured) else None
    return Check(name, verdict, expected, number, tolerance, sentences[not good])
