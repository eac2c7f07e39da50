"""The parts of a tangent kernel, leaf by leaf, block by block of samples where their derivatives do not all fit."""

import functools
import math
import os
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from npk.programs import in_blocks, samples_in
from npk.tangent_kernels.derivatives import DerivativePlan, Derivatives, derivatives, derivatives_apart
from npk.tangent_kernels.factors import by_pairs, contributions, inner, own_inner, places_of, sizes_of, squared_norms

# The share of memory that one block of samples may take for layer inputs, cotangents and gradients: of an
# accelerator's, and of the machine's, which others use too. Larger blocks derive less twice. XLA was seen to use a
# third of what is counted, since it forgets what has been read.
_DEVICE_SHARE, _HOST_SHARE = 1 / 4, 1 / 8


def parts_of(
    plan: DerivativePlan, one: Derivatives, two: Derivatives | None, full: bool, diagonal: bool
) -> list[tuple[int, list[Any]]]:
    """What each use adds to the part of its leaves: (leaf, [K^V] or [K^V, K^F, K^CROSS]); two=None for `one`."""
    wanted = [(0, 0), (1, 1), (0, 1)] if plan.soft else [(0, 0)]
    symmetric = two is None
    if plan.soft and not symmetric and not diagonal:
        wanted.append((1, 0))
    other = one if two is None else two
    found: list[tuple[int, list[Any]]] = []

    def put(leaf: int, parts: list[Any]) -> None:
        if plan.soft and len(parts) == 1:
            parts = [parts[0], jnp.zeros_like(parts[0]), jnp.zeros_like(parts[0])]
        elif plan.soft:
            value, feature, mixed = parts[:3]
            parts = [value, feature, mixed + (parts[3] if len(parts) == 4 else _mirrored(mixed, full, diagonal))]
        found.append((leaf, parts))

    for i, use in enumerate(plan.uses.products):
        pairs = wanted if plan.moves_gates(use.equation) else wanted[:1]
        left = (one.inputs[i], [mode[i] for mode in one.cotangents])
        if diagonal:
            products = squared_norms(use, *left, pairs, full)
        else:
            right = left if symmetric else (other.inputs[i], [mode[i] for mode in other.cotangents])
            products = contributions(use, left, right, pairs, full)
        for leaf, parts in products.items():
            put(leaf, parts)
    for j, leaf in enumerate(plan.uses.leaves):
        left_g, right_g = [m[j] for m in one.gradients], [m[j] for m in other.gradients]
        product = own_inner if diagonal else inner
        reads = (r.equation for r in plan.uses.reads if leaf in r.leaves)
        pairs = wanted if plan.moves_gates(*reads) else wanted[:1]
        put(leaf, [product(left_g[a], right_g[b], full) for a, b in pairs])
    return found


def added(pieces: dict[str, list[Any]], named: Iterable[tuple[str, list[Any]]]) -> dict[str, list[Any]]:
    """The parts of each block of the kernel (a leaf's name, or "" for all together), and more of them."""
    for name, parts in named:
        pieces[name] = [a + b for a, b in zip(pieces[name], parts, strict=True)] if name in pieces else parts
    return pieces


def _pieces(
    plan: DerivativePlan, one: Derivatives, two: Derivatives | None, full: bool, diagonal: bool
) -> dict[str, list[Any]]:
    """For each block its parts."""
    found = parts_of(plan, one, two, full, diagonal)
    return added({}, ((plan.blocks[leaf], parts) for leaf, parts in found))


def _mirrored(mixed: Any, full: bool, diagonal: bool) -> Any:
    """ψ^F ψ^Vᵀ from ψ^V ψ^Fᵀ of the same samples."""
    if diagonal:
        return jnp.swapaxes(mixed, -1, -2) if full else mixed
    return jnp.transpose(mixed, (1, 0, 3, 2)) if full else mixed.T


def block_size(plan: DerivativePlan) -> int:
    """Samples whose derivatives fit the budget: what all uses keep, and the most that one needs in passing."""
    kept, passing, outputs = 0, 0, plan.program.outputs[0].shape[-1]
    cotangents = outputs * plan.modes
    for use in plan.uses.products:
        groups, positions, fan_in, fan_out = sizes = sizes_of(use)
        kept += math.prod(use.equation.inputs[0 if use.data_first else 1].shape)
        b = cotangents * groups * positions * fan_out
        kept += b
        gradients = 0 if by_pairs(sizes, 64, 64, outputs, plan.modes) else cotangents * groups * fan_in * fan_out
        passing = max(passing, b + (groups * positions * fan_in + gradients) // len(places_of(use)))
    kept += sum(cotangents * math.prod(v.shape) for r in plan.uses.reads for v in r.equation.outputs)
    kept += sum(cotangents * math.prod(plan.program.params[n].shape) for n in plan.uses.leaves)
    return max(1, _block_bytes() // (plan.dtype.itemsize * max(1, kept + 2 * passing)))


def _block_bytes() -> int:
    memory = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    if memory is not None:
        return int(_DEVICE_SHARE * memory)
    if not hasattr(os, "sysconf"):  # Windows
        return 1 << 30
    return int(_HOST_SHARE * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def kernel_pieces(
    plan: DerivativePlan, leaves: Sequence[Any], x1: Any, x2: Any | None, full: bool
) -> dict[str, list[Any]]:
    """All leaves' pieces for all pairs, block by block where the derivatives of all samples do not fit."""
    derive = functools.partial(derivatives_apart, plan, leaves)
    size = block_size(plan)
    if max(samples_in(x1), 0 if x2 is None else samples_in(x2)) <= size:
        return _pieces(plan, derive(x1), None if x2 is None else derive(x2), full, False)
    return in_blocks(lambda one, two: _pieces(plan, one, two, full, False), x1, x2, size, derive)


def diagonal_pieces(plan: DerivativePlan, leaves: Sequence[Any], x: Any, full: bool = False) -> dict[str, list[Any]]:
    """All leaves' pieces for every sample with itself, without the kernel."""

    def single(sample: Any) -> Any:
        one = derivatives(plan, leaves, jax.tree_util.tree_map(lambda a: a[None], sample))
        return jax.tree_util.tree_map(lambda t: t[0], _pieces(plan, one, None, full, True))

    size = block_size(plan)
    return jax.lax.map(single, x, batch_size=min(size, samples_in(x)))
