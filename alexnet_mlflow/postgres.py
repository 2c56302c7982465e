"""A PostgreSQL of one's own in a folder, from the programs that the machine has installed.

It listens on no network: only on a socket in a folder that nobody else may enter, so that it needs
no password. It never runs as root: there, PostgreSQL's own user runs it. Left out: upgrades from
one major version to the next, backups (`pg_dump`), and databases that are somewhere else.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from alexnet_mlflow import signals
from alexnet_mlflow.options import BadInput

PLACES = "/usr/lib/postgresql"  # where Debian and Ubuntu keep them, a folder a version
USER, DATABASE = "alexnet", "mlflow"
PATIENCE_SECONDS = 60  # to start after a crash, and to write all down at the end
WAY_OUT = "or give --database=postgresql://... for one that runs somewhere"


@contextmanager
def running(folder: Path, log: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The address of the database in this folder, made if there is none, and the process of it.

    It ends with the block.

    Raises BadInput where PostgreSQL is not there, not the one that made it, or does not start.
    """
    owner = _owner()
    programs = _programs(folder)
    if not (folder / "PG_VERSION").exists():
        _make(folder, programs, owner)
    sockets = Path(tempfile.mkdtemp(prefix="alexnet-"))
    process = None
    try:
        _give(sockets, owner)
        with signals.held(), open(log, "ab") as text:
            process = subprocess.Popen(
                [programs / "postgres", "-D", folder, "-k", sockets, "-c", "listen_addresses="],
                stdout=text, stderr=text, **_as(owner),
            )
        _await(process, sockets, folder, log)
        yield f"postgresql://{USER}@/{DATABASE}?host={sockets}", process
    finally:
        with signals.held(to_the_end=True):
            if process:
                _stop(process)
            shutil.rmtree(sockets, ignore_errors=True)


def _programs(folder: Path) -> Path:
    """The folder of the programs: of the version that made the database, else the newest."""
    made = None
    with suppress(FileNotFoundError, PermissionError):
        made = (folder / "PG_VERSION").read_text().strip()
    found = {
        place.parent.name: place
        for place in sorted(Path(PLACES).glob("*/bin"), key=_version)
        if (place / "initdb").exists() and (place / "postgres").exists()
    }
    if not found and (program := shutil.which("initdb")):
        place = Path(program).resolve().parent
        text = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
        found = {text.split()[-1].partition(".")[0]: place}  # initdb (PostgreSQL) 15.8
    if not found:
        raise BadInput(
            "PostgreSQL's server is not installed: `apt-get install postgresql`, " + WAY_OUT
        )
    if made and made not in found:
        raise BadInput(
            f"the database in {str(folder)!r} was made by PostgreSQL {made}, and here is "
            f"{', '.join(found)}: install that version, {WAY_OUT}"
        )
    return found[made] if made else list(found.values())[-1]


def _version(place: Path) -> float:
    try:
        return float(place.parent.name)
    except ValueError:
        return 0


def _owner() -> pwd.struct_passwd | None:
    """Whom PostgreSQL runs as; None = whoever runs this."""
    if os.geteuid():
        return None
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        raise BadInput(
            "PostgreSQL does not run as root, and there is no user postgres: call this as an "
            f"ordinary user, {WAY_OUT}"
        ) from None


def _as(owner: pwd.struct_passwd | None) -> dict[str, Any]:
    """How a program is started: by whom, from where, out of reach of the terminal's Ctrl-C.

    It gets nothing of the environment, which may hold secrets.
    """
    who = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []} if owner else {}
    return {
        **who, "cwd": "/", "env": {"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
        "stdin": subprocess.DEVNULL, "start_new_session": True,
    }


def _give(folder: Path, owner: pwd.struct_passwd | None) -> None:
    if owner:
        os.chown(folder, owner.pw_uid, owner.pw_gid)


def _make(folder: Path, programs: Path, owner: pwd.struct_passwd | None) -> None:
    """A new database; it gets its name when it is whole."""
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700)
    _give(unfinished, owner)
    done = subprocess.run(
        [programs / "initdb", "-D", unfinished, "-U", USER, "--auth-local=trust",
         "--auth-host=reject", "--encoding=UTF8", "--locale=C.UTF-8", "--data-checksums"],
        capture_output=True, text=True, **_as(owner),
    )
    if not done.returncode:
        done = subprocess.run(
            [programs / "postgres", "--single", "-D", unfinished, "postgres"],
            capture_output=True, text=True, **{**_as(owner), "stdin": None},
            input=f"CREATE DATABASE {DATABASE}\n",
        )
    if done.returncode:
        reason = (done.stderr.strip() or done.stdout).splitlines()[-1]
        who = "PostgreSQL, which runs as the user postgres for root," if owner else "PostgreSQL"
        raise BadInput(
            f"{who} cannot make its database in {str(folder)!r} ({reason}): give another --folder, "
            f"{WAY_OUT}"
        )
    unfinished.rename(folder)


def _await(
    process: subprocess.Popen[bytes], sockets: Path, folder: Path, log: Path
) -> None:
    """Until it answers; BadInput where it has ended or is silent."""
    import psycopg

    end = time.monotonic() + PATIENCE_SECONDS
    while process.poll() is None and time.monotonic() < end:
        try:
            psycopg.connect(host=str(sockets), user=USER, dbname=DATABASE).close()
            return
        except psycopg.OperationalError:
            time.sleep(0.1)
    with suppress(OSError, IndexError):
        number = (folder / "postmaster.pid").read_text().split()[0]
        if number != str(process.pid):
            raise BadInput(
                f"PostgreSQL runs already in {str(folder)!r} (process {number}), left by a server "
                f"that was killed: end it with `kill -INT {number}`, then give the same command"
            )
    raise BadInput(f"PostgreSQL does not start in {str(folder)!r}: {log} says why")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """SIGINT: it breaks off what is going on and writes all down; else SIGQUIT: at once."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
        process.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE_SECONDS)
            return
