"""Estimates of path kernels and tangent kernels by random signs, with error bars, one pass over the data.

For weights w of independent random signs, the outputs of the value network are features of the path kernel:
E[f_w(s) f_w(s')] = H(s, s'). For a tangent u of random signs, so are derivatives of the tangent kernel:
E[(ψ(s)·u)(ψ(s')·u)] = K(s, s'). A draw costs a forward pass; N samples and m features cost N·m, not N².
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray, PyTree

from npk.gating import Function, at_lines, gate_shapes, of_output, own_gates, per_sample, sample_program
from npk.paths import Normalize, scaling_of
from npk.programs import (
    Chosen,
    Equation,
    Once,
    Place,
    Program,
    Selection,
    Wanted,
    block_of,
    check_batch,
    check_finite,
    check_gate_shapes,
    check_independent,
    check_key,
    check_linear,
    concrete,
    cuts,
    evaluate,
    floats_of,
    of_floats,
    option_of,
    remembered,
    resized,
    sample_of,
    samples_in,
    transformation,
    unsharded,
    wanted,
    with_gates,
    working_dtype,
)
from npk.sketches.features import KernelSketch
from npk.sketches.signs import draw_keys, key_kind, random_signs, value_network
from npk.tangent_kernels import Checks, check_real_leaves, counted

Gates = Sequence[Any]

# Numbers of the values of a network that a block of samples may have at a time, for one draw and for draws that
# run together: 64 MiB in float32.
_BLOCK_NUMBERS = 1 << 24
PARTS = ("value", "feature", "total")


# ---------------------------------------------------------------------------------------- samples in blocks


def _numbers_of(program: Program) -> int:
    """All values that a program computes."""
    return sum(math.prod(v.shape) for e in program.equations for v in e.outputs)


@dataclasses.dataclass(frozen=True)
class _Shapes:
    """What depends on shapes alone: the gates of one sample, the numbers it takes to pass it, and the outputs."""

    gates: tuple[Any, ...]
    places: tuple[Place | None, ...]
    numbers: int
    outputs: int


def _shapes_of(find: Callable[[PyTree, Any], Program]) -> Callable[[PyTree, Any], _Shapes]:
    """The shapes of a single-sample program, found once for each kind of parameters and samples."""
    once = Once()

    def shapes(params: PyTree, x: Any) -> _Shapes:
        def found() -> _Shapes:
            program = find(params, x)
            sources = (*program.x, *(v for e in program.equations if e.activation is not None for v in e.outputs))
            if program.outputs[0] not in program.reached_from(sources):
                raise ValueError("the output of f does not depend on x: there is nothing to sketch.")
            gates, outputs = tuple(gate_shapes(program)), program.outputs[0].shape[-1]
            return _Shapes(gates, program.gate_places, _numbers_of(program), outputs)

        return once((params, sample_of(x)), "shapes", found)

    return shapes


def _block_of(block: int | None, n: int, numbers: int) -> int:
    """Samples of a block: as asked for, or as many as there is room for, all blocks of one size."""
    if block is not None:
        if block < 1:
            raise ValueError(f"block must be a number of samples, at least 1, got {block}.")
        return block
    blocks = -(-n // max(1, _BLOCK_NUMBERS // max(1, numbers)))
    return -(-n // blocks)


def _swept(compute: Callable[..., Any], x: Any, gates_of: Callable[[slice], Any], block: int, traced: bool) -> Any:
    """Features [N, D, K] of all samples, a block at a time; as a whole where they are being traced."""
    n = samples_in(x)
    if traced:
        return compute(x, gates_of(slice(0, n)))
    features: Any = None
    for rows in cuts(n, block):
        batch = jax.tree_util.tree_map(lambda a, rows=rows: jnp.asarray(a[rows]), x)
        check_finite(batch, f"x[{rows.start}:{rows.stop}]" if n > block else "x")
        found = compute(block_of(batch, 0, block), block_of(gates_of(rows), 0, block))
        if not concrete(found):  # f closes over what is being traced
            return compute(x, gates_of(slice(0, n)))
        found = np.asarray(found)[: samples_in(batch)]
        if features is None:
            features = np.empty((n, *found.shape[1:]), found.dtype)
        features[rows] = found
        if not np.isfinite(found).all():
            raise ValueError(f"features leave the range of {found.dtype}; use normalize=True or enable x64.")
    return features


def _draws_of(features: int, outputs: int, key: Any, first: int) -> Any:
    check_key(key)
    if features < 1:
        raise ValueError(f"features must be a number of features, at least 1, got {features}.")
    if first < 0:
        raise ValueError(f"first must be the number of a draw, at least 0, got {first}.")
    return draw_keys(key, first, -(-features // outputs))


def _in_draws(one_draw: Callable[[Any], Any], draws: Any, kind: Any, together: int) -> Any:
    """[n, D, K] of draws that each give [n, K], `together` of them at a time."""
    features = jax.lax.map(
        lambda data: one_draw(jax.random.wrap_key_data(data, impl=kind)), draws, batch_size=min(together, len(draws))
    )
    return jnp.swapaxes(features, 0, 1)


# ----------------------------------------------------------------------------------------------- public


@transformation("params, x, features=m, key=jax.random.key(0)")
def sketch(
    f: Function, *, fixed: Selection = None, gate_at: Sequence[str] = (), output: Any = None
) -> Callable[..., KernelSketch]:
    """Transform f into random-sign features of its neural path kernel: E[z(s)·z(s')] = H(s, s').

    The features are the outputs of the value network `gated(f)(w, x, gates)` whose weights and biases w are drawn
    as independent random signs times their standard deviation. H, what counts as a weight, its fan-in and its
    scaling are those of `path_kernel(f)`, and what that refuses is refused here. With K outputs a draw gives K
    features, correlated with each other (they share all layers but the last).

    A draw depends on `key` and its number only: sketches of other samples by the same key go together
    (`with_samples`, `against`), made anywhere, and more draws of the same samples come with `first`.

    Args:
        f: a function of (params, x), x: [N, ...] → [N, K], ending in a weight layer.
        fixed: as of `path_kernel`.
        gate_at: as of `path_kernel`.
        output: as of `path_kernel`.

    Returns:
        A function (params, x, gates=None, *, features, key, normalize=True, first=0, block=None) → `KernelSketch`.
        x may be any array that can be sliced, a memory-mapped one too: `block` samples are read, gated and passed
        through the network at a time (None: as many as need some 64 MiB). Gates are f's own where none are given.
        At least `features` features are drawn, ⌈features/K⌉ draws of K, the first of them numbered `first`. With
        one and the same `block` data that are cut at multiples of it give the same bits as the whole, and to rounding
        wherever they are cut. Under `jit` the batch is one block. Features are in the dtype of x, of half precision
        float32, in which the value network of a model of half precision is computed, under its own gates.

    Raises:
        ValueError: inputs are empty, not finite or of integer dtype; gates do not match f's activations; features
            leave the range of the dtype; a number is out of range; `normalize` is nothing that `path_kernel` takes.
        UnsupportedOperation: as `path_kernel`.

    Example:
        >>> import jax, jax.numpy as jnp, npk
        >>> f = lambda p, x: jax.nn.relu(x @ p["w"]) @ p["v"]
        >>> p = {"w": jnp.array([[1.0, -1.0]]), "v": jnp.ones((2, 1))}
        >>> x = jnp.array([[2.0], [3.0], [-1.0]])
        >>> z = npk.sketch(f)(p, x, features=64, key=jax.random.key(0))
        >>> bool((abs(z.gram() - npk.path_kernel(f)(p, x)) <= 3 * z.standard_error() + 1e-5).all())
        True

    Source: Lakshminarayanan & Singh 2020, section 5 (H as a second moment over weights); random features.
    """
    return remembered(_sketch, of_output(at_lines(f, gate_at), output), option_of(fixed, "fixed"))


def _sketch(f: Function, fixed: Chosen) -> Callable[..., KernelSketch]:
    """`sketch`, made once."""

    @functools.partial(jax.jit, static_argnames=("normalize", "kind"))
    def compute(params: PyTree, x: Any, gates: Gates | None, draws: Any, *, normalize: Normalize, kind: Any) -> Any:
        program = sample_program(f, params, x, fixed)
        if gates is None:
            own = own_gates(f, params, x)
            sides = zip(own, gate_shapes(program), program.gate_places, strict=True)
            gates = [per_sample(g, s.shape, samples_in(x), place) for g, s, place in sides]
        dtype = working_dtype(*(floats_of(x) or jax.tree_util.tree_leaves(params)))
        network = value_network(program, jax.tree_util.tree_leaves(params), normalize, dtype)

        def one_draw(key: Any) -> Any:
            return network.outputs(network.draw(key), of_floats(lambda a: a.astype(dtype), x), gates)

        room = 1 if network.convolves else max(1, _BLOCK_NUMBERS // (samples_in(x) * _numbers_of(program)))
        found = _in_draws(one_draw, draws, kind, room)
        return (found / math.sqrt(found.shape[-1])).astype(dtype)

    shapes_of = _shapes_of(functools.partial(sample_program, f, fixed=fixed))

    def sketch_of_f(
        params: PyTree,
        x: Any,
        gates: Gates | None = None,
        *,
        features: int,
        key: PRNGKeyArray,
        normalize: Normalize = True,
        first: int = 0,
        block: int | None = None,
    ) -> KernelSketch:
        scaling_of(normalize)
        check_batch(x, finite=False)
        check_finite(params, "params")
        params, x, gates = unsharded((params, x, gates))
        shapes = shapes_of(params, x)
        gates_of = _given(f, params, x, gates, shapes)
        draws = _draws_of(features, shapes.outputs, key, first)
        block = _block_of(block, samples_in(x), shapes.numbers)
        run = functools.partial(compute, params, draws=draws, normalize=normalize, kind=key_kind(key))
        traced = not concrete(params, x, gates, draws)
        return KernelSketch(_swept(lambda t, g: run(t, gates=g), x, gates_of, block, traced), draws)

    return sketch_of_f


def _given(
    f: Function, params: PyTree, x: Any, gates: Gates | None, shapes: _Shapes
) -> Callable[[slice], tuple[Any, ...] | None]:
    """Some samples' gates, [n, *shape for one sample]; None where f makes its own."""
    if gates is None:
        return lambda rows: None
    batch = resized(x, samples_in(x))
    expected = jax.eval_shape(functools.partial(own_gates, f), params, batch)
    check_gate_shapes(gates, expected)

    def of_rows(rows: slice) -> tuple[Any, ...]:
        sides = zip(gates, shapes.gates, shapes.places, strict=True)
        found = tuple(per_sample(g, s.shape, samples_in(x), place, rows) for g, s, place in sides)
        check_finite(found, "gates")
        return found

    return of_rows


def _one_sample(f: Function, part: str, wants: Wanted, params: PyTree, x: Any) -> Program:
    """The program of f for a batch of one, activations found, derivatives of the user's own left alone."""

    def of_batch(n: int) -> Program:
        return with_gates(f, params, resized(x, n), wants.kinds)

    program = dataclasses.replace(of_batch(1), gate_places=check_independent(f, params, x, of_batch).of_gates)
    if part != "total":
        check_linear(program, wants.allow)
    return program


def _derivative(
    program: Program, leaves: Sequence[Any], wanted: dict[int, Any], x: Any, gates: Gates | None, part: str
) -> Callable[[dict[int, Any]], Any]:
    """The linear map from a tangent of the wanted parameters to ψ(s)·u [n, K], ψ the part that is asked for."""

    def outputs(chosen: dict[int, Any], fixed: bool) -> Any:
        args = [chosen.get(i, leaf) for i, leaf in enumerate(leaves)]

        def one(sample: Any, given: Gates) -> Any:
            queue = iter(given)

            def rule(equation: Equation, values: list[Any]) -> list[Any]:
                if equation.activation is None:
                    return equation.bind(*values)
                gate = equation.activation.gate(*values) if gates is None else next(queue).astype(values[0].dtype)
                return [equation.activation.apply(values[0], jax.lax.stop_gradient(gate) if fixed else gate)]

            return evaluate(program, [*args, *(a[None] for a in jax.tree_util.tree_leaves(sample))], rule)[0][0]

        return jax.vmap(one)(x, () if gates is None else tuple(gates))

    def linearized(fixed: bool) -> Callable[[dict[int, Any]], Any]:
        return jax.linearize(functools.partial(outputs, fixed=fixed), wanted)[1]

    if part != "feature":
        return linearized(part == "value")
    whole, value = linearized(False), linearized(True)
    return lambda tangent: whole(tangent) - value(tangent)


@transformation("params, x, features=m, key=jax.random.key(0)")
def sketch_ntk(
    f: Function,
    *,
    part: str = "value",
    allow: Sequence[str] = (),
    wrt: Selection = None,
    kinds: Sequence[str] | None = None,
    gate_at: Sequence[str] = (),
) -> Callable[..., KernelSketch]:
    """Transform f into random-sign features of its tangent kernel, or of a part of it: E[z(s)·z(s')] = K(s, s').

    The features are derivatives of the K outputs along a tangent u of the parameters, of independent random signs:
    z(s) = ψ(s)·u. Gates are held fixed for K^V (part="value"), the only ones that move for K^F ("feature"); the
    whole NTK is "total". All are those of `split_ntk(f)`, summed over outputs. Parameters may be shared or
    embedded, f any differentiable function of single samples.

    Args:
        f: a function of (params, x), x: [N, ...] → [N, K], returning logits.
        part: "value", "feature" or "total".
        allow: as of `split_ntk`, for the two parts.
        kinds: as of `split_ntk`.
        gate_at: as of `split_ntk`.
        wrt: as of `ntk`: the leaves that count as parameters, all floats but marked statistics where None.

    Returns:
        A function (params, x, gates=None, *, features, key, first=0, block=None) → `KernelSketch`, all as of
        `sketch`. Given gates replace f's own, for part="value" only.

    Raises:
        ValueError: as `split_ntk` and `sketch`; part is none of the three; gates given for another part.
        UnsupportedOperation: as `split_ntk`.

    Example:
        >>> import jax, jax.numpy as jnp, npk
        >>> f = lambda w, x: jax.nn.relu(x @ w)
        >>> x = jnp.array([[1.0], [2.0], [-1.0]])
        >>> z = npk.sketch_ntk(f)(jnp.ones((1, 1)), x, features=8, key=jax.random.key(0))
        >>> z.gram().tolist()  # one parameter: every draw is exact
        [[1.0, 2.0, 0.0], [2.0, 4.0, 0.0], [0.0, 0.0, 0.0]]

    Source: Lakshminarayanan & Singh 2020, section 4 (ψ^V); random projections of gradients.
    """
    if part not in PARTS:
        raise ValueError(f"part must be one of {', '.join(map(repr, PARTS))}, got {part!r}.")
    return remembered(_sketch_ntk, at_lines(f, gate_at), part, wanted(allow, kinds), option_of(wrt, "wrt"))


def _sketch_ntk(f: Function, part: str, wants: Wanted, wrt: Selection) -> Callable[..., KernelSketch]:
    """`sketch_ntk`, made once."""

    @functools.partial(jax.jit, static_argnames=("kind",))
    def compute(params: PyTree, x: Any, gates: Gates | None, draws: Any, *, kind: Any) -> Any:
        program = _one_sample(f, part, wants, params, x)
        leaves = jax.tree_util.tree_leaves(params)
        counts = counted(params, wrt)
        check_real_leaves(program, counts)
        wanted = {i: leaves[i] for i in sorted(counts)}
        along = _derivative(program, leaves, wanted, x, gates, part)

        def one_draw(key: Any) -> Any:
            return along(dict(zip(wanted, random_signs(key, list(wanted.values())), strict=True)))

        room = max(1, _BLOCK_NUMBERS // (samples_in(x) * _numbers_of(program)))
        found = _in_draws(one_draw, draws, kind, room)
        return found.astype(working_dtype(found))  # of half precision, to be summed in single

    check, shapes_of = Checks(f, wrt), _shapes_of(functools.partial(_one_sample, f, part, wants))

    def sketch_ntk_of_f(
        params: PyTree,
        x: Any,
        gates: Gates | None = None,
        *,
        features: int,
        key: PRNGKeyArray,
        first: int = 0,
        block: int | None = None,
    ) -> KernelSketch:
        check(params, x, None)
        if gates is not None and part != "value":
            raise ValueError(f"gates given from outside are fixed, so that only part='value' is of them, not {part!r}.")
        params, x, gates = unsharded((params, x, gates))
        shapes = shapes_of(params, x)
        gates_of = _given(f, params, x, gates, shapes)
        draws = _draws_of(features, shapes.outputs, key, first)
        block = _block_of(block, samples_in(x), shapes.numbers)
        run = functools.partial(compute, params, draws=draws, kind=key_kind(key))
        traced = not concrete(params, x, gates, draws)
        return KernelSketch(_swept(lambda t, g: run(t, gates=g), x, gates_of, block, traced), draws)

    return sketch_ntk_of_f
