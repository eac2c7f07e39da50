"""The neural path kernel H(s, s') = ⟨φ_s, φ_s'⟩, exactly, for any network the path rules cover."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from npk.gating import Function, Place, at_lines, place_of
from npk.path_kernels import host
from npk.path_kernels.choice import Choice, Engine, here
from npk.path_kernels.costs import Cost, tell_if_long, timed
from npk.path_kernels.counts import check_counts, exact_or_nan, is_binary, whole_numbers
from npk.path_kernels.engines import dense, pairs, pooled
from npk.path_kernels.moments import SecondMoments, output_moment
from npk.path_kernels.network import Gates, Network
from npk.path_kernels.thresholds import Thresholds
from npk.paths import Form, Normalize, Numbers, scaling_of
from npk.programs import (
    Chosen,
    Selection,
    check_finite,
    check_pair,
    concrete,
    finite,
    floats_of,
    in_blocks,
    known_true,
    option_of,
    remembered,
    resized,
    sample_of,
    samples_in,
    together,
    transformation,
    unsharded,
    working_dtype,
)

Batch = tuple[Any, Gates]

# Elements of the largest intermediate of one block of pairs. On a CPU several of 1 MiB (float32) stay in the
# cache, which position pairs gain most from; an accelerator wants its products large.
_CPU_BLOCK, _BLOCK = 1 << 18, 1 << 22


def kernel_dtype(params: PyTree, x: Any, normalize: bool) -> Any:
    """The dtype of a kernel of inputs x, of integers that of the parameters; for counts the widest there is."""
    if not normalize:
        return jnp.dtype(jax.dtypes.canonicalize_dtype(jnp.float64))
    return working_dtype(*(floats_of(x) or jax.tree_util.tree_leaves(params)))


def _of_array(batch: Batch) -> Batch:
    """A batch of one array, whatever tree holds it."""
    (x,) = jax.tree_util.tree_leaves(batch[0])
    return x, batch[1]


# --------------------------------------------------------------------------------------- the kernel


def moment_of(
    form: Form,
    params: PyTree,
    one: Batch,
    two: Batch,
    normalize: Any,
    binary: bool,
    dtype: Any,
    kind: type[SecondMoments] = SecondMoments,
    **options: Any,
) -> tuple[Any, SecondMoments]:
    """H of two blocks, each (x [n, 1, ...], gates [n, ...]), in numbers of some kind, and what was met on the way."""
    fixed = form.fixed(params)
    sides = Numbers(jnp, *one, fixed, dtype), Numbers(jnp, *two, fixed, dtype)
    moments = kind(samples_in(one), samples_in(two), normalize, sides, binary, **options)
    return output_moment(form.state, moments), moments


def block_side(moment: Callable[..., Any], one: tuple, two: tuple) -> int:
    """Samples a side so that the largest intermediate of a block of pairs stays within its budget."""
    sizes = []

    def meter(a: Any, b: Any) -> Any:
        h, moments = moment(a, b)
        sizes.append(moments.largest)
        return h

    two_samples = jax.tree_util.tree_map(lambda a: jax.ShapeDtypeStruct((2, *a.shape[1:]), a.dtype), (one, two))
    jax.eval_shape(meter, *two_samples)
    elements = _CPU_BLOCK if jax.default_backend() == "cpu" else _BLOCK
    return max(1, math.isqrt(elements // max(sizes)))


@transformation()
def path_kernel(
    f: Function,
    *,
    fixed: Selection = None,
    thresholds: Thresholds | None = None,
    gate_at: Sequence[str] = (),
    output: Any = None,
) -> Callable[..., Float[Array, "n1 n2 *places"]]:
    """Transform f into its neural path kernel H(s, s') = ⟨φ_s, φ_s'⟩ under any gates.

    H is the second moment E[f(s) f(s')] of the network that is linear given its gates, over independent
    zero-mean weights. It is computed exactly, without listing paths: position by position, each weight
    layer contributes the overlap of what it reads, each skip connection a sum (DESIGN of the path rules:
    gate, weights, sum). Weights are the parameters that multiply or are added to values; a batch norm in
    evaluation mode is a fixed factor and a fixed shift, recognised by what it computes unless `fixed` declares which
    parameters are fixed numbers. `npk.explain(f)` shows what each parameter was taken for.

    Scaling: with `normalize=True` weights have variance 1/fan-in and biases variance 1 (constants that multiply
    a weight are then left out). A layer then multiplies H by the share of gates that are open for both inputs:
    hard gates of which half are open halve it a layer, to 0.0 at some 150 layers in float32, at fewer for pairs
    that share less. With `normalize=False` all have variance 1: H counts paths, H = φφᵀ for φ = `npf(f)`, and
    grows by the width a layer. With `normalize="own"` variances are mean squares of f's own numbers: of all that
    a weight layer reads (fused queries, keys and values count together), of all that are one bias. H then says how
    much each layer and each skip connection of this f weighs; the engines below leave it to the plain rules. Where H
    leaves the range, `log_path_kernel` has its sign and its logarithm.

    Large kernels on a CPU are computed by engines (with Numba installed): dense networks by bit counts, and
    convolutions with pooling, of which all P² pairs of positions count, by a compiled loop that keeps them in
    the cache. Its cost a pair of samples is P² times the number of layers times the number of 64-channel words
    (soft gates: of channels). It takes any padding, stride, dilation, pooling and residual sums; groups,
    networks that flatten, and values that are traced take the plain rules. The loop is compiled once on a
    machine, some ten seconds, and kept on disk (where that can be written); it is taken where it is expected to save
    half a second: from some 700 pairs of 16×16 images and four layers on.

    Args:
        f: a function of (params, x), x: [N, ...] → [N, K], ending in a weight layer.
        fixed: the parameters that are fixed numbers and no weights: names (keys joined by "/"), globs ("*/bn/*"), or a
            predicate on names. It replaces recognition: () for none. None to recognise normalisations.
        thresholds: from where on which form of the kernel computes it, None for `Thresholds()`. `.engines(params, x)`
            of what is returned says which one does, and why not the others.
        gate_at: as of `gates`: source lines whose values are gates.
        output: which outputs, where f returns others than [N, K]: an index, a slice or a tuple of them behind the
            samples, (t, slice(None)) for position t of [N, T, V]; () for all of [N]. Where axes are left before the
            last one, (slice(None), slice(None)) or () of [N, T, V], of every place.

    Returns:
        A function (params, x1, x2=None, *, gates1=None, gates2=None, normalize=True) → H [N1, N2], of several places
        [N1, N2, *places], each with itself, in the dtype of x1 (of half precision float32; float64 for counts when x64
        is enabled). x2=None means x1. The gates are f's own where none are given; else tuples as of `gates(f)`. It can
        be jitted and differentiated in soft gates. Under `jit` overlaps of hard 0/1 gates are bfloat16 products with a
        float32 accumulator, which is exact.

    Raises:
        ValueError: inputs are empty, not finite, of integer dtype or do not match; gates do not match f's
            activations; gates of one side only; `fixed` names nothing; H leaves the range of the dtype; path counts
            (hard gates, whole numbers for x) that the dtype cannot hold exactly: from 2^24 on in float32. Under `jit`,
            where nothing can be raised, a kernel with such a count is NaN. Thresholds that are none.
        UnsupportedOperation: f has operations outside the rules, or a weight is used twice; all are named.

    Example:
        >>> import jax, jax.numpy as jnp, npk
        >>> f = lambda p, x: jax.nn.relu(x @ p["w"]) @ p["v"]
        >>> p = {"w": jnp.array([[1.0, -1.0]]), "v": jnp.ones((2, 1))}
        >>> npk.path_kernel(f)(p, jnp.array([[2.0], [3.0], [-1.0]]), normalize=False).astype(int).tolist()
        [[4, 6, 0], [6, 9, 0], [0, 0, 1]]

    Source: Lakshminarayanan & Singh 2020, sections 2 and 5 (H = Σ ⊙ Λ for dense networks); 2021, sections 4-5.
    """
    if not isinstance(thresholds, Thresholds | None):
        raise ValueError(f"thresholds must be npk.path_kernels.Thresholds, got {type(thresholds).__name__}.")
    return remembered(
        _kernel_of, at_lines(f, gate_at), option_of(fixed, "fixed"), place_of(output), thresholds or Thresholds()
    )


def _many_of(
    f: Function, fixed: Chosen, place: Place, thresholds: Thresholds, magnitudes: bool
) -> tuple[Network, Callable[..., Float[Array, "n1 n2 *places"]]]:
    """H of f by the means that serve a number of pairs, and the programs that belong to it; as of `Scaling`."""
    network = Network(f, fixed, place, magnitudes)

    @functools.partial(jax.jit, static_argnames=("binary", "side", "dtype"))
    def blocks(
        params: PyTree, one: Any, two: Any | None, normalize: Any, *, binary: bool, side: int | None, dtype: Any
    ) -> Any:
        """H of laid out batches, `side` samples a side at a time; two=None for one, whose tiles are mirrored."""
        form = network.form_of(params, one)
        moment = functools.partial(moment_of, form, params, normalize=normalize, binary=binary, dtype=dtype)
        if side is None:
            return moment(one, one if two is None else two)[0]
        return in_blocks(lambda a, b: moment(a, b)[0], one, two, side, lambda block: block)

    makers: dict[Form, Callable[[PyTree], Any]] = {}  # no static argument: JAX keeps those for good

    def fixed_of(params: PyTree, form: Form) -> dict[Any, Any]:
        """`Form.fixed`, as numbers of NumPy."""
        if form not in makers:
            makers[form] = jax.jit(lambda params: tuple(form.fixed(params).values()))
        values = makers[form](params) if form.fixed_variables else ()
        return dict(zip(form.fixed_variables, map(np.asarray, values), strict=True))

    def compute(params: PyTree, one: Any, two: Any, *, normalize: bool, binary: bool, dtype: Any) -> Any:
        """H of laid out batches by the plain rules."""
        form = network.form_of(params, one)
        demands, size = network.demands(params, one)
        side = max(1, math.isqrt((_CPU_BLOCK if jax.default_backend() == "cpu" else _BLOCK) // size.elements))
        if here(form, params, one, two) and host.repays(size, samples_in(one) * samples_in(two), thresholds):
            known = network.once("known", params, sample_of(together(one[0])), dict)
            options = {"normalize": normalize, "binary": binary, "dtype": dtype, "side": side, "known": known}
            options["thresholds"] = thresholds
            return host.kernel(form, fixed_of(params, form), one, two, demands=demands, size=size, **options)
        # One program for any gates and either normalisation.
        whole = max(map(samples_in, (one, two))) <= side
        other = None if one is two and not whole else two
        return blocks(params, one, other, normalize, binary=binary, side=None if whole else side, dtype=dtype)

    @functools.partial(jax.jit, static_argnames=("dtype",))
    def largest_count(params: PyTree, one: Any, *, dtype: Any) -> Any:
        """The largest number met for any one sample; no sum for a pair of samples exceeds it."""
        form = network.form_of(params, one)

        def single(sample: Any) -> Any:
            sample = jax.tree_util.tree_map(lambda a: jnp.abs(a)[None], sample)
            met: list[Any] = []
            moment_of(form, params, sample, sample, False, False, dtype, met=met)
            return jnp.max(jnp.stack(met))

        return jnp.max(jax.lax.map(single, one, batch_size=16))

    def largest(params: PyTree, one: Any, two: Any, dtype: Any) -> Any:
        """Of all that is met for two batches; nothing is derived by it."""
        form = network.form_of(params, one)
        demands, size = network.demands(params, one)
        if here(form, params, one, two) and host.is_small(size, samples_in(one) + samples_in(two), thresholds):
            return max(host.largest(form, demands, fixed_of(params, form), side, dtype) for side in (one, two))
        params, one, two = jax.tree_util.tree_map(jax.lax.stop_gradient, (params, one, two))
        return functools.reduce(jnp.maximum, [largest_count(params, side, dtype=dtype) for side in (one, two)])

    def packed_kernel(choice: Choice, one: Batch, two: Batch, dtype: Any) -> Any | None:
        """H by packed gates, or None where the network, the gates or the machine are not made for it."""
        chain = choice.packed(one[0], None, one, two)
        left = None if isinstance(chain, str) else dense.side(chain, *_of_array(one), dtype)
        right = left if isinstance(chain, str) or one is two else dense.side(chain, *_of_array(two), dtype)
        if isinstance(chain, str) or left is None or right is None:
            return None
        most = max(dense.largest(chain, left), dense.largest(chain, right))
        if counting(choice.normalize) and whole_numbers(one[0], two[0]):
            check_counts(most, dtype)
        if not most < 0.5 * float(jnp.finfo(dtype).max):
            return None  # the general path tells where it overflows
        return dense.kernel(chain, left, right)

    def fused_kernel(choice: Choice, one: Any, two: Any, symmetric: bool, dtype: Any) -> Any | None:
        """H of laid out batches by the fused GPU kernel, or None where it is not made for them, or not trusted."""
        params, x, normalize = choice.params, one[0], choice.normalize
        chain = choice.fused(together(x), True, one, two)
        if isinstance(chain, str):
            return None
        whole = functools.partial(compute, params, normalize=normalize, binary=True, dtype=dtype)
        once = functools.partial(network.once, f"fused, {normalize}, {dtype}", params, sample_of(x))
        one, two = _of_array(one), _of_array(two)
        return pooled.fused(chain, one, two, dtype, symmetric=symmetric, plain=lambda b: whole(b, b), once=once)

    def paired_kernel(choice: Choice, one: Any, two: Any, symmetric: bool, dtype: Any) -> Any | None:
        """H by position pairs, or None where the engine does not cover the network or would not be faster."""
        plan = choice.paired(together(one[0]), one, two)
        if isinstance(plan, str):
            return None
        samples = samples_in(one) * samples_in(two)
        tell_if_long(samples // 2 if symmetric else samples, plan.positions)
        form = network.form_of(choice.params, one)
        fixed = fixed_of(choice.params, form)

        def values(batch: Any, wanted: tuple[int, ...]) -> Any:
            numbers = Numbers(np, batch[0], batch[1], fixed, dtype)
            return pairs.slot_values(form, numbers, [plan.slots[n] for n in wanted])

        with np.errstate(all="ignore"):  # what leaves the range is left to the plain rules
            return pairs.path_kernel(plan, values, one, None if symmetric else two, dtype)

    def counting(normalize: bool) -> bool:
        """Whether H counts paths."""
        return not (normalize or magnitudes)

    def of_many(
        many: int | None, params: PyTree, x1: Any, x2: Any, gates1: Gates | None, gates2: Gates | None, normalize: bool
    ) -> Float[Array, "n1 n2 *places"]:
        """H by the means that serve `many` pairs, None for as many as there are."""
        params = unsharded(params)
        one, two = network.sides(params, x1, x2, gates1, gates2)
        symmetric = one is two
        dtype = kernel_dtype(params, x1, not counting(normalize))
        choice = Choice(network, thresholds, params, many or samples_in(one) * samples_in(two), normalize)
        h = packed_kernel(choice, one, two, dtype)
        if h is not None:
            return h
        if gates1 is not None:
            check_finite(gates1, "gates1")
            check_finite(gates2, "gates2")
        binary = (gates1 is None and network.has_binary_gates(params, x1)) or is_binary((*one[1], *two[1]))
        one = network.laid_out(params, *one)
        two = one if symmetric else network.laid_out(params, *two)
        known = concrete(params, one, two) and not network.form_of(params, one).traced
        if counting(normalize) and known and binary and whole_numbers(one[0], two[0]):
            check_counts(float(largest(params, one, two, dtype)), dtype)
        h = fused_kernel(choice, one, two, symmetric, dtype) if binary else None
        if h is None:
            h = paired_kernel(choice, one, two, symmetric, dtype)
        if h is None:
            h = compute(params, one, two, normalize=normalize, binary=binary, dtype=dtype)
        if concrete(h) and not known_true(finite, h):
            raise ValueError(
                f"the path kernel leaves the range of {dtype}: npk.log_path_kernel gives its logarithm; or use "
                "normalize=True, or enable x64."
            )
        if counting(normalize) and not known and (gates1 is not None or network.has_binary_gates(params, x1)):
            h = exact_or_nan(h, largest(params, one, two, dtype), (one[0], two[0]), (one[1], two[1]))
        places = network.places(params, x1)
        return h.reshape(*h.shape[:2], *places) if places else h

    return network, of_many


def _kernel_of(
    f: Function, fixed: Chosen, place: Place, thresholds: Thresholds
) -> Callable[..., Float[Array, "n1 n2 *places"]]:
    """The kernel of f, made once."""
    many_of = functools.cache(functools.partial(_many_of, f, fixed, place, thresholds))

    def kernel(
        params: PyTree,
        x1: Any,
        x2: Any | None = None,
        *,
        gates1: Gates | None = None,
        gates2: Gates | None = None,
        normalize: Normalize = True,
    ) -> Float[Array, "n1 n2 *places"]:
        scaling = scaling_of(normalize)
        return many_of(scaling.magnitudes)[1](None, params, x1, x2, gates1, gates2, scaling.normalize)

    def estimate(params: PyTree, x1: Any, x2: Any | None = None, *, normalize: Normalize = True) -> Cost:
        check_pair(x1, x2)
        scaling = scaling_of(normalize)
        network, of_many = many_of(scaling.magnitudes)
        pairs_of_all = samples_in(x1) * samples_in(x1 if x2 is None else x2)
        gates = jax.tree_util.tree_leaves(jax.eval_shape(network.own_gates, params, resized(x1, 1)))
        bytes_each = sum(g.size * g.dtype.itemsize for g in gates)
        return timed(
            lambda a, b: of_many(pairs_of_all, params, a, b, None, None, scaling.normalize), x1, x2, bytes_each
        )

    def asked(
        params: PyTree,
        x1: Any,
        x2: Any | None = None,
        *,
        gates1: Gates | None = None,
        gates2: Gates | None = None,
        normalize: Normalize = True,
    ) -> tuple[Engine, ...]:
        scaling = scaling_of(normalize)
        network, _ = many_of(scaling.magnitudes)
        one, two = network.sides(params, x1, x2, gates1, gates2)
        binary = (gates1 is None and network.has_binary_gates(params, x1)) or is_binary((*one[1], *two[1]))
        many = samples_in(one) * samples_in(two)
        return Choice(network, thresholds, params, many, scaling.normalize).engines(one[0], binary)

    kernel.estimate, kernel.engines = estimate, asked  # type: ignore[attr-defined]
    return kernel
