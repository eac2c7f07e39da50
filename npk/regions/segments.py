"""Every linear region between two inputs: layer by layer, since between two changes of the gates before it a
pre-activation is affine, and its zero is where the line between its ends has it.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from npk.gating import Function, at_lines, gate_kinds, preactivations
from npk.programs import UnsupportedOperation, check_batch, in_parts, remembered, shown, transformation


@shown("regions")
@dataclasses.dataclass(frozen=True, eq=False)
class Segment:
    """What f does between two inputs a and b; made by `segment`.

    Attributes:
        points: t from 0 to 1, ascending, of shape (m,): the ends, and of each gate every t at which it changes on
            a + t (b - a).
        layers: of each point the layer of gates that changes there, -1 of the ends, of shape (m,).
        values: f at the points, of shape (m, K); between two of them f is affine.

    Example:
        >>> import jax, jax.numpy as jnp, npk
        >>> f = lambda w, x: jax.nn.relu(x @ w)
        >>> found = npk.regions.segment(f)(jnp.array([[1.0, -1.0]]), jnp.array([-1.0]), jnp.array([3.0]))
        >>> found.points.tolist(), found.regions
        ([0.0, 0.25, 0.25, 1.0], 2)
    """

    points: Float[np.ndarray, " m"]
    layers: np.ndarray
    values: Float[np.ndarray, "m k"]

    @property
    def regions(self) -> int:
        """How many regions the segment goes through: pieces of more than no length."""
        return int((np.diff(self.points) > 0).sum())


@transformation("params, a, b")
def segment(f: Function, *, gate_at: Sequence[str] = ()) -> Callable[[PyTree, Any, Any], Segment]:
    """Transform f into the function that finds every linear region between two inputs.

    Layer by layer: where all gates before it are known to stay, a pre-activation is affine along the segment, and its
    zero follows from its values at both ends. So a network of L layers takes L evaluations on all points found so far,
    and no region is missed, however small, but for rounding: a zero is as good as the dtype of f.

    Args:
        f: a function of (params, x), x: [N, ...] → [N, K], whose gates are hard (ReLU, leaky ReLU).
        gate_at: as of `gates`.

    Returns:
        A function (params, a, b) → `Segment`; a and b are single inputs, of one shape.

    Raises:
        ValueError: a and b are not of one shape, or not finite.
        UnsupportedOperation: a gate of f is not hard: f is not piecewise affine, or it pools by maximum.

    Example:
        >>> import jax, jax.numpy as jnp, npk
        >>> f = lambda p, x: jax.nn.relu(jax.nn.relu(x @ p["w"] + p["b"]) @ p["v"] - 1.0)
        >>> p = {"w": jnp.ones((1, 2)), "b": jnp.array([[0.0, -1.0]]), "v": jnp.array([[1.0], [-2.0]])}
        >>> found = npk.regions.segment(f)(p, jnp.array([-2.0]), jnp.array([4.0]))
        >>> (-2 + 6 * found.points).round(3).tolist(), found.regions
        ([-2.0, 0.0, 1.0, 4.0], 3)

    Source: Sotoudeh & Thakur 2019 (ExactLine).
    """
    return remembered(_segment, at_lines(f, gate_at))


def _segment(f: Function) -> Callable[[PyTree, Any, Any], Segment]:
    """`segment`, made once."""
    before = jax.jit(preactivations(f))
    value = jax.jit(f)

    def segment_of_f(params: PyTree, a: Any, b: Any) -> Segment:
        a, b = jnp.asarray(a), jnp.asarray(b)
        if a.shape != b.shape:
            raise ValueError(f"a and b must be single inputs of one shape, got {list(a.shape)} and {list(b.shape)}.")
        ends = jnp.stack([a, b])
        check_batch(ends, "a and b", floating=True)
        check_hard(f, params, ends)

        def along(function: Callable[[PyTree, Any], Any], points: np.ndarray) -> Any:
            def one(t: Any) -> Any:  # one by one: f may hold its samples anywhere
                return function(params, (1 - t) * ends[:1] + t * ends[1:])

            return in_parts(lambda t: jax.vmap(one)(jnp.asarray(t, ends.dtype)), points)

        points, layers = np.array([0.0, 1.0]), np.array([-1, -1])
        for number in itertools.count():
            every = jax.eval_shape(before, params, ends)
            if number == len(every):
                break
            q = np.asarray(along(lambda p, x, number=number: before(p, x)[number], points), np.float64)
            found = _zeros(points, q.reshape(len(points), -1))
            layers = np.concatenate([layers, np.full(len(found), number)])
            order = np.argsort(np.concatenate([points, found]), kind="stable")
            points, layers = np.concatenate([points, found])[order], layers[order]
        return Segment(points, layers, np.asarray(along(value, points))[:, 0])

    return segment_of_f


def _zeros(points: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Where affine pieces q [m, units] between points [m] change from q ≤ 0 to q > 0 or back; each once a unit."""
    opened = q > 0
    pieces, units = np.nonzero(opened[1:] != opened[:-1])
    low, high = q[pieces, units], q[pieces + 1, units]
    return points[pieces] + (points[pieces + 1] - points[pieces]) * (low / (low - high))


def check_hard(f: Function, params: PyTree, x: Any) -> None:
    """Refuse a network whose gates are not all hard: it has no linear regions, or its choices are not followed here."""
    kinds = dict.fromkeys(gate_kinds(f, params, x))
    if odd := [kind for kind in kinds if kind != "hard"]:
        raise UnsupportedOperation(
            f"linear regions are those of hard gates, and f has others ({', '.join(odd)}): of smooth gates f is not "
            "piecewise affine, and choices of max-pooling are not followed (average pooling has none)."
        )
