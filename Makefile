# `make help` lists what there is. Needs Python >= 3.11, git and make; everything else is set up here.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
UV := $(BIN)/uv pip install --quiet --python $(BIN)/python
STAGE ?= babysit
DATASET ?= faces
DEVICE ?= cpu
DEMO := --dataset=faces --optimizer=both --trials=10 --fine-trials=3 --repeats=1 --epochs=10

export MLFLOW_DISABLE_TELEMETRY ?= true

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-reliability lint audit bench bench-check ui server lock docker-gpu docker docker-run docker-engine clean

help:  ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /|/' | awk -F'|' '{printf "  make %-17s %s\n", $$1, $$2}'

setup: $(READY)  ## Make .venv and install the locked packages, every hash checked

$(READY): requirements.txt requirements-dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "Python 3.11, 3.12 or 3.13 is needed: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	sed -n '/^uv==/,/[^\\]$$/p' requirements.txt > $(VENV)/uv.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r $(VENV)/uv.txt
	$(UV) --compile-bytecode --require-hashes -r requirements.txt -r requirements-dev.txt
	$(UV) --no-deps --no-build-isolation --editable .
	touch $@

demo: $(READY)  ## The whole protocol on the bundled faces, SGD against Adam, on a CPU (DEVICE=auto: or a GPU)
	$(BIN)/alexnet-mlflow babysit $(DEMO) --device=$(DEVICE)
	@echo
	@echo "Runs, plots, models and the registry: make ui"

ui: $(READY)  ## Open the runs in the MLflow UI, http://127.0.0.1:5000
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false $(BIN)/mlflow ui --host 127.0.0.1 --port 5000

server: $(READY)  ## Serve MLflow for a team, with PostgreSQL and a login, until Ctrl-C
	$(BIN)/alexnet-mlflow server

# What goes together, and in which order, says tests/conftest.py; torch has one thread. A worker more
# than cores, for tests also wait: for processes, disks, servers.
WORKERS = $$($(BIN)/python -c 'import os; print(len(os.sched_getaffinity(0)) + 1)')
PYTEST = OMP_NUM_THREADS=1 $(BIN)/pytest -q -n $(WORKERS) --dist loadgroup --no-loadscope-reorder

test: $(READY)  ## Run the tests
	$(PYTEST) --ignore=tests/reliability

test-reliability: $(READY)  ## Run the long tests of faults: kills, full disks, 500 trials
	$(PYTEST) tests/reliability

audit: $(READY)  ## Ask api.osv.dev whether the locked packages have known vulnerabilities
	for lock in requirements.txt requirements-dev.txt docker/requirements-server.txt; do \
		$(BIN)/pip-audit --vulnerability-service=osv --require-hashes --disable-pip --no-deps \
			--timeout=10 --progress-spinner=off -r $$lock || exit 1; done

lint: $(READY)  ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile docker/server.Dockerfile

# BENCH=bench_step for one of them; DEVICE=cuda for those that know a GPU. Leave the machine alone.
bench: $(READY)  ## Run the benchmarks and keep their records in benchmarks/records
	$(BIN)/python benchmarks/run.py --device=$(DEVICE) $(BENCH)

bench-check: $(READY)  ## Hold the quick benchmarks' ratios against the newest records
	$(BIN)/python benchmarks/run.py --check --device=$(DEVICE) $(BENCH)

lock: $(READY)  ## Write the locks anew from the ranges in pyproject.toml
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
		--custom-compile-command "make lock" pyproject.toml -o requirements.txt
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
		--custom-compile-command "make lock" --group dev -c requirements.txt -o requirements-dev.txt
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
		--custom-compile-command "make lock" --group server -c requirements.txt \
		-c requirements-dev.txt -o docker/requirements-server.txt

# As runs outside of containers say it.
COMMIT = $$(git describe --always --exclude='*' --abbrev=40 --dirty=+changes)

# DOCKER_BUILD: more options of docker build, e.g. --network=host.
docker-gpu: docker-engine  ## Build the CUDA image alexnet-mlflow:gpu
	docker build --tag alexnet-mlflow:gpu --build-arg COMMIT=$(COMMIT) $(DOCKER_BUILD) .

docker: docker-engine  ## Build the image alexnet-mlflow:cpu, with the CPU wheels of PyTorch's own index
	docker build --tag alexnet-mlflow:cpu --build-arg TORCH=cpu \
		--build-arg COMMIT=$(COMMIT) $(DOCKER_BUILD) .

docker-run: $(READY)  ## Run a stage in the image: make docker-run STAGE=search DATASET=cifar10 [GPU=1]
	$(BIN)/alexnet-mlflow docker-run $(if $(GPU),--gpu) $(DOCKER_RUN) $(STAGE) --dataset=$(DATASET) $(ARGS)

docker-engine:  ## Say whether a Docker engine answers, and what to do if not
	@command -v docker > /dev/null || \
		{ echo "There is no docker command: install Docker (docs.docker.com/engine)" >&2; exit 2; }
	@docker info > /dev/null 2>&1 || { docker info 2>&1 | tail -1 >&2; \
		echo "The Docker engine does not answer: start it, or join the group docker" >&2; exit 2; }

clean:  ## Remove the environment; runs, models and caches stay
	rm -rf $(VENV)
