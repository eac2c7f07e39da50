"""What the path kernel needs to know of a network that depends on shapes alone."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from npk.gating import (
    Function,
    Place,
    activation_program,
    activations,
    gate_shapes,
    of_places,
    own_gates,
    places_of,
)
from npk.path_kernels.demands import Demands, Size, demands_of, size_of
from npk.paths import Form, form_of
from npk.programs import (
    Chosen,
    Equation,
    Once,
    Program,
    alone,
    check_finite,
    check_gate_shapes,
    check_pair,
    on_host,
    resized,
    sample_of,
    samples_in,
    together,
    unsharded,
)

Gates = Sequence[Any]


class Network:
    """What the kernel needs to know of f that depends on shapes alone, found once.

    Args:
        f: a function of (params, x).
        fixed: the parameters that are declared to be fixed numbers (`option_of`).
        place: which outputs of f (`place_of`), of one place or of several.
        magnitudes: as of `Scaling`.
    """

    def __init__(self, f: Function, fixed: Chosen = None, place: Place = None, magnitudes: bool = False):
        self.f, self.fixed, self.magnitudes = of_places(f, place), fixed, magnitudes
        self.find = Once()
        self.own_gates = jax.jit(lambda params, x: own_gates(self.f, params, x))
        self._places = functools.partial(places_of, f, place)

    def once(self, what: str, params: PyTree, x: Any, find: Callable[[], Any]) -> Any:
        """What depends on the shapes of params and of x, and on `what`."""
        return self.find((params, x), what, find)

    def form(self, params: PyTree, x: Any) -> Form:
        """The normal form of f: one and the same, whose parts the rest of what is found refers to."""

        def find() -> Form:
            return form_of(self.f, params, x, self.fixed, self.magnitudes).at(self.places(params, x))

        return self.once("form", params, sample_of(x), find)

    def places(self, params: PyTree, x: Any) -> tuple[int, ...]:
        """How many places each axis has whose outputs are asked for; () for one place."""
        return self.once("places", params, sample_of(x), lambda: self._places(params, x))

    def form_of(self, params: PyTree, laid: tuple[Any, Gates]) -> Form:
        """The same, of a batch that is laid out: [n, 1, ...]."""
        return self.form(params, together(laid[0]))

    def demands(self, params: PyTree, laid: tuple[Any, Gates]) -> tuple[Demands, Size]:
        """What the plain rules ask of f's terms, and what that takes for a pair of samples."""

        def find() -> tuple[Demands, Size]:
            demands = demands_of(self.form_of(params, laid).state)
            return demands, size_of(demands)

        return self.once("demands", params, sample_of(together(laid[0])), find)

    def gate_shapes(self, params: PyTree, x: Any) -> list[Any]:
        """The gates of a batch."""
        return self.once(
            "gates", params, resized(x, samples_in(x)), lambda: gate_shapes(activation_program(self.f, params, x))
        )

    def sides(
        self, params: PyTree, x1: Any, x2: Any, gates1: Gates | None, gates2: Gates | None
    ) -> tuple[tuple[Any, Gates], tuple[Any, Gates]]:
        """Inputs and gates of rows and of columns, checked but for the numbers of gates; one pair twice if alike."""
        x1, x2, gates1, gates2 = unsharded((x1, x2, gates1, gates2))
        check_pair(x1, x2)
        check_finite(params, "params")
        if x2 is not None and (gates1 is None) != (gates2 is None):
            raise ValueError("gates1 and gates2 must be given together when x2 is given; got only one of them.")
        if gates2 is not None and gates1 is None:
            raise ValueError("gates2 was given without gates1.")

        def side(x: Any, given: Gates | None, name: str) -> tuple[Any, Gates]:
            if given is None:
                return x, self.own_gates(params, x)
            check_gate_shapes(given, self.gate_shapes(params, x), name)
            return x, given

        one = side(x1, gates1, "gates1")
        symmetric = x2 is None and gates2 is None
        return one, one if symmetric else side(x1 if x2 is None else x2, gates2, "gates2")

    def has_binary_gates(self, params: PyTree, x: Any) -> bool:
        """Whether f's own gates can only be 0 or 1."""
        return self.once("binary", params, sample_of(x), lambda: _slopes_binary(self.form(params, x).program))

    def plan(self, covers: Callable[[Form, bool], Any], params: PyTree, x: Any, normalize: bool) -> Any:
        """How an engine computes f's kernel, or why it does not, from what it says that it covers."""
        form = self.form(params, x)
        name = f"{covers.__module__}, normalize={normalize}"
        return self.once(name, params, sample_of(x), lambda: covers(form, normalize))

    def positions(self, params: PyTree, x: Any) -> list[int]:
        """How many positions the convolutions of f have for one sample, each of them."""
        return [_positions(e) for e in self.form(params, x).program.equations if e.name == "conv_general_dilated"]

    def laid_out(self, params: PyTree, x: Any, gates: Gates) -> tuple[Any, tuple[Any, ...]]:
        """Inputs [n, 1, ...] and gates [n, *their shape for one sample]; of numbers in host memory by NumPy."""
        found = self.form(params, x)
        if jax.default_backend() == "cpu" and on_host(x, gates):
            x = jax.tree_util.tree_map(lambda a: np.asarray(a, jnp.result_type(a)), x)
            gates = [np.asarray(g) for g in gates]
        else:
            x, gates = jax.tree_util.tree_map(jnp.asarray, x), [jnp.asarray(g) for g in gates]
        return alone(x), found.gates(gates, samples_in(x))


def _positions(convolution: Equation) -> int:
    (_, _, *spatial) = convolution.params["dimension_numbers"].out_spec
    return math.prod(convolution.outputs[0].shape[axis] for axis in spatial)


def _slopes_binary(program: Program) -> bool:
    """Whether the gates of a program can only be 0 or 1, whatever x is."""
    found = [equation.activation for equation in activations(program)]
    return all(a.kind in ("identity", "pool") or (a.kind == "hard" and {0.0, 1.0}.issuperset(a.slopes)) for a in found)
