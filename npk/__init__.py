"""npk: gates, neural path features and exact path kernels of any JAX network, as pure functions.

Begin with f(params, x), any function that JAX can trace. `npk.gates(f)(params, x)` gives its gates,
`npk.path_kernel(f)(params, x)` its exact neural path kernel, `npk.split_ntk(f)(params, x)` its tangent kernel in
the parts of values and gates, `npk.npf(f)` and `npk.npv(f)` the paths themselves. What is made of f is remembered on
f, so that a transform written afresh in a loop compiles once. Rooms, loaded when first used:

    npk.gating          gates, gated networks (DGN, DLGN, DLGN-SF)
    npk.paths           path features and path values
    npk.path_kernels    the exact neural path kernel H
    npk.tangent_kernels the neural tangent kernel and its split
    npk.sketches        both by random signs, with error bars
    npk.readings        what f was taken to be: `npk.explain(f)(params, x)`; its linear map at x
    npk.regions         linear regions: along a segment, around x, on a data set
    npk.infinite        their limits at infinite width
    npk.tiles           kernels of whole data sets, on disk, on many devices
    npk.solving         kernel regression, spectra, measures, gradient flow
    npk.training        every regime of the gated networks, under Optax
    npk.tracking        gates and kernels during your own training loop
    npk.data            MNIST, Fashion-MNIST, CIFAR-10, synthetic tasks
    npk.studies         whole experiments and their reports
    npk.networks        plain Flax models
    npk.loading         your own model and checkpoint, as f and params
    npk.plots           figures from arrays
"""

import importlib
import types
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and editors; a program loads what it asks for
    from npk.gating import DGN as DGN
    from npk.gating import DLGN as DLGN
    from npk.gating import DLGN_SF as DLGN_SF
    from npk.gating import as_gate as as_gate
    from npk.gating import gated as gated
    from npk.gating import gates as gates
    from npk.gating import hard_gate as hard_gate
    from npk.gating import linear as linear
    from npk.gating import permuted as permuted
    from npk.gating import preactivations as preactivations
    from npk.gating import shallow_features as shallow_features
    from npk.gating import soft_gate as soft_gate
    from npk.gating import soft_relu as soft_relu
    from npk.gating import softened as softened
    from npk.gating import untie as untie
    from npk.path_kernels import gram as gram
    from npk.path_kernels import layer_overlaps as layer_overlaps
    from npk.path_kernels import log_path_kernel as log_path_kernel
    from npk.path_kernels import overlap as overlap
    from npk.path_kernels import path_kernel as path_kernel
    from npk.paths import count_paths as count_paths
    from npk.paths import npf as npf
    from npk.paths import npv as npv
    from npk.paths import path_names as path_names
    from npk.programs import UnsupportedOperation as UnsupportedOperation
    from npk.readings import LinearMap as LinearMap
    from npk.readings import attribute as attribute
    from npk.readings import explain as explain
    from npk.readings import linear_map as linear_map
    from npk.sketches import KernelSketch as KernelSketch
    from npk.sketches import sketch as sketch
    from npk.sketches import sketch_ntk as sketch_ntk
    from npk.solving import GradientFlow as GradientFlow
    from npk.solving import gradient_flow as gradient_flow
    from npk.tangent_kernels import NTKSplit as NTKSplit
    from npk.tangent_kernels import ntk as ntk
    from npk.tangent_kernels import ntk_diagonal as ntk_diagonal
    from npk.tangent_kernels import ntk_trace as ntk_trace
    from npk.tangent_kernels import split_ntk as split_ntk
    from npk.tangent_kernels import split_ntk_diagonal as split_ntk_diagonal
    from npk.tracking import track as track

__version__ = "0.2.0"
__all__ = [
    "DGN",
    "DLGN",
    "DLGN_SF",
    "GradientFlow",
    "KernelSketch",
    "LinearMap",
    "NTKSplit",
    "UnsupportedOperation",
    "as_gate",
    "attribute",
    "count_paths",
    "explain",
    "gated",
    "gates",
    "gradient_flow",
    "gram",
    "hard_gate",
    "layer_overlaps",
    "linear",
    "linear_map",
    "log_path_kernel",
    "npf",
    "npv",
    "ntk",
    "ntk_diagonal",
    "ntk_trace",
    "overlap",
    "path_kernel",
    "path_names",
    "permuted",
    "preactivations",
    "shallow_features",
    "sketch",
    "sketch_ntk",
    "soft_gate",
    "soft_relu",
    "softened",
    "split_ntk",
    "split_ntk_diagonal",
    "track",
    "untie",
]
_ROOMS = (
    "data",
    "gating",
    "infinite",
    "loading",
    "networks",
    "path_kernels",
    "paths",
    "plots",
    "readings",
    "regions",
    "sketches",
    "solving",
    "studies",
    "tangent_kernels",
    "tiles",
    "tracking",
    "training",
)


# Where the names of `__all__` are from.
_SHOWING = (
    "gating",
    "path_kernels",
    "paths",
    "programs",
    "readings",
    "sketches",
    "solving",
    "tangent_kernels",
    "tracking",
)


def __getattr__(name: str) -> Any:
    """A name, or a room, when it is first asked for: `import npk` costs nothing, and no room but what is used."""
    if name in _ROOMS:
        return importlib.import_module(f"npk.{name}")
    if name in __all__:
        rooms: Iterator[types.ModuleType] = (importlib.import_module(f"npk.{room}") for room in _SHOWING)
        return globals().setdefault(name, next(getattr(room, name) for room in rooms if name in room.__all__))
    raise AttributeError(f"module 'npk' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_ROOMS, "__version__"])
