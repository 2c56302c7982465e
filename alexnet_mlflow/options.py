"""What a config class is made of: its fields as options, the checks of their values, the refusal.

A field made by `option` knows its help and its choices; cli.py turns it into a command's.
"""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import field
from typing import Any


class BadInput(ValueError):
    """The user's mistake: one sentence with the rule, the value and the way out. Exit code 2."""


LARGEST = 1e12  # of a rate, or of anything that takes no memory and no time
MANY = 1_000_000  # trials, epochs, seeds
PROCESSES = 1024  # that are started at once
LONGEST = 1500  # letters of a sentence
SHOWN = 100  # letters of a value in a sentence
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


def check_positive(config: object, *names: str, most: float = LARGEST) -> None:
    """BadInput unless these fields are above 0 and at most `most`, or auto."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not (math.isfinite(value) and value > 0):
            text = f"{option_name(name)} must be above 0 and finite, got {value}"
            raise BadInput(text + instead(config, name))
        _check_at_most(config, most, name)


def check_at_least(config: object, least: float, *names: str, most: float = LARGEST) -> None:
    """BadInput unless these fields are finite, not below `least` nor above `most`, or auto."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not (math.isfinite(value) and value >= least):
            text = f"{option_name(name)} must be at least {least:g}, got {value}"
            raise BadInput(text + instead(config, name))
        _check_at_most(config, most, name)


def check_seeds(config: object, *names: str) -> None:
    """BadInput unless these fields are whole numbers that every generator takes."""
    check_at_least(config, 0, *names, most=float("inf"))
    for name in names:
        value = getattr(config, name)
        if value >= 2**63:  # torch and numpy take no more, with one to spare
            text = f"{option_name(name)} must be below 2^63, got {shortened(value)}"
            raise BadInput(text + instead(config, name))


def _check_at_most(config: object, most: float, name: str) -> None:
    value = getattr(config, name)
    if value is not None and value > most:
        text = f"{option_name(name)} must be at most {most:g}, got {shortened(value)}"
        raise BadInput(text + instead(config, name))


def shortened(value: object) -> str:
    """A value as it is shown: no longer than a line."""
    text = str(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def in_one_line(sentence: str) -> str:
    """What was given may hold anything: line ends, what moves a terminal's cursor, a megabyte."""
    plain = "".join(letter if letter.isprintable() else " " for letter in sentence)
    if len(plain) <= LONGEST:
        return plain
    return f"{plain[:LONGEST // 2]} ... {plain[-LONGEST // 2:]}"


def check_name(config: object, name: str) -> None:
    """BadInput unless this field is empty, or a name that no database, path or page mistakes."""
    value = getattr(config, name)
    if value and not re.fullmatch(r"\w[\w. -]{0,199}", value):
        raise BadInput(
            f"{option_name(name)} must be letters, digits and ._- up to 200, got "
            f"{shortened(value)!r}: give another name, or leave it out"
        )


def check_choices(config: object) -> None:
    """BadInput where a field is none of its choices."""
    for item in dataclasses.fields(config):  # type: ignore[arg-type]
        choices, value = item.metadata["choices"], getattr(config, item.name)
        if choices and value not in choices:
            text = f"{option_name(item.name)} must be one of {', '.join(choices)}, got {value!r}"
            raise BadInput(text + instead(config, item.name))
