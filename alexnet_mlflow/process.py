"""What the system tells of a process: its words, its parent, its start. Nothing without /proc."""

from __future__ import annotations

from pathlib import Path


def started(pid: int) -> str:
    """When it started, in ticks since the boot; empty where there is none, or it has ended."""
    fields = _status(pid)
    return fields[19] if fields and fields[0] not in "ZX" else ""


def parent(pid: int) -> int:
    """The number of the process that has it as its child; 0 where there is none."""
    fields = _status(pid)
    return int(fields[1]) if fields else 0


def words(pid: int) -> list[str]:
    """Its command line."""
    return text(Path(f"/proc/{pid}/cmdline")).rstrip("\0").split("\0")


def text(path: Path) -> str:
    """What a file of the system's says; empty where it is not there."""
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _status(pid: int) -> list[str]:
    """From the state on: the name before it may have spaces and brackets."""
    fields = text(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return fields if len(fields) > 19 else []
