"""Freed memory stays with the process, as long as it is told to."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("keep", [True, False])
def test_freed_memory_is_kept_for_the_next_step(keep: bool) -> None:
    """Allocating and freeing 64 MiB again takes page faults, unless the process keeps it."""
    code = f"""
import resource, torch
from alexnet_mlflow.malloc import keep_freed_memory
if {keep} and not keep_freed_memory():
    raise SystemExit("this C library has no mallopt")
for _ in range(20):  # until every size has found its place
    torch.ones(16 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    torch.ones(16 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if "mallopt" in done.stderr:
        pytest.skip(done.stderr)
    assert (int(done.stdout) < 500) is keep, done.stdout + done.stderr
