# Each target does its own set-up on a machine with python3 >= 3.11 and nothing else.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin

.PHONY: demo test test-all check audit fuzz clean

demo: $(VENV)/.run-ready
	$(BIN)/python pipeline.py demo

test: $(VENV)/.dev-ready
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow"

test-all: test
	$(BIN)/python -m pytest -n auto --dist worksteal -m slow

check: $(VENV)/.dev-ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive cache extract fuse *.py

# Apart from check, for it asks a service on the network: where that is out of reach it says so, and exits with 75.
audit: $(VENV)/.dev-ready
	$(BIN)/python .ci/audit.py

# Some ten minutes on 2 cores; writes benchmarks/results/fuzz.{json,md}.
fuzz: $(VENV)/.dev-ready
	$(BIN)/python benchmarks/fuzz.py

clean:
	rm -rf $(VENV) demo build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "encode-once needs Python 3.11 or newer, found " + sys.version.split()[0] + "; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run-ready: requirements.txt | $(VENV)/bin/python
	@echo "installing requirements.txt into $(VENV): some 6 GB with torch, a few minutes"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/.dev-ready: requirements-dev.txt requirements.txt | $(VENV)/bin/python
	@echo "installing requirements-dev.txt into $(VENV): some 6 GB with torch, a few minutes"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@ $(VENV)/.run-ready
