"""One network by npk, on NumPy's arrays, against the oracle: gates, outputs, features, names, counts and kernels."""

import dataclasses
import math
import re
import sys
import traceback

import jax
import numpy as np
from oracles import dictionary as paths
from writing import Network

import npk
from npk import gating
from npk.path_kernels import SecondMoments, path_kernel
from npk.path_kernels.interpreters import HostMoments
from npk.paths import npf

# Of float64, relative to the largest number of what is compared; what cancels to nothing is compared to `LEAST`.
TOLERANCE, LEAST = 1e-9, 1e-3
SAMPLES = 3
# A pre-activation that cancels to less has a sign by rounding alone.
TIE = 1e-13

# What makes another function of one, and of every network the same reading.
SPELLINGS = {
    "jit": lambda f: lambda p, x: jax.jit(f)(p, x),
    "checkpoint": lambda f: lambda p, x: jax.checkpoint(f)(p, x),
    "vmap": lambda f: lambda p, x: jax.vmap(lambda u: f(p, u[None])[0])(x),
}

_features, _kernel = sys.modules[npf.__module__], sys.modules[path_kernel.__module__]
_coordinates = sys.modules["npk.paths.coordinates"]


def paths_of(f, params, x):
    return _features._listed(f, None, params, x)


@dataclasses.dataclass
class Checked:
    """What came of a network: why it was refused, or the worst error of all that was compared."""

    refused: str | None = None
    worst: float = 0.0
    expected: bool = False  # a refusal that the theory asks for

    def close(self, what: str, ours, theirs) -> None:
        ours, theirs = np.asarray(ours, float), np.asarray(theirs, float)
        assert ours.shape == theirs.shape, f"{what}: shape {ours.shape}, expected {theirs.shape}"
        error = float(np.abs(ours - theirs).max(initial=0.0)) / max(float(np.abs(theirs).max(initial=0.0)), LEAST)
        assert error <= TOLERANCE, f"{what}: an error of {error:.3g} of the largest number\n{ours}\n{theirs}"
        self.worst = max(self.worst, error)


def label(path) -> str:
    return " -> ".join(f"{leaf}[{','.join(map(str, index))}]" for leaf, index in path)


def batches(network: Network, rng: np.random.Generator):
    """Inputs, real gates (some of them zero) and gates of 0 and 1, a list an activation."""
    x = rng.normal(size=(SAMPLES, *network.input.shape))
    real, binary = [], []
    for gate in network.gates():
        values = rng.normal(size=(SAMPLES, *gate.sample))
        real.append(values * rng.integers(0, 4, values.shape).clip(0, 1))
        binary.append(rng.integers(0, 2, values.shape).astype(float))
    return x, real, binary


def check(network: Network, seed: int) -> Checked:
    """Compare all, within `numpy_in_place`.

    Raises:
        AssertionError: something differs.
    """
    checked = Checked()
    x, real, binary = batches(network, np.random.default_rng([seed, 1]))
    given = [np.concatenate(pair) for pair in zip(real, binary, strict=True)]
    units, reader = network.units(np.concatenate([x] * 3), given)
    f, params = network.function(), network.params
    try:
        compare(checked, f, params, x, network, units, reader, real, binary, seed)
    except ValueError as error:
        if not isinstance(error, npk.UnsupportedOperation) and not _said(error):
            raise
        checked.refused = str(error)
    return checked


def _said(error: ValueError) -> bool:
    """Whether an error was raised by npk itself, not by what it called."""
    return (traceback.extract_tb(error.__traceback__)[-1].line or "").startswith("raise ")


def compare(checked: Checked, f, params, x, network: Network, units, reader, real, binary, seed: int) -> None:
    n = SAMPLES
    values = paths.values(units)
    leaves = jax.tree_util.tree_leaves((params, x))
    program = gating.activation_program(f, params, x)
    outputs, seen, own = gating.run_with_gates(program, leaves)
    if any(((np.abs(q) > 0) & (np.abs(q) < TIE)).any() for q in seen):
        checked.refused, checked.expected = "a pre-activation that cancels to rounding", True
        return
    checked.close("outputs", outputs[0], values[:n])
    laid = network.gates()
    assert len(own) == len(laid), f"{len(own)} activations, expected {len(laid)}"
    for number, (ours, gate, theirs) in enumerate(zip(own, laid, reader.gates, strict=True)):
        checked.close(f"gate {number}", ours, gate.laid_out(theirs[:n]))
    outside = [tuple(gate.laid_out(g) for gate, g in zip(laid, gates, strict=True)) for gates in (real, binary)]
    for gates, part in zip(outside, (slice(n, 2 * n), slice(2 * n, None)), strict=True):
        out = gating.run_with_gates(program, leaves, gates)[0][0]
        checked.close("outputs under gates from outside", out, values[part])

    if reader.twice:
        try:
            paths_of(f, params, x)
        except npk.UnsupportedOperation as error:
            checked.refused, checked.expected = str(error), True
            return
        raise AssertionError("a parameter is a weight twice, and nothing was said")
    sides = []
    for number, gates in enumerate((own, *outside)):
        if number < 2:
            check_features(checked, f, params, x, gates, units, reader, slice(n * number, n * (number + 1)))
        sides.append((x[:, None], _kernel.Network(f).laid_out(params, x, gates)[1]))
    assert alike(units, reader), "the features of the output units differ, and nothing was said"
    every = tuple(np.concatenate(parts) for parts in zip(*(gates for _, gates in sides), strict=True))
    whole = (np.concatenate([side[0] for side in sides]), every)
    form = npk.paths.form_of(f, params, x)
    variances = {True: reader.variance.__getitem__, False: lambda weight: 1.0}
    zero_or_one = (sides[2], sides[2])
    for normalize, variance in variances.items():
        h = paths.gram(units.flat[0], variance)
        for two, part, marked in (((whole, whole), slice(None), False), (zero_or_one, slice(2 * n, None), True)):
            for kind in (HostMoments, SecondMoments):
                ours, moments = _kernel.moment_of(form, params, *two, normalize, marked, np.dtype(float), kind)
                checked.close(f"{kind.__name__}, normalize={normalize}, binary={marked}", ours, h[part, part])
            for term in (t for base in moments.known for t in getattr(base[0], "inputs", ()) if marked and t.binary):
                assert np.isin(moments.sides[0].of(term.g), (0, 1)).all(), "factors other than 0 and 1 are said to be"
    for gate, theirs, one in zip(laid, reader.gates, gating.own_gates(f, params, x[:1]), strict=True):
        checked.close("a gate of one sample", one, gate.laid_out(theirs[:1]))
    spelling = list(SPELLINGS)[seed % len(SPELLINGS)]
    try:
        ours, shown = of_another_spelling(SPELLINGS[spelling](f), params, x)
    except npk.UnsupportedOperation as error:
        checked.refused = f"{spelling}: {error}"
        return
    assert shown == _features._names(paths_of(f, params, x).state), f"names, {spelling}"
    checked.close(f"kernel, {spelling}", ours, paths.gram(units.flat[0], variances[True])[:n, :n])


def of_another_spelling(f, params, x):
    """The kernel under its own gates, and the names."""
    gates = gating.own_gates(f, params, x)
    side = (x[:, None], _kernel.Network(f).laid_out(params, x, gates)[1])
    form = paths_of(f, params, x)
    h = _kernel.moment_of(form, params, side, side, True, False, np.dtype(float), HostMoments)[0]
    return h, _features._names(form.state)


def alike(units, reader) -> bool:
    """Whether one kernel is that of every output."""
    if len(units) == 1:
        return True
    grams = [
        [paths.gram(unit, variance) for variance in (reader.variance.__getitem__, lambda weight: 1.0)] for unit in units
    ]
    return not any(() in u.paths for u in units) and all(np.allclose(g, grams[0], 1e-9, 1e-12) for g in grams)


def check_features(checked: Checked, f, params, x, gates, units, reader, part: slice) -> None:
    """φ, v, names and counts of every output."""
    form = paths_of(f, params, x)
    numbers, state = form.numbers(np, params, x, form.gates(gates, len(x)), np.dtype(float)), form.state
    algebra = _coordinates.Features(numbers)
    rows = []
    for term in state:
        value = algebra.read(term, set(), _coordinates.output_dims(term))
        rows.append(value.reshape(value.shape[0], term.shape[-1], -1)[:, 0])
    phi = np.concatenate([np.broadcast_to(p, (len(x), p.shape[1])) for p in rows], 1)
    v = _coordinates.numbers(jax.tree_util.tree_leaves(params)).of_output(state)
    names = _coordinates.labels().of_output(state)
    assert names.shape == v.shape == (phi.shape[1], len(units)), (names.shape, v.shape, phi.shape)
    assert _features._count_of(state) == phi.shape[1], "count"
    checked.close("φ · v", phi @ v, paths.values(units)[part])
    for k, unit in enumerate(units):
        places = {name: i for i, name in enumerate(names[:, k])}
        assert len(places) == len(names), f"a name comes twice: {sorted(names[:, k])}"
        expected, products = np.zeros_like(phi), np.array(v[:, k])
        for path, feature in unit.paths.items():
            assert label(path) in places, f"no coordinate {label(path)!r} among {sorted(places)}"
            at = places[label(path)]
            expected[:, at] = feature[part]
            products[at] = math.prod(map(reader.number, path))
        checked.close(f"features of output {k}", phi, expected)
        checked.close(f"values of output {k}", v[:, k], products)
    shown = _features._names(state)
    assert len(set(shown)) == len(shown), f"a name comes twice: {sorted(shown)}"
    for name, whole in zip(shown, names[:, 0], strict=True):
        assert re.fullmatch(re.escape(name).replace(":", r"\d+"), whole), (name, whole)


def smallest(network: Network, fails) -> Network:
    """The network without the steps that a failure does not need."""
    number = len(network.steps)
    while number:
        number = min(number, len(network.steps)) - 1
        less = network.without(number)
        if less is not None and less.certain and fails(less):
            network = less
    return network
