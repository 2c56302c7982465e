"""How a tracking store is reached, and what is told where it does not answer.

MLflow's own environment variables, set for the package's purposes: no pickle, no telemetry, little
patience at the start, none where the journal asks again. No address is shown with its password.
Knows nothing of runs.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from alexnet_mlflow import refusals
from alexnet_mlflow.options import BadInput

# Model files are read without pickle, whatever the shell says; MLflow's own words for it.
SAFE = {
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_ALLOW_MODEL_CODE_EXECUTION": "false",
}
# No bar for one small file.
SILENT = {"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
# A store that is away is told in seconds at the start, not after MLflow's four minutes.
IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
# Where nobody else asks again (the registry): MLflow's own.
PATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "7", "MLFLOW_HTTP_REQUEST_TIMEOUT": "120"}
# What must not be done twice: asked again, MLflow itself would do it again where an answer is lost.
ONCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
# A server that stores a model before it answers may take long.
LARGE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "120"}
# Unless the user says otherwise: nothing is reported to MLflow's makers; files go through the
# server, which else sends clients to an S3 behind it that they may not reach; a request that fails
# is told soon, because the journal asks again.
PREFERRED = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": "false",
    "MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD": "false",
}
ANSWER_SECONDS = 2.0  # in which a server that was asked may still answer after a signal
DATABASES = ("postgresql", "mysql", "sqlite", "mssql")
REFUSED = ("UNAUTHENTICATED", "PERMISSION_DENIED")  # MLflow's codes
LOGIN = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
UPGRADE = (
    "back it up and give its address to `mlflow db upgrade`, or set another MLFLOW_TRACKING_URI"
)
ELSEWHERE = "start it, or set MLFLOW_TRACKING_URI to another"
FROM_CONTAINER = (
    "only mounted files and servers are in reach of this container: give a tracking server "
    "(MLFLOW_TRACKING_URI=http://HOST:5000), on this very machine with the network host (mlflow "
    "run: -A network=host; docker-run: --network=host)"
)


def prepare() -> None:
    """MLflow's settings for this process. To be called before MLflow is imported."""
    for name, text in PREFERRED.items():
        os.environ.setdefault(name, text)
    os.environ.update(SAFE)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # What goes wrong it logs with its traceback, and raises too.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def probe(uri: str) -> None:
    """Raise at once where a database does not answer; MLflow would try for a minute and a half."""
    import sqlalchemy

    if uri.split(":")[0].split("+")[0] in DATABASES:
        engine = sqlalchemy.create_engine(uri)
        engine.connect().close()
        engine.dispose()


def unanswered(uri: str, error: Exception) -> BadInput:
    """The sentence for a store that raised `error` at the first word."""
    text = str(error) or type(error).__name__
    reason = without_password(text.splitlines()[0][:200])
    what, way = "does not answer", ELSEWHERE
    if getattr(error, "error_code", "") in REFUSED:
        what, way = "refuses this login", LOGIN
    elif "out-of-date database schema" in reason:
        what, way = "is of another MLflow", UPGRADE
    elif "ALEXNET_CONTAINER" in os.environ:
        way = FROM_CONTAINER
    return BadInput(f"the tracking store {without_password(uri)} {what} ({reason}): {way}")


def away(error: Exception) -> bool:
    """Did the store not answer, or not now, so that the same may be asked again later?

    Of two runs that log one data set at the same moment, MLflow refuses one, which finds it there
    the second time. A full disk, or one that is not ours to write, is an answer.
    """
    if refusals.told(error):
        return False
    response = getattr(error, "response", None)  # what uploads raise
    if response is not None:
        status = response.status_code
    elif told := getattr(error, "get_http_status_code", None):
        status = told()
    else:
        return isinstance(error, OSError)
    return status >= 500 or status in (408, 429) or "unique" in str(error).lower()


def answer_seconds(uri: str) -> float:
    """How long a signal waits for an answer: a server may hang, a database that is cut off would
    stay locked. 0: to its end.
    """
    return ANSWER_SECONDS if uri.startswith("http") else 0.0


def without_password(text: str) -> str:
    """The text with the passwords of the addresses in it replaced by ***."""
    text = re.sub(r"(://[^\s:/@]*):[^\s/]*@", r"\1:***@", text)
    return re.sub(r"(?i)\b(password|passwd|pwd|token|secret)=[^&\s]*", r"\1=***", text)


@contextmanager
def environment(values: Mapping[str, str], always: bool = False) -> Iterator[None]:
    """These variables while the block runs, where the user has not set them, or always.

    For the main thread alone: two that do this at once would leave each other's values behind.
    """
    before = {name: os.environ.get(name) for name in values}
    ours = {name for name, text in before.items() if always or text in (None, PREFERRED.get(name))}
    os.environ.update({name: text for name, text in values.items() if name in ours})
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)
        os.environ.update({name: text for name, text in before.items() if text is not None})
