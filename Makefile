# Every target sets up what it needs: a virtual environment in the checkout, pinned packages.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
WHEEL := build/wheel/site-packages

.PHONY: demo test lint types wheel zoo bench bench-accuracy clean

demo: $(READY)
	$(BIN)/tvmopt demo

test: $(READY)
	$(BIN)/python -m pytest -q -n auto

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy cannot follow the mapping of the three rooms onto one package; it can follow a flat install.
types: $(READY)
	rm -rf build/lib build/bdist.* build/typecheck
	$(BIN)/pip install --quiet --no-deps --target build/typecheck .
	cd build/typecheck && ../../$(BIN)/mypy --config-file ../../pyproject.toml -p tvmopt

# The tests again, on what a user installs. A deleted module would be shipped out of an old build/lib.
wheel: $(READY)
	rm -rf build/lib build/bdist.* build/wheel dist
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .
	$(BIN)/pip install --quiet --no-deps --target $(WHEEL) dist/*.whl
	PYTHONPATH=$(WHEEL) $(BIN)/python -P -m pytest -q -m "not slow" tests/test_layout.py tests/cli tests/runtime

zoo: $(READY)
	$(BIN)/python -m benchmarks.zoo.run

bench: $(READY)
	$(BIN)/python -m benchmarks.speed

# Hours: `python -m benchmarks.accuracy --help` says how to run a part.
bench-accuracy: $(READY)
	$(BIN)/python -m benchmarks.accuracy

$(READY): pyproject.toml setup.py constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
