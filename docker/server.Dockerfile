# The team's server: MLflow with what its login, PostgreSQL and S3 need, and `alexnet-mlflow server`;
# no torch. Built from the project's folder. Works with Docker's classic builder.
FROM debian:bookworm-slim AS packages
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/venv
WORKDIR /build
COPY docker/requirements-server.txt .
RUN /opt/venv/bin/pip install --no-cache-dir --quiet --require-hashes -r requirements-server.txt \
    && /opt/venv/bin/pip uninstall --quiet --yes pip

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates python3 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=packages /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PYTHONPATH=/app PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 HOME=/tmp \
    MLFLOW_DISABLE_TELEMETRY=true GIT_PYTHON_REFRESH=quiet
COPY alexnet_mlflow /app/alexnet_mlflow
RUN python -m compileall -q /app
ARG COMMIT=unknown
LABEL org.opencontainers.image.title=alexnet-mlflow-server \
      org.opencontainers.image.version=0.1.0 \
      org.opencontainers.image.revision=$COMMIT \
      org.opencontainers.image.licenses=MIT
USER 1000:1000
WORKDIR /tmp
EXPOSE 5000
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:5000/health', timeout=4)"]
ENTRYPOINT ["python", "-m", "alexnet_mlflow", "server"]
CMD ["--help"]
