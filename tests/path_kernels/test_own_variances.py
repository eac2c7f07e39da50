"""`normalize="own"`: H is the second moment over random signs of weights as large as f's own, layer by layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import normal
from oracles.signs import over_signs
from tolerances import assert_close

import npk

relu = jax.nn.relu
pytestmark = pytest.mark.usefixtures("as_users_write")


def root_mean_square(a):
    return np.full(a.shape, np.sqrt(np.mean(np.square(np.asarray(a, np.float64)))))


def stacked(p, x):
    h, _ = jax.lax.scan(lambda h, layer: (h + relu(h @ layer["w"] + layer["b"]), None), x, p["layers"])
    return h @ p["v"]


def attending(p, x):
    queries, keys, values = jnp.split(x @ p["qkv"], 3, -1)
    pattern = jax.nn.softmax(jnp.einsum("npc,nqc->npq", queries, keys))
    return (pattern @ values).mean(1) @ p["v"]


def convolved(p, x):
    x = jax.lax.conv_general_dilated(x, p["k"], (1,), "SAME", dimension_numbers=("NHC", "HIO", "NHC"))
    return relu(x + p["b"]).mean(1) @ p["v"]


def with_constants(p, x):
    return relu(0.5 * x @ (3.0 * p["w"]) - 2.0 * p["b"]) @ p["v"] + p["c"]


def parts_of_one(p, x):
    return relu(x @ p["w"][:2] + p["w"][2]) @ p["v"]


def class_token(p, x):
    return relu(jnp.concatenate([jnp.broadcast_to(p["c"], (len(x), 1, 2)), x @ p["w"]], 1)).sum(1) @ p["v"]


def chosen(name):
    """f, its parameters, and how large each of them is."""
    a, b = normal(2, 2, seed=4), normal(2, 2, seed=5) * 3.0
    layers = {"w": jnp.stack([a, b]), "b": jnp.asarray([[0.5, -1.5], [0.2, 0.1]])}
    f, params, x = {
        "constants and biases": (
            with_constants,
            {"w": normal(3, 2), "b": normal(2, seed=1), "v": normal(2, 1), "c": normal(1, seed=2)},
            normal(3, 3, seed=6),
        ),
        "layers in a scan": (stacked, {"layers": layers, "v": normal(2, 1)}, normal(3, 2, seed=6)),
        "a convolution": (convolved, {"k": normal(3, 1, 2), "b": normal(2), "v": normal(2, 1)}, normal(3, 4, 1)),
        "one leaf, weights and bias": (
            parts_of_one,
            {"w": jnp.concatenate([normal(2, 3), 5 * normal(1, 3)]), "v": normal(3, 1)},
            normal(3, 2),
        ),
        "queries, keys and values": (attending, {"qkv": normal(2, 6), "v": normal(2, 1)}, normal(3, 3, 2)),
        "a class token": (class_token, {"c": normal(2), "w": normal(2, 2), "v": normal(2, 1)}, normal(3, 2, 2)),
    }[name]
    sizes = jax.tree.map(root_mean_square, params)
    if name == "layers in a scan":
        sizes["layers"] = jax.tree.map(lambda a: np.stack([root_mean_square(row) for row in a]), layers)
    if name == "one leaf, weights and bias":
        w = np.asarray(params["w"])
        sizes["w"] = np.concatenate([root_mean_square(w[:2]), root_mean_square(w[2:])])
    return f, params, x, sizes


NAMES = ["constants and biases", "layers in a scan", "a convolution", "one leaf, weights and bias"]
NAMES += ["queries, keys and values", "a class token"]


@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_second_moment_over_signs_of_weights_as_large_as_their_own(name, x64):
    f, params, x, sizes = chosen(name)
    gates = npk.gates(f)(params, x)
    expected = over_signs(lambda w: npk.gated(f)(w, x, gates)[:, 0], sizes)
    h = npk.path_kernel(f)
    assert_close(h(params, x, normalize="own"), expected)
    assert_close(h(params, x[:2], x[1:], normalize="own"), expected[:2, 1:])
    assert_close(h(params, x, gates1=gates, normalize="own"), expected)
    log = npk.log_path_kernel(f)(params, x, normalize="own")
    assert_close(log.sign * jnp.exp(log.log), expected, factor=10)
    z = npk.sketch(f)(params, x, features=4096, key=jax.random.key(0), normalize="own")
    assert (abs(z.gram() - expected) <= 5 * z.standard_error() + 1e-9).all()


def test_weights_of_the_size_of_their_fan_in_are_normalised_ones(x64):
    """Signs over √fan-in have the variance 1/fan-in, whatever the signs are."""
    sign = lambda *shape: jnp.sign(normal(*shape))  # noqa: E731
    params = {"u": sign(4, 5) / 2, "b": sign(5), "v": sign(5, 2) / np.sqrt(5)}
    f = lambda p, x: relu(x @ p["u"] + p["b"]) @ p["v"]  # noqa: E731
    x = normal(6, 4)
    assert_close(npk.path_kernel(f)(params, x, normalize="own"), npk.path_kernel(f)(params, x))


def test_under_transformations_it_is_the_same_and_follows_the_parameters(x64):
    f, params, x, _ = chosen("constants and biases")
    h = npk.path_kernel(f)
    own = lambda p, x: h(p, x, normalize="own")  # noqa: E731
    assert_close(jax.jit(own)(params, x), own(params, x))
    twice = {**params, "v": 2 * params["v"], "c": 2 * params["c"]}
    assert_close(own(twice, x), 4 * own(params, x))
    gates = npk.gates(f)(params, x)
    held = lambda t: h({**params, "v": t * params["v"]}, x, gates1=gates, normalize="own").sum()  # noqa: E731
    near = (held(1 + 1e-6) - held(1 - 1e-6)) / 2e-6
    assert abs(jax.grad(held)(1.0) - near) <= 1e-6 * abs(near)


def test_a_batch_of_parameters_has_a_kernel_of_each(x64):
    f, params, x, _ = chosen("constants and biases")
    own = lambda p: npk.path_kernel(f)(p, x, normalize="own")  # noqa: E731
    twice = jax.tree.map(lambda a: 2 * a, params)
    found = jax.vmap(own)(jax.tree.map(lambda a, b: jnp.stack([a, b]), params, twice))
    assert_close(found[0], own(params))
    assert_close(found[1], own(twice))


@pytest.mark.standard_dtypes
def test_tokens_read_one_row_of_a_table_as_large_as_its_own(x64):
    f = lambda p, x: relu(p["table"][x].mean(1)) @ p["v"]  # noqa: E731
    params, x = {"table": 3 * normal(5, 4), "v": normal(4, 2)}, np.random.default_rng(0).integers(0, 5, (6, 3))
    shares, gates = jax.nn.one_hot(x, 5).mean(1), npk.gates(f)(params, jnp.asarray(x))[0]
    table, last = (np.mean(np.square(params[name])) for name in ("table", "v"))
    expected = (shares @ shares.T) * table * (gates @ gates.T) * last
    assert_close(npk.path_kernel(f)(params, jnp.asarray(x), normalize="own"), expected)


@pytest.mark.standard_dtypes
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_squares_of_half_precision_are_summed_in_single(dtype):
    """300² leaves float16; the mean of its squares does not."""
    f = lambda p, x: relu(x @ p["w"]) @ p["v"]  # noqa: E731
    params = {"w": (300 * normal(3, 64)).astype(dtype), "v": normal(64, 1).astype(dtype)}
    x = normal(4, 3).astype(dtype)
    gates = npk.gates(f)(params, x)
    single = jax.tree.map(lambda a: a.astype(jnp.float32), (params, x, gates))
    expected = npk.path_kernel(f)(*single[:2], gates1=single[2], normalize="own")
    assert_close(npk.path_kernel(f)(params, x, normalize="own"), expected)


def test_blocks_of_many_samples_and_deep_networks(x64):
    """In blocks, and by a program for each kind of term, as a large kernel is computed."""
    depth = 12
    params = {"w": [normal(6, 6, seed=i) / 2 for i in range(depth)], "v": normal(6, 1)}

    def f(p, x):
        for w in p["w"]:
            x = x + relu(x @ w)
        return x @ p["v"]

    x = normal(40, 6)
    few = npk.path_kernels.Thresholds(numpy_work=1, whole_terms=1)
    found = npk.path_kernel(f, thresholds=few)(params, x, normalize="own")
    gates = [np.asarray(g) for g in npk.gates(f)(params, x)]
    total = np.asarray(x)[:, None] * np.asarray(x)[None]  # [n, m, channel], summed over all sub-networks
    for w, g in zip(params["w"], gates, strict=True):
        total = total + np.mean(np.square(w)) * total.sum(-1, keepdims=True) * g[:, None] * g[None]
    assert_close(found, total.sum(-1) * np.mean(np.square(params["v"])))


def test_leaves_of_zeros_count_nothing_and_large_ones_stay_in_range():
    f = lambda p, x: relu(x @ p["w"] + p["b"]) @ p["v"]  # noqa: E731
    params = {"w": normal(3, 4), "b": jnp.zeros(4), "v": normal(4, 1)}
    x, h = normal(5, 3), npk.path_kernel(f)
    without = npk.path_kernel(lambda p, x: relu(x @ p["w"]) @ p["v"])
    assert_close(h(params, x, normalize="own"), without(params, x, normalize="own"))
    large = {"w": 1e25 * params["w"], "b": params["b"], "v": 1e-25 * params["v"]}
    log = npk.log_path_kernel(f)(large, x, normalize="own")
    assert_close(log.sign * jnp.exp(log.log), h(params, x, normalize="own"), factor=100)


@pytest.mark.parametrize("transform", [npk.path_kernel, npk.log_path_kernel])
def test_no_other_word_is_a_scaling(transform):
    f = lambda p, x: relu(x @ p["w"]) @ p["v"]  # noqa: E731
    with pytest.raises(ValueError, match="normalize must be True, False or \"own\", got 'mine'"):
        transform(f)({"w": jnp.ones((2, 3)), "v": jnp.ones((3, 1))}, jnp.ones((2, 2)), normalize="mine")


def test_engines_say_that_they_do_not_cover_it():
    f = lambda p, x: relu(x @ p["w"]) @ p["v"]  # noqa: E731
    params, x = {"w": jnp.ones((4, 64)), "v": jnp.ones((64, 1))}, normal(6, 4)
    few = npk.path_kernels.Thresholds(packed_pairs=1)
    said = npk.path_kernel(f, thresholds=few).engines(params, x, normalize="own")
    assert [e.name for e in said if e.runs] == ["rules"]
    assert any("as large as their own numbers" in e.why for e in said)
