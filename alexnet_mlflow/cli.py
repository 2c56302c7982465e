"""The command line: parse -> config -> stage -> print, and nothing else.

A command's options are the fields of its config (config.py). Torch and mlflow are imported after
parsing, so that `--help` answers at once. The last line of standard output is one JSON object.
Exit codes: 0 done, 1 a check or gate said no, 2 the input is wrong (one sentence on standard
error), 130 and 143 stopped by a signal.
"""

from __future__ import annotations

import dataclasses
import importlib
import logging
import os
import signal
import sys
from typing import Any, NoReturn

import click

from alexnet_mlflow import __version__, refusals, runner, signals
from alexnet_mlflow.commands import COMMANDS, DATA_COMMANDS, DockerRunConfig, ServerConfig
from alexnet_mlflow.config import STAGES
from alexnet_mlflow.options import (
    AUTO,
    BadInput,
    in_one_line,
    option_name,
    option_text,
    shortened,
)


class AutoNumber(click.ParamType[Any]):
    """A number, or `auto` (None): the preset or an earlier run decides."""

    def __init__(self, number: click.ParamType[Any]) -> None:
        self.number = number
        self.name = f"{number.name}|{AUTO}"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:
        return None if value is None or value == AUTO else self.number.convert(value, param, ctx)


TYPES: dict[str, click.ParamType[Any]] = {
    "str": click.STRING,
    "int": click.INT,
    "float": click.FLOAT,
    "bool": click.BOOL,
    "int | None": AutoNumber(click.INT),
    "float | None": AutoNumber(click.FLOAT),
}

# Options that mean something without a value: `--resume` is `--resume=last`.
FLAGS = (
    "skip_corrupt", "offline", "hard", "allow_missing", "exhaustive", "force", "rollback",
    "dry_run", "flip", "deterministic", "side_by_side",
)
FLAG_VALUES = {"resume": "last", **dict.fromkeys(FLAGS, "true")}


def options_of(config: type[Any], switches: bool = False) -> list[click.Option]:
    """The click options of a config class, one a field.

    switches: whether a bool's option takes no value, so that an argument can follow it.
    """
    made = []
    for item in dataclasses.fields(config):
        choices = item.metadata["choices"]
        kind = click.Choice(choices) if choices else TYPES[str(item.type)]
        extra: dict[str, Any] = {}
        if item.name in FLAG_VALUES:
            extra = {"is_flag": False, "flag_value": FLAG_VALUES[item.name]}
        if switches and item.type == "bool":
            extra = {"is_flag": True}
        option = click.Option(
            [option_name(item.name), item.name],
            type=kind,
            default=item.default if "is_flag" in extra and switches else option_text(item.default),
            show_default=True,
            help=item.metadata["help"],
            **extra,
        )
        made.append(option)
    return made


def _command(name: str, config: type[Any]) -> click.Command:
    def call(**values: Any) -> int:
        return _run_stage(name, config(**values))

    summary = (config.__doc__ or "").splitlines()[0]
    return click.Command(name, params=list(options_of(config)), callback=call, help=summary)


def _data_command(name: str, config: type[Any]) -> click.Command:
    """A command of `data`: the data set is its argument, and no run is made."""

    def call(**values: Any) -> int:
        module = importlib.import_module(f"alexnet_mlflow.stages.data_{name}")
        return _told(module.run(config(**values)))

    command = click.Command(name, params=[], callback=call, help=(config.__doc__ or ""))
    for option in options_of(config):
        if option.name == "dataset":
            command.params.insert(0, click.Argument(["dataset"], type=option.type))
        else:
            command.params.append(option)
    return command


def _tool(name: str, config: type[Any]) -> click.Command:
    """A command that makes no run. What predict looks at are arguments."""

    def call(paths: tuple[str, ...] = (), **values: Any) -> int:
        made = config(**values)
        module = importlib.import_module(f"alexnet_mlflow.stages.{name}")
        result = module.run(made, paths) if paths else module.run(made)
        return _told(result, last=not values.get("csv"))

    params: list[click.Parameter] = list(options_of(config, switches=True))
    if name == "predict":
        params.insert(0, click.Argument(["paths"], nargs=-1, required=True, metavar="PATH..."))
    return click.Command(name, params=params, callback=call, help=config.__doc__)


def _in_container(name: str, config: type[Any]) -> click.Command:
    """A command that passes the words after its own options on to the same program in the image."""

    def call(words: tuple[str, ...], **values: Any) -> int:
        from alexnet_mlflow.stages import docker_run

        return docker_run.run(config(**values), words)

    command = click.Command(
        name, params=[*options_of(config, switches=True)], callback=call, help=config.__doc__,
        context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    )
    command.params.append(click.Argument(
        ["words"], nargs=-1, required=True, metavar="COMMAND...", type=click.UNPROCESSED
    ))
    return command


def _server(name: str, config: type[Any]) -> click.Command:
    """The command that serves, until a signal comes: no run is made, nothing is found."""

    def call(**values: Any) -> int:
        from alexnet_mlflow import server

        return server.run(config(**values))

    return click.Command(name, params=[*options_of(config)], callback=call, help=config.__doc__)


def _run_stage(name: str, config: Any) -> int:
    """Run a stage against MLflow, print what it found, and say how it went."""
    from alexnet_mlflow import distributed
    from alexnet_mlflow.track import connect

    module = "pipeline" if name == "babysit" else f"stages.{name}"
    stage = importlib.import_module(f"alexnet_mlflow.{module}")
    if distributed.started().size > 1 and name != "final":
        raise BadInput(f"torchrun is for final: start {name} without it")
    if distributed.started().rank:
        stage.follow(config)
        return 0
    return _told(stage.run(config, connect()))


def _told(result: Any, last: bool = True) -> int:
    """Print what a stage found, the line of JSON `last`; the exit code."""
    for sentence in result.sentences:
        click.echo(sentence)
    if last:
        click.echo(result.as_json())
    return 1 if result.verdict == "fail" else 0


@click.group(context_settings={"max_content_width": 100})
@click.version_option(__version__, prog_name="alexnet-mlflow")
def commands() -> None:
    """The babysitting protocol for an image classifier, tracked in MLflow."""


@commands.group()
def data() -> None:
    """Get a data set, or look for what is wrong with one."""


MAKERS = {DockerRunConfig: _in_container, ServerConfig: _server}
for _name, _config in STAGES.items():
    commands.add_command(_command(_name, _config))
for _name, _config in COMMANDS.items():
    commands.add_command(MAKERS.get(_config, _tool)(_name, _config))
for _name, _config in DATA_COMMANDS.items():
    data.add_command(_data_command(_name, _config))


def main(arguments: list[str] | None = None) -> int:
    """Parse and run; returns the exit code."""
    signals.listen()
    runner.watch()
    # By itself it has the root's, which is ERROR as soon as mlflow.pytorch is imported.
    logging.getLogger("alexnet_mlflow").setLevel(logging.WARNING)
    try:
        _check_words(sys.argv[1:] if arguments is None else arguments)
        code = commands.main(arguments, prog_name="alexnet-mlflow", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 2
    except click.ClickException as error:
        return _refused(f"{error.format_message().rstrip('.')}: see {_help_of(error)}")
    except click.Abort:
        return 128 + signal.SIGINT
    except BadInput as error:
        return _refused(str(error))
    except Exception as error:
        if sentence := refusals.told(error) or refusals.busy(error):
            return _refused(sentence)
        raise
    return code if isinstance(code, int) else 0


def _check_words(arguments: list[str]) -> None:
    """BadInput where `mlflow run` gives a stage more than its parameters.

    MLproject writes those as --name=value. Any other one MLflow appends in two words, of which the
    second would be an option of its own where the first needs no value.
    """
    if "MLFLOW_RUN_ID" not in os.environ or not arguments or arguments[0] not in STAGES:
        return
    given = set[str]()
    for word in arguments[1:]:
        name, equals, _ = word.partition("=")
        if not name.startswith("--") or not equals:
            raise BadInput(
                f"No such option '{shortened(name)}' beside the parameters of MLproject: give "
                "`mlflow run` those alone, spelt with underscores, as -P name=value"
            )
        if (plain := name.replace("_", "-")) in given:
            raise BadInput(f"{shortened(name)} is given twice: give it once")
        given.add(plain)


def _help_of(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    return f"`{context.command_path if context else 'alexnet-mlflow'} --help`"


def _refused(sentence: str) -> int:
    click.echo(f"Error: {in_one_line(sentence)}", err=True)
    return 2


def script() -> NoReturn:
    """The console script and `python -m alexnet_mlflow`."""
    try:
        code = main()
    except SystemExit as stopped:
        if signals.since():
            runner.close_unused()
            signals.leave(int(stopped.code or 0))
        raise
    signals.leave(code)
