"""Preparing data sets from their original files, with no network: tensorflow-datasets' own builders and checksums.

Only this module needs TensorFlow, by which tensorflow-datasets encodes images. What it makes, `datasets` reads.
"""

import contextlib
import dataclasses
import hashlib
import io
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from npk.data.catalogue import STORED, data_folder, folder_of
from npk.data.own_builders import JPEG_ARCHIVE, SUBSET_FILES, builder_class
from npk.data.prepared import read

Progress = Callable[[float, str], None]


@dataclasses.dataclass(frozen=True)
class Original:
    """A file that a data set is prepared from.

    Attributes:
        name: of the file.
        size: in bytes.
        sha256: of its content, in hexadecimal.

    Example:
        >>> from npk import data
        >>> data.originals("cifar10")[0].name
        'cifar-10-binary.tar.gz'
    """

    name: str
    size: int
    sha256: str


_IDX = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
_SUBSET = (*SUBSET_FILES["train"], *SUBSET_FILES["test"])
# Those of the first four are what tensorflow-datasets registers (a test compares); it checks them once more.
_CHECKSUMS = {
    "mnist": {
        _IDX[0]: (9_912_422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
        _IDX[1]: (28_881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
        _IDX[2]: (1_648_877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
        _IDX[3]: (4_542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
    },
    "fashion_mnist": {
        _IDX[0]: (26_421_880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
        _IDX[1]: (29_515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
        _IDX[2]: (4_422_102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
        _IDX[3]: (5_148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
    },
    "cifar10": {
        "cifar-10-binary.tar.gz": (
            170_052_171,
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        ),
    },
    "cifar100": {
        "cifar-100-binary.tar.gz": (
            168_513_733,
            "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        ),
    },
    "cifar10_jpeg": {
        JPEG_ARCHIVE: (19_432_150, "0bfcb68717a0ecb0d51ed61034906a773d48d424d94b766a46d7d1c55702a4d9"),
    },
    "cifar10_subset": {
        _SUBSET[0]: (11_316_918, "0bb145d179ecb2a750190e62493390eeb7162bf39f48bbe8e48630dd27a8a1ba"),
        _SUBSET[1]: (2_629_949, "128e2112ee6b1252ed4cf8214fa194d3523e5cf2d41110640ec6b3896aec52d3"),
        _SUBSET[2]: (2_625_918, "3f7c6ee505de7f1b52da739423dd1cf1a4c65c5f72a55cdee40b92555a0d7ace"),
        _SUBSET[3]: (3_128_391, "fd890dd543fba2da00115d700a49ae6d3e3ea1451b17b496598c9cc8374c1849"),
        _SUBSET[4]: (2_634_609, "016a25a2145e1d7d5a8622c7870b0256b1d910ce55a0517f233bc9393c1eecbd"),
        _SUBSET[5]: (2_630_036, "f5f764076aa7b546c5106a83e7a0a78042bfc031ab2b37a048ac43364a46e361"),
    },
}


def originals(name: str) -> tuple[Original, ...]:
    """The files that a data set is prepared from.

    Args:
        name: one of the data sets that have to be prepared.

    Returns:
        Their names, sizes and checksums.

    Raises:
        ValueError: there is nothing to prepare for that name.

    Example:
        >>> from npk import data
        >>> [file.name for file in data.originals("cifar100")]
        ['cifar-100-binary.tar.gz']
    """
    if name not in _CHECKSUMS:
        raise ValueError(f"no data set to prepare is called {name!r}: choose one of {', '.join(_CHECKSUMS)}.")
    return tuple(Original(file, size, sha256) for file, (size, sha256) in _CHECKSUMS[name].items())


def prepare(
    name: str,
    source: str | os.PathLike[str],
    *,
    data_dir: str | os.PathLike[str] | None = None,
    progress: Progress = lambda fraction, text: None,
) -> Path:
    """Prepare a data set from its original files, as `npk data prepare` does. Nothing is downloaded.

    The work is done in a temporary folder in `data_dir`, read back whole, and only then renamed: a folder that
    `npk.data.load` would find is complete. A set that is there already is read to check it, and left as it is.

    Args:
        name: one of the data sets that have to be prepared.
        source: the folder with its original files, see `originals`.
        data_dir: where prepared data sets lie; None is the default of tensorflow-datasets.
        progress: called with the fraction done and what is being done.

    Returns:
        The folder of the prepared data set.

    Raises:
        ValueError: the name is unknown, a file is not the original one, or the set that is there is damaged.
        FileNotFoundError: the folder of originals, or a file in it, does not exist.
        ModuleNotFoundError: TensorFlow or tensorflow-datasets is not installed.
        OSError: writing failed, for instance because the disk is full.

    Example:
        >>> from npk import data
        >>> data.prepare("mnist", "nowhere")
        Traceback (most recent call last):
        FileNotFoundError: 'nowhere' is not a folder: ...
    """
    files, target = originals(name), folder_of(name, data_dir)
    if target.exists():
        progress(0.0, f"checking what is in {target}")
        read(name, data_dir)
        return target
    _check_originals(name, files, Path(source), progress)
    root = data_folder(data_dir)
    _require_tensorflow(name)
    root.mkdir(parents=True, exist_ok=True)
    # Beside the target, so that renaming cannot fail halfway; hidden, so that no reader takes it for a data set.
    with tempfile.TemporaryDirectory(prefix=f".preparing-{name}-", dir=root) as temporary:
        try:
            _build(name, Path(source), Path(temporary), progress)
            progress(0.9, "reading it back")
            read(name, temporary)
            target.parent.mkdir(exist_ok=True)
            folder_of(name, temporary).rename(target)
        except Exception as error:
            # A full disk alone comes as an OSError, a RuntimeError or an ExtractError, by the layer that notices it.
            number = getattr(error, "errno", None)
            message = f"{STORED[name].title} could not be prepared in {root}, and nothing was left there: {error}"
            raise OSError(*([number] if number else []), message) from error
    return target


def _check_originals(name: str, files: tuple[Original, ...], source: Path, progress: Progress) -> None:
    names = ", ".join(file.name for file in files)
    if not source.is_dir():
        raise FileNotFoundError(f"{str(source)!r} is not a folder: put the original files there ({names}).")
    missing = [file.name for file in files if not (source / file.name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{str(source)!r} lacks {', '.join(missing)}: {STORED[name].title} is prepared from {names}."
        )
    for i, file in enumerate(files):
        progress(0.05 * i / len(files), f"checking {file.name}")
        path = source / file.name
        if path.stat().st_size != file.size:
            raise ValueError(f"{path} is not the original file: {path.stat().st_size} bytes, must be {file.size}.")
        with path.open("rb") as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()
        if found != file.sha256:
            raise ValueError(f"{path} is not the original file: its sha256 is {found}, must be {file.sha256}.")


def _require_tensorflow(name: str) -> None:
    try:
        import array_record  # noqa: F401
        import importlib_resources  # noqa: F401
        import tensorflow  # noqa: F401
        import tensorflow_datasets  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"preparing {name!r} needs the package {error.name}: run `pip install 'npk[prepare]'`."
        ) from error


def _build(name: str, source: Path, folder: Path, progress: Progress) -> None:
    import tensorflow_datasets as tfds

    stored = STORED[name]
    builder: Any = (
        builder_class(name)(data_dir=folder)
        if stored.own
        else tfds.builder(f"{name}:{stored.version}", data_dir=folder, file_format="array_record")
    )
    generate, total, done = builder._generate_examples, stored.train + stored.test, 0

    def counted(*args: Any, **kwargs: Any) -> Iterator[Any]:
        nonlocal done
        for example in generate(*args, **kwargs):
            done += 1
            progress(0.05 + 0.85 * min(done / total, 1.0), f"encoding {stored.title}")
            yield example

    # Every builder generates its examples by this method; counting them there is the only view into the work.
    builder._generate_examples = counted
    config = tfds.download.DownloadConfig(manual_dir=source, try_download_gcs=False)
    # It would print, and draw bars across those of the caller.
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(
                download_dir=folder / "downloads", download_config=config, file_format="array_record"
            )
    finally:
        tfds.enable_progress_bar()
