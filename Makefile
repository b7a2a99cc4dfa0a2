# The two commands: `make serve` and `make test`. Each sets up what it needs in .venv first.
# Settings: PORT=, WORKERS=, and every DEEPSERVE_* of service/settings.py.
PYTHON ?= python3
BIN := .venv/bin
RUN := $(if $(PORT),DEEPSERVE_PORT=$(PORT)) $(if $(WORKERS),DEEPSERVE_WORKERS=$(WORKERS))

.PHONY: serve test lint train evaluate bench clean

serve: .venv/serve
	$(RUN) exec $(BIN)/python -m service

test: .venv/dev
	$(BIN)/pytest -n 2 --dist loadgroup

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

clean:
	rm -rf .venv .venv-clients .venv-clients.lock load_tests/.environments

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/serve: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/pip install --quiet -c constraints.txt -e '.[cpu]'
	touch $@

.venv/dev: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/pip install --quiet -c constraints.txt -e '.[cpu,train,dev]'
	touch $@
