# make demo: set everything up and run the whole loop. make test: set up and run the suite.
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
.PHONY: demo test check wheel-test docs

demo: $(VENV)/.installed
	$(BIN)/mipo run

test: $(VENV)/.dev
	$(BIN)/python -m pytest

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(VENV)/.dev
	$(BIN)/python -m mipo_cli.reference > docs/cli.md

wheel-test: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow tests/test_wheel.py

$(VENV)/.created:
	@if command -v uv >/dev/null 2>&1; then uv venv --seed --python '>=3.11' $(VENV); \
	elif $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
	  $(PYTHON) -m venv $(VENV) || { echo "Could not make $(VENV). On Debian or Ubuntu: apt install python3-venv"; exit 1; }; \
	else echo "Python 3.11 or newer is needed (found: $$($(PYTHON) --version 2>&1)). Install it, or uv."; exit 1; fi
	@if [ "$$(uname)" = Linux ] && ! $(BIN)/python -c 'import ctypes; ctypes.CDLL("libopenblas.so.0")' 2>/dev/null; then \
	  echo "OpenBLAS was not found: everything works, about ten times slower (Debian: apt install libopenblas0-pthread)."; fi
	@touch $@

$(VENV)/.installed: $(VENV)/.created pyproject.toml
	@if command -v uv >/dev/null 2>&1; then uv pip install --python $(BIN)/python -e .; \
	else $(BIN)/python -m pip install --quiet --disable-pip-version-check -e .; fi
	@touch $@

$(VENV)/.dev: $(VENV)/.created pyproject.toml
	@if command -v uv >/dev/null 2>&1; then uv pip install --python $(BIN)/python -e '.[dev]'; \
	else $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'; fi
	@touch $@ $(VENV)/.installed
