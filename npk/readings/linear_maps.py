"""The linear map of a network at x: given its gates there, f(x') = M(x)·x' + c(x), exactly.

M is the sum over paths of the product of their weights and gates; where gates are hard it is the Jacobian, where they
are soft it is not, since the Jacobian goes through the gates as well.
"""

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from npk.gating import Function, Place, at_lines, place_of
from npk.programs import (
    Once,
    available_memory,
    check_batch,
    check_finite,
    concrete,
    remembered,
    shown,
    transformation,
)
from npk.readings.affine_forms import AffineForm, affine_form
from npk.readings.certifying import measured
from npk.readings.reading import Certificate
from npk.solving import largest_singular_values

# Up to so many numbers, and so many on the shorter side of a sample's matrix, it is decomposed whole.
_WHOLE, _SIDE = 1 << 26, 256


@shown("shape")
@functools.partial(
    jax.tree_util.register_dataclass, meta_fields=["_form"], data_fields=["offset", "value", "gates", "x", "_leaves"]
)
@dataclasses.dataclass(frozen=True, eq=False)
class LinearMap:
    """M(x) and c(x) of f(x') = M x' + c under the gates of x, of every sample of a batch; made by `linear_map`.

    It is a pytree: it can be passed to compiled functions and returned by them.

    Attributes:
        offset: c, of the shape of f's output: what the biases give.
        value: f(x), as f itself computes it.
        gates: those that are held, as of `npk.gates`.
        x: the inputs whose gates they are.
        shape: of M as one array, [N, *output, *input].

    Example:
        >>> import jax, jax.numpy as jnp, npk
        >>> f = lambda p, x: jax.nn.relu(x @ p["w"]) @ p["v"] + 1.0
        >>> p = {"w": jnp.array([[1.0, -1.0]]), "v": jnp.array([[2.0], [3.0]])}
        >>> found = npk.linear_map(f)(p, jnp.array([[4.0], [-4.0]]))
        >>> found.matrix().ravel().tolist(), found.offset.ravel().tolist()
        ([2.0, -3.0], [1.0, 1.0])
    """

    offset: Array
    value: Array
    gates: tuple[Array, ...]
    x: Array
    _leaves: tuple[Any, ...]
    _form: AffineForm

    @property
    def shape(self) -> tuple[int, ...]:
        """Of M as one array, [N, *output, *input]."""
        return (*self.offset.shape, *self.x.shape[1:])

    @property
    def _given(self) -> tuple[Any, ...]:
        return (*self._leaves, *self.gates)

    def matvec(self, v: Any) -> Array:
        """M v, sample by sample, for v of the shape of x.

        Raises:
            ValueError: v is of another shape.
        """
        return self._form.product(self._given, self.x, _like(v, self.x, "v", "x"))

    def __matmul__(self, v: Any) -> Array:
        return self.matvec(v)

    def rmatvec(self, u: Any) -> Array:
        """Mᵀ u, sample by sample, for u of the shape of f's output.

        Raises:
            ValueError: u is of another shape.
        """
        return self._form.transposed(self._given, self.x, _like(u, self.offset, "u", "the output"))

    def matrix(self) -> Array:
        """M as one array, [N, *output, *input], by as many products as its shorter side is long.

        Raises:
            ValueError: it would not fit into memory.
        """
        needed, free = 2 * math.prod(self.shape) * self.offset.dtype.itemsize, available_memory()
        if needed > free:
            n, rows, columns = self._sizes
            raise ValueError(
                f"the matrices of {n} samples, {rows} × {columns} each, take {needed / 2**30:.3g} GiB of "
                f"{free / 2**30:.3g} GiB available: take fewer samples, or some outputs (output=), or multiply without "
                "them: matvec, rmatvec, singular_values."
            )
        return self._form.matrix(self._given, self.x)

    @property
    def _sizes(self) -> tuple[int, int, int]:
        """Samples, and rows and columns of the matrix of each."""
        return len(self.x), math.prod(self.offset.shape[1:]), math.prod(self.x.shape[1:])

    def singular_values(self, k: int, *, tolerance: float = 1e-5) -> Array:
        """The k largest singular values of every sample's M, largest first.

        Small matrices are decomposed whole. Of larger ones a subspace grows by products, from a fixed random start,
        until |Mᵀu − σv| is measured to be at most `tolerance` times the sample's largest: so near is a singular value.

        Args:
            k: how many, up to the shorter side of a sample's matrix.
            tolerance: of larger matrices; the values of a gapped spectrum are as good as its square.

        Returns:
            [N, k].

        Raises:
            ValueError: there are no k; the tolerance was not reached; a large map whose numbers are traced.
        """
        n, rows, columns = self._sizes
        if not 1 <= operator.index(k) <= min(rows, columns):
            raise ValueError(f"matrices of {rows} × {columns} have 1 to {min(rows, columns)} singular values, not {k}.")
        if n * rows * columns <= _WHOLE and min(rows, columns) <= _SIDE:
            return jnp.linalg.svd(self.matrix().reshape(n, rows, columns), compute_uv=False)[:, :k]
        if not concrete(self._given, self.x):
            raise ValueError(
                f"matrices of {rows} × {columns} are too large to be decomposed inside a compiled function: ask for "
                "singular values outside jax.jit."
            )

        def times(products: Callable[..., Any], shape: tuple[int, ...], dtype: Any) -> Callable[..., np.ndarray]:
            def many(vectors: np.ndarray) -> np.ndarray:
                batch = np.moveaxis(vectors, 1, 0).reshape(-1, *shape)
                found = np.asarray(products(self._given, self.x, jnp.asarray(batch, dtype)))
                return np.moveaxis(found.reshape(len(batch), n, -1), 0, 1)

            return many

        forward = times(self._form.products, self.x.shape, self.x.dtype)
        backward = times(self._form.transposeds, self.offset.shape, self.offset.dtype)
        values, _ = largest_singular_values(forward, backward, (n, rows, columns), k, tolerance)
        return jnp.asarray(values, self.offset.dtype)

    @functools.cached_property
    def certificate(self) -> Certificate | None:
        """|f(x) − (M x + c)| relative to |f(x)|, how far from affine f is under the gates of x, and what is proven.

        Measured when first asked for; None where numbers are traced.
        """
        if not concrete(self._given, self.x):
            return None
        under = functools.partial(self._form.value, self._given)
        return measured(self.value, self.matvec(self.x) + self.offset, under, self.x, self._form.proven)


def _like(value: Any, like: Any, name: str, what: str) -> Array:
    if np.shape(value) != like.shape:
        raise ValueError(f"{name} must be like {what}, of shape {list(like.shape)}, got {list(np.shape(value))}.")
    return jnp.asarray(value, like.dtype)


@transformation()
def linear_map(
    f: Function,
    *,
    output: Any = None,
    layer: int | None = None,
    allow: Sequence[str] = (),
    gate_at: Sequence[str] = (),
) -> Callable[[PyTree, Float[Array, "n *shape"]], LinearMap]:
    """Transform f into its linear map at x: f(x') = M(x)·x' + c(x) under the gates of x.

    M is no derivative of f: gates are held, as they are at x. Where they are hard, and x is not where one changes, it
    is the Jacobian all the same; of silu or gelu it is not, and M x + c = f(x) still. What a model declares about its
    derivatives (`stop_gradient`, `custom_vjp`) does not count. Of a network whose gates another network makes, M is of
    the value network.

    f is traced and its gates are found once; a product is one pass through f without its activations.

    Args:
        f: a function of (params, x), x: [N, ...] → [N, K].
        output: which outputs, an index, a slice or a tuple of them in f's output for one sample: 3, slice(0, 5). None
            for all.
        layer: the number of an activation, in the order of `npk.preactivations`: the map from x to its pre-activation
            in place of f's output, from which `output` then chooses. Negative numbers count from the last.
        allow: as of `gates`. With what is allowed M is the derivative at x of f under its gates, c = f(x) − M x, and
            the certificate says how far from affine f is.
        gate_at: as of `gates`.

    Returns:
        A function (params, x) → `LinearMap`. It can be jitted.

    Raises:
        ValueError: x is empty, not an array, not finite, or of integers; f does not return [N, K]; samples see each
            other; there is no such output or layer.
        TypeError: `output` or `layer` is of another type.
        UnsupportedOperation: given its gates f is not affine in x, and that is not allowed.

    Example:
        >>> import jax, jax.numpy as jnp, npk
        >>> x = jnp.array([[1.0, -2.0]])
        >>> found = npk.linear_map(lambda w, x: jax.nn.silu(x @ w))(jnp.eye(2), x)
        >>> bool(jnp.allclose(found @ x + found.offset, jax.nn.silu(x))), found.certificate.proven
        (True, True)

    Source: Lakshminarayanan & Singh 2020, section 2 (f(x) = ⟨φ_x, v⟩).
    """
    number = None if layer is None else operator.index(layer)
    return remembered(_linear_map, at_lines(f, gate_at), place_of(output), number, tuple(allow))


def _linear_map(
    f: Function, place: Place, layer: int | None, allow: Sequence[str]
) -> Callable[[PyTree, Any], LinearMap]:
    """`linear_map`, made once."""
    once = Once()

    def linear_map_of_f(params: PyTree, x: Any) -> LinearMap:
        check_batch(x, floating=True)
        check_finite(params, "params")
        x = jnp.asarray(x)

        def find() -> AffineForm:
            return affine_form(f, params, x, allow, place, layer)

        form = once((params, x), "form", find) if concrete(params, x) else find()
        value, gates = form.begin(params, x)
        leaves = tuple(jax.tree_util.tree_leaves(params))
        if form.proven:
            offset = form.value((*leaves, *gates), jnp.zeros_like(x))
        else:
            offset = value - form.product((*leaves, *gates), x, x)
        return LinearMap(offset, value, gates, x, leaves, form)

    return linear_map_of_f
