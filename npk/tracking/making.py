"""`track`: a recorder of gates and kernels for a training loop of one's own."""

import operator
from collections.abc import Callable, Collection, Container, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from npk.gating import Function
from npk.programs import check_batch, check_function, check_takes, concrete, samples_in
from npk.tracking.measuring import GateMeasure, Measure, PathKernelMeasure, TangentMeasure
from npk.tracking.recorder import Recorder

MEASURES = ("gates", "npk", "ntk")


def track(
    f: Function,
    x: Any,
    y: ArrayLike | None = None,
    *,
    every: int | Collection[int] | None = None,
    budget: float = 0.05,
    beta: float | None = 4.0,
    measures: Collection[str] = MEASURES,
    allow: Sequence[str] = (),
    kinds: Sequence[str] | None = None,
    gate_at: Sequence[str] = (),
) -> Recorder:
    """Record how gates and kernels of f change while you train it, in your own loop.

    `recorder(step, params)` once a step, outside `jit`, records or skips. What is recorded is of the probe x alone, a
    few dozen to some hundred samples that stay the same: `GateRecord` says what. With `every=None` the recorder chooses
    the steps itself, as often as the budget allows: it records where what records have cost, and what one more is
    expected to cost (as much as the last one), stay within that share of the time since the first record, and the
    latter within that of the time since the record before. The first call records, and compiles; what that costs is
    kept apart (`recorder.first_seconds`). Records wait for params, which is no cost of theirs.

    Of the tangent kernel soft gates are put in the place of hard ones (`softened`), of the same params: hard gates
    have no gradient. Params that are not finite, and what leaves its range during training, are recorded as NaN with a
    note; training goes on.

    Args:
        f: a function of (params, x), x: [N, ...] → [N, K]; of a network with batch norm or dropout that of evaluation.
        x: the probe, a batch [N, ...] or a tree of them.
        y: class numbers of the probe, of shape (N,); None where there are none: alignment and distances are left out.
        every: record at steps divisible by this number, or at these steps; None to stay within the budget.
        budget: the share of the time that records after the first one may take, in (0, 1]; for every=None.
        beta: steepness of the soft gates of the tangent kernel; None takes f as it is.
        measures: which to take: "gates", "npk" (the path kernel, [N, N]), "ntk" (traces of the split tangent kernel).
        allow: as of `gates`; the path kernel allows nothing.
        kinds: as of `gates`, for "gates" and "ntk"; the path kernel needs all.
        gate_at: as of `gates`.

    Returns:
        A `Recorder`.

    Raises:
        ValueError: the probe is empty or not finite; the labels are not one whole number a sample; an option is out of
            range.
        TypeError: f is no function of (params, x); called under `jit`.

    Example:
        >>> import jax, jax.numpy as jnp, npk
        >>> f = lambda w, x: jax.nn.relu(x @ w)
        >>> recorder = npk.track(f, jnp.array([[1.0], [2.0]]), [0, 1], every=1, measures=("gates",))
        >>> for step, w in enumerate([1.0, 0.5, -0.5]):
        ...     record = recorder(step, jnp.full((1, 1), w))
        >>> record.flips, record.dead, recorder.table()["flips"]
        (1.0, {'layer 1': 1.0}, [0.0, 0.0, 1.0])

    Source: Lakshminarayanan & Singh 2020, section 5 (gates learn; H aligns with the labels).
    """
    check_function(f, "track", "{name}({f}, x)")
    if not concrete(x, y):
        raise TypeError("x and y are being traced: call track outside jit, with numbers.")
    check_batch(x)
    x = jax.tree_util.tree_map(lambda a: a.copy() if isinstance(a, np.ndarray) else a, x)
    labels = None if y is None else _labels(y, samples_in(x))
    if not 0 < budget <= 1:
        raise ValueError(f"budget must be a share of the time in (0, 1], got {budget}.")
    if isinstance(measures, str) or not measures or not set(measures) <= set(MEASURES):
        raise ValueError(f"measures must be some of {', '.join(MEASURES)}, as a tuple; got {measures!r}.")
    makers: dict[str, Callable[[], Measure]] = {
        "gates": lambda: GateMeasure(f, x, labels, allow, kinds, gate_at),
        "npk": lambda: PathKernelMeasure(f, x, labels, gate_at),
        "ntk": lambda: TangentMeasure(f, x, beta, allow, kinds, gate_at),
    }
    is_defined = jax.jit(lambda params, x: jnp.isfinite(f(params, x)).all())
    taken = {name: makers[name]() for name in MEASURES if name in measures}
    defined = lambda params: bool(is_defined(params, x))  # noqa: E731
    return Recorder(taken, _steps(every), budget, defined, lambda params: check_takes(f, params, x))


def _labels(y: ArrayLike, n: int) -> np.ndarray:
    labels = np.array(y)
    if labels.shape != (n,) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"y must be class numbers [{n}], one a sample of x, got {labels.dtype}{list(labels.shape)}: of one-hot "
            "labels y.argmax(-1)."
        )
    return labels


def _steps(every: Any) -> int | Container[int] | None:
    """At which steps to record, checked."""
    if every is None:
        return None
    said = f"every must be a number of steps from 1 on, a collection of steps, or None, got {every!r}."
    try:
        if isinstance(every, Iterable):
            steps = every if isinstance(every, range) else frozenset(operator.index(step) for step in every)
            valid = len(steps) > 0
        else:
            steps = operator.index(every)
            valid = steps >= 1 and not isinstance(every, bool)
    except TypeError:
        raise ValueError(said) from None
    if not valid:
        raise ValueError(said)
    return steps
