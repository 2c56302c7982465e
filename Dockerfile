# The image of the package: with torch's own CUDA wheels, so that the host needs only its driver and
# the NVIDIA container toolkit, or with TORCH=cpu. The locked packages are a layer of their own: a
# change of code rebuilds the last lines alone. Docker's classic builder is enough.
FROM debian:bookworm-slim AS packages
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/uv && python3 -m venv --without-pip /opt/venv
WORKDIR /build
COPY requirements.txt docker/packages.sh ./
ARG TORCH=cuda
RUN sh packages.sh "$TORCH"

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates python3 \
    && rm -rf /var/lib/apt/lists/* \
    && install -d -m 1777 /work
COPY --from=packages /opt/venv /opt/venv
# Safe path: the image's code runs, whatever lies in the folder it is started in.
ENV PATH=/opt/venv/bin:$PATH PYTHONPATH=/app PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 HOME=/tmp ALEXNET_CONTAINER=true MLFLOW_DISABLE_TELEMETRY=true GIT_PYTHON_REFRESH=quiet
RUN printf '#!/bin/sh\nexec python -m alexnet_mlflow "$@"\n' > /opt/venv/bin/alexnet-mlflow \
    && chmod 755 /opt/venv/bin/alexnet-mlflow
COPY alexnet_mlflow /app/alexnet_mlflow
RUN python -m compileall -q /app
ARG COMMIT=unknown
ENV ALEXNET_COMMIT=$COMMIT
LABEL org.opencontainers.image.title=alexnet-mlflow \
      org.opencontainers.image.description="The babysitting protocol for an image classifier" \
      org.opencontainers.image.version=0.1.0 \
      org.opencontainers.image.revision=$COMMIT \
      org.opencontainers.image.licenses=MIT
USER 1000:1000
WORKDIR /work
ENTRYPOINT ["alexnet-mlflow"]
CMD ["--help"]
