"""Options: how a field is written, and the sentence that refuses a value."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest

from alexnet_mlflow.options import (
    LARGEST,
    LONGEST,
    BadInput,
    check_at_least,
    check_choices,
    check_name,
    check_positive,
    check_seeds,
    in_one_line,
    option,
    option_name,
    option_text,
)


@dataclass(frozen=True, kw_only=True)
class Kitchen:
    """What a config class looks like."""

    oven: str = option("gas", "What heats it.", ("gas", "wood"))
    degrees: float | None = option(None, "How hot; auto = by the dish.")
    loaves: int = option(2, "How many.")


def test_names_and_texts() -> None:
    assert option_name("val_fraction") == "--val-fraction" and option_name("lr") == "--lr"
    assert option_name("from_") == "--from"
    assert [option_text(value) for value in (None, True, 1e-3, "")] == ["auto", "true", "0.001", ""]


def test_a_sound_config_passes() -> None:
    made = Kitchen()
    check_choices(made)
    check_positive(made, "degrees", "loaves")
    check_at_least(Kitchen(loaves=0, degrees=0.0), 0, "degrees", "loaves")


@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf])
def test_what_is_not_above_zero_is_refused_with_the_way_out(value: float) -> None:
    with pytest.raises(BadInput) as refused:
        check_positive(Kitchen(degrees=value), "degrees")
    assert str(refused.value) == (
        f"--degrees must be above 0 and finite, got {value}: give auto, the default, or another"
    )


@pytest.mark.parametrize("value", [-1, math.nan, -math.inf])
def test_what_is_too_small_is_refused(value: float) -> None:
    with pytest.raises(BadInput, match="--loaves must be at least 0, got .*: give 2, the default"):
        check_at_least(Kitchen(loaves=value), 0, "loaves")  # type: ignore[arg-type]


def test_what_is_no_choice_is_refused() -> None:
    with pytest.raises(BadInput, match="--oven must be one of gas, wood, got 'coal': give gas"):
        check_choices(Kitchen(oven="coal"))


def test_numbers_have_an_end() -> None:
    check_positive(Kitchen(degrees=LARGEST), "degrees")
    check_seeds(Kitchen(loaves=2**63 - 1), "loaves")
    for check in (
        lambda: check_positive(Kitchen(degrees=2 * LARGEST), "degrees"),
        lambda: check_positive(Kitchen(loaves=11), "loaves", most=10),
        lambda: check_at_least(Kitchen(loaves=11), 0, "loaves", most=10),
        lambda: check_seeds(Kitchen(loaves=2**63), "loaves"),
    ):
        with pytest.raises(BadInput, match="at most|below"):
            check()


@pytest.mark.parametrize(
    ("name", "good"),
    [("", True), ("faces-sgd-12ab", True), ("My search 2.1", True), ("é", True), ("x" * 200, True),
     ("x" * 201, False), ("../x", False), ("a/b", False), ("-x", False), (".x", False),
     ("a\nb", False), ("a\0b", False), ("a\n", False), ("$(x)", False)],
)
def test_a_name_is_a_name(name: str, good: bool) -> None:
    if good:
        check_name(Kitchen(oven=name), "oven")
        return
    with pytest.raises(BadInput, match="letters, digits"):
        check_name(Kitchen(oven=name), "oven")


def test_a_sentence_is_a_line() -> None:
    assert in_one_line("plain, é") == "plain, é"
    assert in_one_line("a\nb\x1b[2J\0\u202e") == "a b [2J  "
    assert len(in_one_line("x" * 10**6)) < LONGEST + 10 and in_one_line("x" * 10**6).count("...")
