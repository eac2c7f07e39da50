"""The kernels of two blocks of inputs: which walk of f and which recursion each of them takes."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from npk.infinite import limit
from npk.infinite.moments import Covariance, Expectations, Paths, Scales, Shallow, Tangent
from npk.path_kernels import SecondMoments, output_moment
from npk.paths import Numbers, State, fixed_numbers, fixed_variables


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A network as the limit sees it: its program, its scales, and how precisely expectations are taken."""

    program: Any
    params: Any
    scales: Scales
    order: int
    dtype: Any


class Pair:
    """Two blocks of inputs [n, 1, ...], or one whose samples are paired with themselves, and the recursions on them.

    `own` holds for either block E[u²] of each pre-activation; on the diagonal it is found here.
    """

    def __init__(self, model: Model, xs: tuple[Any, Any], own: tuple[Any, Any] | None):
        self.model, self.xs, self.own = model, xs, own
        self.expectations = Expectations(model.order, [] if own is None else None)
        self.gating: Any = None
        self.gates: Any = None
        self.recursions: list[SecondMoments] = []

    @property
    def diagonal(self) -> bool:
        return self.own is None

    def walk(self, linear: bool = False) -> Any:
        return limit.walk(self.model.program, linear=linear)

    def moments(
        self, kind: Any, state: State, xs: tuple[Any, Any] | None = None, scales: Scales | None = None, **options: Any
    ) -> Any:
        """A recursion over the pairs of the two blocks, below the terms of an output."""
        fixed = fixed_numbers(self.model.program, fixed_variables(state), self.model.params)
        made = kind(
            self.xs[0].shape[0],
            1 if self.diagonal else self.xs[1].shape[0],
            True,
            tuple(Numbers(jnp, x, (), fixed, self.model.dtype) for x in xs or self.xs),
            diagonal=self.diagonal,
            scales=scales or self.model.scales,
            expectations=self.expectations,
            **options,
        )
        self.recursions.append(made)
        return made

    def network(self, linear: bool = False) -> tuple[Any, Covariance]:
        """The terms of f's output, and the covariance of the Gaussian fields in f; what gates, gates by these."""
        state, self.gating = self.walk(linear)
        self.gates = self.moments(Covariance, state, own=self.own)
        return state, self.gates

    def variances(self) -> tuple[Any, ...]:
        """E[u²] of each pre-activation: [n, places]."""
        if not isinstance(self.gates, Covariance):
            return ()
        return tuple(self.gates.variances(base)[:, 0] for base in self.gating)


def nngp(pair: Pair) -> Any:
    return output_moment(*pair.network())


def ntk(pair: Pair, hold_gates: bool = False) -> Any:
    state, covariance = pair.network()
    return output_moment(state, pair.moments(Tangent, state, covariance=covariance, hold_gates=hold_gates))


def paths(pair: Pair, regime: str, constant_input: bool) -> Any:
    state, gates = pair.network(linear=regime == "DLGN")
    if regime == "DLGN-SF":
        gates = pair.gates = _shallow(pair)
    if regime == "DLGN":
        state, _ = pair.walk()
    one, two = pair.xs
    xs = (jnp.ones_like(one), jnp.ones_like(two)) if constant_input else pair.xs
    unit = Scales(lambda name: 1.0, lambda name: 1.0)
    return output_moment(state, pair.moments(Paths, state, xs, unit, gates=gates, gating=pair.gating))


def _shallow(pair: Pair) -> Shallow:
    x1, x2 = (jnp.asarray(x, pair.model.dtype).reshape(x.shape[0], -1) for x in pair.xs)
    left, right = jnp.sum(jnp.square(x1), 1)[:, None], jnp.sum(jnp.square(x2), 1)[None]
    if pair.diagonal:
        return Shallow(covariance=left, left=left, right=left, equal=True)
    product = jnp.matmul(x1, x2.T, precision=jax.lax.Precision.HIGHEST)
    return Shallow(covariance=product, left=left, right=right, equal=None)
