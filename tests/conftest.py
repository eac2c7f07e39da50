"""A strict session: no silent broadcasting of ranks, no silent promotion of dtypes; warnings are errors."""

import os
import pathlib

import jax
import jaxtyping
import pytest
from hypothesis import settings
from jax.extend import source_info_util

# Shapes and types are checked at every call in the modules that state shapes; in the others pyright does it.
_ROOT = pathlib.Path(__file__).parents[1]
_FILES = [file.relative_to(_ROOT) for file in sorted((_ROOT / "npk").rglob("*.py"))]
_STATING = [
    ".".join(file.with_suffix("").parts)
    for file in _FILES
    if "from jaxtyping" in (_ROOT / file).read_text(encoding="utf-8")
]
jaxtyping.install_import_hook(_STATING, "checked_once.beartype")
source_info_util.register_exclusion(os.path.dirname(jaxtyping.__file__))  # no user's line is in the checks around one

# The tests compile thousands of programs; what is the same is shared by their processes, and by later runs.
_COMPILED = _ROOT / ".pytest_cache" / "compiled"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_COMPILED))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update(
    "jax_persistent_cache_min_compile_time_secs", float(os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"])
)

# Compiling takes what it takes; examples are drawn the same way on every machine.
settings.register_profile("npk", deadline=None, derandomize=True, max_examples=30, print_blob=True)
settings.load_profile("npk")


@pytest.fixture(autouse=True)
def strict(request):
    dtypes = "standard" if request.node.get_closest_marker("standard_dtypes") else "strict"
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion(dtypes):
        yield


@pytest.fixture
def x64():
    """float64 in JAX, for the length of a test."""
    if hasattr(jax, "enable_x64"):
        with jax.enable_x64(True):
            yield
    else:
        with jax.experimental.enable_x64():
            yield


def pytest_terminal_summary(terminalreporter):
    """What random networks were tried, and how close they came."""
    for report in terminalreporter.getreports("passed"):
        for name, what in report.user_properties:
            if name == "networks":
                terminalreporter.write_line(f"{report.nodeid.rsplit('::', 1)[-1]}: {what}")


@pytest.fixture
def as_users_write():
    """Ranks are promoted, as in models of users."""
    with jax.numpy_rank_promotion("allow"):
        yield
