"""`make gpu` before there is a GPU: its small form whole, and what becomes of results when something fails.

Of the other benchmarks: what they say of themselves, and of peers that are not installed.
"""

import functools
import importlib
import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import pytest

from benchmarks import __main__ as benchmarks
from benchmarks import harness, infinite, large, path_kernels, patterns, tangent_kernels
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


# ------------------------------------------------------------------------------ the others, side by side


def test_benchmarks_are_listed_a_line_each_and_none_begins(monkeypatch, capsys):
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: pytest.fail("it began"))
    with pytest.raises(SystemExit, match="0"):
        benchmarks.main(["--help"])
    listed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.split("benchmarks:\n")[1].splitlines())
    assert listed["training"] == "Training" and listed["faults"] == "Faults"
    scripts = [path for path in (ROOT / "benchmarks").glob("*.py") if "harness.begin(" in path.read_text()]
    assert set(listed) == {path.stem for path in scripts} | {"gpu"} == set(benchmarks.NAMES)


def test_one_is_run_with_its_flags_or_all_of_which_none_ends_the_others(monkeypatch, capsys):
    ran = []

    def run(command, check):
        ran.append(command[1:])
        return subprocess.CompletedProcess(command, int("faults" in command[2]))

    monkeypatch.setattr(subprocess, "run", run)
    assert benchmarks.main(["tiles", "--quick", "--help"]) == 0
    assert ran == [["-m", "benchmarks.tiles", "--quick", "--help"]]
    assert benchmarks.main([]) == 1 and capsys.readouterr().err == "failed: faults\n"
    assert [command[1] for command in ran[1:]] == [f"benchmarks.{name}" for name in benchmarks.NAMES]


@pytest.mark.parametrize("name", [name for name in benchmarks.NAMES if name != "gpu"])
def test_a_benchmark_says_first_what_it_needs(name, monkeypatch, capsys):
    """It is ended as soon as it has."""

    class Begun(Exception):
        pass

    def say(text):
        said.append(text)
        raise Begun

    said, module = [], importlib.import_module(f"benchmarks.{name}")
    monkeypatch.setattr(harness, "say", say)
    monkeypatch.setattr(sys, "argv", [name])
    with pytest.raises(Begun):
        module.main()
    assert re.match(r"Needs about (\d+ minutes|an hour) on two cores", said[0]) and not capsys.readouterr().out


def test_each_item_is_said_as_its_turn_comes(capsys):
    turns = harness.each(["a", "b"], "case {}".format)
    assert next(turns) == "a" and re.fullmatch(r"\d:\d\d:\d\d  1 of 2: case a\n", capsys.readouterr().out)
    assert list(turns) == ["b"] and capsys.readouterr().out.endswith("  2 of 2: case b\n")


WHY = "not measured: neural-tangents is not installed"


@pytest.fixture
def alone(monkeypatch):
    """No package of the peers is there."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "neural_tangents" else object())


def test_peers_that_are_not_installed_are_rows_that_say_so(alone):
    assert harness.not_measured("neural-tangents") == WHY and harness.not_measured("numba") is None
    _, skipped = large.available()
    assert skipped == {f"nt.batch, implementation {number}": WHY for number in (1, 2)}
    measured = {"times": {"npk.ntk": {"median": 2.0}}, "MiB": {"npk.ntk": 3.0}}
    _, *rows = large.shared_rows([{"case": "A", "N": 8, **measured, "left out": skipped}])
    assert rows == [[f"A: {name}", "–", WHY, "–"] for name in skipped]
    result = {"times": {}, "ms a pair": {"npk.path_kernel": 0.5}, "neural-tangents ntk ÷ npk": None, "left out": WHY}
    assert path_kernels._convolution_rows({4: result})[1][1] == WHY
    times = dict.fromkeys(("ntk", "split, hard gates", "split, soft gates", "ntk, soft gates"), {"median": 2.0})
    old = {"note": "not measured: no --old-python"}
    result = {"case": "A", "outputs": 1, "N": 8, "times": times, "MiB": {"ntk": 3.0}, "left out": WHY}
    cells = tangent_kernels.row(result | {"neural-tangents 3, JAX 0.4.36": old})
    assert cells[1:6] == ["2.0", WHY, "–", "–", "–"]


def test_kernels_at_infinite_width_are_measured_without_the_peer(alone, monkeypatch):
    monkeypatch.setitem(infinite.CASES, "small", infinite.Case((infinite.dense(),), (3,), 2))
    cells = infinite.row(infinite.measure("small", 1, False))
    assert cells[0] == "small, N=2²" and all(re.fullmatch(rf"[\d.e+-]+ / {WHY}", cell) for cell in cells[1:3])


def test_one_kind_of_gates_is_of_the_trained_network_and_the_others_of_the_random_one():
    trials = patterns.Trials(patterns.look_up(True), (0, 1))
    trials.kinds = ["scale", "pattern", "scale", "hard", "scale"]
    assert trials.mixed(["patterns"], "ABCDE", "abcde") == ("a", "B", "c", "d", "e")
    assert trials.mixed(["scales", "activations"], "ABCDE", "abcde") == ("A", "b", "C", "D", "E")


@pytest.mark.parametrize("name", ["look-up", "seen"])
def test_the_answers_of_characters_are_right(name):
    task = patterns.TASKS[name](True)
    for row, answer in zip(task.x.tolist(), task.y.tolist(), strict=True):
        *letters, last = row
        assert answer == (letters[last - 6] if name == "look-up" else int(last in letters))


def test_an_interval_is_student_s():
    assert patterns.interval([0.5, 0.7]) == pytest.approx((0.6, 12.706 * 0.1), rel=1e-3)
    assert patterns.shown([0.5, 0.5, 0.5]) == "50.0 ± 0.0"
