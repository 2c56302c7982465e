"""How a tracking store is reached, and what is told where it does not answer.

MLflow's own environment variables, set for the package's purposes: no pickle, no telemetry, little
patience at the start. No address is shown with its password. Knows nothing of runs.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

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
# Unless the user says otherwise: nothing is reported to MLflow's makers; files go through the
# server, which else sends clients to an S3 behind it that they may not reach.
PREFERRED = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": "false",
    "MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD": "false",
}
DATABASES = ("postgresql", "mysql", "sqlite", "mssql")
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
    reason = without_password(str(error).splitlines()[0][:200])
    what, way = "does not answer", ELSEWHERE
    if getattr(error, "error_code", "") in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
        what, way = "refuses this login", LOGIN
    elif "out-of-date database schema" in reason:
        what, way = "is of another MLflow", UPGRADE
    elif "ALEXNET_CONTAINER" in os.environ:
        way = FROM_CONTAINER
    return BadInput(f"the tracking store {without_password(uri)} {what} ({reason}): {way}")


def without_password(text: str) -> str:
    """The text with the passwords of the addresses in it replaced by ***."""
    text = re.sub(r"(://[^\s:/@]*):[^\s/]*@", r"\1:***@", text)
    return re.sub(r"(?i)\b(password|passwd|pwd|token|secret)=[^&\s]*", r"\1=***", text)


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """These variables while the block runs, where the user has not set them."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update({name: text for name, text in values.items() if before[name] is None})
    try:
        yield
    finally:
        for name, text in before.items():
            if text is None:
                os.environ.pop(name, None)
