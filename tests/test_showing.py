"""Every result prints itself in a few lines, whatever it holds."""

import dataclasses
import importlib
import inspect

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import npk
from npk import solving


def public_dataclasses():
    rooms = [npk, *(importlib.import_module(f"npk.{room}") for room in npk._ROOMS)]
    shown = [getattr(room, name) for room in rooms for name in room.__all__]
    classes = {value for value in shown if inspect.isclass(value)}
    records = (c for c in classes if dataclasses.is_dataclass(c) or issubclass(c, tuple))
    return sorted((c for c in records if not issubclass(c, nn.Module)), key=lambda c: c.__name__)


X = np.arange(8.0, dtype=np.float32).reshape(4, 2)
OPERATORS = [
    solving.operator_of(X @ X.T),
    solving.part_of(X @ X.T, [0, 1]),
    solving.joined(X @ X.T, X @ X.T),
    solving.kernel_operator(lambda a, b: a @ b.T, X, tile=4),
]
# A reading is a table of its own, an analysis a page (tests/readings, tests/studies).
OWN = (npk.readings.Reading, npk.studies.Analysis)
KINDS = [*(k for k in public_dataclasses() if k not in OWN), *map(type, OPERATORS)]
MONSTERS = {
    "array": np.zeros((200, 300)),
    "device array": jnp.zeros((200, 300)),
    "deleted array": jnp.arange(6),
    "half": jnp.zeros((2, 3), jnp.bfloat16),
    "key": jax.random.key(0),
    "tree": {f"layer {i}": [jnp.zeros((20, 30))] * 100 for i in range(100)},
    "text": "<script>\n" * 1000,
    "numbers": tuple(range(10_000)),
    "function": jnp.matmul,
    "objects": (object(), None),
    "nothing": None,
}
MONSTERS["deleted array"].delete()


def holding(kind, value):
    """An object of which every field is the same."""
    held = object.__new__(kind)
    for field in dataclasses.fields(kind):
        object.__setattr__(held, field.name, value)
    return held


def assert_short(held):
    lines = repr(held).split("\n")
    assert len(lines) <= 10 and max(map(len, lines)) <= 100, repr(held)
    assert lines[0].startswith(type(held).__name__.lstrip("_") + "(") and lines[-1].endswith(")")
    table = held._repr_html_()
    assert table.count("<tr>") == table.count("</td>") and "<script>" not in table and len(table) < 5000
    for field in dataclasses.fields(held):
        assert (f">{field.name}<" in table) == (field.repr and not field.name.startswith("_"))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_result_is_short_whatever_it_holds(kind):
    for monster in MONSTERS.values():
        assert_short(holding(kind, monster))


def test_numbers_and_shapes_are_shown():
    part = npk.NTKSplit(*jnp.ones((3, 2, 2), jnp.float32))
    split = dataclasses.replace(part, value=jnp.arange(9, dtype=jnp.float32), blocks={"w": part, "b": part})
    assert repr(split) == (
        "NTKSplit(value=float32[9] 0 … 8, feature=float32[2, 2] 1, 1, 1, 1, cross=float32[2, 2] 1, 1, 1, 1,\n"
        "    blocks=<6 arrays of 24 numbers: w, b>)"
    )
    estimate = solving.Estimate(1 / 3, 0.25, 0.5)
    assert repr(estimate) == "Estimate(value=0.333333, low=0.25, high=0.5)"
    assert repr(solving.Moments(*[estimate] * 3)).count(repr(estimate)) == 3
    assert repr(OPERATORS[3]).startswith("Recomputed(shape=(4, 4), kernel=<")
    assert repr(npk.KernelSketch(np.ones((4, 3, 2)), np.ones((3, 2), np.uint32))) == (
        "KernelSketch(shape=(4, 4), features=float64[4, 3, 2] 1 … 1, draws=uint32[3, 2])"
    )


def test_results_that_are_traced_show_their_shapes():
    seen = []

    @jax.jit
    def traced(w, x):
        split = npk.split_ntk(lambda w, x: jax.nn.relu(x @ w))(w, x)
        seen.extend((repr(split), split._repr_html_()))
        return split.total

    traced(jnp.ones((2, 1)), jnp.eye(2))
    assert seen[0].startswith("NTKSplit(value=float32[2, 2], feature=float32[2, 2], ") and "float32[2, 2]" in seen[1]
