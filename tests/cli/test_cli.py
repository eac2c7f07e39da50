import re
import runpy
import signal
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from npk import cli
from npk.cli import commands
from npk.studies import StudyConfig, read_study

pytestmark = pytest.mark.standard_dtypes

TINY = ["--width", "8", "--depth", "2", "--epochs", "2", "--samples", "20", "--test-samples", "20", "--no-regimes"]


def run(*arguments):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments], env={"COLUMNS": "200", "TERM": "dumb"})


def plain(text):
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_study_writes_a_run_folder_tells_its_stages_and_says_where(tmp_path):
    result = run("study", *TINY, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    told = [line.split("%  ")[1].split(":")[0] for line in result.stdout.splitlines() if "%  " in line[:14]]
    kernels = [f"kernels of stage {stage}" for stage in range(7)]
    assert told == ["loading data", "training", *kernels, "done", "drawing the report"]
    assert str(tmp_path / "run" / "report.html") in result.stdout
    assert (tmp_path / "run" / "report.html").is_file()
    assert read_study(tmp_path / "run")["config"]["width"] == 8


def test_some_classes_are_studied_in_a_folder_of_a_plain_name_under_their_title(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("study", *TINY, "--dataset", "digits:4,7")
    assert result.exit_code == 0, result.output
    other = "width8-depth2-epochs2-samples20-test-samples20-no-regimes"
    page = tmp_path / "runs" / f"study-digits-4-7-mlp-s0-{other}" / "report.html"
    assert "was trained on <b>Digits, classes 4 and 7</b>" in page.read_text(encoding="utf-8")


def test_help_names_every_flag_with_its_default():
    text = plain(run("study", "--help").stdout)
    for flag in ("dataset", "data-dir", "network", "width", "depth", "bias", "epochs", "batch-size", "learning-rate",
                 "seed", "samples", "test-samples", "beta", "out", "resume"):  # fmt: skip
        assert f"--{flag} " in text, flag
    assert "[default: digits:0-4,5-9]" in text and "[default: 40]" in text
    for group in ("Data", "Network", "Training", "Kernels", "Run"):
        assert f"─ {group} ─" in text, group


def test_flags_default_to_the_configuration():
    import inspect

    parameters = inspect.signature(commands._study).parameters
    defaults = {name: parameters[name].default for name in parameters}
    config = StudyConfig()
    for name in ("dataset", "network", "width", "depth", "epochs", "batch_size", "learning_rate", "seed", "samples"):
        assert defaults[name] == getattr(config, name)


def test_version_names_both_libraries():
    import jax

    import npk

    versions = f"npk {npk.__version__}, jax {jax.__version__}"
    assert run("version").stdout.startswith(f"{versions}, python 3.")
    assert run("--version").stdout == f"{versions}\n"


def test_the_package_is_the_command_too(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["npk", "--version"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_module("npk", run_name="__main__")
    assert capsys.readouterr().out.startswith("npk ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "emnist"], "--dataset must be one of digits, mnist, "),
        (["--network", "lenet"], "--network must be one of mlp, "),
        (["--epochs", "0"], "--epochs must be at least 1 and at most 1000000, got 0."),
        (["--dataset", "digits", "--samples", "10"], "samples must be more than the 10 classes, got 10"),
        (["--samples", "2"], "samples must be more than the 2 classes, got 2"),
        (["--dataset", "digits:0-4,3-9"], "choose two or more different classes of 'digits', got '0-4,3-9'"),
        (["--batch-size", "5000"], "batch_size must lie in 1 … 1437"),
        (["--dataset", "mnist", "--data-dir", "nowhere"], "'nowhere' is not a folder"),
        (["--dataset", "digits:4,ten"], "'digits' has no class 'ten'"),
        (["--dataset", "cob_odt_20", "--network", "c4gap"], "c4gap needs images, and COB-ODT, 20 dimensions has none"),
        (["--network", "vgg16", "--width", "1"], "VGG16 halves images five times: they need 32x32 pixels, got 8x8"),
    ],
)
def test_a_users_error_is_one_line_without_traceback(tmp_path, arguments, message):
    result = run("study", *arguments, "--out", tmp_path / "run")
    assert result.exit_code == 1
    lines = [line for line in plain(result.stderr).splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1 and message in lines[0], result.stderr
    assert "Traceback" not in result.output


def test_an_existing_study_is_refused_and_resumed(tmp_path):
    assert run("study", *TINY, "--out", tmp_path / "run").exit_code == 0
    refused = run("study", *TINY, "--out", tmp_path / "run")
    assert refused.exit_code == 1 and "continue it with --resume, or choose another folder" in plain(refused.stderr)
    other = run("study", *TINY, "--seed", 1, "--out", tmp_path / "run", "--resume")
    assert other.exit_code == 1 and "seed is 0 there and 1 here" in plain(other.stderr)
    assert run("study", *TINY, "--out", tmp_path / "run", "--resume").exit_code == 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="interrupts by signal")
@pytest.mark.parametrize(("number", "said", "code"), [("SIGINT", "Interrupted", 130), ("SIGTERM", "Terminated", 143)])
def test_a_study_that_is_ended_keeps_what_is_finished_and_says_how_to_go_on(tmp_path, number, said, code):
    folder = tmp_path / "run"
    # A process started in the background may inherit an ignored interrupt: ask for it.
    start = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); import npk.__main__ as m; m.main()"
    )
    command = [sys.executable, "-c", start, "study", *TINY, "--out", str(folder)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not (folder / "kernels" / "stage-0.npz").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(getattr(signal, number))
    _, errors = process.communicate(timeout=300)
    assert process.returncode == code and f"{said}. What was finished is kept in" in plain(errors)
    assert "Traceback" not in errors
    hint = re.search(r"npk (study .*--resume)", plain(errors).replace("\n", " "))
    assert hint, errors
    result = run(*hint.group(1).split())
    assert result.exit_code == 0 and read_study(folder)["finished"]
