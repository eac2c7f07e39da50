"""Kernels of random networks of one width, beside their limits at infinite width.

Weights are He's, kernels in NTK parameterisation (`npk.infinite.ntk_parameterised`), of one output; d is the number
of weight layers. With gates of an independent network (FR-II) the mean of K^V is d·∏σ² H, and with variances 2/fan-in
∏σ² H is 2^d times `npk.path_kernel(f)`. With the network's own gates (FR-DI) it is something else: K itself.
"""

import re
from typing import Any

import jax
import numpy as np

from npk import infinite, networks
from npk.gating import DGN
from npk.infinite import ntk_parameterised
from npk.path_kernels import path_kernel
from npk.solving import relative_error
from npk.tangent_kernels import split_ntk
from npk.training import redraw

# Networks whose paths all have as many weights, which the factor d needs.
NETWORKS = ("mlp", "c4gap", "c4gap-circular", "vconv")

# Name of the curve → what is compared, with what, and whether its error falls as 1/√width.
CURVES = {
    "ntk": ("K", "ntk", True),
    "nngp": ("last layer", "nngp", True),
    "npk": ("H", "npk", True),
    "ii-draw": ("K^V, FR-II", "H", True),
    "ii": ("K^V, FR-II", "npk", True),
    "di": ("K^V, FR-DI", "FR-DI", True),
    "di-gap": ("K^V, FR-DI", "H of its gates", False),
}


def weight_layers(params: Any) -> int:
    """d, the number of weights on every path of these networks."""
    return len(jax.tree_util.tree_leaves(params))


def mean_factor(params: Any) -> float:
    """d·∏σ² H / `path_kernel`: d·2^d, as `path_kernel` has weights of variance 1/fan-in and He's have 2/fan-in."""
    d = weight_layers(params)
    return float(d * 2**d)


class Width:
    """The networks of one width: shapes, draws and kernels, compiled once for all seeds."""

    def __init__(self, network: str, depth: int | None, width: int | None, x: Any):
        self.f = networks.build(network, outputs=1, width=width, depth=depth, use_bias=False)
        self.shapes = jax.eval_shape(self.f.init, jax.random.key(0), x[:1])
        self.draw = jax.jit(lambda key: redraw(self.shapes, key, "he"))
        self.split, self.gated_split = split_ntk(self.f.apply), split_ntk(DGN(self.f.apply))
        self.path_kernel = path_kernel(self.f.apply)
        self.factor = mean_factor(self.shapes)
        self.last = max(_leaf_names(self.shapes), key=_order)

    def kernels(self, key: Any, x: Any) -> dict[str, np.ndarray]:
        """One draw of both parameter sets: K, K^V, H, times their factors, and the last layer's part."""
        value, feature = (self.draw(k) for k in jax.random.split(key))
        both = {"feature": feature, "value": value}
        own = ntk_parameterised(self.split(value, x), value)
        frozen = ntk_parameterised(self.gated_split(both, x), both)
        found = {
            "K": own.total,
            "K^V, FR-DI": own.value,
            "K^V, FR-II": frozen.value,
            "H": self.factor * self.path_kernel(feature, x),
            "H of its gates": self.factor * self.path_kernel(value, x),
            # The Gram matrix of the last layer's inputs: the covariance of the outputs given those.
            "last layer": own.blocks[self.last].total,
        }
        return {name: np.asarray(kernel) for name, kernel in found.items()}

    def limits(self, x: Any) -> dict[str, np.ndarray]:
        """What the kernels tend to; of the parameters only the architecture counts."""
        params = self.draw(jax.random.key(0))
        f = self.f.apply
        found = {
            "ntk": infinite.ntk(f)(params, x),
            "nngp": infinite.nngp(f)(params, x),
            "npk": self.factor * infinite.path_kernel(f)(params, x),
            "FR-DI": infinite.path_kernel(f, regime="FR-DI")(params, x),
        }
        return {name: np.asarray(kernel) for name, kernel in found.items()}


def errors(kernels: dict[str, np.ndarray], limits: dict[str, np.ndarray]) -> dict[str, float]:
    """Curve → relative error of one draw."""
    return {
        name: relative_error(kernels[what], kernels[reference] if reference in kernels else limits[reference])
        for name, (what, reference, _) in CURVES.items()
    }


def limit_gap(limits: dict[str, np.ndarray]) -> float:
    """How far the two regimes' limits lie apart: where the curve "di-gap" ends."""
    return relative_error(limits["FR-DI"], limits["npk"])


def _leaf_names(tree: Any) -> list[str]:
    paths = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths]


def _order(name: str) -> tuple[bool, int]:
    """Dense layers come last, and by number."""
    number = re.search(r"_(\d+)/", name)
    return "Dense" in name, int(number[1]) if number else 0
