"""Activations a(q) = q·γ(q): what is known of one, and its gate function γ by what was found of it."""

import dataclasses
import functools
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from npk.programs.program import Equation, UnsupportedOperation, now

# A slope at zero above this is none: steps and roots are no gates.
_STEEP = 1e4
# Names of calls that npk leaves in a traced function to find them again.
IDENTITY = "npk_identity_activation"
GATED = "npk_gated"


@dataclasses.dataclass(frozen=True, eq=False)
class Activation:
    """a(q) = q·γ(q): `gate(q)` is γ(q), and `apply(q, G)` is q·G (a sum over the window for pooling).

    A product that `gated` made with a gate from outside is an activation too ("given"): its equation reads
    q and G, and `gate(q, G)` is G. A gate that stands `alone`, to be multiplied where the program does so, is the
    output of an equation that reads what it is made of: `gate` of that (itself, or 1/σ), and `apply` is the gate.
    """

    kind: str  # "hard", "soft", "identity", "pool", "given"; alone: "scale", "pattern", "product" or "declared"
    gate: Callable[..., Any]
    apply: Callable[[Any, Any], Any] = jnp.multiply
    windows: Callable[[Any, Any], Any] | None = None  # pooling only: (q, fill) -> [..., window]
    slopes: tuple[float, float] | None = None  # hard only: below zero and above
    form: Hashable = None  # equal for the same function, where the other fields do not tell
    alone: bool = False

    @property
    def spelled(self) -> Hashable:
        """What tells one from another: two that are spelled alike compute alike."""
        return self.kind, repr(self.slopes), self.form, self.alone  # by their text: 0.0 and -0.0 are equal


@dataclasses.dataclass(frozen=True)
class Curve:
    """A function of one value; two that are spelled alike are equal."""

    spelled: Any
    dtype: Any
    function: Callable[[Any], Any] = dataclasses.field(compare=False)


@functools.lru_cache(maxsize=256)
def slope_at_zero(curve: Curve) -> float | None:
    """The slope below zero of a function that is 0 at 0 and not steep there; else None.

    It is asked of numbers, once for each spelling: a network has the same activation in every layer.
    """
    function, dtype = curve.function, curve.dtype
    small, large = float(jnp.finfo(dtype).smallest_normal) ** 0.5, float(jnp.finfo(dtype).max) / 4
    far = np.array([1e-3, 0.3, 1.0, 7.0, 1e3, large])
    points = np.concatenate([[-small, 0.0, small], far, -far]).astype(dtype)
    found = now(lambda: jax.jvp(function, (jnp.asarray(points),), (jnp.ones(len(points), dtype),)))
    values, slopes = map(np.asarray, found)
    if not (values[1] == 0 and np.abs(values[[0, 2]]).max() < _STEEP * small and np.abs(slopes[[0, 2]]).max() < _STEEP):
        return None
    return float(slopes[0])


def quotient(function: Callable[[Any], Any], at_zero: float) -> Callable[[Any], Any]:
    """γ(q) = a(q)/q; at q = 0 the slope of the negative side, as 1{q > 0} is for ReLU."""

    def gate(q: Any) -> Any:
        zero = q == 0
        safe = jnp.where(zero, jnp.ones_like(q), q)
        return jnp.where(zero, jnp.asarray(at_zero, q.dtype), function(safe) / safe)

    return gate


def hard_gate_of(slopes: tuple[float, float, float]) -> Callable[[Any], Any]:
    """The multiple of q on either side; at q = 0 the flatter one, so that ReLU has gate 0 there in any spelling."""
    below, _, above = slopes
    if abs(above) < abs(below):
        return lambda q: jnp.where(q < 0, jnp.asarray(below, q.dtype), jnp.asarray(above, q.dtype))
    return lambda q: jnp.where(q > 0, jnp.asarray(above, q.dtype), jnp.asarray(below, q.dtype))


# ------------------------------------------------------------------------------------------ max-pooling


def _windows(equation: Equation) -> Callable[[Any, Any], Any]:
    """A function (q, fill) -> [..., window] that lists what each output of a pooling chooses from."""
    if equation.name == "reduce_max":
        axes = tuple(equation.params["axes"])
        rest = equation.outputs[0].shape
        return lambda q, fill: jnp.moveaxis(q, axes, range(q.ndim - len(axes), q.ndim)).reshape(*rest, -1)
    p = equation.params
    size, strides, dilation = p["window_dimensions"], p["window_strides"], p["window_dilation"]
    if any(b != 1 for b in p["base_dilation"]):
        raise UnsupportedOperation(f"max-pooling with base dilation has no gate form (at {equation.source})")
    shape = equation.outputs[0].shape

    def windows(q: Any, fill: Any) -> Any:
        padded = jax.lax.pad(q, jnp.asarray(fill, q.dtype), [(lo, hi, 0) for lo, hi in p["padding"]])
        taken = []
        for offset in np.ndindex(*size):
            start = [o * d for o, d in zip(offset, dilation, strict=True)]
            stop = [s + (n - 1) * t + 1 for s, n, t in zip(start, shape, strides, strict=True)]
            taken.append(jax.lax.slice(padded, start, stop, strides))
        return jnp.stack(taken, -1)

    return windows


def _selection(values: Any) -> Any:
    return jax.nn.one_hot(jnp.argmax(values, -1), values.shape[-1], dtype=values.dtype)


def _pooled(windows: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    # What is not chosen may be -∞, a mask's.
    return lambda q, gate: jnp.sum(jnp.where(gate == 0, jnp.zeros((), q.dtype), windows(q, 0) * gate), -1)


def max_pooling(equation: Equation) -> Activation:
    """The choice of a maximum, within each window or over axes, as an activation."""
    windows = _windows(equation)
    form = equation.primitive, repr(sorted(equation.params.items()))
    return Activation("pool", lambda q: _selection(windows(q, -jnp.inf)), _pooled(windows), windows, form=form)
