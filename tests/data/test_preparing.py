"""Preparation, of small stand-ins with the layout of the original files."""

import dataclasses
import errno
import gzip
import hashlib
import io
import os
import re
import socket
import sys
import tarfile

import numpy as np
import PIL.Image
import pytest
from typer.testing import CliRunner

from npk import cli
from npk.data import NAMES, STORED, load, preparing

# What TensorFlow and tensorflow-datasets warn about themselves is not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

TRAIN, TEST = 50, 20
MNIST_TRAIN, MNIST_TEST = 300, 60
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


def images(count, classes, shape=(32, 32, 3), seed=0):
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (count, *shape)).astype(np.uint8), np.arange(count) % classes


def tar(path, files):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def binary(x, y, coarse=False):
    """CIFAR's binary layout: labels, then pixels channel first."""
    labels = np.column_stack([y // 5, y] if coarse else [y]).astype(np.uint8)
    return np.concatenate([labels, x.transpose(0, 3, 1, 2).reshape(len(x), -1)], axis=1).tobytes()


def make_cifar10(folder):
    train, test = images(TRAIN, 10), images(TEST, 10, seed=1)
    parts = {f"data_batch_{i + 1}.bin": binary(*(a[10 * i : 10 * i + 10] for a in train)) for i in range(5)}
    files = {**parts, "test_batch.bin": binary(*test), "batches.meta.txt": "\n".join(CLASSES).encode()}
    tar(folder / "cifar-10-binary.tar.gz", {f"cifar-10-batches-bin/{name}": c for name, c in files.items()})
    return train, test, CLASSES


def make_cifar100(folder):
    train, test = images(TRAIN, 100), images(TEST, 100, seed=1)
    names = tuple(f"fine {i}" for i in range(100))
    files = {
        "train.bin": binary(*train, coarse=True),
        "test.bin": binary(*test, coarse=True),
        "fine_label_names.txt": "\n".join(names).encode(),
        "coarse_label_names.txt": "\n".join(f"coarse {i}" for i in range(20)).encode(),
    }
    tar(folder / "cifar-100-binary.tar.gz", {f"cifar-100-binary/{name}": c for name, c in files.items()})
    return train, test, names


def make_cifar10_jpeg(folder):
    made, files = {}, {}
    for split, count, seed in (("train", TRAIN, 0), ("test", TEST, 1)):
        x, y = images(count, 10, seed=seed)
        for i, (image, label) in enumerate(zip(x, y)):
            buffer = io.BytesIO()
            PIL.Image.fromarray(image).save(buffer, format="JPEG")
            files[f"{split}/{CLASSES[label]}/{i:04d}.jpg"] = buffer.getvalue()
            x[i] = np.asarray(PIL.Image.open(buffer))
        made[split] = x, y
    tar(folder / "cifar10-jpeg.tar.gz", files)
    return made["train"], made["test"], CLASSES


def make_cifar10_subset(folder):
    train, test = images(TRAIN, 10), images(TEST, 10, seed=1)
    for i in range(5):
        content = binary(*(a[10 * i : 10 * i + 10] for a in train))
        (folder / f"data_batch_{i + 1}.prefix.bin.gz").write_bytes(gzip.compress(content))
    (folder / "test_batch.prefix.bin.gz").write_bytes(gzip.compress(binary(*test)))
    return train, test, CLASSES


def make_mnist(folder):
    """More than a byte can count."""
    made = []
    for prefix, count in (("train", MNIST_TRAIN), ("t10k", MNIST_TEST)):
        x, y = np.zeros((count, 28, 28, 1), np.uint8), np.arange(count) % 10
        x[:, 0, 0, 0], x[:, 0, 1, 0] = np.divmod(np.arange(count), 256)
        for kind, header, content in (("images-idx3", 16, x), ("labels-idx1", 8, y.astype(np.uint8))):
            file = folder / f"{prefix}-{kind}-ubyte.gz"
            file.write_bytes(gzip.compress(bytes(header) + content.tobytes(), compresslevel=1))
        made.append((x, y))
    return *made, tuple(str(i) for i in range(10))


STORED_IN_FULL = {name: (stored.train, stored.test) for name, stored in STORED.items()}
MAKERS = {
    "cifar10": make_cifar10,
    "cifar100": make_cifar100,
    "cifar10_jpeg": make_cifar10_jpeg,
    "cifar10_subset": make_cifar10_subset,
    "mnist": make_mnist,
    "fashion_mnist": lambda folder: (*make_mnist(folder)[:2], CLOTHES),
}


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Makes the original files of a smaller data set, and has them taken for the true ones."""

    def make(name):
        folder = tmp_path / "originals"
        folder.mkdir()
        made = MAKERS[name](folder)
        stored = dataclasses.replace(STORED[name], train=len(made[0][1]), test=len(made[1][1]))
        monkeypatch.setitem(STORED, name, stored)
        found = {p.name: (p.stat().st_size, hashlib.sha256(p.read_bytes()).hexdigest()) for p in folder.iterdir()}
        assert set(found) == set(preparing._CHECKSUMS[name])
        monkeypatch.setitem(preparing._CHECKSUMS, name, found)
        if not stored.own:
            import tensorflow_datasets as tfds

            builder = tfds.builder_cls(name)
            if "mnist" in name:  # the builder has the numbers of images in its code
                code = sys.modules[tfds.builder_cls("mnist").__module__]
                assert (code._TRAIN_EXAMPLES, code._TEST_EXAMPLES) == (60_000, 10_000) == STORED_IN_FULL[name]
                monkeypatch.setattr(code, "_TRAIN_EXAMPLES", MNIST_TRAIN)
                monkeypatch.setattr(code, "_TEST_EXAMPLES", MNIST_TEST)
            infos = {
                url: dataclasses.replace(info, size=found[info.filename][0], checksum=found[info.filename][1])
                for url, info in builder.url_infos.items()
            }
            monkeypatch.setattr(builder, "url_infos", infos)
        return folder, made

    return make


@pytest.fixture
def tensorflow(monkeypatch):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    return pytest.importorskip("tensorflow", reason="preparing needs the extra npk[prepare]")


def ordered(x, y):
    """Rows of pixels and label, in an order that does not depend on the one they came in."""
    rows = np.column_stack([x.reshape(len(x), -1), y])
    return rows[np.lexsort(rows.T[::-1])]


def assert_same(data, made):
    (x_train, y_train), (x_test, y_test), names = made
    assert data.class_names == names
    for x, y, expected_x, expected_y in (
        (data.x_train, data.y_train, x_train, y_train),
        (data.x_test, data.y_test, x_test, y_test),
    ):
        pixels = np.rint(x * 255).astype(np.uint8)
        np.testing.assert_array_equal(pixels.astype(np.float32) / 255, x)
        np.testing.assert_array_equal(ordered(pixels, y), ordered(expected_x, expected_y))


SMALL = ("cifar10", "cifar100", "cifar10_jpeg", "cifar10_subset")


@pytest.mark.parametrize("name", [*SMALL, "mnist", "fashion_mnist"])
def test_what_is_prepared_is_read_back_exactly_and_without_a_network(
    tensorflow, stand_in, tmp_path, monkeypatch, name, capfd
):
    def refuse(*args):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    originals, made = stand_in(name)
    steps = []
    folder = preparing.prepare(
        name, originals, data_dir=tmp_path / "data", progress=lambda fraction, text: steps.append((fraction, text))
    )
    assert capfd.readouterr().out == ""
    data = load(name, data_dir=tmp_path / "data")
    assert_same(data, made)
    assert [p.name for p in (tmp_path / "data").iterdir()] == [name] and folder.is_dir()
    fractions = [fraction for fraction, _ in steps]
    assert fractions == sorted(fractions) and fractions[-1] == 0.9
    assert len(steps) > TRAIN + TEST and {text for _, text in steps} >= {f"encoding {data.title}", "reading it back"}


def test_copies_of_cifar10_never_pass_as_it(tensorflow, stand_in, tmp_path):
    originals, _ = stand_in("cifar10_jpeg")
    preparing.prepare("cifar10_jpeg", originals, data_dir=tmp_path / "data")
    data = load("cifar10_jpeg:cat,dog", data_dir=tmp_path / "data")
    assert data.title == "CIFAR-10 (JPEG copy), classes cat and dog"
    assert "CIFAR-10 (JPEG copy)" in data.source


def test_the_jpeg_copy_is_kept_byte_for_byte(tensorflow, stand_in, tmp_path):
    import tensorflow_datasets as tfds

    originals, _ = stand_in("cifar10_jpeg")
    folder = preparing.prepare("cifar10_jpeg", originals, data_dir=tmp_path / "data")
    source = tfds.builder_from_directory(str(folder)).as_data_source(
        split="train", decoders={"image": tfds.decode.SkipDecoding()}
    )
    with tarfile.open(originals / "cifar10-jpeg.tar.gz") as archive:
        files = {archive.extractfile(m).read() for m in archive if m.name.startswith("train/")}
    assert {record["image"] for record in source} == files


def test_checksums_are_those_that_tensorflow_datasets_registers():
    tfds = pytest.importorskip("tensorflow_datasets")
    for name in ("mnist", "fashion_mnist", "cifar10", "cifar100"):
        registered = {i.filename: (i.size, i.checksum) for i in tfds.builder_cls(name).url_infos.values()}
        assert {f.name: (f.size, f.sha256) for f in preparing.originals(name)} == registered
        assert str(tfds.builder_cls(name).VERSION) == STORED[name].version


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(
    ("harm", "error", "message"),
    [
        (truncate, ValueError, r"{file} is not the original file: \d+ bytes, must be \d+"),
        (flip, ValueError, r"{file} is not the original file: its sha256 is [0-9a-f]{{64}}, must be [0-9a-f]{{64}}"),
        (os.remove, FileNotFoundError, r"lacks {file}: .* is prepared from "),
    ],
)
def test_a_file_that_is_not_the_original_is_an_error_before_tensorflow_is_needed(
    stand_in, tmp_path, monkeypatch, name, harm, error, message
):
    originals, _ = stand_in(name)
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    file = sorted(originals.iterdir())[-1]
    harm(file)
    with pytest.raises(error, match=message.format(file=re.escape(file.name))):
        preparing.prepare(name, originals, data_dir=tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_the_true_files_are_asked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match="lacks train-images-idx3-ubyte.gz, .*MNIST is prepared from train-im"):
        preparing.prepare("mnist", tmp_path)
    with pytest.raises(FileNotFoundError, match="'.*nowhere' is not a folder: put the original files there"):
        preparing.prepare("mnist", tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no data set to prepare is called 'digits': choose one of mnist"):
        preparing.prepare("digits", tmp_path)


@pytest.mark.parametrize("package", ["tensorflow", "tensorflow_datasets", "array_record"])
def test_a_missing_package_is_named_with_the_remedy(stand_in, tmp_path, monkeypatch, package):
    originals, _ = stand_in("cifar10_subset")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=rf"needs the package {package}: run `pip install 'npk\[prepare\]'`"):
        preparing.prepare("cifar10_subset", originals, data_dir=tmp_path / "data")


def stop_at(fraction, error):
    def progress(now, text):
        if now >= fraction:
            raise error

    return progress


@pytest.mark.parametrize("fraction", [0.2, 0.9])
def test_a_full_disk_leaves_nothing_that_could_be_read(tensorflow, stand_in, tmp_path, fraction):
    originals, made = stand_in("cifar10")
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OSError, match=r"CIFAR-10 could not be prepared in .*nothing was left there.*No space left"):
        preparing.prepare("cifar10", originals, data_dir=tmp_path / "data", progress=stop_at(fraction, full))
    assert not list((tmp_path / "data").iterdir())
    with pytest.raises(FileNotFoundError, match="is not prepared in"):
        load("cifar10", data_dir=tmp_path / "data")
    preparing.prepare("cifar10", originals, data_dir=tmp_path / "data")
    assert_same(load("cifar10", data_dir=tmp_path / "data"), made)


def test_writes_that_fail_below_python_leave_nothing(tensorflow, stand_in, tmp_path):
    """The system refuses to let any file grow: the nearest to a full disk that needs no privileges."""
    resource = pytest.importorskip("resource")
    originals, _ = stand_in("cifar10_subset")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(OSError, match=r"could not be prepared in .*File too large"):
            preparing.prepare("cifar10_subset", originals, data_dir=tmp_path / "data")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list((tmp_path / "data").iterdir())


def test_an_interruption_leaves_nothing(tensorflow, stand_in, tmp_path):
    originals, _ = stand_in("cifar10_subset")
    with pytest.raises(KeyboardInterrupt):
        preparing.prepare(
            "cifar10_subset", originals, data_dir=tmp_path / "data", progress=stop_at(0.3, KeyboardInterrupt())
        )
    assert not list((tmp_path / "data").iterdir())


def test_a_prepared_set_is_left_as_it_is_and_checked(tensorflow, stand_in, tmp_path):
    originals, _ = stand_in("cifar10_subset")
    folder = preparing.prepare("cifar10_subset", originals, data_dir=tmp_path / "data")
    before = {p: p.stat().st_mtime_ns for p in folder.iterdir()}
    assert preparing.prepare("cifar10_subset", tmp_path / "nowhere", data_dir=tmp_path / "data") == folder
    assert {p: p.stat().st_mtime_ns for p in folder.iterdir()} == before
    next(folder.glob("*train*")).unlink()
    with pytest.raises(ValueError, match="is damaged .*is missing.*remove that folder and prepare it again"):
        preparing.prepare("cifar10_subset", originals, data_dir=tmp_path / "data")


def test_too_few_images_are_an_error_even_where_checksums_agree(tensorflow, stand_in, tmp_path, monkeypatch):
    originals, _ = stand_in("cifar10_jpeg")
    longer = dataclasses.replace(STORED["cifar10_jpeg"], train=TRAIN + 1)
    monkeypatch.setitem(STORED, "cifar10_jpeg", longer)
    with pytest.raises(OSError, match=f"{TRAIN} train images, must be {TRAIN + 1}"):
        preparing.prepare("cifar10_jpeg", originals, data_dir=tmp_path / "data")
    assert not list((tmp_path / "data").iterdir())


# --- the command ------------------------------------------------------------------------------------


def run(*arguments):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments], env={"COLUMNS": "250", "TERM": "dumb"})


def test_the_command_prepares_and_lists(tensorflow, stand_in, tmp_path):
    originals, _ = stand_in("cifar10_subset")
    result = run("data", "prepare", "cifar10_subset", "--from", originals, "--data-dir", tmp_path / "data")
    assert result.exit_code == 0, result.output
    assert (
        f"CIFAR-10 (lossless subset): {TRAIN} training and {TEST} test images in {tmp_path / 'data'}" in result.stdout
    )
    lines = run("data", "list", "--data-dir", tmp_path / "data").stdout.splitlines()
    state = {line.split()[0]: line.rstrip() for line in lines[1:]}
    assert set(state) == set(NAMES)
    assert str(tmp_path / "data" / "cifar10_subset") in state["cifar10_subset"]
    assert "CIFAR-10 (JPEG copy)" in state["cifar10_jpeg"] and state["cifar10_jpeg"].endswith("not prepared")
    assert state["digits"].endswith("needs none")


def test_the_command_lists_original_files():
    text = run("data", "list", "mnist").stdout
    for file in preparing.originals("mnist"):
        assert re.search(rf"{file.name} +{file.size} +{file.sha256}", text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prepare", "emnist", "--from", "."], "no data set to prepare is called 'emnist': choose one of mnist"),
        (["prepare", "mnist", "--from", "nowhere"], "'nowhere' is not a folder"),
        (["list", "digits"], "no data set to prepare is called 'digits'"),
    ],
)
def test_a_users_error_is_one_line(arguments, message):
    result = run("data", *arguments)
    assert result.exit_code == 1 and "Traceback" not in result.output
    (line,) = [line for line in result.stderr.splitlines() if "Error: " in line]
    assert message in line


def test_an_interrupted_command_says_that_nothing_was_left(tmp_path, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("npk.data.prepare", interrupt)
    result = run("data", "prepare", "mnist", "--from", tmp_path, "--data-dir", tmp_path)
    assert result.exit_code == 130 and f"Nothing was left in {tmp_path}" in result.stderr
