# The CUDA image: torch's own wheels bring CUDA, so the host needs only its driver and the NVIDIA
# container toolkit. The locked packages are a layer of their own: a change of code rebuilds the
# last lines alone. Works with Docker's classic builder.
FROM debian:bookworm-slim AS packages
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/venv
WORKDIR /build
COPY requirements.txt .
RUN sed -n '/^uv==/,/[^\\]$/p' requirements.txt > uv.txt \
    && /opt/venv/bin/pip install --no-cache-dir --quiet --require-hashes -r uv.txt \
    && /opt/venv/bin/uv pip install --quiet --no-cache --compile-bytecode --require-hashes \
        --python /opt/venv/bin/python -r requirements.txt

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates python3 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=packages /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PYTHONPATH=/app PYTHONUNBUFFERED=1 HOME=/tmp \
    MLFLOW_DISABLE_TELEMETRY=true GIT_PYTHON_REFRESH=quiet
COPY alexnet_mlflow /app/alexnet_mlflow
RUN printf '#!/bin/sh\nexec python -m alexnet_mlflow "$@"\n' > /opt/venv/bin/alexnet-mlflow \
    && chmod 755 /opt/venv/bin/alexnet-mlflow \
    && python -m compileall -q /app
ARG COMMIT=unknown
ENV ALEXNET_COMMIT=$COMMIT
LABEL org.opencontainers.image.title=alexnet-mlflow \
      org.opencontainers.image.licenses=MIT \
      org.opencontainers.image.revision=$COMMIT
USER 1000:1000
WORKDIR /work
ENTRYPOINT ["alexnet-mlflow"]
CMD ["--help"]
