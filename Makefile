# make study: environment and main job (continued where it was interrupted).  make test: environment and all tests.
# make test-newest: what leans most on JAX, on the newest JAX that this Python can have.
# All need Python 3.11 or later and its venv module, nothing else. PYTHON=… chooses another interpreter,
# ARGS=… passes flags on (make study ARGS="--width 256 --seed 1"), JOBS=… the number of test processes.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
JOBS ?= 2
ARGS ?=
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
NEWEST := .venv/newest
NEWEST_TESTS := $(wildcard tests/test_neural_tangents*.py tests/test_infinite.py tests/test_infinite_properties.py)

.PHONY: study test test-newest check clean

study: .venv/study.stamp
	$(BIN)/npk study --resume $(ARGS)

test: check
	$(BIN)/python -m pytest -n $(JOBS) $(ARGS)

# Everything but JAX as pinned. What cannot be installed is said and passes; a test that fails does not.
test-newest: .venv/pip.stamp
	@rm -rf $(NEWEST) && $(PYTHON) -m venv --without-pip $(NEWEST)
	@grep -vE '^(jax|jaxlib)==' constraints.txt > $(NEWEST)/constraints.txt
	@install="$(PIP) --python $(NEWEST)/bin/python install --quiet --retries 1 -c $(NEWEST)/constraints.txt"; \
	if ! $$install -e . beartype frozendict hypothesis pytest pytest-timeout pytest-xdist \
	|| ! $$install --no-deps neural-tangents; then \
		echo "The newest JAX cannot be installed (see above): not tested."; exit 0; \
	fi; \
	version=$$($(NEWEST)/bin/python -c 'import jax; print(jax.__version__)') || exit 1; \
	if grep -qx "jax==$$version" constraints.txt; then \
		echo "The newest JAX for this Python is the pinned $$version, which make test tests."; exit 0; \
	fi; \
	echo "The newest JAX for this Python: $$version"; \
	$(NEWEST)/bin/python -m pytest -n $(JOBS) -m "not slow" $(ARGS) $(NEWEST_TESTS)

check: .venv/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

.venv/study.stamp: .venv/pip.stamp
	$(PIP) install --quiet -c constraints.txt -e .
	@touch $@

# neural-tangents without its requirements: they bring TensorFlow, which nothing of it here imports.
.venv/test.stamp: .venv/pip.stamp
	$(PIP) install --quiet -c constraints.txt -e '.[dev]'
	$(PIP) install --quiet -c constraints.txt --no-deps neural-tangents
	@touch $@

# Debian packs venv's pip apart from Python; where that is missing, a pip found outside serves as well.
.venv/pip.stamp: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "npk needs Python 3.11 or later: apt-get install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "npk needs Python 3.11 or later, but $(PYTHON) is older: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@rm -rf .venv
	@if $(PYTHON) -c 'import ensurepip' 2>/dev/null; then $(PYTHON) -m venv .venv; \
	elif $(PYTHON) -m pip --version >/dev/null 2>&1; then \
		$(PYTHON) -m venv --without-pip .venv && $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; \
	else echo "This Python cannot make environments with pip. On Debian: apt-get install python3-venv" >&2; exit 1; fi
	@touch $@

clean:
	rm -rf .venv build dist .pytest_cache .ruff_cache .hypothesis
