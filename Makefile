# make demo   sets everything up, then raw text becomes a chatting model in minutes
# make test   sets everything up, then runs the tests
# make check  ruff and mypy        make bench  the figures of benchmarks/        make clean  forgets .venv

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& { echo $$p; break; }; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test check format bench clean
.DELETE_ON_ERROR:

demo: .venv/.ready
	$(BIN)/congling run recipes/demo.toml

test: .venv/.ready-dev
	$(BIN)/python -m pytest

check: .venv/.ready-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/.ready-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv/.ready-dev
	@for script in benchmarks/[a-z]*.py; do \
	case $$script in */common.py) ;; *) echo "== $$script"; $(BIN)/python $$script || exit 1 ;; esac; done

.venv/.ready: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "congling needs Python 3.11 or newer: install it, or say make PYTHON=/path/to/python"; exit 1; }
	@echo "setting up .venv (about 700 MB, most of it torch; some minutes) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(PIP) -e .
	@touch $@

.venv/.ready-dev: .venv/.ready
	@$(PIP) -e '.[dev]'
	@touch $@

clean:
	rm -rf .venv
