# make study: environment and main job (continued where it was interrupted).  make test: environment and all tests.
# Both need Python 3.11 or later and its venv module, nothing else. PYTHON=… chooses another interpreter,
# ARGS=… passes flags on (make study ARGS="--width 256 --seed 1"), JOBS=… the number of test processes.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
JOBS ?= 2
ARGS ?=
BIN := .venv/bin

.PHONY: study test check clean

study: .venv/study.stamp
	$(BIN)/npk study --resume $(ARGS)

test: check
	$(BIN)/python -m pytest -n $(JOBS) $(ARGS)

check: .venv/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

.venv/study.stamp: .venv/pip.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

.venv/test.stamp: .venv/pip.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
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
