"""Kernels in a store: read by anyone, continued after interruption, damage and full disks, refused where not theirs."""

import json
import os
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
import zarr
from exact_kernels import Stop, exact, whole_numbers

from npk.tiles import open_kernel, stored

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
    for name in found:
        (tmp_path / "k" / name / "c.1.0").unlink()
        again = outer_store(tmp_path / "k", x, kernel=kernel)
        assert all(one.verify() == () for one in again.values()), "what one array lacks is computed again"
    assert np.array_equal(again["plain"].read(), exact(x, x))


def test_a_finished_store_is_not_computed_again(tmp_path):
    x = whole_numbers(9)
    before = outer_store(tmp_path / "k", x).read()
    computed = []

    def counting(a, b):
        if isinstance(a, np.ndarray):  # not where its program is read
            computed.append(len(a))
        return exact(a, b)

    again = stored(counting, tmp_path / "k", identity=IDENTITY)(x)
    assert np.array_equal(again.read(), before) and not computed


def test_tiles_of_another_process_are_done_but_not_computed_here(tmp_path):
    x, y = whole_numbers(24), whole_numbers(24, 1)
    outer_store(tmp_path / "whole", x, y)
    computed, told = [], []

    def kernel(a, b):
        if len(a) == 4 and isinstance(a, np.ndarray):  # not where its program is read
            if not computed:  # the other process has just done them all
                for file in [*(tmp_path / "whole").glob("c.*"), tmp_path / "whole" / "tiles.json"]:
                    shutil.copy(file, tmp_path / "k")
            computed.append(len(a) * len(b))
        return exact(a, b)

    outer_store(tmp_path / "k", x, y, kernel=kernel, progress=told.append)
    assert told[-1].done == told[-1].total == 36 and told[-1].left == 0
    assert told[-1].pairs == sum(computed) < 24 * 24


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


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="this system does not name its open files")
def test_pages_are_given_back_once_each_chunk_is_whole(tmp_path, monkeypatch):
    """A chunk is 64 bytes of numbers and 4 of a checksum; the advice is on files that are there under their name."""
    advised = []

    def advise(number, start, length, advice):
        advised.append((os.readlink(f"/proc/self/fd/{number}"), os.fstat(number).st_size, start, length, advice))

    monkeypatch.setattr(os, "posix_fadvise", advise)
    outer_store(tmp_path / "k", whole_numbers(11))
    everything = 0, 0, os.POSIX_FADV_DONTNEED
    expected = [(str(tmp_path / f"k/c.{i}.{j}"), 68, *everything) for i in range(3) for j in range(3)]
    assert sorted(advised) == expected


@pytest.mark.parametrize("refuses", [True, False])
def test_advice_on_pages_is_not_needed(tmp_path, monkeypatch, refuses):
    def refuse(*_):
        raise OSError(22, "Invalid argument")

    if refuses:
        monkeypatch.setattr(os, "posix_fadvise", refuse, raising=False)
    else:
        monkeypatch.delattr(os, "posix_fadvise", raising=False)
    x = whole_numbers(11)
    assert np.array_equal(outer_store(tmp_path / "k", x).read(), exact(x, x))


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
        (dict(identity={**IDENTITY, "gates": "hard"}), 'identity.gates is nothing there and "hard" here'),
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
    monkeypatch.setattr("npk.tiles.store.TileArray.write", lambda *args: [Failing()])
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
