"""A run's folder: what it is of is compared, what is damaged is told, what is lost the seed gives back."""

import dataclasses
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from npk.folders import read_json, write_json
from npk.studies import StudyConfig, read_study, run_study, training_study, write_report

pytestmark = pytest.mark.standard_dtypes

CONFIG = StudyConfig(dataset="digits", width=6, depth=2, epochs=1, samples=12, test_samples=12, stages=2, regimes=False)


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def arrays(folder):
    return {name: content for name, content in files(folder).items() if name.endswith(".npz")}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    run_study(CONFIG, folder)
    return folder


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def without_seconds(value):
    if isinstance(value, dict):
        return {k: without_seconds(v) for k, v in value.items() if k != "seconds"}
    return [without_seconds(v) for v in value] if isinstance(value, list) else value


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "name", ["parameters.npz", "samples.npz", "inputs.npz", "kernels/stage-0.npz", "kernels/stage-1.npz"]
)
@pytest.mark.parametrize("harm", ["lost", "damaged", "of another stage"])
def test_arrays_that_are_lost_are_computed_again(finished, run, name, harm):
    if harm == "lost":
        (run / name).unlink()
    elif harm == "damaged":
        flipped(run / name)
    else:  # whole, and not what was written there
        shutil.copy(finished / ("kernels/stage-1.npz" if name != "kernels/stage-1.npz" else "samples.npz"), run / name)
    if "kernels" in name:
        with pytest.raises((ValueError, FileNotFoundError), match=name):
            write_report(run)
    said = []
    result = run_study(CONFIG, run, resume=True, progress=lambda _, text: said.append(text))
    assert arrays(run) == arrays(finished)
    assert without_seconds(result) == without_seconds(read_study(finished))
    assert any(name in text and "computed again" in text for text in said) or name == "samples.npz"


@pytest.mark.parametrize("text", ["{", "{}", "", "[]", '{"format": 2}'])
def test_a_run_file_that_is_damaged_is_named(run, text):
    (run / "study.json").write_text(text)
    for act in (lambda: run_study(CONFIG, run, resume=True), lambda: read_study(run), lambda: write_report(run)):
        with pytest.raises(ValueError, match=r"study.json is damaged.*remove the folder, or choose another"):
            act()


def test_every_flipped_bit_of_a_run_file_is_told_or_harmless(run):
    """Every hundredth of them."""
    path = run / "study.json"
    whole, content = path.read_bytes(), read_study(run)
    for bit in range(0, 8 * len(whole), 97):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(changed)
        try:
            assert read_study(run) == content
        except ValueError as error:
            assert str(path) in str(error)


def test_a_file_of_a_stranger_that_lacks_parts_is_told(run):
    content = read_json(run / "study.json")
    write_json(run / "study.json", {k: v for k, v in content.items() if k != "finished"})
    with pytest.raises(ValueError, match="study.json holds no run of format 2"):
        run_study(CONFIG, run, resume=True)


def shuffled(load):
    def other(*args, **options):
        data = load(*args, **options)
        return dataclasses.replace(data, y_train=np.random.default_rng(0).permutation(data.y_train))

    return other


def unfinished(run):
    content = read_json(run / "study.json")
    write_json(run / "study.json", {**content, "finished": False, "stages": content["stages"][:1]})


@pytest.mark.parametrize("state", ["finished", "unfinished"])
def test_a_run_of_other_data_is_not_gone_on_with(run, monkeypatch, state):
    if state == "unfinished":
        unfinished(run)
    before = files(run)
    monkeypatch.setattr(training_study, "load_suited", shuffled(training_study.load_suited))
    with pytest.raises(ValueError, match=r"holds a run of something else \(data.digits is .* there and .* here\)"):
        run_study(CONFIG, run, resume=True)
    assert files(run) == before


def test_a_run_of_another_network_is_not_gone_on_with(run, monkeypatch):
    """Of the same name and sizes, as another version of the code may build it."""
    monkeypatch.setattr("jax.nn.relu", lambda x: x * (x > 0) * 0.5)
    with pytest.raises(ValueError, match="programs.network is"):
        run_study(CONFIG, run, resume=True)


def test_other_versions_go_on_with_what_is_finished_alone(run, monkeypatch):
    monkeypatch.setattr("npk.studies.run_folder.versions", lambda platform: {"npk": "0.0"})
    assert run_study(CONFIG, run, resume=True)["finished"]
    unfinished(run)
    with pytest.raises(ValueError, match=r'versions.npk is ".*" there and "0.0" here'):
        run_study(CONFIG, run, resume=True)


def test_what_is_finished_is_shown_without_its_data(run, monkeypatch):
    def lost(*_):
        raise FileNotFoundError("digits are not prepared")

    monkeypatch.setattr(training_study, "load_suited", lost)
    said = []
    run_study(CONFIG, run, resume=True, progress=lambda _, text: said.append(text))
    assert "the data are not here, and not compared" in said
    (run / "kernels" / "stage-1.npz").unlink()
    with pytest.raises(FileNotFoundError, match="digits"):
        run_study(CONFIG, run, resume=True)


def test_a_folder_in_which_nothing_is_done_is_taken_over(finished, tmp_path):
    def stop(fraction, text):
        if text == "training":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(dataclasses.replace(CONFIG, width=7), tmp_path / "run", progress=stop)
    assert (tmp_path / "run" / "study.json").is_file() and not (tmp_path / "run" / ".lock").exists()
    (tmp_path / "run" / "kernels").mkdir()
    (tmp_path / "run" / "study.json.1234.part").write_text("{")
    run_study(CONFIG, tmp_path / "run")
    assert arrays(tmp_path / "run") == arrays(finished)


def test_a_run_that_another_process_writes_is_left_alone(run):
    holding = "import sys, pathlib; from npk.folders import locked\nwith locked(pathlib.Path(sys.argv[1])): "
    holding += "print('held', flush=True); sys.stdin.read()"
    other = subprocess.Popen(
        [sys.executable, "-c", holding, str(run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None and other.stdout.readline() == "held\n"
    unfinished(run)
    with pytest.raises(FileExistsError, match=f"is being written by process {other.pid} on"):
        run_study(CONFIG, run, resume=True)
    other.communicate("")
    assert run_study(CONFIG, run, resume=True)["finished"]


def test_runs_of_the_format_before_are_read_and_not_gone_on_with(run):
    """They had no checksums, and did not know their data."""
    content = {k: v for k, v in read_json(run / "study.json").items() if k not in ("identity", "files")} | {"format": 1}
    (run / "study.json").write_text(json.dumps(content))
    assert read_study(run)["finished"] and run_study(CONFIG, run, resume=True)["finished"]
    assert write_report(run).is_file()
    (run / "study.json").write_text(json.dumps({**content, "finished": False}))
    with pytest.raises(ValueError, match="begun by an older npk, which did not note its data"):
        run_study(CONFIG, run, resume=True)


def test_a_study_without_intervals_is_told_to_be_run_anew(run):
    """As an earlier npk wrote them: its numbers are there, and no page says how sure they are."""
    content = read_json(run / "study.json")
    stages = [{k: v for k, v in stage.items() if k not in ("intervals", "since")} for stage in content["stages"]]
    write_json(run / "study.json", {**content, "stages": stages})
    with pytest.raises(ValueError, match="is of an earlier npk, and has no intervals: run it anew elsewhere"):
        write_report(run)
