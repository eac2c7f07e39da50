"""Which outputs of f are meant: an index, a slice, or a tuple of them, behind the axis of the samples.

The last axis that is left is of outputs [K]; any before it are places, which only a kernel takes several of at once.
"""

import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from npk.programs import remembered

Place = tuple[Any, ...] | None


def place_of(output: Any) -> Place:
    """An index, a slice or a tuple of them as what can be hashed.

    Raises:
        TypeError: it is none of these.
    """
    if output is None:
        return None
    try:
        return tuple(map(_entry, output if isinstance(output, tuple) else (output,)))
    except TypeError:
        raise TypeError(
            f"output must be an index, a slice or a tuple of them, got {output!r}: output=3, or output=slice(0, 5)."
        ) from None


def _entry(value: Any) -> Any:
    if isinstance(value, slice):
        return tuple(None if v is None else operator.index(v) for v in (value.start, value.stop, value.step))
    if isinstance(value, bool):
        raise TypeError
    return operator.index(value)


def index_of(place: Place) -> tuple[Any, ...]:
    return (slice(None), *(slice(*e) if isinstance(e, tuple) else e for e in place or ()))


def check_place(place: Place, shape: tuple[int, ...]) -> None:
    """`place` chooses something of outputs of that shape; JAX would take the nearest."""
    try:
        chosen = np.broadcast_to(np.empty(()), shape)[index_of(place)].size
    except IndexError:
        chosen = 0
    if not chosen:
        meant = ", ".join(f"slice{e}" if isinstance(e, tuple) else str(e) for e in place or ())
        raise ValueError(f"output=({meant}) chooses nothing of what is {list(shape[1:])} for each sample.")


def of_output(f: Callable[[Any, Any], Any], output: Any) -> Callable[[Any, Any], Any]:
    """f of the outputs that are meant alone, as [N, K]; f itself where none are named.

    Args:
        f: a function of (params, x), x: [N, ...] → [N, ...].
        output: an index, a slice or a tuple of them, for the axes behind the samples; () for all of [N].

    Raises:
        TypeError: it is none of these.
        ValueError: when f is called: nothing is chosen, or more than one axis is left.
    """
    return _chosen(f, place_of(output), False)


def of_places(f: Callable[[Any, Any], Any], place: Place) -> Callable[[Any, Any], Any]:
    """`of_output` of any number of places, whose outputs are laid end to end, [N, places · K]."""
    return _chosen(f, place, True)


def places_of(f: Callable[[Any, Any], Any], place: Place, params: Any, x: Any) -> tuple[int, ...]:
    """How many places there are along each axis that is left before the outputs [K]: () for one place."""
    if place is None:
        return ()
    shape = _checked(place, jax.eval_shape(f, params, x)).shape
    return np.broadcast_to(np.empty(()), shape)[index_of(place)].shape[1:-1]


def _checked(place: Place, out: Any) -> Any:
    """An array of outputs of which `place` chooses some."""
    if not isinstance(out, jax.Array | jax.ShapeDtypeStruct):
        raise ValueError(
            f"output chooses among the outputs of one array, and f(params, x) returns {type(out).__name__}: wrap f so "
            "that it returns one, lambda p, x: f(p, x)[0]."
        )
    check_place(place, out.shape)
    return out


def _chosen(f: Callable[[Any, Any], Any], place: Place, several: bool) -> Callable[[Any, Any], Any]:
    return f if place is None else remembered(_of_output, f, place, several)


def _of_output(f: Callable[[Any, Any], Any], place: Place, several: bool) -> Callable[[Any, Any], Any]:
    """`of_output`, made once."""

    @functools.wraps(f, assigned=("__module__",), updated=())
    def of_some(params: Any, x: Any) -> Any:
        out = _checked(place, f(params, x))
        chosen = out[index_of(place)]
        if chosen.ndim > 2 and not several:
            raise ValueError(
                f"output chooses {list(chosen.shape[1:])} of each sample's outputs {list(out.shape[1:])}: it must "
                "leave one axis at the most, as output=(position, slice(None)) does."
            )
        return chosen.reshape(len(chosen), -1)

    return of_some
