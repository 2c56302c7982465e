"""The tracking store and the registry: does it answer, is it ours, is there what it names?

Nothing is written to them, and no store is made where there is none. The round trip of a model goes
through a store of its own, in a temporary folder. Left out: whether this login may write.
"""

from __future__ import annotations

import ipaddress
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy.engine import make_url

from alexnet_mlflow.delivery import Link
from alexnet_mlflow.health import Finding
from alexnet_mlflow.models import load_model
from alexnet_mlflow.options import BadInput
from alexnet_mlflow.reach import IMPATIENT, LOGIN, environment, prepare, without_password
from alexnet_mlflow.registry import CHAMPION
from alexnet_mlflow.track import MlflowTracker, connect

SERVED = ("http://", "https://")
OURS = "alexnet-"  # what `registered_name` begins with


def address() -> str:
    """The store's, as MLflow understands it."""
    prepare()
    import mlflow

    return str(mlflow.get_tracking_uri())


def places() -> dict[str, Path]:
    """The folders of this machine in which store and artifacts lie."""
    uri = address()
    if uri.startswith(SERVED):
        return {}
    file = _file(uri)
    return {**({"store": file.parent} if file else {}), "artifacts": Path("mlruns").absolute()}


def _file(uri: str) -> Path | None:
    """Of a store on sqlite."""
    if not uri.startswith("sqlite:///"):
        return None
    return Path(uri.removeprefix("sqlite:///").partition("?")[0]).absolute()


def answers() -> tuple[list[Finding], bool]:
    """Does the store answer, with a schema that this MLflow knows, and to whom? Is there one?"""
    uri = address()
    file = _file(uri)
    if file and not file.exists():
        return [Finding("store", "pass", f"none yet at {file}: the first run makes it.")], False
    if file and not os.access(file, os.W_OK):
        return [Finding("store", "fail", f"{file} cannot be written to: make it writable, or set "
                                         "MLFLOW_TRACKING_URI to another.")], False
    try:
        connect()
    except BadInput as error:
        return [Finding("store", "fail", f"{error}.")], False
    shown = without_password(uri)
    if not uri.startswith(SERVED):
        found = [Finding("store", "pass", f"{shown} answers, and its schema is this MLflow's.")]
        return found, True
    return [_version(uri, shown), _login(uri)], True


def _version(uri: str, shown: str) -> Finding:
    """A server has looked at its own schema when it started; its MLflow may be another."""
    import mlflow

    status, text = _asked(uri, "/version")
    if status != 200 or text.split(".")[:2] != mlflow.__version__.split(".")[:2]:
        return Finding("store", "warn", f"{shown} answers with MLflow {text[:20] or '?'}, and "
                                        f"here is {mlflow.__version__}: install the same on both.")
    return Finding("store", "pass", f"{shown} answers, with MLflow {text}.")


def _login(uri: str) -> Finding:
    """Who this is to the server; one without a login is for its own machine alone."""
    status, _ = _asked(uri, "/api/2.0/mlflow/users/current")
    if status == 200:
        name = os.environ.get("MLFLOW_TRACKING_USERNAME", "the holder of the token")
        return Finding("login", "pass", f"the server knows {name}.")
    if status in (401, 403):
        return Finding("login", "fail", f"the server refuses this login: {LOGIN}.")
    host = make_url(uri).host or ""
    if _loopback(host):
        return Finding("login", "pass", "the server asks for none, and is this machine's own.")
    return Finding("login", "warn", f"the server at {host} asks for none, and whoever reaches it "
                                    "may change everything: `alexnet-mlflow server` has a login.")


def _loopback(host: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _asked(uri: str, path: str) -> tuple[int, str]:
    """Status and text of a page of the server; 0 where it does not answer."""
    from mlflow.exceptions import MlflowException
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    try:
        with environment(IMPATIENT):
            got = http_request(get_default_host_creds(uri), path, "GET", raise_on_status=False)
        return int(got.status_code), str(got.text)
    except (MlflowException, OSError):
        return 0, ""


def registry() -> list[Finding]:
    """Does each alias lead to a version that is there, and the champion's to files?"""
    import mlflow
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    client = mlflow.MlflowClient()
    try:
        with environment(IMPATIENT):
            models = [one for one in _registered(client) if one.name.startswith(OURS)]
            found = [fault for one in models for fault in _aliases(client, one)]
    except (MlflowException, SQLAlchemyError, OSError) as error:
        reason = without_password(" ".join(str(error).split())[:200])
        return [Finding("registry", "fail", f"it does not answer ({reason}): see that its server "
                                            "runs.")]
    champions = sum(CHAMPION in one.aliases for one in models)
    return found or [Finding("registry", "pass", f"models of ours: {len(models)}, with a champion: "
                                                 f"{champions}; every alias leads to a version.")]


def _registered(client: Any) -> Iterator[Any]:
    page = None
    while True:
        found = client.search_registered_models(max_results=100, page_token=page)
        yield from found
        if not (page := found.token):
            return


def _aliases(client: Any, model: Any) -> Iterator[Finding]:
    """What is wrong with the aliases of a registered model."""
    from mlflow.exceptions import MlflowException
    from mlflow.models import Model

    for alias, number in model.aliases.items():
        what = f"the alias {alias} of {model.name} is version {number}"
        try:
            client.get_model_version(model.name, str(number))
        except MlflowException:
            yield Finding("registry", "fail", f"{what}, which is not there: give the alias to "
                                              "another version on the registry's page.")
            continue
        if alias != CHAMPION:
            continue
        try:
            Model.load(f"models:/{model.name}@{alias}")
        except Exception as error:  # a dozen types, as in track.py
            reason = without_password(" ".join(str(error).split())[:150])
            yield Finding("registry", "fail", f"{what}, whose files cannot be read ({reason}): "
                                              "bring them back, or promote another.")


def round_trip() -> Finding:
    """A tiny model logged in a store of its own and loaded, pickle forbidden: the same answers?"""
    import torch
    from torch import nn

    from alexnet_mlflow.model import PICTURE

    net = nn.Sequential(nn.Flatten(), nn.Linear(PICTURE[0] * PICTURE[1] * PICTURE[2], 2))
    net = nn.Sequential(net, nn.Softmax(1)).eval()
    pictures = torch.rand(2, *PICTURE, generator=torch.Generator().manual_seed(0))
    try:
        with _temporary() as tracker, tracker.child("doctor", {"stage": "doctor"}) as run:
            logged = run.model(net, pictures, ("a", "b"))
            assert logged is not None, "a tracker that stores gives the model's address"
            again = load_model(logged.uri)
        with torch.inference_mode():
            same = torch.equal(net(pictures), again(pictures))
    except Exception as error:  # whatever torch.export, MLflow and the disk raise
        reason = without_password(" ".join(str(error).split())[:200])
        return Finding("model", "fail", f"a model cannot be logged and loaded ({reason}): install "
                                        "the locked packages again (make setup).")
    if not same:
        return Finding("model", "fail", "a model that was logged and loaded answers otherwise: "
                                        "install the locked packages again (make setup).")
    return Finding("model", "pass", "one that was logged, and loaded without pickle, is the same.")


@contextmanager
def _temporary() -> Iterator[MlflowTracker]:
    """A tracking store in a temporary folder, in place of the one that is set."""
    import mlflow

    before, runner = mlflow.get_tracking_uri(), os.environ.pop("MLFLOW_RUN_ID", None)
    with tempfile.TemporaryDirectory() as folder:
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
        try:
            client = mlflow.MlflowClient()
            place = Path(folder, "artifacts").as_uri()
            link = Link(client, mlflow.get_tracking_uri())
            yield MlflowTracker(link, client.create_experiment("doctor", place), None)
        finally:
            mlflow.set_tracking_uri(before)
            if runner:
                os.environ["MLFLOW_RUN_ID"] = runner
