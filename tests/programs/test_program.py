"""A scan opens to its steps, in however many parts and in whichever words a version of JAX describes it."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from npk import programs
from npk.programs import tracing

W, XS = np.arange(9.0, dtype=np.float32).reshape(3, 3) / 9, np.arange(24.0, dtype=np.float32).reshape(4, 2, 3) / 24


def plain(w, x):
    """Constants, one carry, slices, stacked outputs."""
    return jax.lax.scan(lambda h, t: (h @ w + t, h), x[0], x)


def several(w, x):
    """Two carries of different ranks, two constants, two stacked outputs, backwards."""
    start = (x[0], jnp.zeros((), x.dtype))
    step = lambda h, t: ((h[0] @ w + w[:1], h[1] + t.sum()), (t, h[1]))  # noqa: E731
    return jax.lax.scan(step, start, x, reverse=True)


def nothing_sliced(w, x):
    """A carry and constants alone."""
    return jax.lax.scan(lambda h, _: (h @ w, None), x[0], None, length=3)[0]


def nothing_carried(w, x):
    """Slices alone: a map."""
    return jax.lax.map(lambda t: t @ w, x)


def no_steps(w, x):
    """Of length zero."""
    return jax.lax.scan(lambda h, t: (h @ w + t, h), x[0], x[:0])


SCANS = {f.__name__: f for f in (plain, several, nothing_sliced, nothing_carried, no_steps)}


@pytest.fixture(params=SCANS.values(), ids=SCANS.keys())
def scan(request):
    return request.param


def assert_same(found, expected):
    expected = jax.tree.leaves(expected)
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_a_scan_is_opened_to_its_steps(scan):
    program = programs.trace(scan, W, XS)
    assert "scan" not in {e.name for e in program.equations}
    assert_same(programs.evaluate(program, [W, XS]), scan(W, XS))


@pytest.mark.parametrize("spelling", ["before JAX 0.11", "since JAX 0.11", "of no version"])
def test_how_the_parts_of_a_scan_are_named_does_not_matter(scan, spelling):
    closed = jax.make_jaxpr(scan)(W, XS)
    (eqn,) = [e for e in closed.jaxpr.eqns if e.primitive.name == "scan"]
    n_consts, n_carry = tracing._scan_parts(eqn)
    n_xs = len(eqn.invars) - n_consts - n_carry
    named = {
        "before JAX 0.11": {"num_consts": n_consts, "num_carry": n_carry},
        "since JAX 0.11": {"ft_in": ((None,) * n_consts, (None,) * n_carry, (None,) * n_xs)},
        "of no version": {},
    }[spelling]
    params = {k: eqn.params[k] for k in ("jaxpr", "length", "reverse")} | named
    respelt = types.SimpleNamespace(invars=eqn.invars, outvars=eqn.outvars, params=params)

    inputs = [programs.Var(v.aval) for v in eqn.invars]
    flattener = tracing._Flattener(lambda eqn: True)
    outputs = flattener.unroll(respelt, inputs)
    program = programs.Program((), tuple(inputs), tuple(flattener.equations), tuple(outputs), (), None)
    values = [np.ones(v.shape, v.dtype) for v in inputs]
    whole = programs.Equation(eqn.primitive, (), (), dict(eqn.params), None)
    assert_same(programs.evaluate(program, values), whole.bind(*values))


def test_parts_are_told_apart_by_their_ranks():
    closed = jax.make_jaxpr(several)(W, XS)
    (eqn,) = [e for e in closed.jaxpr.eqns if e.primitive.name == "scan"]
    n_consts, n_carry = tracing._scan_parts(eqn)
    assert n_carry == 2
    assert [len(v.aval.shape) for v in eqn.invars[n_consts + n_carry :]] == [3]
