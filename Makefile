# Two commands: `make demo` and `make test`. The first one builds the virtual environment.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help demo demo-lm demo-led test test-slow lint types format bench clean

help:
	@echo "make demo       the whole story on your own machine, five minutes on two cores (writes demo-run/report.html)"
	@echo "make demo-lm    a character model learns Python in minutes (writes demo-lm-run/report.html)"
	@echo "make demo-led   an encoder-decoder learns to write docstrings (writes demo-led-run/report.html)"
	@echo "make test       lint, types and the test suite"
	@echo "make test-slow  the tests marked slow as well"
	@echo "make bench      the benchmarks, printed and written to benchmarks/results/"

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "longspan needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "torch==2.13.0"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[all,benchmark,dev]"
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/longspan demo --output demo-run

demo-lm: $(STAMP)
	$(BIN)/longspan demo-lm --output demo-lm-run

demo-led: $(STAMP)
	$(BIN)/longspan demo-led --output demo-led-run

# Two workers of one thread each beat one of two: much of a test is Python. A file stays on one worker, with its fixtures.
WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile

test: lint types
	$(PYTEST)

test-slow: lint types
	$(PYTEST) --slow

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(STAMP)
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)
	$(BIN)/python -m benchmarks all --run-limit 60

clean:
	rm -rf $(VENV) demo-run demo-lm-run demo-led-run .pytest_cache .mypy_cache .ruff_cache .hypothesis
