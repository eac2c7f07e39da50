"""What a record measures of the probe: gates, the path kernel, the split tangent kernel."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from npk import solving
from npk.gating import Function, activations, at_lines, gate_shapes, gates, per_sample, softened
from npk.path_kernels import path_kernel
from npk.programs import Place, Program, check_independent, resized, samples_in, wanted, with_gates
from npk.tangent_kernels import split_ntk_diagonal

#: Fields of a `GateRecord` by their names, and a note where there is something to say.
Fields = dict[str, Any]


class Measure(Protocol):
    """Some fields of a record."""

    @property
    def known(self) -> Fields:
        """The fields that there are whatever f is, NaN."""
        ...

    def fields(self, params: Any) -> Fields:
        """Of params that are finite; the same again until `commit`."""
        ...

    def commit(self) -> None:
        """What was measured last is on record."""
        ...


def undefined(fields: Mapping[str, Any]) -> Fields:
    """Fields whose numbers are all NaN."""
    return {
        name: dict.fromkeys(value, math.nan) if isinstance(value, Mapping) else math.nan
        for name, value in fields.items()
    }


class PathKernelMeasure:
    """Trace, effective rank and alignment of H.

    Args:
        f: a function of (params, x).
        x: the probe.
        y: its labels, or None.
        gate_at: as of `path_kernel`.
    """

    def __init__(self, f: Function, x: Any, y: np.ndarray | None, gate_at: Sequence[str]):
        self._kernel, self._x, self._y = path_kernel(f, gate_at=gate_at), x, y
        aligned = {} if y is None else {"alignment": math.nan}
        self.known: Fields = {"trace": {"npk": math.nan}, "effective_rank": math.nan, **aligned}

    def fields(self, params: Any) -> Fields:
        kernel = np.asarray(self._kernel(params, self._x), np.float64)
        spectrum = solving.spectrum(kernel)
        open_paths = bool(spectrum.eigenvalues[0] > 0)
        found: Fields = {
            "trace": {"npk": float(np.trace(kernel))},
            "effective_rank": spectrum.effective_rank().value if open_paths else math.nan,
        }
        if self._y is not None:
            found["alignment"] = solving.alignment(kernel, self._y).value
        return found if open_paths else {**found, "note": "every path is closed at every sample"}

    def commit(self) -> None:
        pass


class TangentMeasure:
    """Traces of the split tangent kernel, of f under soft gates.

    Args:
        f: a function of (params, x).
        x: the probe.
        beta: steepness of the gates; None takes f as it is.
        allow: as of `split_ntk`.
        kinds: as of `split_ntk`.
        gate_at: as of `split_ntk`.
    """

    def __init__(
        self,
        f: Function,
        x: Any,
        beta: float | None,
        allow: Sequence[str],
        kinds: Sequence[str] | None,
        gate_at: Sequence[str],
    ):
        soft = f if beta is None else softened(f, beta=beta, allow=allow, gate_at=gate_at)
        lines = gate_at if beta is None else ()  # marks that are in `soft` already
        self._split, self._x = split_ntk_diagonal(soft, allow=allow, kinds=kinds, gate_at=lines), x
        self.known: Fields = {"trace": dict.fromkeys(("value", "feature", "cross"), math.nan)}

    def fields(self, params: Any) -> Fields:
        split = self._split(params, self._x)
        parts = {name: np.asarray(getattr(split, name)) for name in ("value", "feature", "cross")}
        return {"trace": {name: float(part.sum(dtype=np.float64)) for name, part in parts.items()}}

    def commit(self) -> None:
        pass


# ------------------------------------------------------------------------------------------------ gates


@dataclasses.dataclass(frozen=True, eq=False)
class _GateArray:
    """A gate array of f: how it is named, and where it holds the samples of a batch."""

    kind: str
    told: str  # kind, shape for one sample and place in the source
    one: tuple[int, ...]
    place: Place | None
    closed: Any  # hard gates: the number at q = 0


@dataclasses.dataclass(frozen=True, eq=False)
class _Kept:
    """The numbers of one gate array of a record, as bits where it switches; no memory of a device stays in use."""

    numbers: np.ndarray
    shape: tuple[int, ...] | None  # of bits

    @classmethod
    def of(cls, units: np.ndarray) -> "_Kept":
        return cls(np.packbits(units), units.shape) if units.dtype == bool else cls(units.copy(), None)

    @property
    def units(self) -> np.ndarray:
        if self.shape is None:
            return self.numbers
        return np.unpackbits(self.numbers, count=math.prod(self.shape)).reshape(self.shape).astype(bool)


class GateMeasure:
    """Flips, dead units, overlaps and distances of codes.

    Args:
        f: a function of (params, x).
        x: the probe.
        y: its labels, or None.
        allow: as of `gates`.
        kinds: as of `gates`.
        gate_at: as of `gates`.
    """

    def __init__(
        self,
        f: Function,
        x: Any,
        y: np.ndarray | None,
        allow: Sequence[str],
        kinds: Sequence[str] | None,
        gate_at: Sequence[str],
    ):
        self._f, self._x, self._y = at_lines(f, gate_at), x, y
        self._kinds = wanted(allow, kinds).kinds
        self._gates = gates(f, allow=allow, kinds=kinds, gate_at=gate_at)
        self._units = jax.jit(self._units_of)
        self._arrays: tuple[_GateArray, ...] | None = None
        self._layers: dict[int, str] | None = None  # of the arrays that switch
        self._pending: list[_Kept] | None = None
        self._first: list[_Kept] | None = None
        self._last: list[_Kept] | None = None
        scalars = ("flips", "flips_since_last", *(() if y is None else ("distance_within", "distance_between")))
        self.known: Fields = dict.fromkeys(scalars, math.nan)

    @property
    def layers(self) -> dict[str, str]:
        """What each layer is, once that is known."""
        return {name: (self._arrays or ())[i].told for i, name in (self._layers or {}).items()}

    def fields(self, params: Any) -> Fields:
        self._pending = None
        if self._arrays is None:
            self._arrays = self._found(params)
        units = [np.asarray(array) for array in self._units(params, self._x)]
        binary = [_may_switch(array) and _is_binary(unit) for array, unit in zip(self._arrays, units, strict=True)]
        note = {}
        if self._first is None:
            self._layers = {i: f"layer {number}" for number, i in enumerate(np.flatnonzero(binary).tolist(), 1)}
        layers = self._layers or {}
        if lost := [i for i in layers if not binary[i]]:
            told = ", ".join(f"{layers.pop(i)} ({self._arrays[i].told})" for i in lost)
            note = {"note": f"{told} holds other numbers than 0 and 1, and counts among changes from here on"}
        units = [array != 0 if i in layers else array for i, array in enumerate(units)]
        self._pending = [_Kept.of(array) for array in units]
        found = {
            **self._moved(units, self._first or self._pending, ""),
            **self._moved(units, self._last or self._pending, "_since_last"),
            **self._codes(units),
        }
        return {**found, **note}

    def commit(self) -> None:
        if self._pending is not None:
            self._first = self._first or self._pending
            self._last, self._pending = self._pending, None

    def _found(self, params: Any) -> tuple[_GateArray, ...]:
        """The gate arrays of f, by shapes alone."""

        def of_batch(n: int) -> Program:
            return with_gates(self._f, params, resized(self._x, n), self._kinds)

        places = check_independent(self._f, params, self._x, of_batch).of_gates
        one, whole = of_batch(1), of_batch(samples_in(self._x))
        if len(activations(one)) != len(activations(whole)):
            raise ValueError(
                f"f has {len(activations(whole))} gate arrays for a batch and {len(activations(one))} for one sample: "
                "let f take its samples together, jax.vmap(g, (None, 0)) for a function g of params and one sample."
            )
        found = []
        for equation, shape, place in zip(activations(one), gate_shapes(one), places, strict=True):
            activation = equation.activation
            assert activation is not None
            hard = activation.kind == "hard"
            closed = np.asarray(activation.gate(jnp.zeros((), shape.dtype))) if hard else None
            told = f"{activation.kind} {list(shape.shape[1:])} at {equation.source}"
            found.append(_GateArray(activation.kind, told, shape.shape, place, closed))
        return tuple(found)

    def _units_of(self, params: Any, x: Any) -> list[Any]:
        """Gate arrays as [N, units]: whether they are open, or their numbers."""
        units = []
        for gate, array in zip(self._gates(params, x), self._arrays or (), strict=True):
            laid = per_sample(gate, array.one, samples_in(x), array.place).reshape(samples_in(x), -1)
            units.append(laid != array.closed if array.kind == "hard" else laid)
        return units

    def _moved(self, units: Sequence[np.ndarray], kept: Sequence[_Kept], since: str) -> Fields:
        """Flips of the layers, and changes of the other arrays."""
        layers, arrays, before = self._layers or {}, self._arrays or (), [k.units for k in kept]
        found: Fields = {}
        if layers:
            flips = solving.gate_flips([units[i] for i in layers], [before[i] for i in layers])
            found[f"flips{since}"] = _mean(flips, [units[i].size for i in layers])
            found[f"flips{since}_by_layer"] = dict(zip(layers.values(), flips, strict=True))
        changes: dict[str, float] = {}
        for kind in dict.fromkeys(array.kind for i, array in enumerate(arrays) if i not in layers):
            chosen = [i for i, array in enumerate(arrays) if array.kind == kind and i not in layers]
            with np.errstate(all="ignore"):  # what left the range has no change
                moved = solving.gate_changes([units[i] for i in chosen], [before[i] for i in chosen])
            changes[kind] = _mean(moved, [units[i].size for i in chosen])
        return {**found, f"changes{since}": changes}

    def _codes(self, units: Sequence[np.ndarray]) -> Fields:
        """What the codes of the layers say."""
        layers = self._layers or {}
        if not layers:
            return {}
        opening = {i: name for i, name in layers.items() if (self._arrays or ())[i].kind != "pool"}
        states = solving.unit_states([units[i] for i in opening]) if opening else []
        found: Fields = {
            "dead": {name: state.dead for name, state in zip(opening.values(), states, strict=True)},
            "always_open": {name: state.always_open for name, state in zip(opening.values(), states, strict=True)},
            "overlap": dict(zip(layers.values(), solving.mean_overlaps([units[i] for i in layers]), strict=True)),
        }
        if self._y is not None:
            distances = solving.code_distances([units[i] for i in layers], self._y)
            found |= {"distance_within": distances.within, "distance_between": distances.between}
        return found


def _may_switch(array: _GateArray) -> bool:
    return array.kind in ("hard", "pool", "given", "declared")


def _is_binary(units: np.ndarray) -> bool:
    return units.dtype == bool or bool(((units == 0) | (units == 1)).all())


def _mean(values: Iterable[float], sizes: Sequence[int]) -> float:
    return float(np.average(list(values), weights=sizes))
