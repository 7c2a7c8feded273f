# make demo and make test set everything up by themselves; make setup alone makes .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready

.PHONY: help setup demo test lint format clean

help:
	@echo "make demo    run the main job on the embedded demo"
	@echo "make test    linter, type checker and tests"
	@echo "make setup   make .venv from constraints.txt (the two above do it by themselves)"
	@echo "make format  let the linter mend and format what it can"
	@echo "make clean   remove .venv and what tools left behind"

setup: $(STAMP)

$(STAMP): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "error: $(PYTHON) is older than 3.10; try: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { echo "error: $(PYTHON) has no venv; on Debian: apt-get install python3-venv" >&2; rm -rf $(VENV); exit 2; }
	@echo "setting up $(VENV): PyTorch and what it needs, a minute or two"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt setuptools
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $@

demo: $(STAMP)
	$(BIN)/offline_compute --model demo --bs 4 --images 2000 --max-drop 5 \
	  --out runs/demo-$$(date +%Y%m%d-%H%M%S)

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
