"""Gates of every spelling of an activation, and of models written in every way."""

import re

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from draws import normal, variables
from flax import nnx
from tolerances import assert_close

import npk

PARAMS = {"a": normal(3, 4), "c": normal(4, 2)}
X = normal(5, 3)

RELU = {
    "jax.nn.relu": jax.nn.relu,
    "flax": nn.relu,
    "maximum": lambda q: jnp.maximum(q, 0),
    "maximum, zero first": lambda q: jnp.maximum(0, q),
    "where": lambda q: jnp.where(q > 0, q, 0),
    "mask": lambda q: q * (q > 0),
    "select": lambda q: jnp.select([q > 0], [q], 0.0),
    "half of q and |q|": lambda q: (q + jnp.abs(q)) / 2,
    "halves of q and |q|": lambda q: 0.5 * q + 0.5 * jnp.abs(q),
    "minimum of -q": lambda q: -jnp.minimum(-q, 0),
    "vectorize": jnp.vectorize(lambda t: jnp.where(t > 0, t, 0.0)),
    "a vmapped cond": jax.vmap(jax.vmap(lambda t: jax.lax.cond(t > 0, lambda t: t, jnp.zeros_like, t))),
}
SOFT = {
    "soft_relu": (npk.soft_relu, lambda q: jax.nn.sigmoid(4 * q)),
    "silu": (jax.nn.silu, jax.nn.sigmoid),
    "silu by hand": (lambda q: q / (1 + jnp.exp(-q)), jax.nn.sigmoid),
    "gelu": (lambda q: jax.nn.gelu(q, approximate=False), lambda q: (1 + jax.lax.erf(q / 2**0.5)) / 2),
    "gelu, tanh": (jax.nn.gelu, lambda q: (1 + jnp.tanh((2 / jnp.pi) ** 0.5 * (q + 0.044715 * q**3))) / 2),
}
# With no factor q of their own: γ(q) = a(q)/q.
OTHERS = {
    "celu": jax.nn.celu,
    "elu": jax.nn.elu,
    "exp - 1": lambda q: jnp.exp(q) - 1,
    "hard tanh": jax.nn.hard_tanh,
    "relu squared": lambda q: jax.nn.relu(q) * jax.nn.relu(q),
    "relu6": jax.nn.relu6,
    "elu of another slope": lambda q: jax.nn.elu(q, 1.7),
    "sin": jnp.sin,
    "soft sign": jax.nn.soft_sign,
    "square plus": lambda q: (q + jnp.sqrt(q * q + 4)) / 2 - 1,
    "tanh": jnp.tanh,
}


def network(activation):
    return lambda p, x: activation(x @ p["a"]) @ p["c"]


@pytest.mark.standard_dtypes
@pytest.mark.parametrize("relu", RELU.values(), ids=RELU.keys())
def test_relu_in_any_spelling_has_hard_gates(relu):
    f = network(relu)
    (gate,) = npk.gates(f)(PARAMS, X)
    assert (gate == (X @ PARAMS["a"] > 0)).all()
    assert (npk.gated(f)(PARAMS, X, (gate,)) == f(PARAMS, X)).all()
    (at_zero,) = npk.gates(f)(PARAMS, jnp.zeros_like(X))
    assert not at_zero.any()


@pytest.mark.parametrize(("activation", "expected"), SOFT.values(), ids=SOFT.keys())
def test_soft_activations_have_the_gate_a_of_q_over_q(activation, expected):
    f = network(activation)
    (gate,) = npk.gates(f)(PARAMS, X)
    assert_close(gate, expected(X @ PARAMS["a"]))
    assert_close(npk.gated(f)(PARAMS, X, (gate,)), f(PARAMS, X))


def test_numbers_inside_a_gate_may_have_any_shape():
    q = jnp.linspace(-2.0, 2.0, 6).reshape(2, 3)
    two = jnp.full((1, 3), 2.0)
    for f in (lambda p, q: q * jax.nn.sigmoid(jnp.full_like(q, 2.0) * q), lambda p, q: q * jax.nn.sigmoid(two * q)):
        (gate,) = npk.gates(f)({}, q)
        assert_close(gate, jax.nn.sigmoid(2 * q))


@pytest.mark.standard_dtypes
@pytest.mark.parametrize("activation", OTHERS.values(), ids=OTHERS.keys())
def test_any_function_that_is_zero_at_zero_is_q_times_its_gate(activation):
    f, x = network(activation), 2 * X
    (gate,), (q,) = npk.gates(f)(PARAMS, x), npk.preactivations(f)(PARAMS, x)
    assert_close(q, x @ PARAMS["a"])
    assert_close(gate, activation(q) / q)
    assert_close(npk.gated(f)(PARAMS, x, (gate,)), f(PARAMS, x))
    assert_close(npk.linear(f)(PARAMS, x), x @ PARAMS["a"] @ PARAMS["c"])
    identity = lambda p, x: activation(x)  # noqa: E731
    (at_zero,) = npk.gates(identity)({}, jnp.zeros((1, 2)))
    slope = jax.grad(lambda q: activation(q)[0, 0])(jnp.full((1, 2), -1e-6))[0, 0]
    assert_close(at_zero, jnp.full((1, 2), slope), factor=100)


def test_a_maximum_in_a_part_that_is_not_trained_is_an_activation():
    frozen = lambda p, x: jax.lax.stop_gradient((x @ p["a"]).reshape(-1, 2, 2).max(2)) @ p["c"][:2]  # noqa: E731
    (gate,) = npk.gates(frozen)(PARAMS, X)
    assert_close(npk.gated(frozen)(PARAMS, X, (gate,)), frozen(PARAMS, X))


@pytest.mark.standard_dtypes
def test_an_activation_that_others_read_stays_one():
    def f(p, x):
        q = x @ p["a"]
        a = jax.nn.relu(q)
        return (a * jax.nn.sigmoid(q)) @ p["c"] + a @ p["c"]

    hard, soft = npk.gates(f)(PARAMS, X)
    q = X @ PARAMS["a"]
    assert (hard == (q > 0)).all()
    assert_close(soft, jnp.where(q > 0, jax.nn.sigmoid(q), 0))
    skip = network(lambda q: q + jax.nn.relu(q))
    assert (npk.gates(skip)(PARAMS, X)[0] == (q > 0)).all()


def test_gates_of_other_slopes_and_what_is_no_gate():
    (gate,) = npk.gates(network(jax.nn.leaky_relu))(PARAMS, X)
    assert set(jnp.unique(gate).tolist()) == {jnp.float32(0.01).item(), 1.0}
    (gate,), (unit,) = (npk.gates(network(a))(PARAMS, X) for a in (jax.nn.selu, lambda q: jax.nn.elu(q, 1.6732632)))
    assert_close(gate, unit)  # the number in front stays in front
    (gate,) = npk.gates(network(lambda q: 3.0 * jax.nn.relu(2.0 * q)))(PARAMS, X)
    assert set(jnp.unique(gate).tolist()) == {0.0, 1.0}


def test_what_is_neither_linear_nor_a_gate_is_refused_unless_it_is_allowed():
    others = {
        "exp": jax.nn.softmax,
        "log1p": jax.nn.softplus,
        "cos": jnp.cos,
        "cbrt": jnp.cbrt,
        "sign": jnp.sign,
        "mul": lambda q: q * q[:, ::-1],
        "min": lambda q: jnp.minimum(q, q[:, ::-1]),
        "div": lambda q: 1 / (3 + q[:, ::-1]),
        "sqrt": lambda q: jnp.sqrt(1 + q * q),
        "dot_general": lambda q: q * jnp.einsum("nk,nk->n", q, q)[:, None],
        "sort": lambda q: jnp.sort(q, axis=1),
        "reduce_min": lambda q: q.min(1, keepdims=True) + jnp.zeros((1, 4)),
        "cumprod": lambda q: jax.lax.cumprod(q, 1),
        "lgamma": lambda q: jax.lax.lgamma(q + 9),
        "convert_element_type": lambda q: (q > q[:, ::-1]).astype(q.dtype),
    }
    for name, other in others.items():
        f = network(other)
        both = {"feature": PARAMS, "value": PARAMS}
        transforms = (npk.gates, npk.preactivations, npk.linear, npk.split_ntk, npk.split_ntk_diagonal)
        for transform, p in (*((t, PARAMS) for t in transforms), (npk.DGN, both), (npk.DLGN, both)):
            with pytest.raises(npk.UnsupportedOperation, match=rf"(?s)`{name}` at .*test_gating.py.*allow="):
                transform(f)(p, X)
        (primitives,) = re.findall(r"allow=\((.*)\)\.", str(pytest.raises(ValueError, npk.gates(f), PARAMS, X).value))
        allow = re.findall(r"'(\w+)'", primitives)
        assert npk.gates(f, allow=allow)(PARAMS, X) == npk.gates(f, allow=("test_gating.py",))(PARAMS, X) == ()
        assert_close(npk.linear(f, allow=allow)(PARAMS, X), f(PARAMS, X))
        assert_close(npk.split_ntk(f, allow=allow)(PARAMS, X).value, npk.ntk(f)(PARAMS, X))
    with pytest.raises(ValueError, match="not 'exp'"):
        npk.gates(network(jax.nn.softmax), allow="exp")(PARAMS, X)


def test_a_norm_for_an_output_is_not_linear():
    f = lambda p, x: jnp.linalg.norm(x @ p["a"], axis=1, keepdims=True)  # noqa: E731
    with pytest.raises(npk.UnsupportedOperation, match="`sqrt`"):
        npk.gates(f)(PARAMS, X)


def test_masks_that_do_not_depend_on_x_are_linear():
    mask = jnp.array([[True, False, True, True]])
    f = network(lambda q: jnp.where(mask, jax.nn.relu(q), 0.0) * mask.astype(q.dtype))
    assert len(npk.gates(f)(PARAMS, X)) == 1
    tokens = lambda p, x: jax.nn.relu(jax.nn.one_hot(x[:, 0], 3) @ p["a"]) @ p["c"]  # noqa: E731
    assert len(npk.gates(tokens)(PARAMS, jnp.array([[0], [2]]))) == 1


def test_the_scale_of_a_sample_is_a_gate_and_that_of_a_batch_stays():
    scaled = {
        "rsqrt": jax.nn.standardize,
        "of the batch": lambda q: jax.nn.standardize(q, axis=0),
        "std": lambda q: (q - q.mean(1, keepdims=True)) / (q.std(1, keepdims=True) + 1e-5),
        "power": lambda q: q * (q.var(1, keepdims=True) + 1e-5) ** -0.5,
        "norm": lambda q: q / jnp.maximum(jnp.linalg.norm(q, axis=1, keepdims=True), 1e-12),
    }
    for name, scale in scaled.items():
        f = network(lambda q, scale=scale: jax.nn.relu(scale(q)))
        kinds = [g.kind for g in npk.explain(f)(PARAMS, X).gates]
        assert kinds == (["hard"] if name == "of the batch" else ["scale", "hard"]), name
        found = npk.gates(f)(PARAMS, X)
        assert_close(npk.gated(f)(PARAMS, X, found), f(PARAMS, X))
        assert len(npk.gates(f, kinds=("activation",))(PARAMS, X)) == 1


def test_a_factor_that_holds_a_nonlinearity_is_the_gate_of_what_it_multiplies():
    """In whatever order, and with an affine factor that occurs inside it."""
    u, v, silu = (lambda q: q, lambda q: q[:, ::-1], jax.nn.silu)
    products = {
        "sigmoid": (lambda q: v(q) * jax.nn.sigmoid(q), jax.nn.sigmoid),
        "silu": (lambda q: silu(q) * v(q), silu),
        "affine first": (lambda q: (u(q) * v(q)) * jax.nn.sigmoid(q), silu),
        "affine last": (lambda q: u(q) * (jax.nn.sigmoid(q) * v(q)), silu),
        "numbers between": (lambda q: (v(q) * 2 * u(q)) * jax.nn.sigmoid(q), silu),
        "a denominator": (lambda q: v(q) / (1 + q * q), lambda q: 1 / (1 + q * q)),
        "a condition": (lambda q: jnp.where(q > 0, v(q), 0.0), npk.hard_gate),
        "either case": (lambda q: jnp.where(q > 0, v(q), -v(q)), npk.hard_gate),
        "one minus": (lambda q: (1 - jax.nn.sigmoid(q)) * v(q), jax.nn.sigmoid),
    }
    q = X @ PARAMS["a"]
    for name, (product, gate) in products.items():
        f = network(product)
        (found,) = npk.gates(f)(PARAMS, X)
        assert_close(found, gate(q))
        assert_close(npk.gated(f)(PARAMS, X, (found,)), f(PARAMS, X))
        (kind,) = [g.kind for g in npk.explain(f)(PARAMS, X).gates]
        assert kind == "product", name


def test_either_side_of_a_product_may_be_declared_the_gate():
    def f(p, x):
        q = x @ p["a"]
        left = q[:, ::-1] + 0
        return (left * q) @ p["c"]

    line = f.__code__.co_firstlineno + 2
    with pytest.raises(npk.UnsupportedOperation, match=r"(?s)`mul`.*npk.as_gate"):
        npk.gates(f)(PARAMS, X)
    marked = network(lambda q: npk.as_gate(q[:, ::-1]) * q)
    (found,) = npk.gates(f, gate_at=(f"test_gating.py:{line}",))(PARAMS, X)
    assert_close(found, (X @ PARAMS["a"])[:, ::-1])
    assert (found == npk.gates(marked)(PARAMS, X)[0]).all()
    h = npk.path_kernel(f, gate_at=(f"test_gating.py:{line}",))(PARAMS, X)
    assert_close(h, npk.path_kernel(marked)(PARAMS, X))
    with pytest.raises(ValueError, match="makes nothing of x"):
        npk.gates(f, gate_at=("nowhere.py:1",))(PARAMS, X)
    with pytest.raises(npk.UnsupportedOperation, match="declared to be a gate"):
        npk.gates(network(npk.as_gate))(PARAMS, X)
    with pytest.raises(ValueError, match="floating"):
        npk.as_gate(jnp.arange(3))
    with pytest.raises(ValueError, match="kinds must be some of activation, choice"):
        npk.gates(f, kinds=("softmax",))(PARAMS, X)


def test_a_maximum_may_be_taken_of_what_a_mask_leaves():
    f = lambda p, x: jnp.where(jnp.array([[True, False, True, True]]), x @ p["a"], -jnp.inf).max(1, keepdims=True)  # noqa: E731
    assert (npk.gated(f)(PARAMS, X, npk.gates(f)(PARAMS, X)) == f(PARAMS, X)).all()


def test_transformations_of_gates():
    f = network(npk.soft_relu)
    gates = npk.gates(f)
    assert_close(jax.jit(gates)(PARAMS, X)[0], gates(PARAMS, X)[0])
    stacked = jax.tree.map(lambda a: jnp.stack([a, 2 * a]), PARAMS)
    assert_close(jax.vmap(gates, (0, None))(stacked, X)[0][1], gates(jax.tree.map(lambda a: 2 * a, PARAMS), X)[0])
    _, slope = jax.jvp(lambda x: gates(PARAMS, x)[0], (X,), (X,))
    q = X @ PARAMS["a"]
    assert_close(slope, 4 * q * jax.nn.sigmoid(4 * q) * jax.nn.sigmoid(-4 * q))
    own = gates(PARAMS, X)
    value = jax.grad(lambda p: npk.gated(f)(p, X, own).sum())(PARAMS)
    assert_close(value["c"], ((own[0] * q).sum(0)[:, None] * jnp.ones((1, 2))))


def test_linear_composes_with_preactivations_and_gates():
    f = lambda p, x: jax.nn.relu(jax.nn.relu(x @ p["a"]) @ p["b"]) @ p["c"]  # noqa: E731
    p = {**PARAMS, "b": normal(4, 4)}
    assert_close(npk.linear(f)(p, X), X @ p["a"] @ p["b"] @ p["c"])
    first, second = npk.preactivations(npk.linear(f))(p, X)
    assert_close(first, X @ p["a"])
    assert_close(second, X @ p["a"] @ p["b"])
    assert all((g == 1).all() for g in npk.gates(npk.linear(f))(p, X))


@pytest.mark.standard_dtypes
def test_flax_linen_nnx_equinox_and_plain_functions_are_one_network():
    x = normal(3, 6, 6, 2)

    class Linen(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.max_pool(nn.relu(nn.Conv(4, (3, 3))(x)), (2, 2), (2, 2))
            return nn.Dense(2)(x.reshape(x.shape[0], -1))

    linen = Linen()
    params = variables(linen, x)
    conv, dense = params["params"]["Conv_0"], params["params"]["Dense_0"]

    class Split(nnx.Module):
        def __init__(self, rngs):
            self.conv, self.dense = nnx.Conv(2, 4, (3, 3), rngs=rngs), nnx.Linear(36, 2, rngs=rngs)

        def __call__(self, x):
            x = nn.max_pool(nnx.relu(self.conv(x)), (2, 2), (2, 2))
            return self.dense(x.reshape(x.shape[0], -1))

    graph, state = nnx.split(nnx.eval_shape(lambda: Split(nnx.Rngs(0))))
    given = {"conv": conv, "dense": dense}
    state = jax.tree_util.tree_map_with_path(lambda path, _: given[path[0].key][path[1].key], state)

    class Single(eqx.Module):
        conv: eqx.nn.Conv2d
        pool: eqx.nn.MaxPool2d
        dense: eqx.nn.Linear

        def __call__(self, x):
            x = self.pool(jax.nn.relu(self.conv(x.transpose(2, 0, 1))))
            return self.dense(x.transpose(1, 2, 0).reshape(-1))

    def made(key):
        return Single(eqx.nn.Conv2d(2, 4, 3, padding=1, key=key), eqx.nn.MaxPool2d(2, 2), eqx.nn.Linear(36, 2, key=key))

    single = eqx.filter_eval_shape(made, jax.random.key(0))
    weights = (conv["kernel"].transpose(3, 2, 0, 1), conv["bias"][:, None, None], dense["kernel"].T, dense["bias"])
    where = lambda m: (m.conv.weight, m.conv.bias, m.dense.weight, m.dense.bias)  # noqa: E731
    arrays, static = eqx.partition(eqx.tree_at(where, single, weights), eqx.is_array)

    models = {
        "linen": (linen.apply, params),
        "nnx": (lambda s, x: nnx.merge(graph, s)(x), state),
        "equinox": (lambda a, x: jax.vmap(eqx.combine(a, static))(x), arrays),
    }
    expected, tangents = npk.path_kernel(linen.apply)(params, x), npk.ntk(linen.apply)(params, x)
    for name, (f, p) in models.items():
        gates = npk.gates(f)(p, x)
        assert len(gates) == 2, name
        assert (npk.gated(f)(p, x, gates) == f(p, x)).all(), name
        assert_close(f(p, x), linen.apply(params, x))
        assert_close(npk.path_kernel(f)(p, x), expected)
        assert_close(npk.ntk(f)(p, x), tangents)
