"""A strict session: no silent broadcasting of ranks, no silent promotion of dtypes; warnings are errors."""

import jax
import pytest
from hypothesis import settings

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
