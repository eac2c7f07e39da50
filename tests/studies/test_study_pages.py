"""The page of a study: whole, of its own numbers, and without a word that could be anything but a word."""

import base64
import io
import re
import shutil

import numpy as np
import PIL.Image
import pytest
from read_pages import page_of
from small_studies import saved_alone

from npk.data import load
from npk.folders import read_json, write_json
from npk.studies.pages.study_page import write_report

pytestmark = pytest.mark.standard_dtypes


def test_the_report_is_one_page_that_needs_nothing_else(finished):
    folder, result = finished
    path = write_report(folder)
    (page, data), source = page_of(path), path.read_text(encoding="utf-8")
    figures = ("training", "flips", "accuracy", "alignment", "split", "kernels", "spectra")
    assert source.count("<svg") == len(figures) and source.count("<figure") == len(figures) + 3  # 3 of the explorer
    first, last = result["stages"][0], result["stages"][-1]
    for number in (last["test_accuracy"], last["ridge"]["test_accuracy"], first["ridge"]["test_accuracy"]):
        assert f"{number:.1%}" in page.text
    for ends in (last["intervals"]["test_accuracy"], result["pixels"]["intervals"]["ridge"]):
        assert f"{ends[0]:.1%} to {ends[1]:.1%}" in page.text
    assert "$" not in page.text and "{{" not in page.text
    assert data["stages"] == result["names"]
    names = {path.name for path in (folder / "figures").iterdir()}
    assert names == {f"{figure}.{kind}" for figure in figures for kind in ("png", "svg")}


def test_a_page_carries_the_kernels_and_gates_that_its_script_shows(finished):
    """Entries below the diagonal in 16 bits of their range, gates eight to a byte: as the script reads them."""
    folder, _ = finished
    _, data = page_of(write_report(folder))
    samples = dict(np.load(folder / "samples.npz"))
    shown, labels, count = samples["shown"], samples["train_labels"], 40
    assert set(shown.tolist()) == set(range(count)) and data["starts"] == list(range(0, count, 4))
    assert data["classes"] == [str(label) for label in labels[shown]] == [str(place // 4) for place in range(count)]
    rows, columns = np.tril_indices(count)
    places = shown[rows], shown[columns]
    for stage, held in enumerate(data["kernels"]):
        arrays = dict(np.load(folder / "kernels" / f"stage-{stage}.npz"))
        steps = np.frombuffer(base64.b64decode(held["values"]), "<u2") / 65535
        found = held["low"] + steps * (held["high"] - held["low"])
        np.testing.assert_allclose(found, arrays["npk"][places], atol=1e-5 * (held["high"] - held["low"]))
        centred = arrays["value"] - arrays["value"].mean(0) - arrays["value"].mean(1)[:, None] + arrays["value"].mean()
        shades = np.frombuffer(base64.b64decode(held["value"]["colors"]), np.uint8) / 254 * 2 - 1
        expected = np.clip(centred[places] / held["value"]["bound"], -1, 1)
        np.testing.assert_allclose(shades, expected, atol=0.005)
    params = dict(np.load(folder / "parameters.npz"))
    x = load("digits").x_train[samples["train"][shown]].reshape(count, -1)
    for layer, units in enumerate(data["gates"]["units"]):
        x = x @ params[f"stage-3/params/Dense_{layer}/kernel"]
        packed = np.frombuffer(base64.b64decode(data["gates"]["stages"][3][layer]), np.uint8).reshape(count, -1)
        np.testing.assert_array_equal(np.unpackbits(packed, axis=1)[:, :units], x > 0)
        x = np.maximum(x, 0)
    assert data["gates"]["units"] == [12, 12]
    sheet = np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(data["images"]["png"]))))
    row, column = divmod(23, data["images"]["columns"])
    seen = sheet[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
    image = load("digits").x_train[samples["train"][shown[23]], :, :, 0]
    np.testing.assert_allclose(seen / 255, image, atol=0.01)


def test_a_report_speaks_of_points_where_there_are_no_images_and_shows_what_it_is_told_as_text(
    finished, tmp_path, monkeypatch
):
    folder, told = finished[0], "<b>a & 'b'</b>"
    shutil.copytree(folder, tmp_path / "run")
    result = read_json(folder / "study.json")
    result["data"] |= {"shape": [64], "title": told, "source": told + "!"}
    result["network"]["kind"] = result["config"]["dataset"] = result["machine"]["device"] = told
    write_json(tmp_path / "run" / "study.json", result)
    saved_alone(monkeypatch)
    path = write_report(tmp_path / "run")
    page, _ = page_of(path)
    words = re.findall("image|pixel|point|coordinate", page.text)
    assert "coordinate" in words and not {"image", "pixel"} & set(words)
    assert "<b>a" not in path.read_text(encoding="utf-8") and page.text.count(told) >= 6


def test_a_report_of_nothing(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no study"):
        write_report(tmp_path)


EVIL = '<script>alert("x")</script>'


def _with_text(value, path=()):
    """Every number and word of a study that no figure reads as something a stranger wrote."""
    figures = {"title", "source", "date", "epochs", "learning_rate", "kind", "python", "jax", "device", "system"}
    if isinstance(value, dict):
        return {k: EVIL if k in figures else _with_text(v, (*path, k)) for k, v in value.items()}
    return [_with_text(v, path) for v in value] if isinstance(value, list) else value


def test_nothing_in_a_strangers_study_is_markup_or_a_formula(finished, tmp_path):
    folder, _ = finished
    shutil.copytree(folder, tmp_path / "run")
    content = _with_text(read_json(folder / "study.json"))
    content["stages"][-1]["stage"] = EVIL
    content["data"]["class_names"] = ["$\\frac{$", EVIL, "100 $", *content["data"]["class_names"][3:]]
    write_json(tmp_path / "run" / "study.json", content)
    path = write_report(tmp_path / "run")
    page, data = page_of(path)
    assert EVIL in page.text and EVIL in page.drawn, "as words"
    assert EVIL in data["classes"], "and whole in what the script reads"
    assert "\\u003cscript" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("names", [[EVIL, f"{EVIL}b", "c", "d"], ["$\\frac{$", "100 $", "a $b$ c", "d"]])
def test_what_checkpoints_are_called_is_no_markup_and_no_formula(finished, tmp_path, names):
    """Their names are a user's, or of files of a stranger: they stand under figures, in sentences and in the table."""
    folder, _ = finished
    shutil.copytree(folder, tmp_path / "run")
    content = read_json(folder / "study.json")
    content["names"] = names
    for stage, name in zip(content["stages"], names, strict=True):
        stage["name"] = name
    write_json(tmp_path / "run" / "study.json", content)
    page, data = page_of(write_report(tmp_path / "run"))
    assert names[0] in page.text and names[0] in page.drawn and data["stages"] == names
