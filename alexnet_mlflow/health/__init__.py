"""What `doctor` looks at: the machine, the pictures, the store, the runs that nobody has open.

A look gives findings, in words; it changes nothing (orphans.close apart) and raises nothing for
what it finds.
"""

from __future__ import annotations

from dataclasses import dataclass

from alexnet_mlflow.checks import Verdict

WORDS: dict[Verdict, str] = {"pass": "ok", "warn": "warn", "fail": "fail"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; where it is not well, the sentence has the way out."""

    name: str
    verdict: Verdict
    sentence: str

    @property
    def line(self) -> str:
        return f"{WORDS[self.verdict]:<5} {self.name}: {self.sentence}"
