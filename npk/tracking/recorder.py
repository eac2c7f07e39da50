"""A recorder: it chooses the steps, keeps the records, and shows them."""

import math
import time
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from npk import plots
from npk.programs import (
    UnsupportedOperation,
    check_arrays,
    concrete,
    finite,
    known_true,
)
from npk.tracking.measuring import Fields, Measure, undefined
from npk.tracking.records import GateRecord, as_pandas, table_of, write_csv, write_parquet, write_tensorboard

# What is drawn where nothing is asked for: fractions, of one axis.
_DRAWN = ("flips", "flips_since_last", "alignment", "distance_within", "distance_between")


class Recorder:
    """What `track` returns: call it in the loop as `recorder(step, params)`, outside `jit`.

    It keeps no parameters, which may be donated to the next step: of gates that switch it keeps the bits of the first
    and of the last record, of other gates their numbers. A call that skips reads the clock, and nothing of params.

    Example:
        >>> import jax, jax.numpy as jnp, npk
        >>> recorder = npk.track(lambda w, x: jax.nn.relu(x @ w), jnp.ones((2, 1)), every=10, measures=("gates",))
        >>> for step in range(21):
        ...     record = recorder(step, jnp.full((1, 1), 10.0 - step))
        >>> recorder.table()["step"], recorder.table()["flips"]
        ([0, 10, 20], [0.0, 1.0, 1.0])
    """

    def __init__(
        self,
        measures: Mapping[str, Measure],
        every: int | Container[int] | None,
        budget: float,
        is_defined: Callable[[Any], Any] = lambda params: True,
        check: Callable[[Any], None] = lambda params: None,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self._measures, self._every, self._budget = dict(measures), every, budget
        self._is_defined, self._check, self._clock = is_defined, check, clock
        self._form: Any = None  # structure and shapes of the first params
        self._known: dict[str, Fields] = {name: measure.known for name, measure in measures.items()}
        self._records: list[GateRecord] = []
        self._step: int | None = None  # of the last call
        self._began: float | None = None
        self._now = 0.0
        self._compiled = False
        self._cost: float | None = None  # that a record is expected to have
        self._due = -math.inf  # when the budget has one
        self._first_seconds = self._spent = 0.0

    def __call__(self, step: int, params: Any) -> GateRecord | None:
        """Record this step, or skip it.

        Args:
            step: larger than at the call before; an int of the host.
            params: of f, after that step.

        Returns:
            The record, or None where the step was skipped.

        Raises:
            ValueError: steps do not increase; at the first record what f is refused for.
            UnsupportedOperation: at the first record: f has operations outside the rules of a measure.
            TypeError: step is no int, or params are being traced.
        """
        self._begin(step, again=False)
        return self._taken(int(step), params) if self._is_due(step) else None

    def record(self, step: int, params: Any) -> GateRecord:
        """Record this step, whatever `every` and the budget say: after the last one.

        Args:
            step: not below that of the call before. Of a step on record the record is returned.
            params: of f, after that step.

        Returns:
            The record.

        Raises:
            ValueError: as of a call.
            UnsupportedOperation: as of a call.
            TypeError: as of a call.
        """
        self._begin(step, again=True)
        if self._records and step == self._records[-1].step:
            return self._records[-1]
        return self._taken(int(step), params)

    # ------------------------------------------------------------------------------------------ what there is

    @property
    def records(self) -> tuple[GateRecord, ...]:
        """All records, by step."""
        return tuple(self._records)

    @property
    def layers(self) -> dict[str, str]:
        """What each layer of the records is: kind of gate, shape for one sample, place in the source."""
        return getattr(self._measures.get("gates"), "layers", {})

    @property
    def first_seconds(self) -> float:
        """What the first record cost, with all that it compiled: it is no part of `spent`."""
        return self._first_seconds

    @property
    def spent(self) -> float:
        """Seconds spent in records after the first one."""
        return self._spent

    @property
    def share(self) -> float:
        """`spent`, of the time from the first call to the last one, the first record left out."""
        elapsed = self._elapsed()
        return self._spent / elapsed if elapsed > 0 else 0.0

    def table(self) -> dict[str, list[Any]]:
        """All records as columns, by flat names: "step", "flips", "flips/layer 1", "trace/value".

        Returns:
            Name → as many values as there are records, NaN where a record has none.
        """
        return table_of(self._records)

    def to_csv(self, path: str | Path) -> None:
        """Write `table` as CSV, whole or not at all.

        Args:
            path: of the file.
        """
        write_csv(self.table(), Path(path))

    def to_parquet(self, path: str | Path) -> None:
        """Write `table` as Apache Parquet, whole or not at all.

        Args:
            path: of the file.

        Raises:
            ModuleNotFoundError: pyarrow is not installed.
        """
        write_parquet(self.table(), Path(path))

    def to_pandas(self) -> Any:
        """`table` as a data frame.

        Returns:
            A `pandas.DataFrame`.

        Raises:
            ModuleNotFoundError: pandas is not installed.
        """
        return as_pandas(self.table())

    def to_tensorboard(self, folder: str | Path) -> None:
        """Write every finite number of every record as a scalar of its step, into a new file of events.

        Args:
            folder: of the run, as TensorBoard is given it.

        Raises:
            ModuleNotFoundError: tensorboardX is not installed.
        """
        write_tensorboard(self.table(), Path(folder))

    def plot(self, *columns: str) -> Figure:
        """Columns over steps, as curves.

        Args:
            *columns: of `table`, or what a name begins with: "dead" is all of "dead/layer 1", …. None for flips,
                alignment and distances, as far as they were recorded.

        Returns:
            The figure, of the records in which all these columns are finite.

        Raises:
            ValueError: there is no such column, or no record in which all are finite.
        """
        table = self.table()
        numbers = [name for name in table if name not in ("step", "note")]
        drawn = [name for name in numbers if name in _DRAWN] if not columns else []
        for column in columns:
            found = [name for name in numbers if name == column] or [n for n in numbers if n.startswith(f"{column}/")]
            if not found:
                raise ValueError(f"no column {column!r}: there are {', '.join(numbers) or 'no records'}.")
            drawn += found
        values = np.array([table[name] for name in drawn], np.float64).reshape(len(drawn), len(self._records))
        kept = np.isfinite(values).all(axis=0)
        if not self._records:
            raise ValueError("there are no records yet: call recorder(step, params) in the loop.")
        if not drawn or not kept.any():
            raise ValueError(f"no record in which {', '.join(drawn) or 'what is drawn by itself'} is finite.")
        series = {name.replace("_", " "): row[kept] for name, row in zip(drawn, values, strict=True)}
        ylabel = next(iter(series)) if len(series) == 1 else "fraction" if not columns else "value"
        return plots.curves(series, np.array(table["step"])[kept], xlabel="step", ylabel=ylabel)

    def __repr__(self) -> str:
        if not self._records:
            return "Recorder(no records)"
        count, last = len(self._records), self._records[-1].step
        return f"Recorder({count} record{'s' * (count > 1)} up to step {last}, {self.share:.1%} of the time)"

    # ------------------------------------------------------------------------------------------------ records

    def _begin(self, step: int, again: bool) -> None:
        """A call, of a step after the last one; or of that one `again`."""
        if not isinstance(step, int | np.integer):
            raise TypeError(
                f"step must be an int, got {type(step).__name__}: count steps in Python; to read one from a device, as "
                "int(step) does, waits for it."
            )
        if self._step is not None and not (step > self._step or (again and step == self._step)):
            raise ValueError(f"steps must increase, but step {step} comes after step {self._step}.")
        self._step = int(step)
        self._tick()

    def _tick(self) -> None:
        self._now = self._clock()
        if self._began is None:
            self._began = self._now

    def _elapsed(self) -> float:
        """Seconds from the first call to the last reading of the clock, the first record left out."""
        return self._now - (self._began or 0.0) - self._first_seconds

    def _is_due(self, step: int) -> bool:
        if self._every is None:
            return self._now >= self._due
        return step % self._every == 0 if isinstance(self._every, int) else step in self._every

    def _next(self, began: float, cost: float) -> float:
        """When a record of that cost is within the budget: of the time in all, and since the one before began.

        The latter, so that what was left over is not spent at once.
        """
        start = (self._began or 0.0) + self._first_seconds
        return max(start + (self._spent + cost) / self._budget, began + cost / self._budget)

    def _taken(self, step: int, params: Any) -> GateRecord:
        """The record of a step, measured now."""
        if not concrete(params):
            raise TypeError("params are being traced: call recorder(step, params) outside jit, with what it returned.")
        check_arrays(params, "params")
        jax.block_until_ready(params)  # the wait for the step that makes them is no cost of a record
        start = self._clock()
        fields, fine = self._fields(params)
        cost = self._clock() - start
        if fine and not self._compiled and self._every is None:
            cost = min(self._cost_of(params), self._cost_of(params))
        for measure in self._measures.values() if fine else ():
            measure.commit()
        self._tick()
        seconds = self._now - start
        if fine or self._cost is None:  # a record that measures nothing costs nothing
            self._cost = cost
        if self._compiled:
            self._spent += seconds
        else:
            self._first_seconds += seconds
        self._due = self._next(start if self._compiled else self._now, self._cost)
        self._compiled |= fine
        elapsed = self._now - (self._began or 0.0)
        self._records.append(GateRecord(step=step, seconds=seconds, elapsed=elapsed, **fields))
        return self._records[-1]

    def _cost_of(self, params: Any) -> float:
        """What a record costs when nothing is compiled, as this one time says."""
        start = self._clock()
        self._fields(params)
        return self._clock() - start

    def _fields(self, params: Any) -> tuple[Fields, bool]:
        """What all measures say, and whether they do: of numbers that are not finite nothing is said."""
        leaves, structure = jax.tree_util.tree_flatten(params)
        form = structure, tuple(np.shape(leaf) for leaf in leaves)
        if not self._compiled:
            self._form = form
            self._check(params)
        elif form != self._form:
            return self._undefined("params have another structure, or other shapes, than at the first record"), False
        floats = [a for a in leaves if jnp.issubdtype(jnp.result_type(a), jnp.inexact)]
        if not known_true(finite, *floats):
            return self._undefined("params are not finite"), False
        first = None if self._compiled else self._measured(params)  # which tell best what f is refused for
        if not self._is_defined(params):
            return self._undefined("f is not finite on the probe"), False
        return first or self._measured(params), True

    def _measured(self, params: Any) -> Fields:
        parts = []
        for name, measure in self._measures.items():
            try:
                part = measure.fields(params)
                self._known[name] = {key: value for key, value in part.items() if key != "note"}
            except ValueError as error:
                others = tuple(other for other in self._measures if other != name)
                if self._compiled:  # training is not ended by what is said of it
                    part = {**undefined(self._known[name]), "note": f"{name}: {error}"}
                elif others and name != "gates" and isinstance(error, UnsupportedOperation):
                    raise UnsupportedOperation(f"{error} track(…, measures={others}) leaves {name!r} out.") from error
                else:
                    raise
            parts.append(part)
        return _joined(parts)

    def _undefined(self, note: str) -> Fields:
        return _joined([*(undefined(known) for known in self._known.values()), {"note": note}])


def _joined(parts: Sequence[Fields]) -> Fields:
    """The fields of all measures; what several of them have are its parts."""
    fields: Fields = {}
    notes = [part["note"] for part in parts if part.get("note")]
    for part in parts:
        for name, value in part.items():
            fields[name] = {**fields.get(name, {}), **value} if isinstance(value, Mapping) else value
    return {**fields, "note": "; ".join(notes)}
