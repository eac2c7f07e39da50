"""Kernels tile by tile: the same numbers as at once, whatever the size, the devices, the store."""

import itertools
import json
import os

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import zarr

import npk
from npk._tile_plan import Plan, balanced, share
from npk.tiles import fingerprint, open_kernel, stored, tiled


def exact(a, b):
    """A kernel in whole numbers: exact in any order of summation. Not symmetric in how it is written."""
    return (a[:, None] * b[None] * (1 + a[:, None] + b[None])).sum(-1)


class Stop(Exception):
    """An interruption."""


def whole_numbers(n, seed=0, d=3):
    return np.random.default_rng(seed).integers(-4, 5, (n, d)).astype(np.float32)


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
    monkeypatch.setattr("npk.tiles._check_fits", lambda *args: None)
    sides = []

    def first_message(progress):
        sides.append(int(progress.message.split()[2].replace(",", "")))
        raise Stop

    for free in (1 << 20, 1 << 26, 1 << 34):
        monkeypatch.setattr("npk._tile_memory.available_memory", lambda free=free: free)
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
        (lambda a, b: np.full((len(a), len(b)), np.nan, np.float32), "not finite in samples 0:2 x 0:2"),
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
    monkeypatch.setattr("npk.tiles.available_memory", lambda: 1000)
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


# ---------------------------------------------------------------------------------------------- store

IDENTITY = {"name": "exact", "params": "0"}


def outer_store(folder, x, two=None, kernel=exact, identity=IDENTITY, **options):
    return stored(kernel, folder, identity=identity, **{"tile": 4, **options})(x, two)


def chunks(folder):
    """Every file of a store but its temporary ones, with its bytes."""
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and not p.name.endswith(("__lock", "part"))
    }


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("two", [None, 7])
def test_anyone_reads_the_store(tmp_path, dtype, two):
    x = whole_numbers(11)
    y = None if two is None else whole_numbers(two, 1)
    kernel = outer_store(tmp_path / "k", x, y, dtype=dtype)
    numbers = exact(x, x if y is None else y).astype(jnp.dtype(dtype))
    assert np.array_equal(zarr.open(tmp_path / "k", mode="r")[:], numbers.astype(np.float64))
    for found in (kernel, open_kernel(tmp_path / "k")):
        assert found.shape == numbers.shape and found.dtype == jnp.dtype(dtype)
        assert found.verify() == () and found.tiles[0] == found.tiles[1]
        assert np.array_equal(found.read(), numbers) and found.read().dtype == found.dtype


def test_the_kernel_operator(tmp_path):
    x, y = whole_numbers(13), whole_numbers(9, 1)
    for two in (None, y):
        dense = exact(x, x if two is None else two)
        kernel = outer_store(tmp_path / str(two is None), x, two)
        v = np.random.default_rng(0).integers(-3, 4, (dense.shape[1], 2)).astype(np.float32)
        assert np.array_equal(kernel.product(v), dense.astype(float) @ v) and kernel.product(v).dtype == np.float64
        places = np.array([8, 0, 8, -1])
        assert np.array_equal(kernel.columns(places), dense[:, places])
        assert np.array_equal(kernel.read(slice(2, 9), places), dense[2:9][:, places])
        assert np.array_equal(kernel.read(slice(None, None, -3), slice(5, 5)), dense[::-3, 5:5])
        if two is None:
            assert np.array_equal(kernel.diagonal(), np.diag(dense))
    with pytest.raises(ValueError, match="only a square kernel"):
        kernel.diagonal()
    with pytest.raises(ValueError, match=r"v must be \[9, K\]"):
        kernel.product(np.ones(9))
    with pytest.raises(IndexError, match="columns must lie in -9 … 8"):
        kernel.columns(np.array([9]))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_columns_of_checked_tiles_are_read_alone(tmp_path, dtype):
    x, y = whole_numbers(50), whole_numbers(37, 1)
    for two in (None, y):
        dense = exact(x, x if two is None else two).astype(jnp.dtype(dtype))
        outer_store(tmp_path / str(two is None), x, two, dtype=dtype, tile=7)
        kernel = open_kernel(tmp_path / str(two is None))
        places = np.array([36, 3])
        for _ in range(2):  # by whole tiles first
            assert np.array_equal(kernel.columns(places), dense[:, places])
            assert np.array_equal(kernel.read(rows=places[:1]), dense[places[:1]])
        removed(tmp_path / str(two is None) / "c.5.0")
        removed(tmp_path / str(two is None) / "c.0.5")
        with pytest.raises(ValueError, match="is missing"):
            kernel.columns(places)


def test_products_are_summed_in_float64(tmp_path):
    x = np.ones((5, 1), np.float32)
    kernel = stored(lambda a, b: np.outer(a, b) * np.float32(0.1), tmp_path / "k", identity=IDENTITY, tile=2)(x)
    v = np.array([[1e9], [1.0], [-1e9], [1e-4], [2.0]])
    assert np.allclose(kernel.product(v), float(np.float32(0.1)) * 3.0001, rtol=1e-6)


def test_a_tree_is_one_array_a_name(tmp_path):
    x = whole_numbers(6)

    def kernel(a, b):
        k = exact(a, b)
        return {"plain": k, "part": {"twice": 2 * k, "zero": 0 * k}}

    found = outer_store(tmp_path / "k", x, kernel=kernel)
    assert set(found) == {"plain", "part.twice", "part.zero"} == set(open_kernel(tmp_path / "k"))
    group = zarr.open(tmp_path / "k", mode="r")
    assert sorted(group.array_keys()) == sorted(found)
    assert np.array_equal(group["part.twice"][:], 2 * exact(x, x)) and not found["part.zero"].read().any()
    assert np.array_equal(open_kernel(tmp_path / "k" / "plain").read(), exact(x, x))
    assert found["part.zero"].verify() == ()


def test_a_finished_store_is_not_computed_again(tmp_path):
    x = whole_numbers(9)
    before = outer_store(tmp_path / "k", x).read()

    def never(a, b):
        raise AssertionError("computed again")

    again = stored(never, tmp_path / "k", identity=IDENTITY)(x)
    assert np.array_equal(again.read(), before)


def stop_after(number):
    def progress(now):
        if now.pairs and now.done >= number:
            raise Stop

    return progress


def test_an_interrupted_store_is_never_read_as_numbers_and_goes_on(tmp_path):
    x = whole_numbers(30)
    whole = outer_store(tmp_path / "whole", x)
    with pytest.raises(Stop):
        outer_store(tmp_path / "k", x, progress=stop_after(5))
    part = open_kernel(tmp_path / "k")
    done, total = part.tiles
    assert 0 < done < total == 64 and len(part.verify()) == total - done
    assert np.isnan(zarr.open(tmp_path / "k", mode="r")[:]).any()
    for read in (part.read, lambda: part.product(np.ones((30, 1)))):
        with pytest.raises(ValueError, match=rf"is missing; {done} of 64 tiles are there. Give the command"):
            read()
    computed = []

    def counting(a, b):
        computed.append(len(a))
        return exact(a, b)

    outer_store(tmp_path / "k", x, kernel=counting, dtype=None)
    assert chunks(tmp_path / "k") == chunks(tmp_path / "whole")
    upper = sum((tmp_path / "whole").joinpath(f"c.{i}.{j}").exists() for i in range(8) for j in range(i, 8))
    assert len(computed) < upper
    assert np.array_equal(open_kernel(tmp_path / "k").read(), whole.read())


def truncated(path):
    os.truncate(path, 30)


def emptied(path):
    os.truncate(path, 0)


def flipped(path):
    content = bytearray(path.read_bytes())
    content[17] ^= 4
    path.write_bytes(content)


def longer(path):
    path.write_bytes(path.read_bytes() + b"0")


def removed(path):
    path.unlink()


@pytest.mark.parametrize("damage", [truncated, emptied, flipped, longer, removed])
@pytest.mark.parametrize("chunk", ["c.0.2", "c.2.0", "c.1.1"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_damaged_chunk_is_found_and_computed_again(tmp_path, damage, chunk, dtype):
    x = whole_numbers(10)
    outer_store(tmp_path / "k", x, dtype=dtype)
    whole = chunks(tmp_path / "k")
    damage(tmp_path / "k" / chunk)
    kernel = open_kernel(tmp_path / "k")
    assert [f"c.{i}.{j}" for i, j in kernel.verify()] == [chunk]
    with pytest.raises(ValueError, match="is missing" if damage is removed else "is damaged"):
        kernel.read()
    told = []
    outer_store(tmp_path / "k", x, dtype=dtype, progress=told.append)
    assert any(f"{chunk} is damaged" in p.message for p in told) == (damage is not removed)
    assert told[-1].done == told[-1].total == 6 and sum(p.pairs > 0 for p in told) == 1
    assert chunks(tmp_path / "k") == whole


def test_what_a_power_loss_leaves_behind_does_no_harm(tmp_path):
    """A chunk that was not renamed, one written by half beside, a store of which not even the description is there."""
    x = whole_numbers(10)
    outer_store(tmp_path / "k", x)
    whole = chunks(tmp_path / "k")
    (tmp_path / "k" / "c.0.1").rename(tmp_path / "k" / "c.0.1.__lock")
    (tmp_path / "k" / "c.1.2.__lock").write_bytes(b"x" * 40)
    (tmp_path / "k" / "c.1.2").unlink()
    outer_store(tmp_path / "k", x)
    assert chunks(tmp_path / "k") == whole and not list((tmp_path / "k").glob("*__lock"))
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "zarr.json.abc.part").write_bytes(b'{"zarr_')
    outer_store(tmp_path / "new", x)
    assert chunks(tmp_path / "new") == whole


def test_clocks_do_not_matter(tmp_path):
    x = whole_numbers(10)
    outer_store(tmp_path / "k", x)
    whole = chunks(tmp_path / "k")
    for seconds, path in enumerate(sorted((tmp_path / "k").iterdir())):
        os.utime(path, (1e9 * (seconds % 5), 1e9 * (seconds % 5)))
    (tmp_path / "k" / "c.2.2").unlink()
    outer_store(tmp_path / "k", x)
    assert chunks(tmp_path / "k") == whole


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(identity={**IDENTITY, "params": "1"}), 'identity.params is "0" there and "1" here'),
        (dict(identity={"name": "exact"}), 'identity.params is "0" there and nothing here'),
        (dict(x=whole_numbers(10, seed=5)), "data.one is"),
        (dict(two=whole_numbers(10)), "symmetric is true there and false here"),
        (dict(x=whole_numbers(12)), r"shape is \[10, 10\] there and \[12, 12\] here"),
        (dict(dtype="float64"), 'dtype is "float32" there and "float64" here'),
        (dict(tile=3), r"tile is \[4, 4\] there and \[3, 3\] here"),
    ],
)
def test_a_store_of_another_configuration_is_refused(tmp_path, change, message):
    outer_store(tmp_path / "k", whole_numbers(10))
    before = chunks(tmp_path / "k")
    with pytest.raises(ValueError, match=message) as caught:
        outer_store(tmp_path / "k", **{"x": whole_numbers(10), **change})
    assert "another configuration" in str(caught.value) and "remove the folder" in str(caught.value)
    assert chunks(tmp_path / "k") == before


def test_a_store_of_other_versions_is_refused(tmp_path):
    outer_store(tmp_path / "k", whole_numbers(10))
    description = tmp_path / "k" / "zarr.json"
    content = json.loads(description.read_text())
    content["attributes"]["npk"]["versions"]["npk"] = "0.0.1"
    description.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r'versions.npk is "0.0.1" there'):
        outer_store(tmp_path / "k", whole_numbers(10))
    description.write_text(description.read_text()[:50])
    with pytest.raises(ValueError, match="zarr.json is damaged"):
        outer_store(tmp_path / "k", whole_numbers(10))


def test_the_tile_of_the_store_is_kept_where_none_is_given(tmp_path):
    outer_store(tmp_path / "k", whole_numbers(10), tile=3)
    assert outer_store(tmp_path / "k", whole_numbers(10), tile=None).tiles == (16, 16)


def test_what_is_no_store_is_left_alone(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError, match="is a file"):
        outer_store(tmp_path / "file", whole_numbers(3))
    with pytest.raises(FileExistsError, match="is not empty and holds no kernel"):
        outer_store(tmp_path, whole_numbers(3))
    zarr.create_array(tmp_path / "other", shape=(2,), dtype="f4")
    with pytest.raises(FileExistsError, match="none of npk's"):
        open_kernel(tmp_path / "other")


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(dtype="float16"), "dtype must be one of float32, float64, bfloat16"),
        (dict(dtype=int), "floating"),
        (dict(identity={"a": np.ones(2)}), "plain values"),
        (dict(kernel=lambda a, b: exact(a, b).astype(np.float16)), "returns float16"),
    ],
)
def test_bad_options_of_a_store(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        outer_store(tmp_path / "k", whole_numbers(3), **options)
    assert not (tmp_path / "k").exists()


def test_a_disk_that_is_full(tmp_path, monkeypatch):
    """The file system's own error, from TensorStore's words; benchmarks/faults.py fills a real disk."""
    monkeypatch.setattr("npk._tile_store.TileArray.write", lambda *args: [Failing()])
    with pytest.raises(OSError, match="the disk is full .*0 of 6 tiles are kept, and safe. Make room") as caught:
        outer_store(tmp_path / "k", whole_numbers(10))
    assert caught.value.errno == 28
    monkeypatch.undo()
    assert outer_store(tmp_path / "k", whole_numbers(10)).verify() == ()


def test_a_store_that_cannot_be_written(tmp_path, monkeypatch):
    x = whole_numbers(10)
    whole = outer_store(tmp_path / "k", x).read()
    monkeypatch.setattr("os.access", lambda *args: False)
    assert np.array_equal(outer_store(tmp_path / "k", x).read(), whole)  # nothing is to be written
    (tmp_path / "k" / "c.0.1").unlink()
    with pytest.raises(PermissionError, match="cannot be written .*5 of 6 tiles are kept"):
        outer_store(tmp_path / "k", x)
    with pytest.raises(PermissionError, match="nothing was begun"):
        outer_store(tmp_path / "new", x)
    assert not (tmp_path / "new").exists()


class Failing:
    def result(self):
        raise ValueError("RESOURCE_EXHAUSTED: Failed to write: No space left on device [os_error_code='28']")


# --------------------------------------------------------------------------------------------- pieces


@pytest.mark.parametrize("processes", [1, 2, 3, 7])
def test_shares_of_processes(processes):
    every = Plan((10, 10), (3, 3), True).tiles()
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
