"""What cannot succeed is refused in one line that names the flag, before there is a folder for the mended command."""

import contextlib
import os
import re
import signal
import subprocess
import sys

import jax
import pytest
import typer
from typer.testing import CliRunner

from npk import cli
from npk.cli.run_command import run_command
from npk.cli.terminal import one_line_errors, running
from npk.studies import StudyConfig

HUGE = str(10**20)
SMALL = "--depth 2 --widths 8,16 --seeds 2 --gates-width 8 --flow-width 8".split()
FAT = "--depth 20"  # at a width of a million 76 TB

REFUSED = {
    "study": [
        ("--batch-size 999999", "batch_size must lie in 1 … 1437 (the training samples), got 999999."),
        ("--batch-size 1437 --epochs 1", "1 steps are too few for 7 stages: train for more epochs, or in smaller"),
        *((f"--samples {n}", f"samples must be {said}") for n, said in ((0, "at least 1"), (2, "more than the 2"))),
        ("--dataset digits --samples 9", "samples must be more than the 10 classes, got 9."),
        ("--depth 1", "--depth must be at least 2 and at most 2000, got 1."),
        (f"--depth {HUGE}", "--depth must be at least 2 and at most 2000, got 1000"),
        *((f"--beta {x}", f"--beta must be more than 0 and at most 1000, got {x}.") for x in ("inf", "nan", "10000.0")),
        *((f"--learning-rate {x}", f"at most 1000, got {x}.") for x in ("inf", "-inf", "nan", "0.0", "1e+30")),
        (f"--epochs {HUGE}", "--epochs must be at least 1 and at most 1000000, got 1000"),
        (f"--width {HUGE}", "--width must be at least 1 and at most 1000000, got 1000"),
        (f"--width 1000000 {FAT}", "width = 1000000 needs more memory than there is: 18,000,066,000,000 parameters"),
        ("--seed -1", "--seed must be at least 0 and at most 4294967295, got -1."),
        ("--network mlp:4", "--network must be one of mlp, "),
        ("--network c4gap --depth 3", "c4gap has a fixed depth: leave depth out (got 3)."),
    ],
    "compare": [
        ("--gates-width 0", "--gates-width must be at least 1 and at most 1000000, got 0."),
        (f"--gates-width 1000000 {FAT}", "gates_width = 1000000 needs more memory than there is"),
        (f"--flow-width 1000000 {FAT}", "flow_width = 1000000 needs more memory than there is"),
        (f"--widths 8,1000000 {FAT}", "widths = 1000000 needs more memory than there is"),
        (f"--widths 8,{HUGE}", "--widths must be at least 1 and at most 1000000, got 1000"),
        ("--widths=", "--widths must be whole numbers with commas between, as in 64,128,256; got ''."),
        *((f"--flow-step {x}", "--flow-step must be more than 0 and at most 2, got") for x in ("inf", "2.5")),
        (f"--flow-steps {HUGE}", "--flow-steps must be at least 1 and at most 10000000, got 1000"),
        ("--beta inf", "--beta must be more than 0 and at most 1000, got inf."),
        ("--network c4gap", "c4gap has a fixed depth: leave depth out (got 2)."),
        ("--samples 9", "samples must be more than the 10 classes, got 9."),
    ],
    "reproduce cob-odt": [
        *((f"--learning-rate {x}", f"--learning-rate must be more than 0 and at most 1000, got {x}")
          for x in ("0.0", "inf", "nan")),
        ("--dataset=", "--dataset must be one of digits, mnist, "),
        ("--scale nan", "--scale must be more than 0 and at most 1, got nan."),
        (f"--epochs {HUGE}", "--epochs must be at least 1 and at most 1000000, got 1000"),
        ("--seeds 10000000", "seeds = 10000000 needs more memory than there is: "),
        (f"--seeds {HUGE}", "--seeds must be at least 1 and at most 10000000, got 1000"),
        ("--samples 25000", "samples must be at least 24 and at most 20000 of COB-ODT, 20 dimensions, got 25000."),
        ("--dataset digits --pool 3", "pool = 3 must divide the images' sides, got inputs of shape [8, 8, 1]."),
        ("--dataset mnist --data-dir nowhere", "data_dir 'nowhere' is not a folder."),
    ],
    "reproduce gconv-cifar10": [("--dataset cob_odt_20", "gconv needs images, and COB-ODT, 20 dimensions has none")],
    "reproduce fl-stages": [
        ("--dataset digits --scale 0.01 --epochs 1", "5 steps are too few for 7 stages: train for more epochs"),
    ],
    "reproduce dlgn-cifar": [("--dataset digits --network vgg16-bn-average", "VGG16 halves images five times")],
}  # fmt: skip
CASES = [(command, flags, said) for command, cases in REFUSED.items() for flags, said in cases]


def invoked(app, *words):
    return CliRunner().invoke(app, words, env={"COLUMNS": "200", "TERM": "dumb"})


def error_of(result):
    """The one line of an error."""
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit), result.exception
    (line,) = re.sub(r"\x1b\[[0-9;]*m", "", result.stderr).splitlines()
    return line.removeprefix("Error: ")


@pytest.mark.parametrize(("command", "flags", "said"), CASES, ids=[f"{c} {f[:40]}" for c, f, _ in CASES])
def test_what_cannot_succeed_leaves_no_folder(tmp_path, monkeypatch, command, flags, said):
    monkeypatch.chdir(tmp_path)
    given = SMALL if command == "compare" else []
    assert said in error_of(invoked(cli.app, *command.split(), *given, *flags.split(), "--out", "run"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["study", "compare", "reproduce cob-odt", "data list", "data prepare mnist"])
def test_paths_that_are_no_text_are_refused_by_their_flag(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    flags = {"data list": ["--data-dir"], "data prepare mnist": ["--from", "--data-dir"]}
    for flag in flags.get(command, ["--out", "--data-dir"]):
        others = ["--from", "here"] if command == "data prepare mnist" and flag != "--from" else []
        said = error_of(invoked(cli.app, *command.split(), *others, flag, "a\udcffb"))
        assert said == f"{flag} must be text, got 'a\\udcffb': choose a path without undecodable bytes."
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a[/]b", "a[bold]b", "a\\b", "ab\\", "a\\[b"])
def test_a_path_is_printed_as_it_is(tmp_path, monkeypatch, name):
    """Though brackets and backslashes mean something to what prints."""
    monkeypatch.chdir(tmp_path)

    def run(config, folder, *, progress, **options):
        if config.seed:
            raise KeyboardInterrupt
        return {}

    app = typer.Typer()
    command = run_command("study", "study", StudyConfig, run, lambda folder: folder / "report.html")
    app.command()(command(lambda result: None))
    assert f"Report: {name}/report.html\n" in invoked(app, "--out", name).stdout
    assert f"What was finished is kept in {name}; " in invoked(app, "--out", name, "--seed", "1").stderr
    (tmp_path / name / "mnist" / "3.0.1").mkdir(parents=True)
    assert f"{name}/mnist/3.0.1" in invoked(cli.app, "data", "list", "--data-dir", name).stdout


def test_memory_that_is_refused_on_the_way_is_one_line(capsys):
    for error in (MemoryError("Unable to allocate 3 TiB"), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 3 TiB")):
        with pytest.raises(typer.Exit) as ended, one_line_errors():
            raise error
        (line,) = capsys.readouterr().err.splitlines()
        assert ended.value.exit_code == 1
        assert line.startswith("Error: there is not enough memory (") and "3 TiB): choose a smaller width" in line
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"), one_line_errors():
        raise jax.errors.JaxRuntimeError("INTERNAL: no fault of the user")


def test_widths_that_are_no_numbers_are_one_line():
    result = CliRunner().invoke(cli.app, ["compare", "--widths", "8,many"])
    assert result.exit_code != 0 and "whole numbers with commas" in result.output + (result.stderr or "")
    assert "Traceback" not in result.output


@pytest.mark.skipif(sys.platform == "win32", reason="ends by signal")
@pytest.mark.parametrize(
    ("number", "said", "code"), [(signal.SIGINT, "Interrupted", 130), (signal.SIGTERM, "Terminated", 143)]
)
def test_a_command_that_is_ended_says_what_is_kept(capsys, number, said, code):
    before = signal.getsignal(signal.SIGTERM)
    with contextlib.ExitStack() as stack:
        # A process in the background may ignore it.
        stack.callback(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, signal.default_int_handler))
        ended = stack.enter_context(pytest.raises(typer.Exit))
        stack.enter_context(running("It is kept; continue with:", again="npk again"))
        os.kill(os.getpid(), number)
    assert ended.value.exit_code == code
    assert capsys.readouterr().err == f"\n{said}. It is kept; continue with:\n  npk again\n"
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.skipif(sys.platform == "win32", reason="interrupts by signal")
@pytest.mark.parametrize("package", ["jax", "npk.studies"])
def test_ctrl_c_while_packages_are_imported_is_one_line(package):
    program = f"""
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background may ignore it

class Interrupting:
    def find_spec(self, name, *rest):
        if name == {package!r}:
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except KeyboardInterrupt:  # as compiled packages do
                raise ImportError("initialising failed")

sys.meta_path.insert(0, Interrupting())
from npk.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", program, "version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "\nInterrupted before anything was begun.\n")
