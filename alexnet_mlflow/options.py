"""What a config class is made of: its fields as options, the checks of their values, the refusal.

A field made by `option` knows its help and its choices; cli.py turns it into a command's.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import field
from typing import Any


class BadInput(ValueError):
    """The user's mistake: one sentence with the rule, the value and the way out. Exit code 2."""


AUTO = "auto"  # None on the command line: the preset or an earlier run decides


def option(default: Any, text: str, choices: tuple[str, ...] = ()) -> Any:
    """A field of a config class: its default, its help, and what it may be if not anything."""
    return field(default=default, metadata={"help": text, "choices": choices})


def option_name(field_name: str) -> str:
    """`val_fraction` -> `--val-fraction`, `from_` -> `--from`."""
    return "--" + field_name.rstrip("_").replace("_", "-")


def option_text(value: Any) -> str:
    """A value as the command line, MLproject and the help write it."""
    if value is None:
        return AUTO
    return str(value).lower() if isinstance(value, bool) else str(value)


def instead(config: object, name: str) -> str:
    """The way out of a wrong value: the default."""
    default = next(item.default for item in dataclasses.fields(config) if item.name == name)  # type: ignore[arg-type]
    return f": give {'auto' if default is None else default}, the default, or another"


def check_positive(config: object, *names: str) -> None:
    """BadInput unless these fields are above 0 and finite, or auto."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not (math.isfinite(value) and value > 0):
            text = f"{option_name(name)} must be above 0 and finite, got {value}"
            raise BadInput(text + instead(config, name))


def check_at_least(config: object, least: float, *names: str) -> None:
    """BadInput unless these fields are finite and not below `least`, or auto."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not (math.isfinite(value) and value >= least):
            text = f"{option_name(name)} must be at least {least:g}, got {value}"
            raise BadInput(text + instead(config, name))


def check_choices(config: object) -> None:
    """BadInput where a field is none of its choices."""
    for item in dataclasses.fields(config):  # type: ignore[arg-type]
        choices, value = item.metadata["choices"], getattr(config, item.name)
        if choices and value not in choices:
            text = f"{option_name(item.name)} must be one of {', '.join(choices)}, got {value!r}"
            raise BadInput(text + instead(config, item.name))
