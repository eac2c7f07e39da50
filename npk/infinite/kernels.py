"""Kernels at infinite width, of the same functions f(params, x) as everywhere else.

`nngp(f)`, `ntk(f)` and `path_kernel(f)` read the architecture from f's own jaxpr; no model is written anew.
Of the parameters only shapes count (and, where f normalises, the numbers it normalises by): weights are
taken as random, independent, with standard deviation `weight_std`/√fan-in, biases with `bias_std`.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from npk.gating import Function, sample_program
from npk.infinite import pairs
from npk.infinite.duals import TERMS
from npk.infinite.loader import load
from npk.infinite.moments import Scales
from npk.programs import (
    Chosen,
    Selection,
    check_finite,
    check_pair,
    concrete,
    in_blocks,
    option_of,
    remembered,
    transformation,
    working_dtype,
)

# A standard deviation for all parameters, or by name ("Dense_0/kernel").
Std = float | Mapping[str, float] | Callable[[str], float]

#: He's standard deviation √2, which keeps the size of ReLU's outputs from layer to layer.
HE = math.sqrt(2)
#: What `path_kernel` can take the gates from.
REGIMES = ("FR-II", "FR-DI", "DLGN", "DLGN-SF")
# Elements of the largest intermediate of one block of pairs: what stays in a core's cache.
_BLOCK_ELEMENTS = 1 << 18
# The largest share of an activation's square that its series may leave out; the orders tried, and the most.
_LEFT_OUT, _ORDERS, _MOST = 1e-6, (32, 128, 512), 512
# Samples whose pairs with themselves are computed together.
_OWN_AT_ONCE = 16


@transformation()
def nngp(
    f: Function, *, weight_std: Std = HE, bias_std: Std = 0.0, order: int = 512, fixed: Selection = None
) -> Callable[..., Float[Array, "n1 n2"]]:
    """Transform f into the covariance of its outputs at infinite width, over random parameters (NNGP).

    Scaling: a weight has variance weight_std²/fan-in, a bias bias_std²; constants that multiply a weight are
    left out (the usual factor 1/√fan-in in NTK parameterisation). The default is He's.

    Args:
        f: a function of (params, x), x: [N, ...] → [N, K], ending in a weight layer.
        weight_std: one number, or numbers by the parameter's name (a mapping, or a function of the name).
        bias_std: likewise, of parameters that are added.
        order: Hermite polynomials, at most, that stand for a smooth activation (silu, gelu, soft-ReLU); as many are
            used as rounding warrants.
        fixed: as of `npk.path_kernel`.

    Returns:
        A function (params, x1, x2=None) → [N1, N2] in the dtype of x1 (of half precision float32); x2=None means x1,
        whose diagonal is then computed without rounding of angles. In float32 an entry of two inputs that are nearly
        equal but not the same carries a relative error of about 1e-4 (the angle is lost in the cosine): use x64 for
        those.

    Raises:
        ValueError: inputs are empty, not finite, of integer dtype or do not match; a standard deviation is
            negative or missing; `order` polynomials leave out more than 1e-6 of an activation's square.
        UnsupportedOperation: f has no such limit (max-pooling, batch norm, activations added without weights
            between them, elementwise scales) or is outside the path rules; the message names the place.

    Example:
        >>> import jax, jax.numpy as jnp, npk.infinite
        >>> f = lambda p, x: jax.nn.relu(x @ p["w"]) @ p["v"]
        >>> p = {"w": jnp.ones((2, 3)), "v": jnp.ones((3, 1))}
        >>> (own, other), _ = npk.infinite.nngp(f)(p, jnp.eye(2))
        >>> print(f"{own:.3f} {other:.3f}")  # ⟨x, x'⟩ = 0: 1/π of the diagonal
        1.000 0.318

    Source: Lee et al. 2018; Novak et al. 2019 (convolutions); the walk is that of `npk.path_kernel`.
    """
    return remembered(_limit, f, pairs.nngp, weight_std, bias_std, order, option_of(fixed, "fixed"))


@transformation()
def ntk(
    f: Function, *, weight_std: Std = HE, bias_std: Std = 0.0, order: int = 512, fixed: Selection = None
) -> Callable[..., Float[Array, "n1 n2"]]:
    """Transform f into its neural tangent kernel at infinite width, in NTK parameterisation.

    That is the kernel of f written with parameters ω of unit variance, θ = weight_std/√fan-in · ω, of one output:
    Σ over parameters of ∂f(s)/∂ω · ∂f(s')/∂ω. It is the limit of the empirical kernel in which the contribution
    of every layer of `npk.ntk(f)` is multiplied by weight_std²/fan-in.

    Args:
        f: as of `nngp`.
        weight_std: as of `nngp`.
        bias_std: as of `nngp`.
        order: as of `nngp`.
        fixed: as of `npk.path_kernel`.

    Returns:
        A function (params, x1, x2=None) → [N1, N2]; dtype and accuracy as of `nngp`.

    Raises:
        ValueError: as `nngp`.
        UnsupportedOperation: as `nngp`.

    Example:
        >>> import jax, jax.numpy as jnp, npk.infinite
        >>> f = lambda p, x: jax.nn.relu(x @ p["w"]) @ p["v"]
        >>> p = {"w": jnp.ones((2, 3)), "v": jnp.ones((3, 1))}
        >>> (own, other), _ = npk.infinite.ntk(f)(p, jnp.eye(2))
        >>> print(f"{own:.3f} {other:.3f}")
        2.000 0.318

    Source: Jacot et al. 2018; Arora et al. 2019 (convolutions).
    """
    return remembered(_limit, f, pairs.ntk, weight_std, bias_std, order, option_of(fixed, "fixed"))


@transformation()
def path_kernel(
    f: Function,
    *,
    regime: str = "FR-II",
    constant_input: bool = False,
    weight_std: Std = HE,
    bias_std: Std = 0.0,
    order: int = 512,
    fixed: Selection = None,
) -> Callable[..., Float[Array, "n1 n2"]]:
    """Transform f into the limit of its neural path kernel H when the gates' network is infinitely wide.

    Scaling as `npk.path_kernel(f)` with `normalize=True`: weights on paths have variance 1/fan-in, biases 1.
    `weight_std` and `bias_std` are those of the network that gates. The regimes differ in the gates:

    - "FR-II": of a random network of f's architecture, independent of the weights on paths;
    - "DLGN": of a random deep linear network, `npk.linear(f)`;
    - "DLGN-SF": of one random linear map of the input for each gate;
    - "FR-DI": of the weights on paths themselves, which breaks independence: what is returned is the limit of
      K^V in NTK parameterisation with weight variance 1/fan-in (for ReLU its NTK), beside which K^V of FR-II is H
      times the number of weight layers on a path. Here weights on paths and gates are one network; they are scaled
      as weight_std and bias_std say, relative to which `weight_std=1` is the path kernel's own scale.

    Args:
        f: as of `nngp`.
        regime: one of the above.
        constant_input: paths start from all ones instead of x (the gates still see x).
        weight_std: as of `nngp`, of the network that gates.
        bias_std: as of `nngp`, of the network that gates.
        order: as of `nngp`.
        fixed: as of `npk.path_kernel`.

    Returns:
        A function (params, x1, x2=None) → [N1, N2]; dtype and accuracy as of `nngp`.

    Raises:
        ValueError: as `nngp`; the regime is unknown; constant input in regime "FR-DI".
        UnsupportedOperation: as `nngp`.

    Example:
        >>> import jax, jax.numpy as jnp, npk.infinite
        >>> f = lambda p, x: jax.nn.relu(x @ p["w"]) @ p["v"]
        >>> p = {"w": jnp.ones((2, 3)), "v": jnp.ones((3, 1))}
        >>> (own, other), _ = npk.infinite.path_kernel(f, constant_input=True)(p, jnp.eye(2))
        >>> print(f"{own:.3f} {other:.3f}")  # both on: a half and a quarter of the time
        0.500 0.250

    Source: Lakshminarayanan & Singh 2020, theorem 5.1 (FR-II) and section 5; 2021, section 4 (DLGN).
    """
    if regime not in REGIMES:
        raise ValueError(f"regime must be one of {', '.join(REGIMES)}, got {regime!r}.")
    if regime == "FR-DI" and constant_input:
        raise ValueError("in regime FR-DI the weights on paths see what the gates see: no constant input.")
    return remembered(_path_kernel, f, regime, constant_input, weight_std, bias_std, order, option_of(fixed, "fixed"))


def _path_kernel(
    f: Function, regime: str, constant_input: bool, weight_std: Std, bias_std: Std, order: int, fixed: Chosen
) -> Callable[..., Any]:
    if regime == "FR-DI":
        kernel_of = functools.partial(pairs.ntk, hold_gates=True)
    else:
        kernel_of = functools.partial(pairs.paths, regime=regime, constant_input=constant_input)
    return _limit(f, kernel_of, weight_std, bias_std, order, fixed)


def neural_tangents() -> Any:
    """The library neural-tangents (0.6.5), working on the installed JAX and without TensorFlow.

    `jax` stays as it is for everyone else; `import neural_tangents` gives this module from here on. All of it works
    but `neural_tangents.experimental` (kernels of TensorFlow models): each of its names is an `ImportError`.

    Returns:
        The module, the same at every call.

    Raises:
        ImportError: it is not installed, was imported by other means before, or does not load on this JAX.

    Example:
        >>> import jax.numpy as jnp, npk.infinite
        >>> stax = npk.infinite.neural_tangents().stax  # doctest: +SKIP
        >>> _, _, kernel = stax.serial(stax.Dense(1), stax.Relu(), stax.Dense(1))  # doctest: +SKIP
        >>> kernel(jnp.eye(2), get="ntk").diagonal().tolist()  # doctest: +SKIP
        [0.5, 0.5]
    """
    return load()


# ------------------------------------------------------------------------------------- all pairs


def _limit(
    f: Function, kernel_of: Callable[[pairs.Pair], Any], weight_std: Std, bias_std: Std, order: int, fixed: Chosen
) -> Callable[..., Any]:
    if not 1 <= order <= _MOST:
        raise ValueError(f"order must lie in 1 … {_MOST}, got {order}.")
    orders = sorted({-(-min(order, o) // TERMS) * TERMS for o in _ORDERS})
    scales = Scales(_by_name(weight_std, "weight_std"), _by_name(bias_std, "bias_std"))

    def model_of(params: PyTree, x: Any, terms: int, dtype: Any) -> pairs.Model:
        params = jax.tree_util.tree_map(lambda a: _in_dtype(a, dtype), params)
        program = sample_program(f, params, jax.ShapeDtypeStruct(x[:, 0].shape, dtype), fixed)
        return pairs.Model(program, params, scales, terms, dtype)

    @functools.partial(jax.jit, static_argnames=("terms", "dtype"))
    def of_all(params: PyTree, one: Any, two: Any, *, terms: int, dtype: Any) -> "_Metered":
        """All pairs of two batches, each (x [n, 1, ...], E[u²] of each pre-activation)."""
        pair = pairs.Pair(model_of(params, one[0], terms, dtype), (one[0], two[0]), (one[1], two[1]))
        return _Metered(kernel_of(pair), max(m.largest for m in pair.recursions))

    @functools.partial(jax.jit, static_argnames=("side", "symmetric", "terms", "dtype"))
    def of_blocks(params: PyTree, one: Any, two: Any, *, side: int, symmetric: bool, terms: int, dtype: Any) -> Any:
        """As of_all, `side` samples of either batch at a time."""
        model = model_of(params, one[0], terms, dtype)

        def kernel(a: Any, b: Any) -> Any:
            return kernel_of(pairs.Pair(model, (a[0], b[0]), (a[1], b[1])))

        return in_blocks(kernel, one, None if symmetric else two, side, lambda block: block)

    @functools.partial(jax.jit, static_argnames=("diagonal", "terms", "dtype"))
    def of_own(params: PyTree, x: Any, *, diagonal: bool, terms: int, dtype: Any) -> Any:
        """Of every sample with itself: the kernel, E[u²] of each pre-activation, and what the series leave out."""
        model = model_of(params, x, terms, dtype)

        def one(sample: Any) -> Any:
            pair = pairs.Pair(model, (sample[None], sample[None]), None)
            h = kernel_of(pair)[0, 0]
            left_out = pair.expectations.left_out
            rest = jnp.max(jnp.stack(left_out), 0) if left_out else None
            return h if diagonal else None, tuple(v[0] for v in pair.variances()), rest

        h, variances, left_out = jax.lax.map(one, x, batch_size=_OWN_AT_ONCE)
        return h, variances, None if left_out is None else jnp.max(left_out, 0)

    def kernel(params: PyTree, x1: Any, x2: Any | None = None) -> Float[Array, "n1 n2"]:
        check_pair(x1, x2, floating=True)
        check_finite(params, "params")
        dtype = working_dtype(x1)
        blocks = [jnp.asarray(x)[:, None] for x in ((x1,) if x2 is None else (x1, x2))]
        for terms in orders:
            owns = [of_own(params, x, diagonal=x2 is None, terms=terms, dtype=dtype) for x in blocks]
            left_out = [o[2] for o in owns if o[2] is not None]
            needed = _terms_needed(left_out, terms, dtype)
            if needed is not None:
                break
        else:
            needed = _check_series(left_out, orders[-1])
        sides = [(x, variances) for x, (_, variances, _) in zip(blocks, owns, strict=True)]
        batches, options = (sides[0], sides[-1]), dict(terms=needed, dtype=dtype)
        elements = of_all.eval_shape(params, *batches, **options).elements  # what is traced here serves the call below
        side = max(1, math.isqrt(_BLOCK_ELEMENTS // elements))
        if max(x.shape[0] for x in blocks) <= side:
            h = of_all(params, *batches, **options).h
        else:
            h = of_blocks(params, *batches, side=side, symmetric=x2 is None, **options)
        # Of a sample with itself the angles are known to be zero.
        return h if x2 is not None else _with_diagonal(h, owns[0][0])

    return kernel


def _in_dtype(leaf: Any, dtype: Any) -> Any:
    """A parameter in the dtype of the computation: that of the limit is not f's (half precision, say)."""
    return jnp.asarray(leaf, dtype) if jnp.issubdtype(jnp.result_type(leaf), jnp.floating) else leaf


@functools.partial(jax.tree_util.register_dataclass, data_fields=["h"], meta_fields=["elements"])
@dataclasses.dataclass(frozen=True)
class _Metered:
    """A kernel, and the elements that its largest intermediate has for a pair of samples."""

    h: Any
    elements: int


@jax.jit
def _with_diagonal(h: Any, diagonal: Any) -> Any:
    n = jnp.arange(h.shape[0])
    return h.at[n, n].set(diagonal)


def _terms_needed(left_out: Sequence[Any], terms: int, dtype: Any) -> int | None:
    """How many of the terms of the series leave out no more than rounding does; None if all of them are too few."""
    if not left_out:
        return TERMS
    if not concrete(left_out):
        return None
    share = np.max(np.stack(left_out), 0)
    enough = np.flatnonzero(share <= 8 * float(jnp.finfo(dtype).eps))
    return -(-(int(enough[0]) + 1) // TERMS) * TERMS if enough.size else None


def _check_series(left_out: Sequence[Any], terms: int) -> int:
    """The most terms, where they are accurate enough though not to rounding (or nothing is known under tracing)."""
    share = float(np.max(np.stack(left_out)[:, -1])) if concrete(left_out) else 0.0
    if not share <= _LEFT_OUT:
        raise ValueError(
            f"{terms} Hermite polynomials leave out {share:.1e} of an activation's square, above {_LEFT_OUT:g}: raise "
            f"`order` (to {_MOST}), or make the activation less steep against its pre-activation's scale."
        )
    return terms


def _by_name(std: Std, what: str) -> Callable[[str], float]:
    def find(name: str) -> float:
        if callable(std):
            value = std(name)
        elif isinstance(std, Mapping):
            if name not in std:
                raise ValueError(f"{what} has no entry for parameter {name!r}; it has {sorted(std)}.")
            value = std[name]
        else:
            value = std
        if not value >= 0:
            raise ValueError(f"{what} must not be negative, got {value} for parameter {name!r}.")
        return float(value)

    return find
