"""A dozen architectures in plain JAX, with numbers of which every product and sum is exact, or with real ones.

Exact: inputs and parameters are small whole numbers, so that pre-activations, gates and path counts are the same
in float32, in the tensor cores' 19 bits and in float64. Real ones show lost precision, which whole numbers hide.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import npk

VECTOR, IMAGE = (12,), (4, 4, 3)
relu = jax.nn.relu
Shapes = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A network and the shapes of its parameters; what it lies outside of."""

    f: Callable[[Any, Any], Any]
    shapes: Shapes
    inputs: tuple[int, ...]
    hard: bool = True  # gates of 0 and 1, from whole numbers
    limit: bool = True  # it has a kernel at infinite width
    convolves: bool = False  # the fused GPU kernel covers it

    def draw(self, n: int, whole: bool, seed: int = 0) -> tuple[Any, np.ndarray]:
        """Parameters and n inputs, in float32: whole numbers, or real ones of the usual size."""
        rng = np.random.default_rng(seed)

        def array(path: Any, shape: tuple[int, ...]) -> np.ndarray:
            variance = jax.tree_util.keystr(path).endswith("var']")
            if variance:
                return (rng.choice([1, 4], shape) if whole else rng.uniform(0.5, 2, shape)).astype(np.float32)
            if whole:
                return rng.integers(-1, 2, shape).astype(np.float32)
            return (rng.standard_normal(shape) * math.sqrt(2 / math.prod(shape[:-1]))).astype(np.float32)

        def is_shape(tree: Any) -> bool:
            return isinstance(tree, tuple)

        params = jax.tree_util.tree_map_with_path(array, self.shapes, is_leaf=is_shape)
        x = rng.integers(-2, 3, (n, *self.inputs)) if whole else rng.standard_normal((n, *self.inputs))
        return params, x.astype(np.float32)


# ----------------------------------------------------------------------------------------------- layers


def bias(p: Any, name: str, x: Any) -> Any:
    return x + p[name].reshape((1,) * (x.ndim - 1) + (-1,))


def convolve(x: Any, kernel: Any, padding: str = "SAME", stride: int = 1) -> Any:
    if padding == "CIRCULAR":
        x, padding = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="wrap"), "VALID"
    return jax.lax.conv_general_dilated(x, kernel, (stride,) * 2, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def pooled(x: Any) -> Any:
    """Global average pooling."""
    return x.mean((1, 2))


def normed(p: Any, x: Any) -> Any:
    """Batch norm in evaluation mode."""
    at = lambda name: p[name].reshape(1, 1, 1, -1)  # noqa: E731
    return (x - at("mean")) * (at("scale") * jax.lax.rsqrt(at("var"))) + at("shift")


# --------------------------------------------------------------------------------------------- networks


def dense(p: Any, x: Any, activation: Any = relu) -> Any:
    return activation(activation(x @ p["a"]) @ p["b"]) @ p["c"]


def dense_with_biases(p: Any, x: Any) -> Any:
    h = relu(bias(p, "a0", x @ p["a"]))
    return bias(p, "c0", relu(bias(p, "b0", h @ p["b"])) @ p["c"])


def convolution(p: Any, x: Any, padding: str = "SAME") -> Any:
    return pooled(relu(convolve(relu(convolve(x, p["a"], padding)), p["b"], padding))) @ p["c"]


def strided(p: Any, x: Any) -> Any:
    h = relu(convolve(relu(convolve(x, p["a"], stride=2)), p["b"]))
    return h.reshape(h.shape[0], -1) @ p["c"]


def max_pooled(p: Any, x: Any) -> Any:
    h = jax.lax.reduce_window(relu(convolve(x, p["a"])), -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return pooled(relu(convolve(h, p["b"]))) @ p["c"]


def residual(p: Any, x: Any) -> Any:
    h = convolve(x, p["a"])
    return pooled(relu(h + convolve(relu(convolve(relu(h), p["b"])), p["b2"]))) @ p["c"]


def batch_normed(p: Any, x: Any) -> Any:
    return pooled(relu(convolve(relu(normed(p, convolve(x, p["a"]))), p["b"]))) @ p["c"]


def scanned(p: Any, x: Any) -> Any:
    """Layers of one shape, their weights stacked."""
    h, _ = jax.lax.scan(lambda h, w: (relu(h @ w), None), relu(x @ p["a"]), p["layers"])
    return h @ p["c"]


DENSE = {"a": (12, 10), "b": (10, 8), "c": (8, 2)}
CONVOLUTION = {"a": (3, 3, 3, 6), "b": (3, 3, 6, 5), "c": (5, 2)}
NORM = {name: (6,) for name in ("scale", "shift", "mean", "var")}
TWO = {"feature": DENSE, "value": DENSE}

ARCHITECTURES = {
    "dense": Architecture(dense, DENSE, VECTOR),
    "dense, biases": Architecture(dense_with_biases, DENSE | {"a0": (1, 10), "b0": (1, 8), "c0": (1, 2)}, VECTOR),
    "convolution, circular": Architecture(
        functools.partial(convolution, padding="CIRCULAR"), CONVOLUTION, IMAGE, convolves=True
    ),
    "convolution, same": Architecture(convolution, CONVOLUTION, IMAGE, convolves=True),
    "convolution, strides, flattened": Architecture(strided, CONVOLUTION | {"c": (2 * 2 * 5, 2)}, IMAGE),
    "residual": Architecture(residual, CONVOLUTION | {"b": (3, 3, 6, 4), "b2": (3, 3, 4, 6), "c": (6, 2)}, IMAGE),
    "batch norm": Architecture(batch_normed, CONVOLUTION | NORM, IMAGE, limit=False),
    "max pooling": Architecture(max_pooled, CONVOLUTION, IMAGE, limit=False),
    "leaky ReLU": Architecture(
        functools.partial(dense, activation=functools.partial(jax.nn.leaky_relu, negative_slope=0.25)), DENSE, VECTOR
    ),
    "scan": Architecture(scanned, {"a": (12, 8), "layers": (2, 8, 8), "c": (8, 2)}, VECTOR),
    "DGN": Architecture(npk.DGN(dense), TWO, VECTOR, limit=False),
    "DLGN": Architecture(npk.DLGN(dense), TWO, VECTOR, limit=False),
    "DGN, soft gates": Architecture(npk.DGN(dense, beta=4.0), TWO, VECTOR, hard=False, limit=False),
    "soft gates": Architecture(functools.partial(dense, activation=npk.soft_relu), DENSE, VECTOR, hard=False),
}
