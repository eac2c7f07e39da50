"""Kernels tile by tile: the same numbers as at once, whatever the size; bad input; how tiles are shared out."""

import itertools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from exact_kernels import Stop, exact, whole_numbers
from oracles.transformers import ZOO

import npk
from npk.tiles import fingerprint, tiled
from npk.tiles.plan import TilePlan, balanced, share

# ------------------------------------------------------------------------------------------ in memory


@pytest.mark.parametrize("n1, n2, tile", [(1, 1, 1), (7, 3, 2), (10, 11, 4), (5, 8, 100), (13, 12, 1)])
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["plain", "compiled"])
def test_any_size_gives_the_kernel_of_all_at_once(n1, n2, tile, wrap):
    a, b = whole_numbers(n1), whole_numbers(n2, 1)
    assert np.array_equal(tiled(wrap(exact), tile=tile)(a, b), exact(a, b))
    assert np.array_equal(tiled(wrap(exact), tile=tile)(a), exact(a, a))


def test_every_tile_has_one_shape_and_only_the_upper_triangle_is_computed():
    seen = []

    def kernel(a, b):
        seen.append((len(a), len(b)))
        return exact(a, b)

    x = whole_numbers(10)
    assert np.array_equal(tiled(kernel, tile=4, dtype="float32")(x), exact(x, x))
    calls = [shape for shape in seen if shape != (1, 1)]  # traced or called once for one sample
    assert calls == [(4, 4)] * 6
    seen.clear()
    tiled(kernel, tile=4)(x, x)
    assert [shape for shape in seen if shape != (1, 1)] == [(4, 4)] * 9


def test_a_compiled_kernel_is_compiled_for_one_tile():
    traced = []

    @jax.jit
    def kernel(a, b):
        traced.append(a.shape)
        return exact(a, b)

    tiled(kernel, tile=4)(whole_numbers(10), whole_numbers(7))
    assert [shape for shape in traced if shape[0] > 1] == [(4, 3)]


def test_rounding_is_mirrored_bit_for_bit():
    x = np.random.default_rng(0).standard_normal((37, 300)).astype(np.float32)
    order = np.random.default_rng(1).permutation(300)

    def rounds_differently(a, b):
        return (a[:, order] * 1.1) @ (b[:, order] / 1.1).T

    h = tiled(rounds_differently, tile=10)(x)
    assert not np.array_equal(rounds_differently(x, x), rounds_differently(x, x).T)
    assert np.array_equal(h, h.T)
    assert np.allclose(h, x.astype(float) @ x.T.astype(float), rtol=1e-5, atol=1e-3)


def test_batches_may_be_trees_of_both_kinds_of_arrays():
    kinds = []

    def kernel(a, b):
        kinds.append((type(a["x"]), type(b["rest"][0])))
        return exact(np.asarray(a["x"]), np.asarray(b["x"])) * np.asarray(b["rest"][0])[None]

    x = whole_numbers(5)
    one = {"x": x, "rest": (jnp.ones(5),)}
    two = {"x": x[:4], "rest": (jnp.arange(4.0),)}
    assert np.array_equal(tiled(kernel, tile=2)(one, two), exact(x, x[:4]) * np.arange(4.0, dtype=np.float32))
    assert kinds[-1][0] is np.ndarray and issubclass(kinds[-1][1], jax.Array)


def test_a_kernel_may_use_the_memory_of_its_result_again():
    memory = np.empty((2, 2), np.float32)

    def kernel(a, b):
        out = memory[: len(a), : len(b)]
        out[:] = exact(np.asarray(a), np.asarray(b))
        return out

    x = whole_numbers(40)
    assert np.array_equal(tiled(kernel, tile=2)(x), exact(x, x))


def test_float64_and_wider_kernels_in_plain_python():
    x = np.random.default_rng(0).standard_normal((9, 2))
    h = tiled(lambda a, b: np.asarray(a @ b.T), tile=4)(x, x[:5])
    assert h.dtype == np.float64 and np.allclose(h, x @ x[:5].T, rtol=1e-14)
    assert tiled(lambda a, b: a @ b.T, dtype="float32", tile=4)(x).dtype == np.float32


def test_x64_of_a_context_reaches_the_kernel(x64):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((9, 2)))
    h = tiled(jax.jit(lambda a, b: a @ b.T), tile=4)(x)
    assert h.dtype == np.float64 and np.allclose(h, np.asarray(x) @ np.asarray(x).T, rtol=1e-14)


def test_the_tile_is_chosen_and_told():
    told = []
    x = whole_numbers(50)
    assert np.array_equal(tiled(jax.jit(exact), progress=told.append)(x), exact(x, x))
    assert "50 x 50" in told[0].message and "as compiled" in told[0].message
    assert (told[-1].done, told[-1].total, told[-1].left, told[-1].pairs) == (1, 1, 0, 2500)
    told.clear()
    tiled(lambda a, b: np.asarray(exact(np.asarray(a), np.asarray(b))), progress=told.append)(x)
    assert "cannot be compiled" in told[0].message


def test_the_tile_follows_the_memory_that_is_free(monkeypatch):
    x = np.zeros((3000, 4), np.float32)
    kernel = jax.jit(lambda a, b: jnp.tanh(a[:, None] - b[None]).sum(-1))
    monkeypatch.setattr("npk.tiles.whole._check_fits", lambda *args: None)
    sides = []

    def first_message(progress):
        sides.append(int(progress.message.split()[2].replace(",", "")))
        raise Stop

    for free in (1 << 20, 1 << 26, 1 << 34):
        monkeypatch.setattr("npk.tiles.memory.available_memory", lambda free=free: free)
        with pytest.raises(Stop):
            tiled(kernel, progress=first_message)(x)
    assert sides[0] < sides[1] < sides[2] <= 2048
    assert 4 * sides[0] ** 2 < (1 << 20) / 4  # at least the result itself fits its share


def test_progress_counts_pairs():
    told = []
    tiled(exact, tile=4, progress=told.append)(whole_numbers(10), whole_numbers(6))
    assert [p.done for p in told[1:]] == [1, 2, 3, 4, 5, 6]
    assert told[-1].pairs == 60 and told[-1].left == 0 and told[-1].rate > 0 and told[-1].seconds_left == 0


def test_tangent_split_as_a_tree(x64):
    """One hidden layer a(q) = q·γ(q): all parts in closed form, by plain NumPy."""
    random = np.random.default_rng(0)
    x, w, v = random.standard_normal((5, 3)), random.standard_normal((3, 4)), random.standard_normal((4, 1))
    params = {"w": jnp.asarray(w), "v": jnp.asarray(v)}
    split = npk.split_ntk(lambda params, x: npk.soft_relu(x @ params["w"], 4.0) @ params["v"])
    parts = tiled(lambda a, b: split(params, a, b), tile=3)(jnp.asarray(x))
    q = x @ w
    gate = 1 / (1 + np.exp(-4.0 * q))
    fixed, through = gate * v[:, 0], 4.0 * q * gate * (1 - gate) * v[:, 0]
    mixed = fixed @ through.T
    expected = {
        "blocks.v.value": (q * gate) @ (q * gate).T,
        "blocks.w.value": (x @ x.T) * (fixed @ fixed.T),
        "feature": (x @ x.T) * (through @ through.T),
        "cross": (x @ x.T) * (mixed + mixed.T),
    }
    expected["value"] = expected["blocks.v.value"] + expected["blocks.w.value"]
    assert set(expected) < set(parts) and len(parts) == 9
    for name, numbers in expected.items():
        assert np.allclose(parts[name], numbers, rtol=1e-12, atol=1e-12), name


@pytest.mark.standard_dtypes
@pytest.mark.parametrize("name", ["pre-norm", "padding"])
def test_path_kernels_of_transformers(x64, name):
    """Of vectors and of tokens, whose gates go from tile to tile with their samples."""
    case, other = ZOO[name].drawn(), ZOO[name].drawn(2).x
    with jax.numpy_rank_promotion("allow"):
        kernel = npk.path_kernel(case.f)
        found = tiled(lambda a, b: kernel(case.params, a, b), tile=2)(case.x, other)
    expected = case.paths().gram(other=case.paths(x=other))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize("outputs", [(), (2,), (2, 2)])
def test_further_axes(outputs):
    x = whole_numbers(5, d=4)
    w = np.random.default_rng(1).integers(-2, 3, (4, 2)).astype(np.float32)

    def kernel(a, b):
        full = np.einsum("id,dk,je,el->ijkl", np.asarray(a), w, np.asarray(b), w)
        return {0: full.sum((-1, -2)), 1: np.einsum("ijkk->ijk", full), 2: full}[len(outputs)]

    assert np.array_equal(tiled(kernel, tile=2)(x), kernel(x, x))


# ------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "one, two, message",
    [
        (np.zeros((0, 2)), None, r"one must have one number of samples N > 0, got \[0\]"),
        ({"a": np.zeros((2, 1)), "b": np.zeros((3, 1))}, None, r"got \[2, 3\]"),
        ({}, None, "at least one array"),
        (np.zeros((2, 1)), [[1.0], [2.0]], "two must hold arrays"),
        (np.float32(1.0), None, "one must hold arrays"),
    ],
)
def test_bad_batches(one, two, message):
    with pytest.raises(ValueError, match=message):
        tiled(exact)(one, two)


@pytest.mark.parametrize(
    "kernel, message",
    [
        (lambda a, b: np.sum(a) + np.sum(b), "must return arrays"),
        (lambda a, b: np.zeros((len(b) + 1, len(a)), np.float32), "must return arrays"),
        (lambda a, b: np.zeros((len(a), len(b)), int), "floating"),
        (lambda a, b: {}, "at least one array"),
        (lambda a, b: np.outer(a[:, 0], b[:, 0] + 1).astype(np.float32), "not symmetric"),
        # Two tiles at a time are kept: any of the three may be the first to be refused.
        (
            lambda a, b: np.full((len(a), len(b)), np.nan, np.float32),
            "finite in samples (0:2 x (0:2|2:4)|2:4 x 2:4)",
        ),
        (
            lambda a, b: np.where(np.outer(a[:, 0], b[:, 0]) == 9, np.inf, 0).astype(np.float32),
            "not finite in samples 2:4",
        ),
    ],
)
def test_bad_kernels(kernel, message):
    x = np.arange(4, dtype=np.float32)[:, None]
    with pytest.raises(ValueError, match=message):
        tiled(kernel, tile=2)(x)


def test_numbers_that_leave_the_dtype_are_refused():
    with pytest.raises(ValueError, match="range of float32"):
        tiled(lambda a, b: np.full((len(a), len(b)), 1e300), dtype="float32")(whole_numbers(2))


@pytest.mark.parametrize("tile", [0, -1, True])
def test_bad_tiles(tile):
    with pytest.raises(ValueError, match="tile must be a whole number"):
        tiled(exact, tile=tile)


def test_more_than_the_memory_is_refused(monkeypatch):
    monkeypatch.setattr("npk.tiles.whole.available_memory", lambda: 1000)
    with pytest.raises(MemoryError, match=r"npk\.tiles\.stored"):
        tiled(exact, tile=2)(whole_numbers(20))


def test_an_error_of_the_kernel_or_of_the_callback_comes_through():
    def fails(a, b):
        raise RuntimeError("of the kernel")

    def fails_later(progress):
        if progress.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(RuntimeError, match="of the kernel"):
        tiled(fails, tile=1)(whole_numbers(3))
    with pytest.raises(KeyboardInterrupt):
        tiled(exact, tile=1, progress=fails_later)(whole_numbers(9))


# --------------------------------------------------------------------------------------------- pieces


@pytest.mark.parametrize("processes", [1, 2, 3, 7])
def test_shares_of_processes(processes):
    every = TilePlan((10, 10), (3, 3), True).tiles()
    orders = [share(every, p, processes, start=5) for p in range(processes)]
    for p, order in enumerate(orders):
        own = set(every[p::processes])
        assert sorted(order) == sorted(every) and set(order[: len(own)]) == own
    firsts = [order[: len(every[p::processes])] for p, order in enumerate(orders)]
    assert sorted(itertools.chain(*firsts)) == sorted(every)


@pytest.mark.parametrize("n, largest", [(10, 4), (10, 10), (10, 100), (60_001, 4000), (7, 1)])
def test_balanced_blocks(n, largest):
    size = balanced(n, largest)
    blocks = -(-n // size)
    assert size <= largest and blocks == -(-n // min(n, largest)) and blocks * size - n < blocks


def test_fingerprints_see_everything():
    a = np.arange(6, dtype=np.float32)
    trees = [
        a,
        a.reshape(2, 3),
        a.astype(np.float64),
        a.view(np.int32),
        {"a": a},
        {"b": a},
        [a, a],
        a.astype(ml_dtypes.bfloat16),
        np.nextafter(a, 9, dtype=np.float32),
        np.float32(0),
        jax.random.key(0),
        jax.random.key(1),
    ]
    assert len({fingerprint(tree) for tree in trees}) == len(trees)
    assert fingerprint(jnp.asarray(a)) == fingerprint(np.asarray(a)[::1]) == fingerprint(a[::-1][::-1])
    with pytest.raises(ValueError, match="must be an array"):
        fingerprint({"f": exact})
