# The two commands: `make serve` and `make test`. Each sets up what it needs in .venv first.
# Settings: PORT=, WORKERS=, and every DEEPSERVE_* of service/settings.py.
PYTHON ?= python3
BIN := .venv/bin
RUN := $(if $(PORT),DEEPSERVE_PORT=$(PORT)) $(if $(WORKERS),DEEPSERVE_WORKERS=$(WORKERS))

.PHONY: serve test test-deploy lint train evaluate bench load knee capacity image sbom bento clean

serve: .venv/serve
	$(RUN) exec $(BIN)/python -m service

test: .venv/dev
	$(BIN)/pytest -n 2 --dist loadfile

test-deploy: .venv/dev
	$(BIN)/pytest tests/deploy -m "" -rs -n 2 --dist loadgroup

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

train: .venv/dev
	$(BIN)/python -m training $(NAME) $(OPTIONS)

evaluate: .venv/dev
	$(BIN)/python -m training.report

bench: .venv/dev
	$(BIN)/python -m load_tests.bench $(OPTIONS)

# PORT= of the server, CLIENTS= processes that ask.
load: load_tests/results/questions.jsonl
	$(BIN)/locust --config load_tests/users/locust.conf $(if $(PORT),--host http://127.0.0.1:$(PORT)) $(if $(CLIENTS),--processes $(CLIENTS)) $(OPTIONS)

knee: load_tests/results/questions.jsonl
	$(BIN)/python -m load_tests.knee $(OPTIONS)

capacity: .venv/dev
	$(BIN)/python -m load_tests.capacity $(OPTIONS)

# TARGET=cuda for GPUs; IMAGE= names it, BUILDER= is docker, podman or buildah, BUILD_OPTIONS= go to it.
TARGET ?= cpu
SBOM ?= build
IMAGE ?= deepserve:$(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)$(filter-out -cpu,-$(TARGET))
BUILDER ?= $(or $(shell command -v docker podman buildah | head -1),docker)
BUILD = BUILDAH_FORMAT=docker $(BUILDER) build -f deploy/Dockerfile --build-arg EXTRA=$(if $(filter cuda,$(TARGET)),gpu,cpu)

image:
	$(BUILD) --target $(TARGET) -t $(IMAGE) $(BUILD_OPTIONS) .

sbom:
	$(BUILD) --target sbom --output $(SBOM) $(BUILD_OPTIONS) .

bento: .venv/serve
	UV_CONSTRAINT=constraints.txt BENTOML_DO_NOT_TRACK=True $(BIN)/bentoml build

clean:
	rm -rf .venv .venv-* build load_tests/.environments

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/serve: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/pip install --quiet -c constraints.txt -e '.[cpu]'
	touch $@

.venv/dev: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/pip install --quiet -c constraints.txt -e '.[cpu,train,dev,load]'
	touch $@

load_tests/results/questions.jsonl: load_tests/prepare.py load_tests/questions.py $(wildcard models/*/*/card.json) | .venv/dev
	$(BIN)/python -m load_tests.prepare
