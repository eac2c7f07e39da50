# make study: environment and main job (continued where it was interrupted).  make test: environment and all tests.
# make test-newest: what leans most on JAX, on the newest Python and JAX that can be had here.
# make docs: the pages, from docstrings, notebooks and measurements.
# make gpu: benchmarks.gpu, on an accelerator or small on a CPU; installs nothing (GPU_PYTHON=… chooses an interpreter).
# All others need Python 3.11 or later and its venv module, nothing else. PYTHON=… chooses another interpreter,
# ARGS=… passes flags on (make study ARGS="--width 256 --seed 1"), JOBS=… the number of test processes.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
JOBS ?= 2
ARGS ?=
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,python3)
NEWEST := .venv/newest
# The newest interpreter that runs: of the path, or of those that pyenv keeps.
NEWEST_PYTHON ?= $(shell for v in 3.13 3.12; do \
	for p in $$(command -v python$$v) $$(ls -d $(HOME)/.pyenv/versions/$$v.*/bin/python 2>/dev/null | sort -rV); do \
	$$p -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$$v')" 2>/dev/null && echo $$p && exit; done; done)
NEWEST_TESTS := tests/fuzzing tests/programs tests/gating tests/paths/test_every_gate.py tests/paths/test_gate_spellings.py \
	tests/paths/test_paths.py tests/tangent_kernels/test_tangent.py tests/tangent_kernels/test_own_derivatives.py \
	tests/infinite/test_infinite_limits.py tests/tiles/test_tiles.py tests/training/test_training.py
# Of these a newer JAX may ask for newer versions than the pinned ones.
UNPINNED := jax|jaxlib|numpy|scipy|ml_dtypes|flax|optax|orbax-checkpoint|tensorstore|numba|llvmlite

.PHONY: study test test-newest docs gpu check clean

study: .venv/study.stamp
	$(BIN)/npk study --resume $(ARGS)

test: check
	$(BIN)/python -m pytest -n $(JOBS) $(ARGS)

# Executes the notebooks; a warning, or a public name that no page describes, is an error.
docs: .venv/docs.stamp
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

gpu:
	PYTHONPATH=. $(GPU_PYTHON) -m benchmarks.gpu $(ARGS)

# Everything but JAX and what it asks for as pinned. What cannot be installed is said and passes; a failing test does not.
test-newest: .venv/pip.stamp
	@if test -z "$(NEWEST_PYTHON)"; then \
		echo "There is no Python 3.12 or 3.13: JAX above that of make test, and these Pythons, are not tested."; exit 0; \
	fi; \
	rm -rf $(NEWEST) && $(NEWEST_PYTHON) -m venv --without-pip $(NEWEST) || exit 1; \
	grep -vE '^($(UNPINNED))==' constraints.txt > $(NEWEST)/constraints.txt; \
	install="$(PIP) --python $(NEWEST)/bin/python install --quiet --retries 1 -c $(NEWEST)/constraints.txt"; \
	if ! $$install -e '.[cpu]' beartype equinox frozendict hypothesis pytest pytest-timeout pytest-xdist \
	|| ! $$install --no-deps neural-tangents; then \
		echo "The newest JAX cannot be installed on $(NEWEST_PYTHON) (see above): it is not tested."; exit 0; \
	fi; \
	$(NEWEST)/bin/python -c 'import jax, platform; print("Newest: Python", platform.python_version(), "JAX", jax.__version__)' \
	&& NPK_EXAMPLES=24 $(NEWEST)/bin/python -m pytest -n $(JOBS) -m "not slow" $(NEWEST_TESTS) \
	&& PYTHONPATH=. $(NEWEST)/bin/python -m benchmarks.gpu --small --out $(NEWEST)/gpu-quick.json

check: .venv/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

.venv/study.stamp: .venv/pip.stamp
	$(PIP) install --quiet -c constraints.txt -e .
	@touch $@

.venv/docs.stamp: .venv/pip.stamp
	$(PIP) install --quiet -c constraints.txt -e '.[docs]'
	$(PIP) install --quiet -c constraints.txt --no-deps neural-tangents
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
	rm -rf .venv build dist docs/_build docs/api docs/notebooks .pytest_cache .ruff_cache .hypothesis
