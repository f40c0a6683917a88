# make demo: set everything up and run the whole loop. make test: set up and run the suite.
# PYTHON=... chooses the interpreter, if python3 should not do.
BIN := .venv/bin
.PHONY: demo test check wheel-test docs setup setup-dev

demo: setup
	$(BIN)/mipo run

test: setup-dev
	$(BIN)/python -m pytest

check: setup-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: setup-dev
	$(BIN)/python -m mipo_cli.reference > docs/cli.md
	$(BIN)/python -m mipo_cli.api_reference > docs/api.md

wheel-test: setup-dev
	$(BIN)/python -m pytest -m slow tests/test_wheel.py

setup:
	@sh .ci/setup

setup-dev:
	@sh .ci/setup dev
