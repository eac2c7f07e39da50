"""What stands beside numbers: every flipped bit is told, names stay inside their folder, nothing is run."""

import os
import pickle

import numpy as np
import pytest

from npk.folders import (
    broken,
    is_fresh,
    locked,
    plain_name,
    read_arrays,
    read_json,
    replace,
    seal,
    write_arrays,
    write_json,
)

ARRAYS = {"a": np.arange(6.0).reshape(2, 3), "names": np.array(["x", "ÿ"]), "none": np.zeros((0, 2), np.int8)}


def flipped(path, bit):
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << (bit % 8)
    path.write_bytes(content)


@pytest.fixture
def sealed(tmp_path):
    folder = tmp_path / "sealed"
    replace(folder / "deep" / "numbers.bin", b"numbers")
    replace(folder / "notes.json", b'{"loss": 0.5}')
    seal(folder)
    return folder


def test_a_folder_as_it_was_sealed(sealed):
    assert broken(sealed) == () and broken(sealed / "deep") == ("manifest.json cannot be read",)


@pytest.mark.parametrize("name", ["deep/numbers.bin", "notes.json", "manifest.json"])
def test_every_flipped_bit_is_told(sealed, name):
    path = sealed / name
    content = path.read_bytes()
    for bit in range(8 * len(content)):
        flipped(path, bit)
        assert broken(sealed), f"bit {bit} of {name}"
        path.write_bytes(content)
    assert broken(sealed) == ()


def test_what_is_missing_and_what_was_added_is_named(sealed):
    (sealed / "notes.json").unlink()
    (sealed / "more.txt").touch()
    assert broken(sealed) == ("notes.json is missing", "more.txt was not there")


def test_arrays_come_back_bit_for_bit(tmp_path):
    write_arrays(tmp_path / "a.npz", ARRAYS)
    found = read_arrays(tmp_path / "a.npz")
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_every_flipped_bit_of_arrays_is_told_or_harmless(tmp_path):
    """Some bytes of an archive mean nothing (times, systems): then all numbers are as they were."""
    path = tmp_path / "a.npz"
    write_arrays(path, ARRAYS)
    content, told = path.read_bytes(), 0
    for bit in range(0, 8 * len(content), 7):
        flipped(path, bit)
        try:
            found = read_arrays(path)
        except ValueError as error:
            assert str(path) in str(error)
            told += 1
        else:
            assert all(np.array_equal(found[name], array) for name, array in ARRAYS.items()), bit
        path.write_bytes(content)
    assert told > 0.5 * len(content)


def test_arrays_of_objects_are_neither_written_nor_read(tmp_path):
    class Ran(Exception):
        pass

    class Evil:
        def __reduce__(self):
            return exec, ("raise KeyboardInterrupt",)

    with pytest.raises(ValueError, match="numbers or text"):
        write_arrays(tmp_path / "a.npz", {"a": np.array([{}])})
    np.savez(tmp_path / "b.npz", a=np.array([1, 2]))
    with pytest.raises(ValueError, match="not those that its checksum is of"):
        read_arrays(tmp_path / "b.npz")
    (tmp_path / "c.npz").write_bytes(pickle.dumps(Evil()))
    np.savez(tmp_path / "d.npz", a=np.array([Evil()], object))
    for name in ("c.npz", "d.npz"):
        with pytest.raises(ValueError, match="damaged, or no file of arrays"):
            read_arrays(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        read_arrays(tmp_path / "e.npz")


def test_a_write_that_fails_leaves_what_was_there_and_nothing_else(tmp_path):
    replace(tmp_path / "a", b"before")

    def full(file):
        file.write(b"half")
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        replace(tmp_path / "a", full)
    assert (tmp_path / "a").read_bytes() == b"before" and len(list(tmp_path.iterdir())) == 1


def test_a_folder_of_what_was_never_finished_is_fresh(tmp_path):
    (tmp_path / "kernels").mkdir()
    assert is_fresh(tmp_path)
    (tmp_path / "kernels" / "stage-0.npz.0123.part").touch()
    assert is_fresh(tmp_path)
    (tmp_path / "kernels" / "stage-0.npz").touch()
    assert not is_fresh(tmp_path)


@pytest.mark.parametrize("name", ["value", "blocks.params.Dense_0.kernel", "a:b", "Gewicht ß", "x" * 200])
def test_plain_names(name):
    assert plain_name(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../../evil", "/etc", "a/b", "a\\b", ".hidden", "a\nb", "a\0b", "\ud800", "x" * 201]
)
def test_names_that_lead_elsewhere(name):
    with pytest.raises(ValueError, match="cannot be the name of an array"):
        plain_name(name, "the name of an array")


def test_arrays_of_another_file_are_told_by_their_checksum(tmp_path):
    checksum = write_arrays(tmp_path / "a.npz", ARRAYS)
    write_arrays(tmp_path / "b.npz", {"a": np.zeros(2)})
    assert read_arrays(tmp_path / "a.npz", checksum).keys() == ARRAYS.keys()
    with pytest.raises(ValueError, match="b.npz is not the file that was written there"):
        read_arrays(tmp_path / "b.npz", checksum)


def test_every_flipped_bit_of_a_json_file_is_told(tmp_path):
    path, content = tmp_path / "a.json", {"b": [1, 2.5, None], "a": {"ü": "x"}, "c": True}
    write_json(path, content)
    assert read_json(path) == content
    whole = path.read_bytes()
    harmless = 0
    for bit in range(8 * len(whole)):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(changed)
        try:
            assert read_json(path) == content
            harmless += 1  # a space between
        except ValueError as error:
            assert "is damaged" in str(error) and str(path) in str(error)
    assert harmless < 0.2 * 8 * len(whole)


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", "null", '{"sha256": 1}', "[" * 100_000])
def test_what_is_no_content_is_told(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match="a.json is damaged"):
        read_json(tmp_path / "a.json")


def test_a_lock_is_of_one_at_a_time_and_leaves_nothing(tmp_path):
    with locked(tmp_path / "k"):
        with (
            pytest.raises(FileExistsError, match=rf"is being written by process {os.getpid()} on"),
            locked(tmp_path / "k"),
        ):
            pass
        assert is_fresh(tmp_path / "k")
    assert list((tmp_path / "k").iterdir()) == []
    (tmp_path / "k" / ".lock").write_text("left over by a process that was killed")
    with locked(tmp_path / "k"):
        pass
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "k"):
        1 / 0  # noqa: B018
    assert list((tmp_path / "k").iterdir()) == []


def test_an_interruption_within_a_write_leaves_the_old_file(tmp_path):
    replace(tmp_path / "file", b"old")

    def write(file):
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace(tmp_path / "file", write)
    assert (tmp_path / "file").read_bytes() == b"old"
