"""Kernels of infinitely wide networks, read off the terms of `limit` by the exact second moment.

Three recursions, each one expectation away from the exact path kernel:

- `Covariance` (NNGP): at an activation, E[a(u) a(v)];
- `Tangent` (NTK): every layer adds its covariance; at an activation, times E[a'(u) a'(v)];
- `Paths` (the limit of H): at an activation, times E[γ(u) γ(v)] of the gate network.
"""

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from npk.infinite.duals import Dual, Duals, Joint, gelu, piecewise, smooth
from npk.infinite.limit import Activated
from npk.path_kernels import SecondMoments
from npk.paths import Base, Layer, Leaf, Source, Term
from npk.programs import UnsupportedOperation

Paired = tuple[bool, ...]


@dataclasses.dataclass(frozen=True)
class Scales:
    """Standard deviations of a layer's weights times √fan-in, and of its biases, by the parameter's name."""

    weight: Callable[[str], float]
    bias: Callable[[str], float]


@dataclasses.dataclass(frozen=True, eq=False)
class Expectations:
    """The `Duals` of each activation, smooth ones by series of `order` terms; `left_out` collects what those omit."""

    order: int
    left_out: list[Any] | None = None

    def of(self, base: Activated) -> Duals:
        if base.activation.kind == "hard":
            below, above = _gate_at(base, [-1.0, 1.0])
            return piecewise(below, above)
        rounding = min(float(jnp.finfo(base.dtype).eps), float(np.finfo(np.float32).eps))
        if np.allclose(_gate_at(base, _PROBES), scipy.special.ndtr(_PROBES), rtol=0, atol=16 * rounding):
            return gelu()
        return smooth(base.gate, self.order, None if self.left_out is None else self.left_out.append)


# Where a gate is compared with Φ, to tell gelu: dense enough that nothing else in use agrees everywhere.
_PROBES = np.linspace(-4.0, 4.0, 33)


def _gate_at(base: Activated, places: Any) -> list[float]:
    with jax.ensure_compile_time_eval():
        return base.gate(jnp.asarray(places, base.dtype)).tolist()


@runtime_checkable
class Gates(Protocol):
    """Where pre-activations that gate come from."""

    def joint(self, base: Activated, paired: Paired) -> Joint: ...


@dataclasses.dataclass(kw_only=True)
class _Wide(SecondMoments, abc.ABC):
    """What the recursions share: the scales of random parameters, and sums over terms."""

    scales: Scales
    expectations: Expectations

    def variance(self, layer: Layer) -> Any:
        return self.scales.weight(layer.leaf.name) ** 2 / layer.fan_in

    def of_root(self, base: Base, paired: Paired) -> Any:
        if isinstance(base, Activated):
            return self.of_activated(base, paired)
        one = super().of_root(base, paired)
        return one * self.scales.bias(base.name) ** 2 if isinstance(base, Leaf) else one

    @abc.abstractmethod
    def of_activated(self, base: Activated, paired: Paired) -> Any:
        """The moment of what an activation gives."""

    def of_layer(self, layer: Layer, paired: Paired) -> Any:
        return self.met_size(super().of_layer(layer, paired))

    def of_terms(self, terms: Sequence[Term], paired: Paired) -> Any:
        """The moment of a sum of terms, dims paired or not: [n1, n2, then (a, a') or (a)]."""
        total: Any = 0
        for term in terms:
            roles = ["pair" if p else "same" for p in paired] + ["sum"] * len(term.summed)
            total = total + self.of_term(term, roles)
        return self.met_size(total)

    def met_size(self, moment: Any) -> Any:
        pairs = max(1, (1 if moment.shape[0] == 1 else self.n1) * (1 if moment.shape[1] == 1 else self.n2))
        self.largest = max(self.largest, moment.size // pairs)
        return moment


@dataclasses.dataclass(kw_only=True)
class Covariance(_Wide):
    """E[v v'] of every base: the NNGP kernel.

    `own` holds, of the rows' and of the columns' samples, E[u²] at every place of each pre-activation, [n, places];
    on the diagonal it is computed here.
    """

    own: tuple[Sequence[Any], Sequence[Any]] | None = None
    joints: dict[tuple[Activated, Paired], Joint] = dataclasses.field(default_factory=dict)
    known_variances: dict[Activated, Any] = dataclasses.field(default_factory=dict)

    def of_activated(self, base: Activated, paired: Paired) -> Any:
        return _evaluated(self.expectations.of(base).value, self.joint(base, paired))

    def joint(self, base: Activated, paired: Paired) -> Joint:
        """The joint distribution of a pre-activation's values at the places that are paired."""
        if (base, paired) not in self.joints:
            if self.own is None:
                left = right = self.variances(base)
            else:
                left, right = self.own[0][base.number][:, None], self.own[1][base.number][None]
            equal = _same_place(base, paired) if self.own is None else None
            covariance = left if self.own is None and not any(paired) else self.of_terms(base.inputs, paired)
            joint = Joint(covariance, _beside(left, paired, 1), _beside(right, paired, 2), equal)
            self.joints[base, paired] = joint
        return self.joints[base, paired]

    def variances(self, base: Activated) -> Any:
        """E[u²] at every place, of each sample with itself: [n, 1, places]."""
        if base not in self.known_variances:
            self.known_variances[base] = self.of_terms(base.inputs, (False,) * len(base.axes))
        return self.known_variances[base]


def _evaluated(dual: Dual, joint: Joint, times: Any = None) -> Any:
    """The expectation (times a factor), a slice at a time: written to memory, not fused into what reads it.

    A convolution reads every value at several offsets, and XLA would compute it anew for each.
    """
    shape = joint.covariance.shape
    axis = next((a for a, size in enumerate(shape) if size > 1), None)
    if axis is None or joint.equal is not None:
        return dual(joint) if times is None else times * dual(joint)

    def cut(array: Any, i: Any) -> Any:
        return array if array.shape[axis] == 1 else jax.lax.dynamic_slice_in_dim(array, i, 1, axis)

    def one(i: Any) -> Any:
        part = Joint(*(cut(a, i) for a in (joint.covariance, joint.left, joint.right)))
        value = dual(part) if times is None else cut(times, i) * dual(part)
        return jnp.squeeze(value, axis)

    return jnp.moveaxis(jax.lax.map(one, jnp.arange(shape[axis])), 0, axis)


def _same_place(base: Activated, paired: Paired) -> Any:
    """Where both sides are one place: true along dims that are not paired, the identity along those that are."""
    equal = np.ones((1, 1), bool)
    for axis, pairs in zip(base.axes, paired, strict=True):
        place = np.eye(axis.size, dtype=bool) if pairs else np.ones(1, bool)
        equal = equal.reshape(*equal.shape, *(1,) * place.ndim) & place
    return equal


def _beside(variances: Any, paired: Paired, side: int) -> Any:
    """Variances of one side laid out to broadcast with pairs of places."""
    axis = 2
    for pairs in paired:
        if pairs:
            variances = jnp.expand_dims(variances, axis + (1 if side == 1 else 0))
        axis += 1 + pairs
    return variances


@dataclasses.dataclass(kw_only=True)
class Shallow:
    """Pre-activations of shallow features: each gate reads the whole input by weights of its own."""

    covariance: Any  # [n1, n2]
    left: Any  # [n1, 1]
    right: Any  # [1, n2]
    equal: Any  # None, or true where samples are paired with themselves

    def joint(self, base: Activated, paired: Paired) -> Joint:
        shape = (1,) * sum(1 + p for p in paired)
        place = _same_place(base, paired)
        parts = [a.reshape(*a.shape, *shape) for a in (self.covariance, self.left, self.right)]
        return Joint(jnp.where(place, parts[0], 0), parts[1], parts[2], None if self.equal is None else place)


@dataclasses.dataclass(kw_only=True)
class Tangent(_Wide):
    """The NTK: what all parameters below a base contribute. `hold_gates` leaves their motion out (K^V)."""

    covariance: Covariance
    hold_gates: bool = False

    def of_layer(self, layer: Layer, paired: Paired) -> Any:
        here = self.covariance.of_base(layer, paired)
        below = tuple(t for t in layer.inputs if not isinstance(t.base, Source))
        return here + super().of_layer(dataclasses.replace(layer, inputs=below), paired) if below else here

    def of_root(self, base: Base, paired: Paired) -> Any:
        one = super().of_root(base, paired)
        return one * 0 if isinstance(base, Source) else one

    def of_activated(self, base: Activated, paired: Paired) -> Any:
        duals = self.expectations.of(base)
        factor = duals.gate if self.hold_gates else duals.slope
        return _evaluated(factor, self.covariance.joint(base, paired), self.of_terms(base.inputs, paired))


@dataclasses.dataclass(kw_only=True)
class Paths(_Wide):
    """The limit of the neural path kernel H: gates of a network that is independent of the paths' weights."""

    gates: Gates
    gating: tuple[Activated, ...]  # the activations of the gate network, in call order

    def of_activated(self, base: Activated, paired: Paired) -> Any:
        other = self.gating[base.number]
        if other.axes != base.axes:
            raise UnsupportedOperation(
                f"activation {base.number} is laid out as {[a.size for a in base.axes]} in the value network and as "
                f"{[a.size for a in other.axes]} in the gate network; write both without reshapes around it."
            )
        gate = self.expectations.of(base).gate
        return _evaluated(gate, self.gates.joint(other, paired), self.of_terms(base.inputs, paired))
