"""A parameter that is used more than once, as one leaf for each use."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import PyTree

from npk.gating.running import Function
from npk.programs import Equation, Program, Var, evaluate, opens_loops, remembered, shown, trace, transformation


@shown()
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Copies:
    """What stands in untied parameters for a leaf that is used more than once: a leaf for each use.

    Attributes:
        leaves: in the order of the uses.

    Example:
        >>> import jax, npk
        >>> jax.tree.leaves(npk.gating.Copies((1.0, 2.0)))
        [1.0, 2.0]
    """

    leaves: tuple[Any, ...]


@transformation()
def untie(f: Function) -> Callable[[PyTree, Any], Any]:
    """Give every use of a leaf of f a leaf of its own: the same function, of more parameters.

    A weight that is used twice on a path (a table of embeddings that is read again at the end, the weights of a
    recurrent network) is not independent of itself, and f has no path kernel. The untied function has one: that of the
    network which would be initialised with a weight of its own for each use.

    Args:
        f: a function of (params, x), x: [N, ...] → [N, ...].

    Returns:
        A function g of (params, x) with `g.untied(params, x)`: the tree of params in which a leaf that is used k > 1
        times is `Copies` of it, in the order of the uses, so that g(g.untied(params, x), x) == f(params, x). Of x only
        the shape is used.

    Raises:
        ValueError: params of g do not fit f.

    Example:
        >>> import jax.numpy as jnp, npk
        >>> f = lambda w, x: (x @ w) @ w
        >>> g = npk.untie(f)
        >>> w = g.untied(jnp.full((1, 1), 3.0), jnp.ones((2, 1)))
        >>> len(w.leaves), npk.path_kernel(g)(w, jnp.array([[2.0]]), normalize=False).tolist()
        (2, [[4.0]])

    Source: Lakshminarayanan & Singh 2020, section 2 (every path is a product of weights of its own).
    """
    return remembered(_untie, f)


def _untie(f: Function) -> Callable[[PyTree, Any], Any]:
    """`untie`, made once."""

    def untied(params: PyTree, x: Any) -> PyTree:
        counts = [len(uses) for uses in _uses(trace(f, params, x, opens_loops))]
        leaves, structure = jax.tree_util.tree_flatten(params)
        return structure.unflatten(
            [leaf if count < 2 else Copies((leaf,) * count) for leaf, count in zip(leaves, counts, strict=True)]
        )

    @functools.wraps(f, assigned=("__module__",), updated=())
    def of_untied(params: PyTree, x: Any) -> Any:
        tied = _tied(params)
        program = trace(f, tied, x, opens_loops)
        copies = [_copies(p) for p in jax.tree_util.tree_leaves(params, is_leaf=_is_copies)]
        uses = _uses(program)
        for own, used, name in zip(copies, uses, program.param_paths, strict=True):
            if len(own) not in (1, len(used)):
                raise ValueError(f"params/{name} has {len(own)} copies, and f uses it {len(used)} times.")
        return jax.tree_util.tree_unflatten(program.out_tree, _run(program, copies, uses, x))

    of_untied.untied = untied  # type: ignore[attr-defined]
    return of_untied


def _is_copies(node: Any) -> bool:
    return isinstance(node, Copies)


def _copies(node: Any) -> tuple[Any, ...]:
    return node.leaves if isinstance(node, Copies) else (node,)


def _tied(params: PyTree) -> PyTree:
    return jax.tree_util.tree_map(lambda node: _copies(node)[0], params, is_leaf=_is_copies)


def _uses(program: Program) -> list[dict[Equation, None]]:
    """For each parameter the equations on values that read it, or what is made of it."""
    moving = program.reached_from(program.x)
    of: dict[Var, frozenset[int]] = {v: frozenset((n,)) for n, v in enumerate(program.params)}
    found: list[dict[Equation, None]] = [{} for _ in program.params]
    for equation in program.equations:
        read = frozenset().union(*(of.get(a, frozenset()) for a in equation.inputs if isinstance(a, Var)))
        if any(v in moving for v in equation.outputs):
            for n in read:
                found[n][equation] = None
        else:
            of.update(dict.fromkeys(equation.outputs, read))
    return found


def _run(program: Program, copies: list[tuple[Any, ...]], uses: list[dict[Equation, None]], x: Any) -> list[Any]:
    """The program, each use with its own copy of what it reads."""
    moving = program.reached_from(program.x)
    makers = {v: e for e in program.equations for v in e.outputs if v not in moving}
    order = [{equation: n for n, equation in enumerate(used)} for used in uses]

    def own(equation: Equation, values: list[Any]) -> list[Any]:
        if not any(v in moving for v in equation.outputs):
            return equation.bind(*values)
        known: dict[Any, Any] = {
            var: own_copies[order[n].get(equation, 0) if len(own_copies) > 1 else 0]
            for n, (var, own_copies) in enumerate(zip(program.params, copies, strict=True))
        }

        def made(atom: Any, value: Any) -> Any:
            if not isinstance(atom, Var) or atom in moving:
                return value
            todo: list[Any] = [atom]
            while todo:  # what is made of parameters, of this use's copies
                at = todo[-1]
                missing = [a for a in (makers[at].inputs if at not in known else ()) if _is_missing(a, known)]
                if not missing:
                    todo.pop()
                    if at not in known:
                        maker = makers[at]
                        read = [known[a] if isinstance(a, Var) else a.value for a in maker.inputs]
                        known.update(zip(maker.outputs, maker.bind(*read), strict=True))
                todo += missing
            return known[atom]

        return equation.bind(*map(made, equation.inputs, values))

    leaves = [own_copies[0] for own_copies in copies]
    return evaluate(program, [*leaves, *jax.tree_util.tree_leaves(x)], own)


def _is_missing(atom: Any, known: dict[Any, Any]) -> bool:
    return isinstance(atom, Var) and atom not in known
