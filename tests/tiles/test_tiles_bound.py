"""A chunk belongs to its place in its store, a store to its kernel: what lies elsewhere or is of another is told."""

import json
import shutil
import time

import jax.numpy as jnp
import numpy as np
import pytest
from exact_kernels import exact, whole_numbers

from npk.tiles import open_kernel, stored

X = whole_numbers(10)


def both(a, b):
    return {"one": exact(a, b), "two": 2 * exact(a, b)}


def in_python(a, b):
    """A kernel that cannot be traced."""
    return exact(np.asarray(a), np.asarray(b))


def make(folder, kernel=exact, x=X, identity=None, told=None, **options):
    options = {"tile": 4, **options}
    tell = None if told is None else lambda now: told.append(now.message)
    return stored(kernel, folder, identity=identity, progress=tell, **options)(x)


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def exchange(one, two):
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_exchanged_chunks_are_told_and_computed_again(tmp_path, dtype):
    make(tmp_path / "k", dtype=dtype)
    whole = files(tmp_path / "k")
    exchange(tmp_path / "k" / "c.0.1", tmp_path / "k" / "c.1.2")
    exchange(tmp_path / "k" / "c.1.0", tmp_path / "k" / "c.2.1")
    kernel = open_kernel(tmp_path / "k")
    assert set(kernel.verify()) == {(0, 1), (1, 0), (1, 2), (2, 1)}
    for read in (kernel.read, lambda: kernel.product(np.ones((10, 1))), lambda: kernel.columns(np.array([9]))):
        with pytest.raises(ValueError, match="is not the chunk that was written there"):
            read()
    told = []
    make(tmp_path / "k", dtype=dtype, told=told)
    assert files(tmp_path / "k") == whole and any("c.1.2 is damaged" in m for m in told)


def test_a_chunk_of_another_run_of_the_same_shape_is_told(tmp_path):
    make(tmp_path / "k", both)
    whole = files(tmp_path / "k")
    make(tmp_path / "other", both, whole_numbers(10, seed=3))
    shutil.copy(tmp_path / "other" / "two" / "c.1.1", tmp_path / "k" / "two" / "c.1.1")
    shutil.copy(tmp_path / "k" / "one" / "c.1.1", tmp_path / "k" / "one" / "c.0.0")
    found = open_kernel(tmp_path / "k")
    assert found["one"].verify() == ((0, 0),) and found["two"].verify() == ((1, 1),)
    assert open_kernel(tmp_path / "k" / "two").verify() == ((1, 1),)  # an array alone knows it, too
    make(tmp_path / "k", both)
    assert files(tmp_path / "k") == whole


@pytest.mark.parametrize("change", ["removed", "cut", "of another store"])
def test_where_the_list_is_lost_chunks_are_taken_by_what_they_say(tmp_path, change):
    make(tmp_path / "k")
    whole = files(tmp_path / "k")
    path = tmp_path / "k" / "tiles.json"
    if change == "removed":
        path.unlink()
    elif change == "cut":
        path.write_bytes(whole["tiles.json"][:200])
    else:
        make(tmp_path / "other", x=whole_numbers(10, seed=3))
        shutil.copy(tmp_path / "other" / "tiles.json", path)
    told = []
    make(tmp_path / "k", told=told)
    assert files(tmp_path / "k") == whole
    assert any("tiles.json" in m and "by their own checksums, and one tile is computed again" in m for m in told)
    path.unlink()
    exchange(tmp_path / "k" / "c.0.1", tmp_path / "k" / "c.0.2")
    assert set(open_kernel(tmp_path / "k").verify()) == {(0, 1), (1, 0), (0, 2), (2, 0)}, "no more mirror images"


def test_every_flipped_bit_of_a_list_is_told_or_harmless(tmp_path):
    make(tmp_path / "k")
    path = tmp_path / "k" / "tiles.json"
    content, numbers = path.read_bytes(), open_kernel(tmp_path / "k").read()
    for bit in range(0, 8 * len(content), 7):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(changed)
        assert np.array_equal(open_kernel(tmp_path / "k").read(), numbers)  # the chunks are whole


def test_another_kernel_under_the_same_identity_is_refused(tmp_path):
    make(tmp_path / "k", identity={"name": "exact"})
    with pytest.raises(ValueError, match=r'program is "[0-9a-f]{12}… there and "[0-9a-f]{12}… here'):
        make(tmp_path / "k", lambda a, b: exact(a, b) + 1, identity={"name": "exact"})
    with pytest.raises(ValueError, match="program is"):
        make(tmp_path / "k", lambda a, b: exact(a, b) * jnp.ones(()), identity={"name": "exact"})
    assert make(tmp_path / "k", lambda s, t: exact(s, t), identity={"name": "exact"}).verify() == ()


def test_numbers_that_a_kernel_closes_over_are_part_of_what_it_is(tmp_path):
    def scaled(w):
        return lambda a, b: (a * w[None]) @ (b * w[None]).T

    make(tmp_path / "k", scaled(jnp.ones(3)))
    make(tmp_path / "k", scaled(jnp.ones(3)))
    with pytest.raises(ValueError, match="program is"):
        make(tmp_path / "k", scaled(jnp.array([1.0, 1.0, 2.0])))


def test_a_kernel_that_cannot_be_traced_needs_a_name_and_is_compared(tmp_path):
    with pytest.raises(ValueError, match="cannot be traced, or calls back .* nothing tells it from another"):
        make(tmp_path / "k", in_python)
    assert not (tmp_path / "k").exists()
    make(tmp_path / "k", in_python, identity={"name": "exact"})
    whole, told = files(tmp_path / "k"), []
    make(tmp_path / "k", in_python, identity={"name": "exact"}, told=told)
    assert any("computed again to compare it" in m for m in told) and files(tmp_path / "k") == whole
    with pytest.raises(ValueError, match="holds other numbers than the kernel gives: tile"):
        make(tmp_path / "k", lambda a, b: in_python(a, b) * np.float32(1.01), identity={"name": "exact"})
    rounded = lambda a, b: in_python(a, b) * np.float32(1 + 1e-6)  # noqa: E731 (another machine)
    (tmp_path / "k" / "c.0.0").unlink()
    assert make(tmp_path / "k", rounded, identity={"name": "exact"}).verify() == ()


def once_there(folder, chunks, act):
    """A kernel that acts while a tile is computed, once so many chunks are there."""
    acted = []

    def kernel(a, b):
        if not acted and len(a) == 4 and len(list(folder.glob("c.?.?"))) >= chunks:
            acted.append(act())
        time.sleep(0.02)  # so that chunks are written meanwhile
        return in_python(a, b)

    return kernel


@pytest.mark.parametrize("what", ["description", "everything"])
def test_a_store_that_goes_away_while_it_is_filled_is_whole_at_the_end(tmp_path, what):
    name = {"name": "exact"}
    make(tmp_path / "whole", in_python, identity=name)

    def away():
        if what == "description":
            (tmp_path / "k" / "zarr.json").unlink()
        else:
            (tmp_path / "k").rename(tmp_path / "elsewhere")

    told = []
    kernel = make(tmp_path / "k", once_there(tmp_path / "k", 2, away), identity=name, told=told)
    assert kernel.verify() == () and files(tmp_path / "k") == files(tmp_path / "whole")
    assert any("has lost its description while this ran" in m for m in told)
    assert any("not as they were written: they are computed again" in m for m in told) == (what == "everything"), told


def test_a_store_that_has_lost_its_description_is_adopted(tmp_path):
    for name, kernel in (("k", exact), ("group", both)):
        make(tmp_path / name, kernel)
        whole = files(tmp_path / name)
        (tmp_path / name / "zarr.json").unlink()
        with pytest.raises(ValueError, match="has lost its zarr.json: give the command that made it again"):
            open_kernel(tmp_path / name)
        with pytest.raises(ValueError, match="data.one is"):
            make(tmp_path / name, kernel, whole_numbers(10, seed=1))
        make(tmp_path / name, kernel)
        assert files(tmp_path / name) == whole


def test_stores_of_the_format_before_are_read_and_not_gone_on_with(tmp_path):
    make(tmp_path / "k", identity={"name": "exact"})
    before = open_kernel(tmp_path / "k").read()
    path = tmp_path / "k" / "zarr.json"
    content = json.loads(path.read_text())
    content["attributes"]["npk"]["format"] = 1
    del content["attributes"]["npk"]["program"]
    path.write_text(json.dumps(content))
    (tmp_path / "k" / "tiles.json").unlink()
    assert np.array_equal(open_kernel(tmp_path / "k").read(), before) and open_kernel(tmp_path / "k").verify() == ()
    with pytest.raises(ValueError, match="npk verify --repair"):
        make(tmp_path / "k", identity={"name": "exact"})
