"""Architectures as users write them, each a few weights wide: `MODELS["attention"]["softmax"]()`.

A model is f, its parameters and inputs, and the number of its gates. The groups are entered in the order of the table
of breadth, each by the module of its name.
"""

import importlib

from breadth.models.making import MODELS as MODELS
from breadth.models.making import Model as Model

for group in ("layers", "weights", "norms", "attention", "products", "maps", "tokens", "images", "gated"):
    importlib.import_module(f"breadth.models.{group}")
