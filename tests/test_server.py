"""A team's server as a person starts it: real processes, PostgreSQL from Debian's packages, HTTP.

What is left out: a browser, TLS, several machines. S3 is moto's imitation of it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import mlflow
import psycopg
import pytest
import requests
from mlflow import MlflowClient

from alexnet_mlflow import postgres, registry, track
from alexnet_mlflow.cli import main
from alexnet_mlflow.commands import ServerConfig
from alexnet_mlflow.config import PromoteConfig
from alexnet_mlflow.options import BadInput
from alexnet_mlflow.stages import promote
from tests.evaluations import evaluated, predictions
from tests.postgres import MISSING, REASON
from tests.postgres import server as database_server
from tests.tracking_server import free_port

installed = pytest.mark.skipif(MISSING, reason=REASON)
PROGRAM = [sys.executable, "-m", "alexnet_mlflow"]
MEMBER, MEMBERS_PASSWORD = "ada", "correct-horse-battery"
WHO = "/api/2.0/mlflow/users/current"


def command_lines() -> dict[int, str]:
    """What `ps` shows of every process of this machine."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            text = (place / "cmdline").read_bytes().replace(b"\0", b" ")
        except OSError:  # it has ended meanwhile
            continue
        found[int(place.name)] = text.decode(errors="replace")
    return found


def descendants(root: int) -> set[int]:
    """The processes below this one; as a set of numbers."""
    below: dict[int, list[int]] = {}
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(place.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        below.setdefault(parent, []).append(int(place.parent.name))
    found, rest = set(), [root]
    while rest:
        rest += (children := below.get(rest.pop(), []))
        found.update(children)
    return found


class Served:
    """A server in a folder of its own, started and ended as often as one likes."""

    def __init__(self, *options: str, **environment: str) -> None:
        # PostgreSQL, which is another user for root, cannot enter pytest's folders.
        self.home = Path(tempfile.mkdtemp(prefix="served-"))
        self.home.chmod(0o711)
        self.folder = self.home / "team"
        self.uri = f"http://127.0.0.1:{free_port()}"
        self.options = [f"--folder={self.folder}", f"--port={self.uri.rpartition(':')[2]}",
                        "--workers=1", *options]
        clean = {key: text for key, text in os.environ.items() if not key.startswith("MLFLOW_")}
        self.environment = {**clean, **environment}

    def start(self) -> None:
        with open(self.home / "stderr", "a") as text:
            self.process = subprocess.Popen(
                [*PROGRAM, "server", *self.options], cwd=self.home, env=self.environment,
                stdout=subprocess.PIPE, stderr=text, text=True,
            )
        assert self.process.stdout is not None
        self.lines = [self.process.stdout.readline(), self.process.stdout.readline()]
        assert self.lines[1], self.told + self.log

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return self.process.wait(60)

    @property
    def told(self) -> str:
        return (self.home / "stderr").read_text()

    @property
    def log(self) -> str:
        file = self.folder / "mlflow.log"
        return file.read_text() if file.exists() else ""

    @property
    def password(self) -> str:
        return (self.folder / "admin-password").read_text().strip()


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    one = Served()
    one.start()
    yield one
    if one.process.poll() is None:
        one.end(signal.SIGTERM)
    shutil.rmtree(one.home)


@pytest.fixture
def admin(served: Served, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Served]:
    """The server, with its administrator logged in, in this process and in those it starts."""
    before = mlflow.get_tracking_uri()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", served.password)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", served.uri)
    mlflow.set_tracking_uri(served.uri)
    yield served
    mlflow.set_tracking_uri(before)


@installed
def test_its_two_lines_log_a_shell_in(served: Served) -> None:
    assert [line.split("=")[0] for line in served.lines] == [
        "export MLFLOW_TRACKING_URI", "export MLFLOW_TRACKING_USERNAME"
    ]
    code = f"{''.join(served.lines)}\nprintenv MLFLOW_TRACKING_URI MLFLOW_TRACKING_PASSWORD"
    done = subprocess.run(["sh", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [served.uri, served.password]
    assert (served.folder / "admin-password").stat().st_mode & 0o777 == 0o600
    assert "plain HTTP" in served.told and "not encrypted" in served.told


@installed
def test_who_is_not_let_in(served: Served) -> None:
    right = ("admin", served.password)
    assert requests.get(served.uri + WHO, auth=right, timeout=30).status_code == 200
    assert requests.get(served.uri + WHO, timeout=30).status_code == 401
    assert requests.get(served.uri + WHO, auth=("admin", "wrong"), timeout=30).status_code == 401
    for host in ("evil.example", f"evil.example:{served.uri.rpartition(':')[2]}"):
        answer = requests.get(served.uri + WHO, auth=right, headers={"Host": host}, timeout=30)
        assert answer.status_code == 403 and "Invalid Host" in answer.text
    assert requests.get(served.uri + "/health", timeout=30).status_code == 200


@installed
def test_it_runs_no_jobs_and_tells_nobody(served: Served) -> None:
    """MLflow's own default is to run them."""
    servers = [
        Path(f"/proc/{number}/environ").read_bytes().split(b"\0")
        for number in descendants(served.process.pid)
        if "mlflow" in command_lines().get(number, "")
    ]
    told = [one for one in servers if any(each.startswith(b"MLFLOW_") for each in one)]
    assert told  # a worker that renames itself writes over its own
    for environment in told:
        assert b"MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false" in environment
        assert b"MLFLOW_DISABLE_TELEMETRY=true" in environment


def test_it_listens_on_this_machine_alone(served: Served) -> None:
    """Every TCP socket that its processes listen on, as the kernel knows them."""
    inodes = set[str]()
    for number in descendants(served.process.pid):
        for place in Path(f"/proc/{number}/fd").glob("*"):
            with suppress(OSError):  # closed meanwhile
                inodes.add(os.readlink(place).removeprefix("socket:[").removesuffix("]"))
    rows = [line.split() for name in ("tcp", "tcp6")
            for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    found = {row[1] for row in rows if row[3] == "0A" and row[9] in inodes}
    assert found == {f"0100007F:{int(served.uri.rpartition(':')[2]):04X}"}


@installed
def test_a_wrong_password_is_told_in_one_sentence(
    admin: Served, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
    assert main(["promote"]) == 2
    caught = capsys.readouterr()
    assert caught.out == "" and caught.err.count("\n") == 1
    assert f"{admin.uri} refuses this login" in caught.err
    assert "MLFLOW_TRACKING_PASSWORD" in caught.err


@installed
def test_two_stages_at_once(admin: Served, tmp_path: Path) -> None:
    commands = [["sanity"], ["overfit", "--optimizer=adam", "--pictures=8"]]
    started = [
        subprocess.Popen(
            [*PROGRAM, *arguments, "--dataset=faces", "--limit=64", "--device=cpu"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for arguments in commands
    ]
    for [stage, *_], process in zip(commands, started, strict=True):
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        last = json.loads(out.splitlines()[-1])
        run = MlflowClient().get_run(last["run_id"])
        assert run.data.tags["stage"] == stage and run.info.status == "FINISHED"
        assert run.info.artifact_uri.startswith("mlflow-artifacts:")
        got = MlflowClient().download_artifacts(run.info.run_id, "checks.json", str(tmp_path))
        [kept] = (admin.folder / "artifacts").rglob(f"{run.info.run_id}/artifacts/checks.json")
        assert Path(got).read_bytes() == kept.read_bytes() != b""
    page = f"{admin.uri}/api/2.0/mlflow-artifacts/artifacts"
    assert requests.get(page, timeout=30).status_code == 401


@installed
def test_a_member_promotes_what_another_has_made(
    admin: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first champion, another's first one, then a better one and back, on the other's model."""
    made = requests.post(
        f"{admin.uri}/api/2.0/mlflow/users/create", auth=("admin", admin.password), timeout=30,
        json={"username": MEMBER, "password": MEMBERS_PASSWORD},
    )
    assert made.status_code == 200, made.text
    tracker = track.connect()
    evaluated(tracker, predictions([True] * 80 + [False] * 20))
    promote.run(PromoteConfig(dataset="x"), tracker)
    first = registry.champion("alexnet-x")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", MEMBER)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", MEMBERS_PASSWORD)
    assert registry.champion("alexnet-nothing") is None  # MLflow says `forbidden` to a member
    evaluated(tracker, predictions([True] * 99 + [False]), optimizer="adam", val=0.99)
    promote.run(PromoteConfig(dataset="x"), tracker)
    second = registry.champion("alexnet-x")
    assert first is not None and second is not None
    assert (first.number, second.number) == ("1", "2")
    promote.run(PromoteConfig(dataset="x", rollback=True), tracker)
    now = registry.champion("alexnet-x")
    assert now is not None and now.number == "1"


@installed
def test_nobody_sees_a_secret(admin: Served) -> None:
    files = [admin.folder / name for name in ("admin-password", "secret-key")]
    secrets = [file.read_text().strip() for file in files]
    assert all(len(secret) > 20 for secret in secrets)
    assert requests.get(admin.uri + WHO, auth=("admin", secrets[0]), timeout=30).ok
    lines = command_lines()
    own = [lines.get(number, "") for number in descendants(admin.process.pid)]
    assert any("mlflow server" in line for line in own) and any("postgres" in line for line in own)
    logs = [admin.told, *admin.lines, *(file.read_text() for file in admin.folder.glob("*.log"))]
    assert WHO in admin.log  # what was asked for is there
    for secret in [*secrets, MEMBERS_PASSWORD]:
        assert not [text for text in [*lines.values(), *logs] if secret in text]
    for name in ("admin-password", "secret-key", "auth.ini"):
        assert (admin.folder / name).stat().st_mode & 0o077 == 0


@installed
def test_a_second_one_in_the_folder_or_at_the_port_is_refused(
    served: Served, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["server", f"--folder={served.folder}"]) == 2
    assert "another server runs in" in capsys.readouterr().err
    port = served.uri.rpartition(":")[2]
    assert main(["server", f"--folder={tmp_path}", f"--port={port}"]) == 2
    assert f"127.0.0.1:{port} cannot be listened on" in capsys.readouterr().err


@installed
def test_ended_and_started_again_it_has_everything(admin: Served, tmp_path: Path) -> None:
    """Nothing of it is left when it has ended; the same runs, champion, accounts after."""
    password, client = admin.password, MlflowClient()
    tracker = track.connect()
    _, run_id = evaluated(tracker, predictions([True, False]), dataset="kept")
    promote.run(PromoteConfig(dataset="kept"), tracker)
    before = {run.info.run_id for run in client.search_runs(["0"])}
    processes = descendants(admin.process.pid)
    assert len(processes) > 5
    assert admin.end(signal.SIGTERM) == 143
    left = {number for number, line in command_lines().items() if line}  # of a zombie it is empty
    assert not processes & left
    assert not (admin.folder / "database" / "postmaster.pid").exists()
    admin.start()
    assert admin.password == password
    assert {run.info.run_id for run in client.search_runs(["0"])} == before >= {run_id}
    assert Path(client.download_artifacts(run_id, "predictions.parquet", str(tmp_path))).stat()
    champion = registry.champion("alexnet-kept")
    assert champion is not None and champion.number == "1"
    assert admin.end(signal.SIGINT) == 130
    assert "Traceback" not in admin.told


@installed
def test_somebody_elses_database_and_s3(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """--database with a password in PGPASSWORD, and a bucket that the server makes."""
    from moto.server import ThreadedMotoServer

    s3 = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    s3.start()
    endpoint = "http://{}:{}".format(*s3.get_host_and_port())
    keys = {
        "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "s3-secret-of-the-test",
        "AWS_DEFAULT_REGION": "us-east-1", "MLFLOW_S3_ENDPOINT_URL": endpoint,
    }
    try:
        with database_server() as url:
            _with_a_password(url, "database-secret")
            address = url.replace(":secret@", "@")
            options = [f"--database={address}", "--artifacts=s3://team/runs"]
            wrong = ["server", f"--folder={tmp_path}", f"--port={free_port()}", *options]
            monkeypatch.setenv("PGPASSWORD", "wrong")
            assert main(wrong) == 2
            sentence = capsys.readouterr().err
            assert "password authentication failed" in sentence and sentence.count("\n") == 1
            one = Served(*options, PGPASSWORD="database-secret", **keys)
            one.start()
            try:
                _an_artifact_goes_to_s3(one, endpoint, keys, monkeypatch, tmp_path)
                shown = [*command_lines().values(), one.log, one.told]
                for secret in ("database-secret", keys["AWS_SECRET_ACCESS_KEY"]):
                    assert not [text for text in shown if secret in text]
            finally:
                one.end(signal.SIGTERM)
            assert not (one.folder / "database").exists()
            shutil.rmtree(one.home)
    finally:
        s3.stop()


def _with_a_password(url: str, password: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"ALTER ROLE alexnet PASSWORD '{password}'")
        [file] = connection.execute("SHOW hba_file").fetchone() or [""]
        Path(file).write_text("host all all 127.0.0.1/32 scram-sha-256\n")
        connection.execute("SELECT pg_reload_conf()")


def _an_artifact_goes_to_s3(
    one: Served, endpoint: str, keys: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp: Path
) -> None:
    import boto3

    before = mlflow.get_tracking_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", one.password)
    mlflow.set_tracking_uri(one.uri)
    try:
        track.connect()
        client = MlflowClient()
        run_id = client.create_run("0").info.run_id
        client.log_text(run_id, "through the server", "note.txt")
        got = Path(client.download_artifacts(run_id, "note.txt", str(tmp)))
        assert got.read_text() == "through the server"
        assert f"{run_id}/artifacts/note.txt HTTP" in one.log  # sent and fetched by the server,
        assert "/presigned/" not in one.log  # which may be all that a client reaches
    finally:
        mlflow.set_tracking_uri(before)
    s3 = boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1",
        aws_access_key_id=keys["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
    )
    [held] = s3.list_objects_v2(Bucket="team")["Contents"]
    assert held["Key"].startswith("runs/") and held["Key"].endswith(f"{run_id}/artifacts/note.txt")
    s3.close()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--port=0"], "--port must be at least 1"),
        (["--port=65536"], "--port must be at most 65535"),
        (["--workers=0"], "--workers must be at least 1"),
        (["--allowed-hosts=*"], "--allowed-hosts must name each host"),
        (["--permission=ALL"], "'READ', 'EDIT', 'MANAGE'"),
        (["--database=sqlite:///x.db"], "--database must begin with postgresql://"),
        (["--database=postgresql://a:secret@h/b"], "--database must not hold the password"),
        (["--database=postgresql://a@h/b?password=secret"], "must not hold the password"),
        (["--database=postgresql://a@127.0.0.1:1/b"], "a@127.0.0.1:1/b does not answer"),
        (["--host=192.0.2.1"], "192.0.2.1:5000 cannot be listened on"),
        (["--folder=file/below"], "cannot be written to"),
    ],
)
def test_bad_input_gets_one_sentence(
    arguments: Sequence[str], part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    port = [] if any("port" in one or "host=" in one for one in arguments) else [
        f"--port={free_port()}"
    ]
    assert main(["server", *port, *arguments]) == 2
    caught = capsys.readouterr()
    assert caught.out == "" and caught.err.count("\n") == 1 and "secret" not in caught.err
    assert part in caught.err and "Traceback" not in caught.err


def test_a_machine_without_postgresql_is_told_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(postgres, "PLACES", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["server", f"--folder={tmp_path}", f"--port={free_port()}"]) == 2
    assert "`apt-get install postgresql`, or give --database" in capsys.readouterr().err


def test_the_address_can_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALEXNET_DATABASE", "postgresql://team@host/mlflow")
    assert ServerConfig().address == "postgresql://team@host/mlflow"
    assert ServerConfig(database="postgresql://a@b/c").address == "postgresql://a@b/c"
    monkeypatch.setenv("ALEXNET_DATABASE", "postgresql://team:x@host/mlflow")
    with pytest.raises(BadInput, match="must not hold the password"):
        ServerConfig()
