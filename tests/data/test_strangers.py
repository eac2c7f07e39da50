"""A prepared folder from a stranger: nothing that it names is run, and what it must not hold is told."""

import io
import json
import sys

import numpy as np
import PIL.Image
import pytest
from prepared_folders import make_tiny, prepare

from npk.data import load

EVIL = """
import pathlib
pathlib.Path(__file__).with_name("it ran").touch()
class Features: ...
"""


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    make_tiny(monkeypatch)


@pytest.mark.parametrize("name", ["mnist", "cifar10_jpeg", "cifar10_subset"])
def test_no_class_that_a_folder_names_is_imported(name, tmp_path, monkeypatch):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "a_strangers_module.py").write_text(EVIL)
    monkeypatch.syspath_prepend(tmp_path / "code")
    prepare(tmp_path, name)
    (folder,) = (tmp_path / name).iterdir()
    features = {"pythonClassName": "a_strangers_module.Features", "featuresDict": {"features": {}}}
    (folder / "features.json").write_text(json.dumps(features))
    content = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps(content | {"moduleName": "a_strangers_module"}))
    assert len(load(name, data_dir=tmp_path).x_train) == 7
    assert "a_strangers_module" not in sys.modules
    assert not (tmp_path / "code" / "it ran").exists()


def encoded(format, mode="RGB", size=(32, 32)):
    buffer = io.BytesIO()
    PIL.Image.new(mode, size).save(buffer, format=format)
    return lambda image: buffer.getvalue()


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\n(it ran) (w) file closefile\n%%EOF\n"
RECORDS = {
    "PostScript": (lambda image: EPS, "cannot identify image file"),
    "a GIF": (encoded("GIF", "P"), "cannot identify image file"),
    "no image": (lambda image: b"", "cannot identify image file"),
    "grey, as many bytes": (encoded("PNG", "L", (64, 48)), r"an image of 48×64×1 \(L\), must be 32×32×3"),
    "turned": (encoded("PNG", "RGB", (16, 64)), "an image of 64×16×3"),
    "with transparency": (encoded("PNG", "RGBA"), r"an image of 32×32×4 \(RGBA\)"),
    "a palette": (encoded("PNG", "P"), r"an image of 32×32×1 \(P\)"),
    "huge": (encoded("PNG", "1", (10_000, 10_000)), "an image of 10000×10000×1|exceeds limit"),
}


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_that_is_no_such_image_is_named(name, tmp_path):
    encode, message = RECORDS[name]
    prepare(tmp_path, "cifar10", encode=encode)
    with pytest.raises(ValueError, match=f"is damaged .record 0 of train: .*({message})"):
        load("cifar10", data_dir=tmp_path)
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("label", [10, 77, -1])
def test_a_label_of_no_class_is_named(label, tmp_path):
    prepare(tmp_path, "cifar10", relabel=lambda _: label)
    with pytest.raises(ValueError, match=f"record 0 of train has label {label}, must be 0 to 9"):
        load("cifar10", data_dir=tmp_path)


def test_classes_of_another_number_are_told(tmp_path):
    prepare(tmp_path, "mnist")
    (folder,) = (tmp_path / "mnist").iterdir()
    (folder / "label.labels.txt").write_text("\n".join(f"class {i}" for i in range(12)))
    with pytest.raises(ValueError, match="is damaged .12 classes, must be 10"):
        load("mnist", data_dir=tmp_path)


def test_a_folder_does_not_rename_classes_that_are_known(tmp_path):
    prepare(tmp_path, "cifar10_subset")
    (folder,) = (tmp_path / "cifar10_subset").iterdir()
    (folder / "label.labels.txt").write_text("\n".join(f"class {i}" for i in range(10)))
    assert load("cifar10_subset", data_dir=tmp_path).class_names[:2] == ("airplane", "automobile")


def test_a_colour_jpeg_is_read(tmp_path):
    prepare(tmp_path, "cifar10_jpeg", encode=encoded("JPEG"))
    assert np.array_equal(load("cifar10_jpeg", data_dir=tmp_path).x_test, np.zeros((3, 32, 32, 3)))
