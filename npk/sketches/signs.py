"""The value network with random signs for weights: the mean of products of its outputs is the path kernel.

Which operand of which equation is a weight or a bias, of which elements of which parameter, of what fan-in and
with which constant, is what the path rules claim while they walk the program. What they do not claim (a
normalisation's parameters) keeps its value, in all that is computed from it.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from npk.gating import gate_shapes
from npk.paths import (
    OWN_FEATURES,
    POSITIONWISE,
    RULES,
    Layer,
    Leaf,
    Magnitude,
    Normalize,
    Numbers,
    Scaling,
    Term,
    Walk,
    alike,
    elements,
    output_terms,
    scaling_of,
)
from npk.programs import Const, Equation, Program, UnsupportedOperation, evaluate

# ------------------------------------------------------------------------------------------------- draws


def draw_keys(key: Any, first: int, draws: int) -> Any:
    """The key of each draw, a function of `key` and of the draw's number alone; as numbers [draws, words]."""
    key = key if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(key)
    return _folded(key, np.arange(first, first + draws, dtype=np.uint32))


@jax.jit
def _folded(key: Any, numbers: Any) -> Any:
    fold = _by_itself(key, lambda number: jax.random.key_data(jax.random.fold_in(key, number)))
    return jax.vmap(fold)(numbers)


def _by_itself(key: Any, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A function that draws, which under `vmap` draws what it does alone.

    JAX's other generators ("rbg") draw for keys side by side from the first of them alone.
    """
    return function if jax.random.key_impl(key) == "threefry2x32" else jax.custom_batching.sequential_vmap(function)


def key_kind(key: Any) -> Any:
    """What generator a key is of: of a typed key its own, of plain numbers the default."""
    return jax.random.key_impl(key) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else None


def random_signs(key: Any, like: Sequence[Any]) -> list[Any]:
    """Independent ±1 of the shapes and dtypes of some arrays, one random bit each."""
    sizes = [math.prod(jnp.shape(a)) for a in like]
    kind, shape = jax.random.key_impl(key), (-(-sum(sizes) // 32), 1)
    draw = lambda data: jax.random.bits(jax.random.wrap_key_data(data, impl=kind), shape, jnp.uint32)  # noqa: E731
    words = _by_itself(key, draw)(jax.random.key_data(key))
    bits = ((words >> jnp.arange(32, dtype=jnp.uint32)[None]) & jnp.uint32(1)).reshape(-1)
    starts = np.cumsum([0, *sizes]).tolist()
    return [
        (1 - 2 * bits[start : start + size].astype(jnp.result_type(a))).reshape(jnp.shape(a))
        for a, start, size in zip(like, starts, sizes, strict=False)
    ]


# ---------------------------------------------------------------------------------------- what is drawn

_JOINS = ("concatenate", "stack")  # of values and parameters: a class token


@dataclasses.dataclass(frozen=True)
class _Claim:
    """A weight or bias of one equation: its operand, the elements read, and how a sign is scaled."""

    operand: int
    weight: Term
    layer: Layer | None  # None for a bias, of which `weight` is one term

    @property
    def leaf(self) -> Leaf:
        assert isinstance(self.weight.base, Leaf)
        return self.weight.base


@dataclasses.dataclass(frozen=True, eq=False)
class ValueNetwork:
    """A single-sample program, linear given its gates, whose weights are drawn."""

    program: Program
    weights: Program  # its outputs are the drawn operands, made of the parameters
    places: Mapping[Equation, dict[int, int]]  # equation → its drawn operands, and which outputs of `weights` they are
    scales: Mapping[int, Any]  # number of a drawn parameter → the standard deviation of its elements
    leaves: Sequence[Any]

    @property
    def convolves(self) -> bool:
        """Whether a convolution's kernel is drawn; several kernels at once are a grouped one, which is slow."""
        return any(e.name == "conv_general_dilated" for e in self.places)

    def draw(self, key: Any) -> list[Any]:
        """Random signs times standard deviations, for every drawn parameter; the others as they are."""
        signs = random_signs(key, [self.leaves[number] for number in self.scales])
        drawn = list(self.leaves)
        for sign, (number, scale) in zip(signs, self.scales.items(), strict=True):
            drawn[number] = sign * jnp.asarray(scale, sign.dtype)
        return drawn

    def outputs(self, drawn: Sequence[Any], x: Any, gates: Sequence[Any]) -> Any:
        """The outputs [n, K] of samples x [n, ...] under gates [n, *shape for one sample]."""
        unused = [None] * len(self.program.x)
        operands = evaluate(self.weights, [*drawn, *unused])

        def one(sample: Any, own_gates: Sequence[Any]) -> Any:
            queue = iter(own_gates)

            def rule(equation: Equation, values: list[Any]) -> list[Any]:
                if equation.activation is not None:
                    gate = next(queue)
                    if equation.activation.alone:
                        return [gate.astype(equation.outputs[0].dtype)]
                    return [equation.activation.apply(values[0], gate.astype(values[0].dtype))]
                drawn = self.places.get(equation, {})
                return equation.bind(*(operands[drawn[i]] if i in drawn else v for i, v in enumerate(values)))

            return evaluate(self.program, [*self.leaves, *(a[None] for a in jax.tree_util.tree_leaves(sample))], rule)[
                0
            ][0]

        return jax.vmap(one)(x, tuple(gates))


def value_network(program: Program, leaves: Sequence[Any], normalize: Normalize, dtype: Any) -> ValueNetwork:
    """What is drawn in a network, and how large.

    Args:
        program: of f for a batch of one, activations found.
        leaves: values of its parameters.
        normalize: weights of variance 1/fan-in, constants that multiply them left out; else all have variance 1, or
            that of their own numbers ("own").
        dtype: of the samples.

    Returns:
        The network, whose outputs under `draw` have the path kernel as their second moment. What f computes in half
        precision it computes in single; samples come in `dtype`.

    Raises:
        UnsupportedOperation: f is outside the path rules.
        ValueError: a weight is multiplied by zero.
    """
    program, leaves = _single(program), [_in_single(leaf) for leaf in leaves]
    shapes = [g.shape for g in gate_shapes(program)]
    claims: dict[Equation, list[_Claim]] = {}
    rules = {name: _noting(rule, claims) for name, rule in RULES.items()}
    moves = POSITIONWISE | {name: _noting(POSITIONWISE[name], claims) for name in _JOINS}
    state = output_terms(program, shapes, rules, moves)
    if state[0].shape[-1] > 1 and not all(map(alike, state)):
        raise UnsupportedOperation(OWN_FEATURES)
    drawn = list(dict.fromkeys((e, c.operand) for e, own in claims.items() for c in own))
    weights = dataclasses.replace(program, outputs=tuple(e.inputs[at] for e, at in drawn)).pruned()
    places: dict[Equation, dict[int, int]] = {e: {} for e, _ in drawn}
    for number, (e, at) in enumerate(drawn):
        places[e][at] = number
    scales = _scales(itertools.chain(*claims.values()), scaling_of(normalize), leaves)
    return ValueNetwork(program, weights, places, scales, leaves)


def _noting(rule: Callable[..., Any], claims: dict[Equation, list[_Claim]]) -> Callable[..., Any]:
    """A path rule that also notes which parameters it has claimed."""

    def noting(walk: Walk, equation: Equation, *states: Any) -> Any:
        before = dict(walk.used)
        found = rule(walk, equation, *states)
        if any(before.get(leaf) is not claimed for leaf, claimed in walk.used.items()):
            operands = [(i, a) for i, a in enumerate(equation.inputs) if walk.is_parameter(a)]
            if equation.name in _JOINS:
                claims[equation] = [_Claim(i, t, None) for i, a in operands for t in walk.data(a)]
                return found
            ((operand, _),) = operands
            if equation.name in ("add", "add_any", "sub"):
                biases = [
                    t
                    for t in found[0]
                    if isinstance(t.base, Leaf) and before.get(t.base.number) is not walk.used.get(t.base.number)
                ]
                claims[equation] = [_Claim(operand, t, None) for t in biases]
            else:
                layer = found[0][0].base
                assert isinstance(layer, Layer)
                claims[equation] = [_Claim(operand, layer.weight, layer)]
        return found

    return noting


def _scales(claims: Any, scaling: Scaling, leaves: Sequence[Any]) -> dict[int, Any]:
    """The standard deviation of every element of every drawn parameter: a number, or an array."""
    scales: dict[int, Any] = {}
    for claim in claims:
        number, mask = claim.leaf.number, elements(claim.weight)
        scale: Any = 1.0
        if scaling.magnitudes:
            scale = Magnitude.of(number, mask).number(leaves[number])
        elif scaling.normalize and claim.layer is not None:
            scale = _standard_deviation(claim.layer)
        if not mask.all():  # layers that read parts of one parameter, as `lax.scan` over stacked weights does
            shape = tuple(a.size for a in claim.leaf.axes)
            before = scales.get(number, jnp.ones(shape, jnp.result_type(float)))
            scale = jnp.where(mask.reshape(shape), jnp.asarray(scale, before.dtype), before)
        scales[number] = scale
    return scales


def _standard_deviation(layer: Layer) -> Any:
    """Of a sign, so that constant · sign · this has variance 1/fan-in."""
    constant: Any = layer.number
    if constant is None:
        constant = Numbers(jnp, None, (), {}, jnp.result_type(float)).of(layer.constant)[0]
    elif constant == 0:
        raise ValueError(
            f"parameter `{layer.leaf.name}` at {layer.source} is multiplied by zero, which `normalize=True` would have "
            "to leave out: leave it out of f, or use normalize=False."
        )
    return 1 / (math.sqrt(layer.fan_in) * abs(constant))


# ------------------------------------------------------------------------------------------- is it one?


def _is_half(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32


def _in_single(value: Any) -> Any:
    """An array of half precision as float32, others as they are."""
    return jnp.asarray(value, jnp.float32) if _is_half(jnp.result_type(value)) else value


def _single(program: Program) -> Program:
    """The program as it computes in single precision: rounded to half, products of signs would have another mean."""

    def of_equation(e: Equation) -> Equation:
        params = {
            k: np.dtype(np.float32) if isinstance(v, np.dtype) and _is_half(v) else v for k, v in e.params.items()
        }
        inputs = tuple(Const(_in_single(a.value)) if isinstance(a, Const) else a for a in e.inputs)
        return dataclasses.replace(e, params=params, inputs=inputs)

    return dataclasses.replace(program, equations=tuple(map(of_equation, program.equations)))
