"""The walk of an infinitely wide network: the path rules, with an activation as one more new base.

As width grows, pre-activations become Gaussian fields, independent from channel to channel, and all that
an activation does to their covariance is an expectation (`duals`). So an activation ends the terms of its
pre-activation and begins a base, as a weight layer does. What moves, scales and sums values stays the exact
path kernel's own algebra (`npk.paths`); `moments` reads the result.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

from npk.paths import (
    RULES,
    Axis,
    Base,
    Index,
    Layer,
    Source,
    State,
    Term,
    Walk,
    bases_of,
    merge,
    ones,
    output_terms,
    reshape,
)
from npk.programs import Activation, Equation, Program, UnsupportedOperation


@dataclasses.dataclass(frozen=True, eq=False)
class Activated(Base):
    """a(u) of a pre-activation u: terms of one layout, whose dims are the axes of the base."""

    inputs: tuple[Term, ...]
    activation: Activation
    number: int
    dtype: Any  # of u in f: its gate is a function of numbers of this dtype alone

    def gate(self, q: Any) -> Any:
        """γ(q), in the dtype of q."""
        return self.activation.gate(q.astype(self.dtype)).astype(q.dtype)


def walk(program: Program, *, linear: bool = False) -> tuple[State, tuple[Activated, ...]]:
    """The output of a single-sample program as terms of layers, biases and activations.

    Args:
        program: of f for a batch of one.
        linear: let activations pass values through; they are listed all the same.

    Returns:
        The terms of the output, and the activations in call order.

    Raises:
        UnsupportedOperation: f is outside the path rules or has no Gaussian limit.
    """
    met: list[Activated] = []

    def activate(walk: Walk, equation: Equation) -> list[State]:
        if equation.activation.alone:
            raise walk.refuse(
                equation,
                "a gate that is no activation's (a softmax, a norm's 1/σ, the gate of a product): the infinite-width "
                "rules have no expectation of it. Use finite widths, npk.path_kernel or npk.ntk.",
            )
        state = walk.data(equation.inputs[0])
        if equation.activation.kind == "identity":
            return [state]
        base = _activated(walk, equation, _one_layout(state), len(met))
        met.append(base)
        index = tuple(Index((d,)) for d in range(len(base.axes)))
        return [state if linear else [Term(base, index, ones(len(index)), base.inputs[0].layout)]]

    rules = {**RULES, "activation": activate}
    state = output_terms(program, (), rules)
    _check_uncorrelated(state, "the output of f")
    for layer in (base for base in bases_of(state) if isinstance(base, Layer)):
        _check_gaussian(layer)
        _check_uncorrelated(layer.inputs, f"what the layer at {layer.source} reads")
    return state, tuple(met)


def _activated(walk: Walk, equation: Equation, state: State, number: int) -> Activated:
    kind = equation.activation.kind
    if kind == "pool":
        raise walk.refuse(equation, "max-pooling has no closed form at infinite width; use average pooling.")
    if kind == "given":
        raise walk.refuse(equation, "a gate from outside; name the gated network by `regime` instead of composing it.")
    for term in state:
        if isinstance(term.base, Source):
            raise walk.refuse(
                equation,
                "its pre-activation holds the input itself or a fixed shift (a batch norm's): its mean is not zero, "
                "which the infinite-width rules need. Put weights on the input, leave batch norm out.",
            )
        if isinstance(term.base, Activated):
            raise walk.refuse(
                equation,
                "its pre-activation holds another activation's output with no weights between them, so it is not "
                "Gaussian at any width. Residual networks have a limit in pre-activation form, x + W·relu(x).",
            )
    sizes = [s for axis in state[0].layout for s in axis]
    axes = tuple(Axis(s, False) for s in sizes)
    return Activated(axes, tuple(state), equation.activation, number, equation.inputs[0].dtype)


def _one_layout(state: State) -> State:
    """The terms with their axes cut into the same dims: the finest cut that one of them has."""
    shape = state[0].shape
    layout = tuple(max((t.layout[a] for t in state), key=len) for a in range(len(shape)))
    cut = [s for axis in layout for s in axis]
    result = []
    for term in state:
        if term.layout != layout:
            term = reshape(term, cut)
            for axis in range(len(cut)):
                term = merge(term, axis)
            term = term.replace(layout=layout)
        result.append(term)
    return result


# ------------------------------------------------------------------------------- is there a limit?


def _check_gaussian(layer: Layer) -> None:
    """A layer's output tends to a Gaussian if it adds up many channels, or reads only what is known."""
    first = layer.n_batch + layer.n_kept
    for term in layer.inputs:
        if not isinstance(term.base, Source) and math.prod(term.shape[first:]) == 1:
            raise UnsupportedOperation(
                f"parameter `{layer.leaf.name}` at {layer.source}: a layer that reads one channel at a time (an "
                "elementwise scale, a depthwise convolution) has no Gaussian limit of infinite width. Give what it "
                "reads more channels, or leave the scale out."
            )


def _check_uncorrelated(state: Sequence[Term], where: str) -> None:
    """Terms of different bases must not be correlated: fresh weights make them so, an activation need not."""
    for a, b in itertools.permutations([t.base for t in state], 2):
        if not isinstance(a, Activated):
            continue
        if isinstance(b, Activated | Source):
            raise UnsupportedOperation(
                f"{where} adds up activations with no weights between them: their means correlate, which the "
                "infinite-width rules do not follow. Put a weight layer before the sum."
            )
        if any(t.base is b for t in a.inputs):
            raise UnsupportedOperation(
                f"{where} adds an activation to its own pre-activation, with which it correlates; the infinite-width "
                "rules need a weight layer between them."
            )
