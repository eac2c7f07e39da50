"""What parameters, inputs and f must be for a tangent kernel to mean something, and which parameters count."""

import logging
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from npk.gating import Function
from npk.programs import (
    Once,
    Program,
    Selection,
    UnsupportedOperation,
    check_arrays,
    check_finite,
    check_independent,
    check_pair,
    check_program,
    concrete,
    named,
    opens_for_gates,
    paths_of,
    samples_in,
    statistics,
    trace,
)


def counted(params: PyTree, wrt: Selection) -> frozenset[int]:
    """The leaves that count as parameters: of numbers that can be differentiated by, chosen, or no marked statistics.

    Args:
        params: of f.
        wrt: what is chosen; None for all but the leaves that a framework marks as statistics.

    Returns:
        Their positions.

    Raises:
        ValueError: a name matches no leaf, or nothing is left.
    """
    paths = paths_of(params)
    every = frozenset(range(len(paths)))
    marked = statistics(params) if wrt is None else frozenset()
    chosen = every - marked if wrt is None else named(paths, wrt, "wrt")
    numbers = [jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) for leaf in jax.tree_util.tree_leaves(params)]
    found = frozenset(i for i in chosen if numbers[i])
    if found or (wrt is None and not marked):
        return found
    if wrt is None:
        raise ValueError(
            f"params hold nothing but statistics ({_listed(paths, marked)}), which are no parameters; wrt=lambda path: "
            "True counts them."
        )
    meant = f"only {_listed(paths, chosen)}, of integers" if chosen else "no leaf of params"
    raise ValueError(f"wrt chooses {meant}: there is nothing to differentiate by. Params are {_listed(paths, every)}.")


def check_real_leaves(program: Program, counts: frozenset[int]) -> None:
    """No leaf that counts, and that f reads, is complex."""
    read = {a for equation in program.equations for a in equation.inputs}
    for n in sorted(counts):
        leaf = program.params[n]
        if leaf in read and jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            raise UnsupportedOperation(
                f"params/{program.param_paths[n]} is of {leaf.dtype}: derivatives by complex parameters are not "
                "covered; pass its real and imaginary part, or leave it out by wrt=, which holds it constant."
            )


def _listed(paths: list[str], positions: frozenset[int], most: int = 5) -> str:
    shown = [paths[i] for i in sorted(positions)[:most]]
    return ", ".join(shown) + (", …" if len(positions) > most else "")


class Checks:
    """What every call is checked for; what depends on shapes alone is checked, and `find` is asked, once for each."""

    def __init__(self, f: Function, wrt: Selection, find: Callable[[PyTree, Any], Any] = lambda params, x: None):
        self.f, self.wrt, self.find = f, wrt, find
        self.once = Once()

    def __call__(self, params: PyTree, x1: Any, x2: Any | None, outputs: str = "trace") -> Any:
        """What was found for these shapes; None of traced values."""
        if outputs not in ("trace", "full"):
            raise ValueError(
                f"outputs must be 'trace' (summed over outputs) or 'full' ([N1, N2, K, K]), got {outputs!r}."
            )
        check_arrays(params, "params")
        check_pair(x1, x2, finite=False)
        if concrete(params, x1):
            return self.once((params, x1), "checked", lambda: (self.check(params, x1), self.find(params, x1))[1])
        return self.check(params, x1)

    def count(self, params: PyTree) -> None:
        """That something counts; which statistics do not is said once."""
        counted(params, self.wrt)
        marked = frozenset() if self.wrt is not None else statistics(params)
        if marked:
            self.once((), "said", lambda: _say(_listed(paths_of(params), marked)))

    def check(self, params: PyTree, x: Any) -> None:
        """What is checked once for all params and inputs of the same shapes, where their numbers are known."""
        self.count(params)
        check_finite(params, "params")
        check_program(trace(self.f, params, x, opens_for_gates), samples_in(x))
        check_independent(self.f, params, x)


def _say(left_out: str) -> None:
    logging.getLogger("npk").info(
        "the tangent kernel is not by the statistics %s, which are held constant; wrt= chooses what counts.", left_out
    )
