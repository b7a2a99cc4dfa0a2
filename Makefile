# The two commands: `make serve` and `make test`. Each sets up what it needs in .venv first.
# Settings: PORT=, WORKERS=, and every DEEPSERVE_* of service/settings.py.
PYTHON ?= python3
# EXTRA=gpu for NVIDIA GPUs: they take another package of ONNX Runtime, which has an environment of its own.
EXTRA ?= cpu
VENV := .venv$(filter-out -cpu,-$(EXTRA))
BIN := $(VENV)/bin
RUN := $(if $(PORT),DEEPSERVE_PORT=$(PORT)) $(if $(WORKERS),DEEPSERVE_WORKERS=$(WORKERS))

.PHONY: serve test test-deploy test-gpu lint train evaluate cards bench bench-gpu load knee capacity image sbom bento clean

serve: $(VENV)/serve
	$(RUN) exec $(BIN)/python -m service

test: $(VENV)/dev
	$(BIN)/pytest -n 2 --dist loadfile -rs

test-deploy: $(VENV)/dev
	$(BIN)/pytest tests/deploy -m "" -rs -n 2 --dist loadfile

# Fails where there is no NVIDIA GPU.
test-gpu:
	@$(MAKE) --no-print-directory EXTRA=gpu .venv-gpu/dev
	.venv-gpu/bin/pytest tests/gpu --gpu

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

train: $(VENV)/dev
	$(BIN)/python -m training train $(NAME) $(OPTIONS)

evaluate: $(VENV)/dev
	$(BIN)/python -m training evaluate $(OPTIONS)

cards: $(VENV)/dev
	$(BIN)/python -m training cards $(OPTIONS)

bench: $(VENV)/dev
	$(BIN)/python -m load_tests.bench $(OPTIONS)

bench-gpu:
	@$(MAKE) --no-print-directory EXTRA=gpu .venv-gpu/dev
	.venv-gpu/bin/python -m load_tests.gpu $(OPTIONS)

# PORT= of the server, CLIENTS= processes that ask.
load: load_tests/results/questions.jsonl
	$(BIN)/locust --config load_tests/users/locust.conf $(if $(PORT),--host http://127.0.0.1:$(PORT)) $(if $(CLIENTS),--processes $(CLIENTS)) $(OPTIONS)

knee: load_tests/results/questions.jsonl
	$(BIN)/python -m load_tests.knee $(OPTIONS)

capacity: $(VENV)/dev
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

bento: $(VENV)/serve
	UV_CONSTRAINT=constraints.txt BENTOML_DO_NOT_TRACK=True $(BIN)/bentoml build

clean:
	rm -rf .venv .venv-* build load_tests/.environments

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/serve: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install --quiet -c constraints.txt -e '.[$(EXTRA)]'
	touch $@

$(VENV)/dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install --quiet -c constraints.txt -e '.[$(EXTRA),train,dev,load]'
	touch $@

load_tests/results/questions.jsonl: load_tests/prepare.py load_tests/questions.py $(wildcard models/*/*/card.json) | $(VENV)/dev
	$(BIN)/python -m load_tests.prepare
