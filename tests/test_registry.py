"""Versions and their aliases, on a real sqlite registry."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from alexnet_mlflow import registry, turn
from alexnet_mlflow.options import BadInput
from alexnet_mlflow.registry import Version

NAME = registry.registered_name("faces")
# What crowning and rolling back write, in MLflow's words.
WRITES = (
    "set_registered_model_alias", "delete_registered_model_alias", "set_model_version_tag",
    "delete_model_version_tag",
)


@pytest.fixture
def source(store: Path) -> tuple[str, str]:
    """A logged model's URI and its run."""
    return model()


def model() -> tuple[str, str]:
    client = MlflowClient()
    with mlflow.start_run() as run:
        made = client.create_logged_model("0", name="model", source_run_id=run.info.run_id)
        client.finalize_logged_model(made.model_id, "READY")
    return made.model_uri, run.info.run_id


def version() -> Version:
    return registry.register(NAME, *model(), {})


def aliases() -> dict[str, str]:
    found = MlflowClient().get_registered_model(NAME).aliases
    return {alias: str(number) for alias, number in found.items()}


def crowned(one: Version, over: Version | None) -> None:
    with registry.alone(NAME) as held:
        registry.crown(one, over, held)


@pytest.fixture
def three(store: Path) -> list[Version]:
    """Versions 1, 2, 3, crowned one after the other."""
    made = [version() for _ in range(3)]
    for one, over in zip(made, [None, *made], strict=False):
        crowned(one, over)
    return [registry.register(NAME, one.source, one.run_id, {}) for one in made]


def test_no_champion_before_the_first(store: Path) -> None:
    assert registry.champion("alexnet-none") is None


def test_a_version_is_made_once_and_crowned(source: tuple[str, str]) -> None:
    first = registry.register(NAME, *source, {"test_accuracy": 0.5})
    assert registry.champion(NAME) is None
    again = registry.register(NAME, *source, {"test_accuracy": 0.75})
    assert first.number == again.number == "1" and first.made and not again.made
    assert again.tags["test_accuracy"] == "0.75"
    crowned(again, None)
    champion = registry.champion(NAME)
    assert champion is not None
    assert (champion.number, champion.run_id) == ("1", source[1])
    assert champion.uri == "models:/alexnet-faces/1"
    assert len(MlflowClient().search_model_versions(f"name = '{NAME}'")) == 1
    assert MlflowClient().get_registered_model(NAME).tags == {}, "a ticket is left behind"


def test_aliases_of_winners_and_losers(three: list[Version]) -> None:
    loser = version()
    registry.challenge(loser)
    registry.describe(loser, "It lost.")
    assert aliases() == {"champion": "3", "previous": "2", "challenger": "4"}
    assert MlflowClient().get_model_version(NAME, "4").description == "It lost."
    crowned(loser, three[2])
    assert aliases() == {"champion": "4", "previous": "3"}


def test_back_and_back_again(three: list[Version]) -> None:
    for champion, previous in (("2", "1"), ("1", None)):
        now = registry.champion(NAME)
        assert now is not None
        with registry.alone(NAME) as held:
            registry.roll_back(now, registry.before(now), held)
        assert aliases().get("champion") == champion and aliases().get("previous") == previous
    last = registry.champion(NAME)
    assert last is not None
    with pytest.raises(BadInput, match="version 1 .* succeeded no other"):
        registry.before(last)


def test_back_from_a_champion_that_was_champion_before(store: Path) -> None:
    """1, then 2, then 1 again: going back ends, and does not go round."""
    one, two = version(), version()
    for each, over in ((one, None), (two, one), (one, two)):
        crowned(each, over)
    gone_back = []
    while True:
        now = registry.champion(NAME)
        assert now is not None and len(gone_back) < 5
        try:
            to = registry.before(now)
        except BadInput:
            break
        with registry.alone(NAME) as held:
            registry.roll_back(now, to, held)
        gone_back.append(to.number)
    assert gone_back == ["2", "1"]


def test_back_to_a_version_that_was_deleted(three: list[Version]) -> None:
    MlflowClient().delete_model_version(NAME, "2")
    with pytest.raises(BadInput, match="version 2 .* is no longer there"):
        registry.before(three[2])
    MlflowClient().delete_model_version(NAME, "3")
    assert registry.champion(NAME) is None


def test_a_champion_that_was_moved_meanwhile(three: list[Version]) -> None:
    """By a person at the registry's page, who takes no ticket."""
    new = version()
    MlflowClient().set_registered_model_alias(NAME, "champion", "1")
    before = aliases()
    for change in (
        lambda held: registry.crown(new, three[2], held),
        lambda held: registry.roll_back(three[2], three[1], held),
    ):
        with registry.alone(NAME) as held, pytest.raises(
            BadInput, match=r"moved meanwhile \(from version 3 to version 1\): run promote again"
        ):
            change(held)
        assert aliases() == before
    numbers = {one.version for one in MlflowClient().search_model_versions(f"name = '{NAME}'")}
    assert {str(number) for number in numbers} == {"1", "2", "3"}, "the version made for it stays"


def test_a_promoter_that_was_given_up_writes_nothing(three: list[Version]) -> None:
    before, client = aliases(), MlflowClient()
    with registry.alone(NAME) as held:
        for key in client.get_registered_model(NAME).tags:
            client.delete_registered_model_tag(NAME, key)
        with pytest.raises(BadInput, match="others gave up waiting"):
            registry.roll_back(three[2], three[1], held)
    assert aliases() == before


class Killed(BaseException):
    """As if the process were gone: nothing catches it."""


@pytest.fixture
def breaking(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """MLflow's writes stop for good when as many as the list's one number are done."""
    left = [10_000]

    def stopping(name: str) -> None:
        original = getattr(MlflowClient, name)

        def write(self: MlflowClient, *args: object, **named: object) -> object:
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return original(self, *args, **named)

        monkeypatch.setattr(MlflowClient, name, write)

    for name in WRITES:
        stopping(name)
    yield left


def broken_off(
    breaking: list[int], writes: int, change: Callable[[turn.Held], None]
) -> tuple[bool, Version]:
    """Killed after so many writes: was the change whole all the same, and who is champion now?"""
    breaking[0] = writes
    whole = False
    with registry.alone(NAME) as held:
        try:
            change(held)
            whole = True
        except Killed:
            pass
    breaking[0] = 10_000
    now = registry.champion(NAME)
    assert now is not None, "there is no champion"
    return whole, now


@pytest.mark.parametrize("writes", range(5))
def test_a_crowning_broken_off_leaves_a_champion(
    writes: int, three: list[Version], breaking: list[int]
) -> None:
    """After every single write the champion exists, is the old or the new, and can be left."""
    new = version()
    registry.challenge(new)
    whole, now = broken_off(breaking, writes, lambda held: registry.crown(new, three[2], held))
    assert now.number == ("4" if writes >= 3 else "3")
    assert whole == (writes >= 4), "the crowning has another number of writes than it had"
    assert registry.before(now).number == str(int(now.number) - 1)
    assert aliases()["previous"] in ("2", "3")
    again = registry.register(NAME, new.source, new.run_id, {})  # the same command once more
    if now.number == "3":
        crowned(again, now)
    assert aliases()["champion"] == "4" and aliases()["previous"] == "3"


@pytest.mark.parametrize("writes", range(4))
def test_a_rollback_broken_off_leaves_a_champion(
    writes: int, three: list[Version], breaking: list[int]
) -> None:
    to = registry.before(three[2])
    whole, now = broken_off(
        breaking, writes, lambda held: registry.roll_back(three[2], to, held)
    )
    assert now.number == ("2" if writes >= 1 else "3")
    assert whole == (writes >= 3)
    assert registry.before(now).number == str(int(now.number) - 1)


def test_a_ticket_of_nobody_is_passed(
    three: list[Version], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turn, "SILENT_SECONDS", 0.3)
    MlflowClient().set_registered_model_tag(NAME, f"{turn.PREFIX}x", '{"number": 1}')
    crowned(version(), three[2])
    assert aliases()["champion"] == "4"
    assert MlflowClient().get_registered_model(NAME).tags == {}


def test_a_registry_that_is_not_there(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "http://me:geheim@127.0.0.1:9")
    with pytest.raises(BadInput, match="the registry http://me:.* does not answer") as told:
        with registry.answering():
            raise AssertionError
    assert "geheim" not in str(told.value) and "\n" not in str(told.value)
