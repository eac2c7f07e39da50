"""Kernel operators against dense NumPy."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import npk
from npk.solving import KernelOperator, joined, kernel_operator
from npk.solving.operators import operator_of, part_of

random = np.random.default_rng(0)


def cubic(a, b):
    """A kernel of two batches, on the host."""
    return (1 + a["x"] @ b["x"].T) ** 3 * (1 + np.minimum(a["t"][:, None], b["t"][None]))


def batch(n, seed=0):
    generator = np.random.default_rng(seed)
    return {"x": generator.normal(size=(n, 4)), "t": generator.random(n)}


def agree(operator, dense, rtol=1e-12):
    """Everything an operator does, against a dense matrix."""
    n1, n2 = dense.shape
    assert isinstance(operator, KernelOperator) and tuple(operator.shape) == (n1, n2)
    v = np.random.default_rng(5).normal(size=(n2, 3))
    scale = np.abs(dense).max() * np.sqrt(n2)
    found = operator.product(v)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, dense @ v, rtol=rtol, atol=10 * rtol * scale)
    places = np.array([n2 - 1, 0, n2 // 2, 0])
    np.testing.assert_allclose(operator.columns(places), dense[:, places], rtol=rtol, atol=rtol * scale)
    assert operator.columns(np.array([], int)).shape == (n1, 0)
    assert operator.product(np.zeros((n2, 0))).shape == (n1, 0)


@given(st.integers(1, 23), st.integers(1, 30), st.one_of(st.none(), st.integers(1, 19)))
def test_any_size_and_tile(n1, tile, n2):
    one, two = batch(n1), None if n2 is None else batch(n2, 1)
    operator = kernel_operator(cubic, one, two, tile=tile)
    dense = cubic(one, one if two is None else two)
    agree(operator, dense)
    if n2 is None:
        np.testing.assert_allclose(operator.diagonal(), np.diag(dense), rtol=1e-12)


@pytest.mark.parametrize("two", [False, True])
def test_only_the_tiles_that_are_needed_are_computed_all_of_one_shape(two):
    shapes = []

    def counting(a, b):
        shapes.append((len(a["x"]), len(b["x"])))
        return cubic(a, b)

    operator = kernel_operator(counting, batch(23), batch(23) if two else None, tile=6)
    assert operator.dtype == np.float64
    shapes.clear()
    operator.product(np.ones((23, 1)))
    assert shapes == [(6, 6)] * (16 if two else 10)


def test_no_more_than_two_tiles_are_held():
    alive = []

    class Tile(np.ndarray):
        def __del__(self):
            if self.base is not None and self.shape == (5, 5):
                alive.append(-1)

    most = 0

    def counting(a, b):
        nonlocal most
        tile = np.array(a @ b.T).view(Tile)
        alive.append(1)
        most = max(most, sum(alive))
        return tile

    x = random.normal(size=(40, 3))
    operator = kernel_operator(counting, x, tile=5)
    assert operator.dtype == np.float64
    operator.product(np.ones((40, 2)))
    assert 1 <= most <= 3  # one being read, one waiting, one just made


@pytest.mark.parametrize("dtype", [np.float32, np.float64, ml_dtypes.bfloat16, np.int32])
@pytest.mark.parametrize("symmetric", [False, True])
def test_arrays_of_any_dtype_are_accumulated_in_float64(dtype, symmetric):
    array = np.round(8 * random.normal(size=(300, 300)))
    array = (array + array.T if symmetric else array).astype(dtype)
    agree(operator_of(array, symmetric=symmetric), array.astype(np.float64))
    np.testing.assert_array_equal(operator_of(array).diagonal(), np.diag(array))


def test_float64_accumulation_keeps_what_float32_would_lose():
    array = np.full((1, 100_001), 1e-4, np.float32)
    array[0, 0] = 1e4
    exact = np.sum(array.astype(np.float64))
    assert operator_of(array).product(np.ones((100_001, 1)))[0, 0] == pytest.approx(exact, rel=1e-15)
    assert float(np.cumsum(array[0])[-1]) != pytest.approx(exact, rel=1e-6)


def test_a_memory_map_is_read_in_bands(tmp_path, monkeypatch):
    array = random.normal(size=(50, 50)).astype(np.float32)
    array = array + array.T
    np.save(tmp_path / "kernel.npy", array)
    monkeypatch.setattr("npk.solving.operators._BAND", 4 * 50 * 7)
    for symmetric in (False, True):
        agree(operator_of(np.load(tmp_path / "kernel.npy", mmap_mode="r"), symmetric=symmetric), array.astype(float))


def test_jax_arrays_and_jax_kernels():
    x = jnp.asarray(random.normal(size=(13, 4)), jnp.float32)
    dense = np.asarray(x, np.float64) @ np.asarray(x, np.float64).T
    agree(operator_of(x @ x.T), dense, rtol=1e-6)
    agree(kernel_operator(jax.jit(lambda a, b: a @ b.T), x, tile=5), dense, rtol=1e-6)


def test_a_path_kernel_by_tiles_is_the_path_kernel():
    def f(p, x):
        return jax.nn.relu(jax.nn.relu(x @ p[0]) @ p[1]) @ p[2]

    keys = jax.random.split(jax.random.key(0), 4)
    p = [jax.random.normal(k, s) for k, s in zip(keys, ((6, 16), (16, 16), (16, 1)))]
    x = jax.random.normal(keys[3], (37, 6))
    gates = npk.gates(f)(p, x)
    kernel = npk.path_kernel(f)
    samples = {"x": x, "gates": gates}
    operator = kernel_operator(
        lambda a, b: kernel(p, a["x"], b["x"], gates1=a["gates"], gates2=b["gates"]), samples, tile=10
    )
    dense = np.asarray(kernel(p, x), np.float64)
    agree(operator, dense, rtol=1e-6)
    np.testing.assert_allclose(operator.diagonal(), np.diag(dense), rtol=1e-6)


def test_parts_and_joined_kernels():
    array = random.normal(size=(9, 11))
    agree(part_of(array, [7, 1, 4], [0, 10, 5, 3]), array[np.ix_([7, 1, 4], [0, 10, 5, 3])])
    square = array[:, :9] + array[:, :9].T
    np.testing.assert_array_equal(part_of(square, [3, 0]).diagonal(), square[[3, 0], [3, 0]])
    both = joined(square, -square)
    np.testing.assert_allclose(both.product(np.eye(9)), square)
    np.testing.assert_array_equal(both.columns(np.arange(9)), -square)
    np.testing.assert_array_equal(both.diagonal(), -np.diag(square))


def test_a_known_diagonal_is_not_computed():
    def refused(a, b):
        assert len(a) == 1  # for the dtype
        return a @ b.T

    np.testing.assert_array_equal(
        kernel_operator(refused, np.ones((3, 1)), tile=2, diagonal=np.arange(3)).diagonal(), np.arange(3)
    )


def test_an_operator_is_returned_as_it_is():
    operator = operator_of(np.eye(2))
    assert operator_of(operator) is operator


X = np.arange(6.0)[:, None]
RANK_ONE = kernel_operator(lambda a, b: a @ b.T, X, tile=4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: operator_of(np.ones(3)), r"real \[N1, N2\] and not empty, .*got float64\[3\]"),
        (lambda: operator_of(np.ones((0, 2))), "not empty"),
        (lambda: operator_of(np.eye(2) * 1j), "must be real"),
        (lambda: operator_of(np.ones((2, 3)), symmetric=True), r"must be square \[N, N\], got shape \[2, 3\]"),
        (lambda: operator_of(np.ones((2, 3))).diagonal(), "must be square"),
        (lambda: operator_of(np.eye(2)).product(np.ones(2)), r"v must be \[2, K\], got shape \[2\]"),
        (lambda: operator_of(np.eye(2)).product(np.full((2, 1), np.inf)), "v must be finite"),
        (lambda: operator_of(np.eye(2) / 0).product(np.ones((2, 1))), "the kernel must be finite"),
        (lambda: operator_of(np.eye(2)).columns(np.array([2])), "must lie in 0 … 1, got 2 … 2"),
        (lambda: operator_of(np.eye(2)).columns(np.array([0.0])), "must be whole numbers"),
        (lambda: RANK_ONE.columns(np.array([-1])), "must lie in 0 … 5"),
        (lambda: kernel_operator(cubic, batch(3), tile=0), "tile must be at least 1, got 0"),
        (
            lambda: kernel_operator(cubic, {"x": X, "t": X[:2]}, tile=2),
            r"of one leading axis N > 0, got lengths \[2, 6\]",
        ),
        (lambda: kernel_operator(cubic, X, X[:0], tile=2), r"two must hold .*got lengths \[0\]"),
        (lambda: kernel_operator(cubic, {"x": X, "t": 1.0}, tile=2), "got a scalar"),
        (lambda: kernel_operator(cubic, X, tile=2, diagonal=np.ones(1)), r"diagonal must have shape \[6\], got \[1\]"),
        (lambda: kernel_operator(lambda a, b: a @ b.T, X, X[:2], tile=2).diagonal(), "must be square"),
        (lambda: kernel_operator(lambda a, b: a, X, tile=2).product(X), r"expected \[2, 2\], got \[2, 1\]"),
        (lambda: kernel_operator(lambda a, b: a @ (1 + b.T), X, tile=2).product(X), "the kernel is not symmetric"),
        (lambda: kernel_operator(lambda a, b: a @ b.T / 0, X + 1, tile=2).product(X), "must be finite"),
        (lambda: part_of(np.eye(3), [0, 0]), "must be different places"),
        (lambda: part_of(np.eye(3), np.array([], int)), "at least one of each"),
        (lambda: part_of(np.eye(3), [3]), "must lie in 0 … 2"),
        (lambda: part_of(np.eye(3), [0], [1]).diagonal(), "only where its rows are its columns"),
        (lambda: joined(np.eye(3), np.eye(2)), r"got shapes \[3, 3\] and \[2, 2\]"),
    ],
)
def test_errors(call, message):
    with np.errstate(all="ignore"), pytest.raises(ValueError, match=message):
        call()
