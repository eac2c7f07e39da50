"""`make gpu` before there is a GPU: its small form whole, and what becomes of results when something fails."""

import functools
import json
import os
import pathlib
import subprocess
import sys

import jax
import pytest

from benchmarks.gpu import record, sizes
from benchmarks.gpu.__main__ import PARTS

ROOT = pathlib.Path(__file__).parents[1]


def by_module(folder, *arguments):
    """The command, from a bare copy's point of view: no git, nothing but the path to the sources."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PATH": "", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "benchmarks.gpu", "--out", str(folder / "found.json"), *arguments]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=800, check=False
    )
    path = folder / "found.json"
    return done, json.loads(path.read_text()) if path.exists() else None


@pytest.mark.slow
def test_the_small_form_is_whole_and_right(tmp_path):
    done, found = by_module(tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "small form" in done.stdout
    assert list(found["parts"]) == list(PARTS) == list(sizes.SECONDS)
    assert found["size"] == sizes.SMALL.name
    assert found["machine"]["commit"] is None
    for name, part in found["parts"].items():
        assert part["error"] is None and part["rows"], name
        assert not [row for row in part["rows"] if "error" in row or "errors" in row], name
        assert part["peaks"], name
    compared = found["parts"]["correctness"]["rows"]
    assert all(row["passed"] and row["largest difference"] <= row["bound"] for row in compared)
    kinds = {row["case"].split(": ")[1] for row in compared}
    assert {"path counts", "path features", "split_ntk", "ntk", "infinite ntk", "sketch_ntk"} <= kinds
    assert {row["case"].split(": ")[0] for row in compared} == set(sizes.SMALL.architectures)


def begin(folder, keep=False):
    return record.Record.begin(folder / "found.json", "small", keep=keep)


def on_disk(folder):
    return json.loads((folder / "found.json").read_text())["parts"]


def run(parts, found, seconds=None, limit=1e9):
    record.run(parts, None, found, seconds or {}, limit)


def good(sizes, part):
    part.case("one", lambda: {"ms": 1.0})


def test_a_part_and_a_case_that_fail_do_not_end_the_others(tmp_path, capsys):
    def bad_part(sizes, part):
        part.case("before", lambda: {"ms": 2.0})
        raise MemoryError("out of memory: 8 GiB")

    def bad_case(sizes, part):
        part.case("bad", lambda: 1 / 0)
        good(sizes, part)

    found = begin(tmp_path)
    run({"a": bad_part, "b": bad_case, "c": good}, found)
    parts = on_disk(tmp_path)
    assert parts["a"]["error"] == "MemoryError: out of memory: 8 GiB"
    assert parts["a"]["rows"] == [{"case": "before", "ms": 2.0}]
    assert parts["b"]["rows"] == [
        {"case": "bad", "error": "ZeroDivisionError: division by zero"},
        {"case": "one", "ms": 1.0},
    ]
    assert parts["c"]["error"] is None and parts["c"]["rows"] == [{"case": "one", "ms": 1.0}]
    failed = record.failures(found.content)
    assert [line.split(": ")[0] for line in failed] == ["a", "b"]
    record.tables(found.content)
    assert "out of memory" in capsys.readouterr().out


def test_a_number_beyond_its_bound_is_a_failure(tmp_path):
    found = begin(tmp_path)
    run({"a": lambda sizes, part: part.row("k", {"passed": False})}, found)
    assert record.failures(found.content) == ["a: k: not within its bound"]


def test_each_result_is_on_disk_before_the_next_begins(tmp_path):
    seen = []

    def part(sizes, part):
        for number in range(3):
            part.case(str(number), lambda n=number: {"n": n})
            seen.append([row["n"] for row in on_disk(tmp_path)["a"]["rows"]])
        part.left_out("a peer", "it is not here")
        seen.append(on_disk(tmp_path)["a"]["left out"])

    run({"a": part}, begin(tmp_path))
    assert seen == [[0], [0, 1], [0, 1, 2], ["a peer: it is not here"]]


def test_no_case_begins_when_the_time_is_over(tmp_path):
    ran = []
    part = lambda sizes, part: part.case("late", lambda: ran.append(1) or {})  # noqa: E731
    run({"a": part, "b": part}, begin(tmp_path), seconds={"a": -1.0})
    assert on_disk(tmp_path)["a"]["left out"] == ["late: no time was left"]
    assert on_disk(tmp_path)["b"]["rows"] == [{"case": "late"}] and len(ran) == 1
    run({"a": part}, begin(tmp_path), limit=-1.0)
    assert on_disk(tmp_path)["a"]["left out"] == ["late: no time was left"] and len(ran) == 1


def test_one_part_leaves_the_others_as_they_are_unless_the_machine_is_another(tmp_path):
    run({"a": good, "b": good}, begin(tmp_path))
    run({"b": lambda sizes, part: part.row("new", {})}, begin(tmp_path, keep=True))
    assert [row["case"] for part in on_disk(tmp_path).values() for row in part["rows"]] == ["one", "new"]
    content = json.loads((tmp_path / "found.json").read_text())
    content["machine"]["devices"] = ["another"]
    (tmp_path / "found.json").write_text(json.dumps(content))
    run({"b": good}, begin(tmp_path, keep=True))
    assert list(on_disk(tmp_path)) == ["b"]


def test_only_the_parts_asked_for(tmp_path):
    assert list(record.named(["memory", "ntk"], PARTS)) == ["ntk", "memory"]
    assert record.named(None, PARTS) == PARTS
    done, found = by_module(tmp_path, "--only", "memory", "--minutes", "1e-9")
    assert done.returncode == 0, done.stderr[-2000:]
    assert list(found["parts"]) == ["memory"] and found["parts"]["memory"]["left out"]
    done, _ = by_module(tmp_path, "--only", "nothing")
    assert done.returncode == 2 and "no such part: nothing" in done.stderr


def test_a_candidate_that_fails_leaves_the_others_their_times():
    ones = jax.numpy.ones(3)
    calls = {"good": lambda: ones + 1, "bad": functools.partial(int, "x")}
    found, results = record.compared(calls, 1)
    assert list(found["ms"]) == list(found["first s"]) == list(results) == ["good"]
    assert found["errors"]["bad"].startswith("ValueError: invalid literal")


def test_differences_are_relative_to_the_largest_entry():
    assert record.relative([1.0, 4.5], [1.0, 4.0]) == 0.125
    assert record.relative([0.5], [0.0]) == 0.5
    with pytest.raises(ValueError, match="differ"):
        record.relative([1.0], [1.0, 2.0])
