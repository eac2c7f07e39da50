"""Builders of the two data sets that tensorflow-datasets lacks: CIFAR-10 as a JPEG copy, and a part of CIFAR-10.

A class is made when it is first asked for, because its base class lives in an optional package. It is not registered
with tensorflow-datasets: its folder is self-describing, and is read without this module.
"""

import functools
import gzip
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from npk.data.catalogue import STORED

JPEG_ARCHIVE = "cifar10-jpeg.tar.gz"
SUBSET_FILES = {
    "train": tuple(f"data_batch_{i}.prefix.bin.gz" for i in range(1, 6)),
    "test": ("test_batch.prefix.bin.gz",),
}
_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_SHAPE = (32, 32, 3)
_RECORD = 1 + 32 * 32 * 3


@functools.cache
def builder_class(name: str) -> Any:
    """The builder class of `cifar10_jpeg` or `cifar10_subset`."""
    import tensorflow_datasets as tfds

    class _Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """A folder of originals, given as `manual_dir`, to records of an image and its label."""

        VERSION = tfds.core.Version(STORED[name].version)
        MANUAL_DOWNLOAD_INSTRUCTIONS = "Prepare it with `npk data prepare`."
        IMAGE_FORMAT = "png"

        def _info(self) -> Any:
            features = {
                "image": tfds.features.Image(shape=_SHAPE, encoding_format=self.IMAGE_FORMAT),
                "label": tfds.features.ClassLabel(names=_CLASSES),
            }
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            return {split: self._generate_examples(dl_manager.manual_dir, split) for split in ("train", "test")}

    class Cifar10Jpeg(_Builder, skip_registration=True):
        """The files are kept byte for byte: decoding and encoding them again would lose more."""

        name = "cifar10_jpeg"
        IMAGE_FORMAT = "jpeg"

        def _generate_examples(self, folder: Any, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
            for key, label, content in _jpeg_files(Path(folder) / JPEG_ARCHIVE, split):
                yield key, {"image": io.BytesIO(content), "label": label}

    class Cifar10Subset(_Builder, skip_registration=True):
        """The first records of each original batch, in the original binary layout."""

        name = "cifar10_subset"

        def _generate_examples(self, folder: Any, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
            for file in SUBSET_FILES[split]:
                for i, (label, image) in enumerate(_binary_records(Path(folder) / file)):
                    yield f"{file}/{i:05d}", {"image": image, "label": label}

    return {c.name: c for c in (Cifar10Jpeg, Cifar10Subset)}[name]


def _jpeg_files(archive: Path, split: str) -> Iterator[tuple[str, str, bytes]]:
    """Path, class and content of each `SPLIT/CLASS/NNNN.jpg`, read in one pass."""
    with tarfile.open(archive, mode="r|gz") as tar:
        for member in tar:
            parts = Path(member.name).parts
            file = tar.extractfile(member) if member.isfile() and parts[0] == split else None
            if file is not None:
                yield member.name, parts[1], file.read()


def _binary_records(path: Path) -> Iterator[tuple[int, np.ndarray]]:
    """Label and image of each record: one label byte, then 3,072 bytes, channel first."""
    with gzip.open(path) as file:
        records = np.frombuffer(file.read(), np.uint8).reshape(-1, _RECORD)
    for record in records:
        yield int(record[0]), record[1:].reshape(3, 32, 32).transpose(1, 2, 0)
