"""`server`: MLflow for a team on PostgreSQL, with a login, artifacts served through it.

It answers 127.0.0.1 alone unless told otherwise, and only to Host headers that it knows; job
execution and telemetry are off. Secrets are made at the first start, lie in files that nobody else
may read, and pass to MLflow through its environment: no command line and no log shows one.

Left out: TLS (an SSH tunnel or a proxy), encryption of what lies on the disk, backups. Accounts are
not kept apart: promoting moves and deletes aliases and tags of a model that another has registered,
which MLflow grants with MANAGE alone.
"""

from __future__ import annotations

import base64
import http.client
import importlib.util
import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import filelock

from alexnet_mlflow import postgres, signals
from alexnet_mlflow.commands import ServerConfig
from alexnet_mlflow.options import BadInput

ADMIN = "admin"
MAY = {"READ": "read", "EDIT": "read and change", "MANAGE": "read, change and delete"}
LOGIN_CACHE_SECONDS = 60  # else each request computes the password's hash anew
PATIENCE_SECONDS = 180  # a first start makes MLflow's tables
# What MLflow's server reads from the environment may be set for a client: it gets these alone.
KEPT = ("MLFLOW_S3_", "MLFLOW_BOTO_")
PASSWORD, SECRET_KEY = "MLFLOW_AUTH_ADMIN_PASSWORD", "MLFLOW_FLASK_SERVER_SECRET_KEY"


def run(config: ServerConfig) -> int:
    """Serve until a signal comes (SystemExit), or until a part has ended by itself: 1."""
    _require_packages(config)
    folder = _folder(config)
    with ExitStack() as stack:
        stack.enter_context(_alone(folder))
        _require_port(config)
        parts: dict[Path | str, subprocess.Popen[bytes]] = {}
        if config.address:
            database = config.address
            _probe(database)
        else:
            log = folder / "postgres.log"
            own = stack.enter_context(postgres.running(folder / "database", log))
            database, parts[log] = own
        artifacts = _artifacts(config, folder)
        environment = _environment(config, folder, database)
        process = stack.enter_context(_mlflow(config, folder, artifacts, environment))
        parts[_log(config, folder)] = process
        _await(config, process, folder)
        _tell(config, folder, environment)
        while all(part.poll() is None for part in parts.values()):
            time.sleep(1)
        ended = [str(log) for log, part in parts.items() if part.poll() is not None]
    _say(f"A part of the server has ended by itself: {ended[0]} says why.")
    return 1


def _log(config: ServerConfig, folder: Path) -> Path | str:
    return folder / "mlflow.log" if config.log == "file" else "its log"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _require_packages(config: ServerConfig) -> None:
    needed = ["flask_wtf", *(["boto3"] if config.artifacts.startswith("s3://") else [])]
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise BadInput(
            f"the server needs packages that are not here ({', '.join(missing)}): give "
            "`pip install 'alexnet-mlflow[server]'`"
        )


def _require_port(config: ServerConfig) -> None:
    """BadInput where this address cannot be listened on."""
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            free.bind((config.host, config.port))
        except OSError as error:
            raise BadInput(
                f"{config.host}:{config.port} cannot be listened on ({error.strerror or error}): "
                "give another --port, or end what listens there"
            ) from None


def _folder(config: ServerConfig) -> Path:
    folder = Path(config.folder).resolve()
    try:
        # PostgreSQL, which root does not run as root, must get through.
        folder.mkdir(mode=0o700 if os.geteuid() else 0o711, parents=True, exist_ok=True)
        (folder / "server.lock").open("ab").close()
    except OSError as error:
        raise BadInput(
            f"the folder {str(folder)!r} cannot be written to ({error.strerror}): give another "
            "--folder"
        ) from None
    return folder


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """BadInput where another server uses the folder."""
    try:
        with filelock.FileLock(folder / "server.lock", timeout=0):
            yield
    except filelock.Timeout:
        raise BadInput(
            f"another server runs in {str(folder)!r}: use that one, or give another --folder"
        ) from None


def _probe(address: str) -> None:
    """BadInput where the database does not answer, refuses, or holds a search's trials."""
    import psycopg

    try:
        with psycopg.connect(address, connect_timeout=10) as connection:
            [found] = connection.execute("SELECT to_regclass('study_directions')").fetchone() or [0]
    except psycopg.Error as error:
        reason = " ".join(str(error).splitlines()[0].split())[:200]
        raise BadInput(
            f"the database {address} does not answer ({reason}): start it, give --database "
            "another, or its password in PGPASSWORD or ~/.pgpass"
        ) from None
    if found:
        raise BadInput(
            f"the database {address} holds the trials of searches, whose tables have the names of "
            "MLflow's: give --database another one"
        )


def _artifacts(config: ServerConfig, folder: Path) -> str:
    """Where MLflow's server puts artifacts; made if it is not there."""
    if config.artifacts.startswith("s3://"):
        _bucket(config.artifacts)
        return config.artifacts
    place = Path(config.artifacts or folder / "artifacts").resolve()
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(place, os.W_OK | os.X_OK):
            raise PermissionError(0, "Permission denied")
    except OSError as error:
        raise BadInput(
            f"the folder {str(place)!r} cannot be written to ({error.strerror}): give another "
            "--artifacts"
        ) from None
    return str(place)


def _bucket(address: str) -> None:
    """Make the bucket if there is none; BadInput where the storage does not answer or refuses."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    name = address.removeprefix("s3://").partition("/")[0]
    patience = Config(connect_timeout=10, read_timeout=30, retries={"total_max_attempts": 3})
    url = os.environ.get("MLFLOW_S3_ENDPOINT_URL")
    try:
        client = boto3.client("s3", endpoint_url=url, config=patience)
        try:
            client.head_bucket(Bucket=name)
        except ClientError as error:
            if error.response["Error"]["Code"] not in ("404", "NoSuchBucket"):
                raise
            client.create_bucket(Bucket=name)
    except (BotoCoreError, ClientError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BadInput(
            f"the bucket {name!r} at {url or 'AWS'} cannot be used ({reason}): look at "
            "MLFLOW_S3_ENDPOINT_URL, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from None


def _environment(config: ServerConfig, folder: Path, database: str) -> dict[str, str]:
    """The environment of MLflow's server: whose settings are ours alone, secrets included."""
    address = database.replace("postgresql://", "postgresql+psycopg://", 1)
    settings = folder / "auth.ini"
    settings.unlink(missing_ok=True)
    _write(settings, (
        f"[mlflow]\ndefault_permission = {config.permission}\nadmin_username = {ADMIN}\n"
        f"database_uri = {address.replace('%', '%%')}\n"
        f"auth_cache_ttl_seconds = {LOGIN_CACHE_SECONDS}\n"
    ))
    own = {name: text for name, text in os.environ.items()
           if not name.startswith("MLFLOW_") or name.startswith(KEPT)}
    return {
        **own,
        "MLFLOW_BACKEND_STORE_URI": address,
        "MLFLOW_AUTH_CONFIG_PATH": str(settings),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        PASSWORD: _secret(folder / "admin-password", PASSWORD),
        SECRET_KEY: _secret(folder / "secret-key", SECRET_KEY),
    }


def _secret(file: Path, variable: str) -> str:
    """The secret of the environment, else of this file, which is made at the first start."""
    if text := os.environ.get(variable):
        return text
    with suppress(FileExistsError):
        _write(file, secrets.token_urlsafe(24) + "\n")
    if text := file.read_text().strip():
        return text
    raise BadInput(f"{file} is empty: write the secret into it, or set {variable}")


def _write(file: Path, text: str) -> None:
    """A new file that nobody else may read, whole from its first moment."""
    unfinished = file.with_name(f"{file.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
        opened.write(text)
    try:
        os.link(unfinished, file)  # refuses to write over another
    finally:
        unfinished.unlink()


@contextmanager
def _mlflow(
    config: ServerConfig, folder: Path, artifacts: str, environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """MLflow's server while the block lasts, out of reach of the terminal's Ctrl-C."""
    others = [host.strip() for host in config.allowed_hosts.split(",") if host.strip()]
    names = [f"{name}{port}" for name in ("localhost", "127.0.0.1")
             for port in ("", f":{config.port}")]
    command = [
        sys.executable, "-m", "mlflow", "server", "--app-name=basic-auth",
        f"--host={config.host}", f"--port={config.port}", f"--workers={config.workers}",
        "--serve-artifacts", f"--artifacts-destination={artifacts}",
        f"--allowed-hosts={','.join([*names, *others])}",
    ]
    if others:  # a TLS proxy's pages are of its own origin
        command.append(f"--cors-allowed-origins={','.join(f'https://{host}' for host in others)}")
    process = None
    try:
        to = os.dup(2) if config.log == "stderr" else _log(config, folder)
        with signals.held(), open(to, "ab") as log:
            process = subprocess.Popen(
                command, env=dict(environment), cwd=folder, stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, start_new_session=True,
            )
        yield process
    finally:
        with signals.held(to_the_end=True):
            if process:
                _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """First MLflow's server, which lets its workers end their answers; then what is left of it."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(20)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _await(config: ServerConfig, process: subprocess.Popen[bytes], folder: Path) -> None:
    """Until it answers; BadInput where it ends before, or is silent."""
    end = time.monotonic() + PATIENCE_SECONDS
    while process.poll() is None and time.monotonic() < end:
        if _answer(config, "/health") == 200:
            return
        time.sleep(0.2)
    raise BadInput(f"MLflow's server does not start: {_log(config, folder)} says why")


def _answer(config: ServerConfig, path: str, password: str | None = None) -> int | None:
    """The HTTP status of a page, asked for from this machine; None where nobody answers."""
    host = "127.0.0.1" if config.host == "0.0.0.0" else config.host
    login = base64.b64encode(f"{ADMIN}:{password}".encode()).decode()
    connection = http.client.HTTPConnection(host, config.port, timeout=30)
    headers = {"Host": f"127.0.0.1:{config.port}", "Authorization": f"Basic {login}"}
    try:
        connection.request("GET", path, headers=headers if password else {})
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _tell(config: ServerConfig, folder: Path, environment: Mapping[str, str]) -> None:
    """What to know, on standard error; then two lines for a shell, on standard output."""
    if _answer(config, "/api/2.0/mlflow/users/current", environment[PASSWORD]) == 401:
        _say(f"The password of {ADMIN} below is not the server's: it was changed there.")
    _say(
        f"Not protected: the connection (plain HTTP: come by an SSH tunnel or a TLS proxy), what "
        f"lies on the disk (not encrypted), and people from one another: each account may "
        f"{MAY[config.permission]} the runs and models of all (--permission={config.permission}). "
        f"{ADMIN} makes accounts at /signup."
    )
    _say(f"Logs: {folder}. Ctrl-C ends the server. In the shells that are to use it:")
    given, file = PASSWORD in os.environ, shlex.quote(str(folder / "admin-password"))
    name = "127.0.0.1" if config.host == "0.0.0.0" else config.host
    print(f"export MLFLOW_TRACKING_URI=http://{name}:{config.port}")
    shown = f"${PASSWORD}" if given else f"$(cat {file})"
    print(f'export MLFLOW_TRACKING_USERNAME={ADMIN} MLFLOW_TRACKING_PASSWORD="{shown}"', flush=True)
