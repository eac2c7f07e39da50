"""The description of a store is not believed: it is what this npk wrote for the record, or an error that names it."""

import json
import re

import numpy as np
import pytest

from npk.tiles import open_kernel, stored

X = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)


def gram(a, b):
    return a @ b.T


def split(a, b):
    return {"value": a @ b.T, "feature": 2 * (a @ b.T)}


@pytest.fixture(params=[gram, split], ids=["one array", "several"])
def store(request, tmp_path):
    stored(request.param, tmp_path / "K", tile=4, identity={"name": "a kernel", "depth": 2, "bias": None})(X)
    return tmp_path / "K"


def numbers(folder):
    found = open_kernel(folder)
    kernels = found if isinstance(found, dict) else {"": found}
    return {name: kernel.read() for name, kernel in kernels.items()}


def test_every_flipped_bit_of_a_description_is_told_or_harmless(store):
    """Harmless: what names the kernel, the data and the versions is compared when a store is gone on with."""
    before = numbers(store)
    for path in sorted(store.rglob("zarr.json")):
        content = path.read_bytes()
        told = 0
        for bit in range(0, 8 * len(content), 5):
            changed = bytearray(content)
            changed[bit // 8] ^= 1 << (bit % 8)
            path.write_bytes(changed)
            try:
                found = numbers(store)
            except (ValueError, FileExistsError, OSError) as error:
                assert str(store) in str(error)
                told += 1
            else:
                assert all(np.array_equal(found[k], before[k], equal_nan=True) for k in before), (path, bit)
        path.write_bytes(content)
        assert told > 0.1 * 8 * len(content) / 5
    assert all(np.array_equal(a, before[k]) for k, a in numbers(store).items())


@pytest.mark.parametrize(
    "change",
    [
        {"data_type": "int32"},
        {"codecs": [{"name": "bytes", "configuration": {"endian": "big"}}, {"name": "crc32c"}]},
        {"codecs": [{"name": "bytes", "configuration": {"endian": "little"}}]},
        {"chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}}},
        {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [5, 4]}}},
        {"shape": [9, 10]},
        {"shape": [True, 10]},
        {"storage_transformers": [{"name": "of a stranger"}]},
    ],
)
def test_a_description_that_would_read_other_numbers_is_refused(tmp_path, change):
    stored(gram, tmp_path / "K", tile=4, identity={"name": "gram"})(X)
    path = tmp_path / "K" / "zarr.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=f"is not as it was written .{next(iter(change))}"):
        numbers(tmp_path / "K")


@pytest.mark.parametrize("name", ["../../evil", "..", "/elsewhere/evil", "a/b", ".hidden"])
def test_an_array_of_a_stranger_stays_inside_its_store(tmp_path, name):
    stored(split, tmp_path / "K", tile=4, identity={"name": "split"})(X)
    path = tmp_path / "K" / "zarr.json"
    content = json.loads(path.read_text())
    arrays = content["attributes"]["npk"]["arrays"]
    arrays[name] = arrays.pop("value")
    path.write_text(json.dumps(content))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match="cannot be the name of a kernel's array"):
        open_kernel(tmp_path / "K")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["..", "."])
def test_a_key_that_leads_elsewhere_is_refused_before_anything_is_written(tmp_path, name):
    with pytest.raises(ValueError, match=re.escape(f"{name!r} cannot be the name of a kernel's array")):
        stored(lambda a, b: {name: a @ b.T, "b": a @ b.T}, tmp_path / "K", tile=4, identity={"name": "evil"})(X)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "there, here, said",
    [
        ({"bias": None}, {}, "identity.bias is null there and nothing here"),
        ({"params": {}}, {}, "identity.params is {} there and nothing here"),
        ({"a.b": 1}, {"a": {"b": 1}}, "identity.a.b is 1 there and nothing here"),
        ({"depth": 1}, {"depth": True}, "identity.depth is 1 there and true here"),
        ({"rate": 1}, {"rate": 1.0}, "identity.rate is 1 there and 1.0 here"),
        ({"layers": [1, 2]}, {"layers": [1, True]}, re.escape("identity.layers is [1, 2] there and [1, true] here")),
    ],
)
def test_identities_that_differ_are_two(tmp_path, there, here, said):
    stored(gram, tmp_path / "K", tile=4, identity={"name": "gram", **there})(X)
    with pytest.raises(ValueError, match=said):
        stored(gram, tmp_path / "K", tile=4, identity={"name": "gram", **here})(X)
    stored(gram, tmp_path / "K", tile=4, identity={**there, "name": "gram"})(X)
