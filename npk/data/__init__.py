"""Data sets as arrays, split into training, validation and test samples; they know no kernel and no network.

Begin with `load("digits")`, which needs nothing, or `prepare` MNIST, Fashion-MNIST and CIFAR-10 once from their
original files (by tensorflow-datasets) and `load` them by name ever after. `Dataset` is what comes back;
`only_classes`, `balanced` and `with_validation` make smaller and other splits of it, and `cob_odt` draws the
synthetic task whose decision tree is known. `from_file` and `from_arrays` take samples of your own.
"""

from npk.data.catalogue import STORED as STORED
from npk.data.catalogue import data_folder as data_folder
from npk.data.catalogue import folder_of as folder_of
from npk.data.dataset import MOST_SEED as MOST_SEED
from npk.data.dataset import Dataset as Dataset
from npk.data.dataset import balanced as balanced
from npk.data.dataset import only_classes as only_classes
from npk.data.dataset import with_validation as with_validation
from npk.data.datasets import NAMES as NAMES
from npk.data.datasets import TITLES as TITLES
from npk.data.datasets import load as load
from npk.data.own_files import from_arrays as from_arrays
from npk.data.own_files import from_file as from_file
from npk.data.preparing import originals as originals
from npk.data.preparing import prepare as prepare
from npk.data.synthetic import cob_odt as cob_odt
from npk.data.synthetic import cob_odt_hyperplanes as cob_odt_hyperplanes

__all__ = [
    "Dataset",
    "NAMES",
    "TITLES",
    "balanced",
    "cob_odt",
    "cob_odt_hyperplanes",
    "from_arrays",
    "from_file",
    "load",
    "only_classes",
    "originals",
    "prepare",
    "with_validation",
]
