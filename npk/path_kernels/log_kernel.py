"""The logarithm of the path kernel, where H itself leaves the range of its dtype."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from npk.gating import Function, Place, at_lines, place_of
from npk.path_kernels.counts import is_binary
from npk.path_kernels.kernel import block_side, kernel_dtype, moment_of
from npk.path_kernels.moments import SecondMoments
from npk.path_kernels.network import Gates, Network
from npk.path_kernels.wide import WideMoments, logarithm
from npk.paths import Normalize, scaling_of
from npk.programs import (
    Chosen,
    Selection,
    check_finite,
    concrete,
    in_blocks,
    known_true,
    option_of,
    remembered,
    sample_of,
    samples_in,
    shown,
    together,
    transformation,
    unsharded,
)


@shown()
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LogKernel:
    """A kernel as sign · e^log: where H is zero, sign is 0 and log -∞. As of `numpy.linalg.slogdet` it is two arrays.

    Attributes:
        sign: -1, 0 or 1, [N1, N2].
        log: log|H| [N1, N2].

    Example:
        >>> import jax.numpy as jnp, npk
        >>> h = npk.path_kernels.LogKernel(jnp.ones((1, 1)), jnp.zeros((1, 1)))
        >>> (h.sign * jnp.exp(h.log)).tolist()
        [[1.0]]
    """

    sign: Any  # arrays, or what stands for them in a tree
    log: Any

    def __iter__(self) -> Iterator[Any]:
        """`sign, log = …`"""
        return iter((self.sign, self.log))


@transformation()
def log_path_kernel(
    f: Function, *, fixed: Selection = None, gate_at: Sequence[str] = (), output: Any = None
) -> Callable[..., LogKernel]:
    """Transform f into the sign and the logarithm of its neural path kernel, at any depth.

    H of a deep network leaves the range of every dtype: hard gates halve it a layer, and counts of paths grow by the
    width. Here each number has an exponent of its own, layer by layer; only the logarithm is rounded to the dtype.
    Kernels that differ in scale are compared by `h.log`, cosines are exp(h.log - (d + dᵀ)/2) with d the diagonal's.

    The plain rules are used for it, not the engines of `path_kernel`; soft gates take several times as long as
    there. What multiplies a value between two weight layers (gates, fixed numbers, constants) is multiplied in the
    dtype: a product beyond its range is an error (∞ or NaN under `jit`), one below its smallest number is a shut gate.

    Args:
        f: a function of (params, x), x: [N, ...] → [N, K], as of `path_kernel`.
        fixed: as of `path_kernel`.
        gate_at: as of `path_kernel`.
        output: as of `path_kernel`.

    Returns:
        A function (params, x1, x2=None, *, gates1=None, gates2=None, normalize=True) → `LogKernel` with fields sign
        and log, each [N1, N2] in the dtype of `path_kernel`; its arguments are those of `path_kernel`. It can be
        jitted. Sums that cancel are rounded relative to their summands, as in any floating sum.

    Raises:
        ValueError: as `path_kernel`, but for range and counts; factors between two layers leave the dtype's range.
        UnsupportedOperation: as `path_kernel`.

    Example:
        >>> import jax, jax.numpy as jnp, npk
        >>> f = lambda p, x: jax.nn.relu(jax.nn.relu(x @ p["u"]) @ p["v"]) @ p["w"]
        >>> p = {"u": jnp.ones((1, 8)), "v": jnp.ones((8, 8)), "w": jnp.ones((8, 1))}
        >>> h = npk.log_path_kernel(f)(p, jnp.array([[1e20], [-1e20]]), normalize=False)  # 64 paths of 1e20, of none
        >>> h.sign.tolist(), h.log.round(1).tolist()
        ([[1.0, 0.0], [0.0, 0.0]], [[96.30000305175781, -inf], [-inf, -inf]])

    Source: Lakshminarayanan & Singh 2020, sections 2 and 5.
    """
    return remembered(_log_kernel_of, at_lines(f, gate_at), option_of(fixed, "fixed"), place_of(output))


def _log_kernel_of(f: Function, fixed: Chosen, place: Place) -> Callable[..., LogKernel]:
    """`log_path_kernel`, made once."""
    scaled = functools.cache(functools.partial(_scaled_of, f, fixed, place))

    def log_kernel(
        params: PyTree,
        x1: Any,
        x2: Any | None = None,
        *,
        gates1: Gates | None = None,
        gates2: Gates | None = None,
        normalize: Normalize = True,
    ) -> LogKernel:
        scaling = scaling_of(normalize)
        return scaled(scaling.magnitudes)(params, x1, x2, gates1, gates2, scaling.normalize)

    return log_kernel


def _scaled_of(f: Function, fixed: Chosen, place: Place, magnitudes: bool) -> Callable[..., LogKernel]:
    """`log_path_kernel` of one `Scaling`."""
    network = Network(f, fixed, place, magnitudes)

    def moment(
        params: PyTree, one: Any, two: Any, normalize: bool, binary: bool, dtype: Any
    ) -> tuple[LogKernel, SecondMoments]:
        form = network.form_of(params, one)
        found, moments = moment_of(form, params, one, two, normalize, binary, dtype, WideMoments)
        sign = jnp.where(found.mantissa == 0, jnp.zeros((), dtype), jnp.sign(found.mantissa))
        return LogKernel(sign, logarithm(found)), moments

    @functools.partial(jax.jit, static_argnames=("normalize", "binary", "side", "dtype"))
    def blocks(
        params: PyTree, one: Any, two: Any | None, *, normalize: bool, binary: bool, side: int, dtype: Any
    ) -> LogKernel:
        """All pairs, `side` samples a side at a time; two=None for one, whose tiles are mirrored."""

        def of_block(a: Any, b: Any) -> LogKernel:
            return moment(params, a, b, normalize, binary, dtype)[0]

        if max(map(samples_in, (one, one if two is None else two))) <= side:
            return of_block(one, one if two is None else two)
        return in_blocks(of_block, one, two, side, lambda block: block)

    def log_kernel(
        params: PyTree, x1: Any, x2: Any | None, gates1: Gates | None, gates2: Gates | None, normalize: bool
    ) -> LogKernel:
        params = unsharded(params)
        one, two = network.sides(params, x1, x2, gates1, gates2)
        check_finite((gates1, gates2), "gates")
        dtype = kernel_dtype(params, x1, normalize or magnitudes)
        binary = (gates1 is None and network.has_binary_gates(params, x1)) or is_binary((*one[1], *two[1]))
        symmetric = one is two
        one = network.laid_out(params, *one)
        two = one if symmetric else network.laid_out(params, *two)

        def largest_side() -> int:
            return block_side(lambda a, b: moment(params, a, b, normalize, binary, dtype), one, two)

        what = f"side of logarithms, {normalize}, {binary}, {dtype}"
        side = network.once(what, params, sample_of(together(one[0])), largest_side)
        other = None if symmetric else two
        found = blocks(params, one, other, normalize=normalize, binary=binary, side=side, dtype=dtype)
        if concrete(found) and not known_true(_known, found.log):
            raise ValueError(
                f"what multiplies values between two weight layers (gates, constants, fixed numbers) leaves {dtype}: "
                "scale it, or enable x64."
            )
        places = network.places(params, x1)
        return jax.tree_util.tree_map(lambda a: a.reshape(*a.shape[:2], *places), found) if places else found

    return log_kernel


def _known(values: Any) -> Any:
    return values < jnp.inf  # -∞ is the logarithm of zero; NaN is less than nothing
