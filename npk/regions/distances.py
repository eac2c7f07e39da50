"""How far each gate is from changing: the distance of x from the hyperplane on which its pre-activation is zero."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree
from numpy.typing import ArrayLike

from npk.gating import Function, activation_program, at_lines, gate_shapes
from npk.programs import remembered, transformation
from npk.readings import linear_map
from npk.regions.segments import check_hard


@transformation()
def gate_distances(
    f: Function, *, gate_at: Sequence[str] = ()
) -> Callable[[PyTree, Float[Array, "n *shape"]], tuple[Array, ...]]:
    """Transform f into the function that gives the distance of x from every gate's hyperplane, |q| / ‖∇q‖.

    Inside a region every pre-activation is affine in x. The least distance of all gates is that of x from the boundary
    of its region, exactly; that of another gate is how far it would have to go were the other gates to stay.

    Args:
        f: a function of (params, x), x: [N, ...] → [N, K], whose gates are hard.
        gate_at: as of `gates`.

    Returns:
        A function (params, x) → tuple of distances in the order of `gates(f)`, each of the shape of its gates, in the
        Euclidean norm of x; infinite where a pre-activation does not depend on x.

    Raises:
        ValueError: as `linear_map`; a matrix of gradients does not fit into memory.
        UnsupportedOperation: a gate of f is not hard.

    Example:
        >>> import jax, jax.numpy as jnp, npk
        >>> f = lambda w, x: jax.nn.relu(x @ w)
        >>> npk.regions.gate_distances(f)(jnp.array([[3.0], [4.0]]), jnp.array([[2.0, 1.0]]))[0].tolist()
        [[2.0]]

    Source: Hanin & Rolnick 2019 (distance to the boundary of a region).
    """
    return remembered(_gate_distances, at_lines(f, gate_at))


def _gate_distances(f: Function) -> Callable[[PyTree, Any], tuple[Array, ...]]:
    """`gate_distances`, made once."""

    def of_f(params: PyTree, x: Any) -> tuple[Array, ...]:
        check_hard(f, params, x)
        count = len(gate_shapes(activation_program(f, params, x)))
        return tuple(_distances(linear_map(f, layer=number)(params, x)) for number in range(count))

    return of_f


def _distances(found: Any) -> Array:
    q, axes = found.value, tuple(range(found.value.ndim, len(found.shape)))
    length = jnp.sqrt(jnp.square(found.matrix()).sum(axes))
    return jnp.where(length > 0, jnp.abs(q) / jnp.where(length > 0, length, 1), jnp.inf)


def local_complexity(distances: Sequence[ArrayLike], radius: float) -> np.ndarray:
    """How many gates' hyperplanes pass within a radius of each sample.

    Args:
        distances: as of `gate_distances`, each [N, ...].
        radius: Euclidean, above zero.

    Returns:
        Counts, of shape (N,).

    Raises:
        ValueError: there are no distances, or the radius is not positive.

    Example:
        >>> import numpy as np
        >>> from npk.regions import local_complexity
        >>> local_complexity((np.array([[0.1, 2.0]]), np.array([[0.3]])), 0.5).tolist()
        [2]

    Source: Humayun, Balestriero & Baraniuk 2024.
    """
    if not len(distances) or not radius > 0:
        raise ValueError(f"distances must be of at least one layer, and the radius positive, got {radius}.")
    near = [(np.asarray(layer) < radius).reshape(len(np.asarray(layer)), -1).sum(1) for layer in distances]
    return functools.reduce(np.add, near)
