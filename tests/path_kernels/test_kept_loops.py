"""Compiled loops on disk: another process finds them, and nothing is found that is stale or damaged."""

import importlib
import subprocess
import sys

import numpy as np
import pytest

from npk.path_kernels.engines.pairs.writing import integers, record

numba = pytest.importorskip("numba")

LOOPS = """
import numpy as np
from npk.path_kernels.engines.dense import bits
from npk.path_kernels.engines.pairs import loops, ring_loops

def made():
    dtype = np.dtype(np.float32)
    return loops.pairs(dtype), ring_loops.pairs(dtype), bits.packer(dtype), bits.multiplier(1, dtype)
"""
SECOND = """
for loop in made():
    assert sum(loop.stats.cache_hits.values()) == 1 and not loop.stats.cache_misses, loop
"""
HOOK = "import jaxtyping; jaxtyping.install_import_hook('npk.path_kernels.engines', 'beartype.beartype')\n"


@pytest.mark.parametrize("before", ["", HOOK], ids=["plain", "types checked"])
def test_a_second_process_compiles_nothing(before):
    names = {}
    exec(LOOPS, names)
    if any(loop.stats.cache_path is None for loop in names["made"]()):
        pytest.skip("there is no folder to write to")
    subprocess.run([sys.executable, "-c", before + LOOPS + SECOND], check=True)


OUTER = """
import numba
import kept_inner
from npk.path_kernels.engines.dense import kept, source_of
SOURCE = source_of(__spec__)
FACTOR = 2

def outer(x: float) -> float:
    return kept_inner.plus(FACTOR * x)

def made():
    return kept(outer, numba.float64(numba.float64), kept_inner)
"""
INNER = """
from npk.path_kernels.engines.dense import compiled, source_of

SOURCE = source_of(__spec__)

@compiled
def plus(x: float) -> float:
    return x + 1
"""


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Imports two small modules anew and makes their function."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "kept_inner.py").write_text(INNER)
    (tmp_path / "kept_outer.py").write_text(OUTER)

    def again(between=lambda: None, **numbers):
        for name in ("kept_inner", "kept_outer"):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        module = importlib.import_module("kept_outer")
        vars(module).update(numbers)
        between()
        return module.made()

    yield again
    for name in ("kept_inner", "kept_outer"):
        sys.modules.pop(name, None)


def was_found(function):
    return sum(function.stats.cache_hits.values()) == 1


def test_what_a_function_depends_on_is_noticed(made, tmp_path):
    assert not was_found(made()) and was_found(made()) and made()(3.0) == 7
    assert not was_found(made(FACTOR=3)) and made(FACTOR=3)(3.0) == 10
    (tmp_path / "kept_inner.py").write_text(INNER.replace("x + 1", "x + 20"))
    changed = made()
    assert not was_found(changed) and changed(3.0) == 26
    (tmp_path / "kept_inner.py").write_text(INNER)
    assert was_found(made()) and made()(3.0) == 7


def test_a_source_that_changes_under_a_running_process_is_not_taken_for_its_own(made, tmp_path):
    """As an upgrade does: what the process has imported is compiled, and must not be found for the new source."""
    inner = tmp_path / "kept_inner.py"
    assert made(lambda: inner.write_text(INNER.replace("x + 1", "x + 20")))(3.0) == 7
    changed = made()
    assert not was_found(changed) and changed(3.0) == 26


@pytest.mark.parametrize("left", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("ending", ["nbi", "nbc"])
def test_a_damaged_file_is_nothing(ending, left, made, tmp_path):
    made()
    (file,) = (tmp_path / "__pycache__").glob(f"*.{ending}")
    file.write_bytes(file.read_bytes()[: int(left * file.stat().st_size)])
    function = made()
    assert not was_found(function) and function(3.0) == 7


def test_without_a_folder_to_write_to(made, tmp_path, monkeypatch):
    for name in ("__pycache__", "home"):
        (tmp_path / name).write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    function = made()
    assert function.stats.cache_path is None and function(3.0) == 7


def test_an_error_of_the_function_itself_is_shown(made, tmp_path):
    (tmp_path / "kept_inner.py").write_text(INNER.replace("x + 1", "x + missing"))
    with pytest.raises(numba.core.errors.TypingError, match="missing"):
        made()


def test_a_record_takes_only_fields_that_it_has():
    assert record(integers("a b"), {"b": 3}).tolist() == (0, 3)
    with pytest.raises(ValueError, match="no field of name c"):
        record(integers("a b"), {"c": np.int64(3)})
