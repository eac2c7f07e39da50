"""Why this output: f(x) = ⟨φ_x, v⟩ summed over the paths through one pixel, one bias, one unit, one layer or one leaf.

Given its gates f is linear in what paths begin at, in every gate and in every weight that a path crosses once. So the
sum of φ·v over the paths through any of these is its number times the derivative of the affine form with respect to it.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from npk.gating import Function, at_lines
from npk.programs import (
    Const,
    Equation,
    Once,
    Program,
    Var,
    check_batch,
    check_finite,
    concrete,
    evaluate,
    paths_of,
    remembered,
    shown,
    transformation,
)
from npk.readings.affine_forms import AffineForm, affine_form

WAYS = ("input", "positions", "units", "layers", "leaves")
# What is zero where the values that it reads are: no path begins there.
_HOMOGENEOUS = frozenset("mul dot_general conv_general_dilated div neg convert_element_type reduce_sum".split())
# How far sums may be from f, in roundings of what is added: more, and a path crosses a layer twice.
_ROUNDINGS = 1e3


@shown()
@dataclasses.dataclass(frozen=True, eq=False)
class Attribution:
    """The sums of φ·v over paths, by what they go through; made by `attribute`.

    Attributes:
        parts: by "input" or "layer", or by the names of leaves: [N, ...].
        biases: by name, what paths that begin there give, [N]; of ways that have them.
        skipped: what paths give that skip the layer, [N]; None but for units.
        value: f(x) at the chosen output, [N].

    Example:
        >>> import jax, jax.numpy as jnp, npk
        >>> f = lambda p, x: jax.nn.relu(x @ p["w"] + p["b"]) @ p["v"]
        >>> p = {"w": jnp.eye(2), "b": jnp.array([[0.5, 0.5]]), "v": jnp.array([[1.0], [2.0]])}
        >>> why = npk.attribute(f)(p, jnp.array([[1.0, 3.0]]), 0)
        >>> why.parts["input"].tolist(), why.biases["b"].tolist(), why.value.tolist()
        ([[1.0, 6.0]], [1.5], [8.5])
    """

    parts: dict[str, Array]
    biases: dict[str, Array]
    skipped: Array | None
    value: Array

    @property
    def total(self) -> Float[Array, " n"]:
        """The sum of all parts, biases and what is skipped: f(x), where a sum is promised."""
        found = sum(jnp.sum(part.reshape(len(part), -1), axis=1) for part in self.parts.values())
        rest = [*self.biases.values(), *([] if self.skipped is None else [self.skipped])]
        return sum(rest, start=jnp.asarray(found))


@transformation("params, x, output")
def attribute(
    f: Function, *, to: str = "input", layer: int | None = None, gate_at: Sequence[str] = ()
) -> Callable[..., Attribution]:
    """Transform f into the function that says what each pixel, bias, unit, layer or leaf gives an output.

    φ·v is summed over all paths through

    - "input": each number of x, or each token. With the paths that begin at a bias (named by its leaf; the shift of a
      normalisation by its parameters), these are all paths: they sum to f(x).
    - "positions": the same, summed over the last axis of x, its channels.
    - "units": each gate of one layer (a unit; of softmax patterns each pair of positions of each head). With `skipped`,
      the paths that skip the layer, they sum to f(x).
    - "layers": each layer of gates; a path crosses many, and no sum is promised.
    - "leaves": each leaf of params; no sum is promised either.

    Of a layer or leaf that a path crosses more than once (a tied weight), or that is no factor of paths (a variance),
    this is not their sum, and the result is NaN; of units an error, or NaN under `jit`.

    Gates are held as they are at x: no gradient goes through them, and nothing is approximated.

    Args:
        f: a function of (params, x), x: [N, ...] → [N, ...]; x of floats, or of whole numbers that are tokens.
        to: one of "input", "positions", "units", "layers", "leaves".
        layer: for "units" the number of the gates, in the order of `gates(f)`; negative numbers count from the last.
        gate_at: as of `gates`.

    Returns:
        A function (params, x, output) → `Attribution`; output is an index of f's output, or an array [N] of them, one a
        sample, as `f(params, x).argmax(1)`. It can be jitted.

    Raises:
        ValueError: x is empty, not an array, or not finite; there is no such output, layer or way; samples see each
            other; a path crosses the layer twice.
        UnsupportedOperation: given its gates f is not affine in x.

    Example:
        >>> import jax, jax.numpy as jnp, npk
        >>> f = lambda p, x: jax.nn.relu(x @ p["w"]) @ p["v"]
        >>> p = {"w": jnp.array([[1.0, -1.0], [1.0, 1.0]]), "v": jnp.array([[1.0], [2.0]])}
        >>> why = npk.attribute(f, to="units", layer=0)(p, jnp.array([[1.0, 3.0]]), 0)
        >>> why.parts["layer"].tolist(), why.skipped.tolist()
        ([[4.0, 4.0]], [0.0])

    Source: Lakshminarayanan & Singh 2020, section 2 (f(x) = ⟨φ_x, v⟩).
    """
    if to not in WAYS:
        raise ValueError(f"to must be one of {', '.join(WAYS)}, got {to!r}.")
    if (to == "units") != (layer is not None):
        raise ValueError("layer chooses the layer of units: it is given for to='units', and for nothing else.")
    return remembered(_attribute, at_lines(f, gate_at), to, layer)


def _attribute(f: Function, to: str, layer: int | None) -> Callable[..., Attribution]:
    """`attribute`, made once."""
    once = Once()

    def attribute_f(params: PyTree, x: Any, output: Any = None) -> Attribution:
        check_batch(x)
        check_finite(params, "params")
        x = jnp.asarray(x)

        def find() -> _Sums:
            return _Sums(affine_form(f, params, x[:1], (), None, None), tuple(paths_of(params)), to, layer)

        sums = once((params, x[:1]), "sums", find) if concrete(params, x) else find()
        chosen = _chosen(output, len(x), sums.form.program.outputs[0].shape[1:])
        value, parts, rest = sums.of_batch(params, x, chosen)
        if to != "units":
            named = {name: v for name, v in rest.items() if not (name.startswith("constant") and _is_zero(v))}
            return Attribution(parts, named, None, value)
        if concrete(parts) and bool(jnp.isnan(parts["layer"]).any()):
            raise ValueError(
                "a path crosses this layer more than once, so that sums over its units are not f: choose another."
            )
        return Attribution(parts, {}, rest["skipped"], value)

    return attribute_f


def _is_zero(value: Any) -> bool:
    return concrete(value) and not np.asarray(value).any()


def _chosen(output: Any, n: int, shape: tuple[int, ...]) -> Array:
    """The chosen output of every sample as weights [N, *shape] of zeros and a one."""
    if output is None:
        if np.prod(shape, dtype=int) != 1:
            raise ValueError(
                f"f returns {list(shape)} outputs a sample: choose one, output=3, or an array of one each."
            )
        return jnp.ones((n, *shape))
    indices = output if isinstance(output, tuple) else (output,)
    if len(indices) != len(shape):
        raise ValueError(f"output must be an index of outputs {list(shape)}, one number an axis, got {output!r}.")
    weights = jnp.ones((n, *(1,) * len(shape)))
    for axis, (index, size) in enumerate(zip(indices, shape)):
        numbers = jnp.asarray(index)
        if not jnp.issubdtype(numbers.dtype, jnp.integer) or numbers.shape not in ((), (n,)):
            raise ValueError(f"output must be a whole number, or one for each of {n} samples, got {index!r}.")
        if concrete(numbers) and not bool(((numbers >= -size) & (numbers < size)).all()):
            raise ValueError(f"output {index!r} is none of {size}.")
        one = jax.nn.one_hot(jnp.broadcast_to(numbers % size, (n,)), size)
        weights = weights * one.reshape(n, *(1,) * axis, size, *(1,) * (len(shape) - axis - 1))
    return weights


@dataclasses.dataclass(frozen=True, eq=False)
class _Sums:
    """The affine form of one sample, and its sums over paths."""

    form: AffineForm
    names: tuple[str, ...]  # of the leaves of params
    to: str
    layer: int | None

    @functools.cached_property
    def of_batch(self) -> Callable[..., Any]:
        return jax.jit(jax.vmap(self._of_sample, (None, 0, 0)))

    @functools.cached_property
    def starts(self) -> "_Starts":
        return _starts(self.form.program, self.names)

    def _of_sample(self, params: PyTree, sample: Array, weights: Array) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        """f at the output that weights choose, its parts, and the rest of them."""
        x, leaves = sample[None], tuple(jax.tree_util.tree_leaves(params))
        out, gates = self.form.begin(params, x)
        value = jnp.sum(out[0] * weights.astype(out.dtype))

        def chosen(leaves: Any, gates: Any, x: Any, begun: Any = None) -> Any:
            given = (*leaves, *gates)
            found = self.form.at(given, x) if begun is None else self._begun(given, x, begun)[0]
            return jnp.sum(found[0] * weights.astype(found.dtype))

        def through(part: Any, closed: Any) -> Any:
            """The part where no path crosses twice, so that f without it is f less the part; else NaN."""
            size = jnp.sum(jnp.abs(part)) + jnp.abs(value) + jnp.abs(closed)
            off = jnp.abs(jnp.sum(part) + closed - value)
            return jnp.where(off <= _ROUNDINGS * jnp.finfo(part.dtype).eps * size, part, jnp.nan)

        if self.to == "leaves":
            floats = {name: i for i, name in enumerate(self.names) if jnp.issubdtype(leaves[i].dtype, jnp.floating)}
            slopes = jax.grad(lambda some: chosen(_with(leaves, floats.values(), some), gates, x))(
                [leaves[i] for i in floats.values()]
            )
            without = [chosen(_with(leaves, [i], [0 * leaves[i]]), gates, x) for i in floats.values()]
            sides = zip(floats.items(), slopes, without, strict=True)
            return value, {n: jnp.sum(through(leaves[i] * slope, rest)) for (n, i), slope, rest in sides}, {}
        if self.to in ("units", "layers"):
            slopes = jax.grad(lambda some: chosen(leaves, some, x))(gates)
            numbers = range(len(gates)) if self.to == "layers" else [self._number(len(gates))]
            without = [chosen(leaves, _with(gates, [i], [0 * gates[i]]), x) for i in numbers]
            given = [through(gates[i] * slopes[i], rest) for i, rest in zip(numbers, without, strict=True)]
            if self.to == "layers":
                return value, {f"layer {i + 1}": jnp.sum(part) for i, part in enumerate(given)}, {}
            # Where f has its samples on another axis, that axis stays, of size one: no unit is left out.
            layer = given[0][0] if given[0].shape[:1] == (1,) else given[0]
            return value, {"layer": layer}, {"skipped": without[0]}
        first = self._begun((*leaves, *gates), x, None)[1]
        zeros = [jnp.zeros_like(start) for start in first]
        if tokens := not jnp.issubdtype(x.dtype, jnp.floating):
            others = jax.grad(lambda begun: chosen(leaves, gates, x, begun))(zeros)
            part = None
        else:
            slope, others = jax.grad(lambda x, begun: chosen(leaves, gates, x, begun), (0, 1))(x, zeros)
            part = (x * slope)[0]
        biases: dict[str, Any] = {}
        for name, start, by in zip(self.starts.names, first, others):
            if name is None:  # what tokens are looked up as
                each = _by_token((start * by)[0], sample.shape)
                part = each if part is None else part + each
            else:
                biases[name] = biases.get(name, 0.0) + jnp.sum(start * by)
        part = jnp.zeros(sample.shape) if part is None else part
        whole = self.to == "input" or tokens or part.ndim < 2
        return value, {"input": part if whole else part.sum(-1)}, biases

    def _number(self, count: int) -> int:
        assert self.layer is not None
        if not -count <= self.layer < count:
            raise ValueError(f"layer={self.layer}: f has {count} layers of gates, numbered from 0 as of npk.gates.")
        return self.layer % count

    def _begun(self, given: Sequence[Any], x: Any, begun: Sequence[Any] | None) -> tuple[Any, list[Any]]:
        """The form with `begun` added where paths begin; and what begins there."""
        starts, first = self.starts, []

        def rule(equation: Equation, values: list[Any]) -> list[Any]:
            if equation.name == "stop_gradient":
                return values
            outputs = equation.bind(*values)
            if equation not in starts.places:
                return outputs
            number = starts.places[equation]
            alone = [jnp.zeros_like(v) if a in starts.moving else v for a, v in zip(equation.inputs, values)]
            first.append(equation.bind(*alone)[0])
            return outputs if begun is None else [outputs[0] + begun[number], *outputs[1:]]

        return evaluate(self.form.program, [*given, x], rule)[0], first


def _by_token(part: Array, shape: tuple[int, ...]) -> Array:
    """What tokens of that shape give, from what the numbers give that they are looked up as."""
    if part.shape[: len(shape)] != shape:
        raise ValueError(f"tokens {list(shape)} are looked up as {list(part.shape)}: which is of which is not known.")
    return part.reshape(*shape, -1).sum(-1)


def _with(values: Sequence[Any], places: Any, others: Sequence[Any]) -> tuple[Any, ...]:
    """Values with others in some places."""
    found = list(values)
    for place, other in zip(places, others):
        found[place] = other
    return tuple(found)


@dataclasses.dataclass(frozen=True, eq=False)
class _Starts:
    """Where paths begin that do not begin at numbers of x.

    Attributes:
        places: equation → its number, in order.
        names: of each, what it is made of; None where tokens are looked up.
        moving: the values on the way from there, and from x, to the output.
    """

    places: dict[Equation, int]
    names: list[str | None]
    moving: frozenset[Var]


def _starts(program: Program, leaves: Sequence[str]) -> _Starts:
    """The equations that add to values what does not depend on x, and those that look tokens up."""
    tokens = {x for x in program.x if not _is_float(x)}
    moving: set[Var] = set(program.x) - tokens
    made = {v: frozenset([i]) if i < len(leaves) else frozenset() for i, v in enumerate(program.params)}
    places: dict[Equation, int] = {}
    names: list[str | None] = []
    for equation in program.equations:
        inputs = [a for a in equation.inputs if isinstance(a, Var)]
        fixed = [a for a in equation.inputs if not (isinstance(a, Var) and a in moving)]
        of = frozenset().union(*(made.get(a, frozenset()) for a in inputs if a not in moving))
        if any(a in moving for a in inputs):
            moving.update(equation.outputs)
            if equation.name not in _HOMOGENEOUS and any(_is_float(a) for a in fixed):
                places[equation] = len(names)
                names.append(", ".join(leaves[n] for n in sorted(of)) or f"constant at {equation.source}")
        elif any(a in tokens for a in inputs):
            if _is_float(equation.outputs[0]):
                moving.update(equation.outputs)
                places[equation] = len(names)
                names.append(None)
            else:
                tokens.update(equation.outputs)
        else:
            made.update(dict.fromkeys(equation.outputs, of))
    return _Starts(places, names, frozenset(moving))


def _is_float(atom: Any) -> bool:
    dtype = (
        atom.value.dtype if isinstance(atom, Const) and hasattr(atom.value, "dtype") else getattr(atom, "dtype", None)
    )
    return dtype is not None and jnp.issubdtype(dtype, jnp.floating)
