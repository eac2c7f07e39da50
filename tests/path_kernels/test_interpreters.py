"""Second moments in NumPy, by programs for kinds of terms, and traced: one form, the same numbers."""

import dataclasses
import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from architectures import REGISTRY, case
from tolerances import assert_close

import npk
from npk import networks
from npk.path_kernels import interpreters, output_moment
from npk.path_kernels.counts import check_counts
from npk.path_kernels.demands import demands_of, size_of
from npk.path_kernels.interpreters import CompiledMoments, HostMoments
from npk.path_kernels.moments import SecondMoments
from npk.path_kernels.network import Network
from npk.paths import Numbers, form_of, labels, parts_of

# One of each family is traced as a whole, which is slow; all are computed by kinds.
FAMILIES = ["mlp with biases", "groups", "max pooling", "residual batch norm", "flatten head", "learned scale"]


def batches(name, soft: bool):
    """The form of an architecture, its parameters, and two batches with gates, all in float64."""
    f, params, x = case(REGISTRY[name], n=5)
    rng = np.random.default_rng(1)
    network = Network(f)
    params = jax.tree.map(lambda a: np.asarray(a, float), params)
    x = np.asarray(x, float)
    gates = [np.asarray(g, float) for g in network.own_gates(params, x)]
    gates = [rng.normal(size=g.shape) for g in gates] if soft else gates
    x, gates = network.laid_out(params, x, gates)
    cut = lambda part: (x[part], [g[part] for g in gates])  # noqa: E731
    return form_of(f, params, x[:, 0]), params, cut(slice(0, 2)), cut(slice(2, 5))


def moment(kind, xp, form, params, one, two, normalize, binary, **options):
    fixed = form.fixed(params)
    sides = Numbers(xp, *one, fixed, np.dtype(float)), Numbers(xp, *two, fixed, np.dtype(float))
    return output_moment(form.state, kind(2, 3, normalize, sides, binary, **options))


def alike(one, two):
    """Counts exactly."""
    whole = (two % 1 == 0).all()
    np.testing.assert_allclose(one, two, rtol=0 if whole else 1e-12, atol=0 if whole else 1e-12 * abs(two).max())


@pytest.mark.parametrize("name", REGISTRY)
@pytest.mark.parametrize("soft", [False, True], ids=["counts", "soft"])
def test_programs_for_kinds_of_terms_compute_what_numpy_computes(name, soft, x64, monkeypatch):
    monkeypatch.setattr(interpreters, "_SMALL", 0)
    form, *rest = batches(name, soft)
    of_numpy = moment(HostMoments, np, form, *rest, normalize=soft, binary=not soft)
    by_kinds = moment(CompiledMoments, np, form, *rest, normalize=soft, binary=not soft)
    assert isinstance(of_numpy, np.ndarray)
    alike(by_kinds, of_numpy)


def test_what_is_kept_from_call_to_call_serves_any_dtype(x64, monkeypatch):
    monkeypatch.setattr(interpreters, "_SMALL", 0)
    form, params, one, two = batches("residual batch norm", True)
    known, found = {}, {}
    for dtype in (np.dtype("float32"), np.dtype("float64"), np.dtype("float32")):
        sides = [Numbers(np, *side, form.fixed(params), dtype) for side in (one, two)]
        found[dtype] = output_moment(form.state, CompiledMoments(2, 3, True, tuple(sides), known_before=known))
        assert found[dtype].dtype == dtype
    np.testing.assert_allclose(*found.values(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_traced_is_what_numpy_computes(name, x64):
    form, *rest = batches(name, False)
    traced = jax.jit(lambda *numbers: moment(SecondMoments, jnp, form, *numbers, normalize=False, binary=True))(*rest)
    alike(traced, moment(HostMoments, np, form, *rest, normalize=False, binary=True))


def blocks(model, depth, seed=0):
    """A residual network of its own widths, so that none of its programs has been met."""
    net = model(depth)
    x = np.random.default_rng(seed).normal(size=(4, 16, 16, 3)).astype(np.float32)
    shapes = jax.eval_shape(net.init, jax.random.key(0), x)
    return net.apply, jax.tree.map(lambda s: np.full(s.shape, 0.1, s.dtype), shapes), x


def compiled(function) -> int:
    """How many programs are compiled while a function runs."""
    before = interpreters._with_term._cache_size() + interpreters._sum._cache_size()
    function()
    return interpreters._with_term._cache_size() + interpreters._sum._cache_size() - before


def test_a_deeper_network_compiles_no_more():
    def first(depth, width):
        f, params, x = blocks(lambda depth: networks.ResNet(depth=depth, width=width, outputs=3), depth)
        return compiled(lambda: npk.path_kernel(f)(params, x[:2]))

    assert max(first(20, 5), first(32, 6)) <= 20


def residual(depth):
    def f(p, x):
        x = x @ p["first"]
        for b in range(depth):
            x = x + jax.nn.relu(x + p["shift"][b][None]) @ p["block"][b]
        return jax.nn.relu(x) @ p["last"]

    rng = np.random.default_rng(0)
    shapes = {"first": (3, 4), "shift": (depth, 4), "block": (depth, 4, 4), "last": (4, 2)}
    return f, {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def test_what_several_layers_read_is_summed_once():
    """The terms of x + W·relu(x + b) are all gated alike: depth costs no square."""
    x = np.ones((2, 3), np.float32)

    def terms(depth):
        f, params = residual(depth)
        return size_of(demands_of(form_of(f, params, x).state)).terms

    assert terms(8) - terms(7) == terms(4) - terms(3)
    f, params = residual(3)
    phi = npk.npf(f)(params, x)
    np.testing.assert_allclose(npk.path_kernel(f)(params, x, normalize=False), phi @ phi.T, rtol=1e-5)


def test_programs_do_not_keep_the_network():
    f, params, x = blocks(lambda depth: networks.ResNet(depth=depth, width=3, outputs=2), 14)
    npk.path_kernel(f)(params, x[:2])
    form = weakref.ref(form_of(Network(f).f, params, x))
    del f, params
    gc.collect()
    assert form() is None


def test_programs_do_not_keep_the_numbers_that_the_network_closes_over():
    held = jnp.full((1, 4), 2.0)

    def f(p, x):
        q = (x * held) @ p["w"]
        return jax.nn.relu((q - p["mean"][None]) / jnp.sqrt(p["var"][None] + 1e-5)) @ p["v"]

    ones = np.ones(4, np.float32)
    params = {"w": np.eye(4, dtype=np.float32), "mean": ones, "var": ones, "v": np.ones((4, 1), np.float32)}
    npk.path_kernel(f)(params, np.ones((3, 4), np.float32))
    gone = weakref.ref(held)
    del f, held
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("name", REGISTRY)
def test_elements_of_one_label_are_one_number_and_others_are_not(name, x64):
    form, params, one, _ = batches(name, True)
    rng = np.random.default_rng(2)
    x, gates = (jax.tree.map(lambda a: rng.uniform(1, 2, a.shape), part) for part in one)
    fixed = {var: rng.uniform(1, 2, var.shape) for var in form.fixed_variables}
    numbers = Numbers(np, x[:1], [g[:1] for g in gates], fixed, np.dtype(float))
    for term in [t for layer in npk.paths.bases_of(form.state) for t in layer.inputs]:
        value = np.broadcast_to(numbers.of(term.g)[0], term.g.shape).reshape(-1)
        _, held = labels(term.g)
        held = held.reshape(len(held), -1).T
        _, which = np.unique(held, axis=0, return_inverse=True)
        _, alike = np.unique(value, return_inverse=True)
        assert len(np.unique(np.stack([which.reshape(-1), alike]), axis=1).T) == len(np.unique(which))
        np.testing.assert_array_equal((held > 0).all(1), value != 0)
        product = np.ones(term.g.shape)
        for part in parts_of(term.g):
            leaf = np.broadcast_to(numbers.of(part.leaf)[0], part.leaf.shape).reshape(-1)
            product = product * np.where(part.where >= 0, leaf[np.maximum(part.where, 0)], 0)
        np.testing.assert_allclose(product.reshape(-1), value, rtol=1e-14)


def test_a_leaf_is_read_by_name_not_by_its_numbers():
    """Two gates of one shape are two, and a gate twice is one."""
    f = lambda p, x: (jax.nn.relu(x @ p["a"]) + jax.nn.relu(x @ p["b"])) @ p["c"]  # noqa: E731
    params = {"a": np.ones((2, 3), np.float32), "b": np.ones((2, 3), np.float32), "c": np.ones((3, 1), np.float32)}
    form = form_of(f, params, np.ones((1, 2), np.float32))
    (layer,) = (base for base in npk.paths.bases_of(form.state) if len(base.inputs) == 2)
    leaves = [labels(term.g)[0] for term in layer.inputs]
    assert leaves[0] != leaves[1] and all(len(names) == 1 for names in leaves)
    assert dataclasses.replace(layer.inputs[0].g).name == layer.inputs[0].g.name


def numbers(*shape):
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


def mixer(p, x):
    """Channels and positions take turns; the first layer's bias is one for each position."""
    h = jnp.swapaxes(jax.nn.relu(x @ p["w"] + p["b"][None]), 1, 2)
    return jax.nn.relu(h @ p["v"] + p["c"][None, None]).mean(1) @ p["u"]


def one_channel_each(p, x):
    """Every channel goes through one and the same weights, whose input was shifted by a number."""
    return jnp.sum(jax.nn.relu(jax.nn.relu(x @ p["w"] + 1.0)[..., None] @ p["v"]), 1) @ p["u"]


@pytest.mark.parametrize(
    ("f", "shapes", "sample"),
    [
        (mixer, {"w": (3, 4), "b": (5, 1), "v": (5, 3), "c": (3,), "u": (3, 2)}, (5, 3)),
        (one_channel_each, {"w": (3, 4), "v": (1, 2), "u": (2, 1)}, (3,)),
    ],
)
def test_what_is_constant_is_not_summed_under_the_independence_of_what_is_not(f, shapes, sample):
    params, x = {name: numbers(*shape) for name, shape in shapes.items()}, numbers(2, *sample)
    phi = npk.npf(f)(params, x)
    np.testing.assert_allclose(npk.path_kernel(f)(params, x, normalize=False), phi @ phi.T, rtol=1e-4, atol=1e-5)


def test_a_number_that_f_closes_over_may_be_traced():
    params, x = {"w": numbers(3, 4), "v": numbers(4, 1)}, numbers(2, 3)

    def h(c):
        return npk.path_kernel(lambda p, x: jax.nn.relu(x @ p["w"]) * c @ p["v"])(params, x).sum()

    expected = h(2.0)
    np.testing.assert_allclose(jax.grad(h)(2.0), expected, rtol=1e-5)  # h is c² times a number
    np.testing.assert_allclose(jax.vmap(h)(jnp.array([1.0, 2.0])), [expected / 4, expected], rtol=1e-5)


def test_depth_is_no_recursion():
    """Of layers, and of the factors between two of them."""
    x, gates = numbers(2, 3), jnp.ones((2, 2))
    layers = {"first": numbers(3, 2), "rest": [numbers(2, 2)] * 300, "last": numbers(2, 1)}

    def deep(p, x):
        x = jax.nn.relu(x @ p["first"])
        for w in p["rest"]:
            x = jax.nn.relu(x @ w)
        return x @ p["last"]

    h = npk.path_kernel(deep)(layers, x, gates1=(gates,) * 301)
    np.testing.assert_allclose(h, npk.gram(x), rtol=1e-4)

    def residual_without_weights(p, x):
        x = x @ p["first"]
        for _ in range(40):
            x = x + jax.nn.relu(x)
        return x @ p["last"]

    found = npk.path_kernel(residual_without_weights)(layers, x[:1], gates1=(gates[:1],) * 40)
    np.testing.assert_allclose(found, npk.gram(x[:1]) * 2.0**80, rtol=1e-4)


class Unseen:
    """What npk cannot look into, so that nothing of a function that reads it is remembered."""

    __slots__ = ("scale",)


def test_one_form_serves_a_kernel_also_where_nothing_can_be_remembered():
    unseen = Unseen()
    unseen.scale = 2.0

    def f(p, x):
        h = x @ p["w"] * unseen.scale
        h = h * jax.lax.rsqrt(p["variance"][None] + 1e-3) + p["shift"][None]
        return jax.nn.relu(h) @ p["v"]

    params, x = (
        {"w": numbers(3, 4), "variance": abs(numbers(4)), "shift": numbers(4), "v": numbers(4, 1)},
        numbers(2, 3),
    )
    kernel = npk.path_kernel(f)
    expected = jax.jit(kernel)(params, x)
    for _ in range(2):
        np.testing.assert_allclose(kernel(params, x), expected, rtol=1e-5)


@pytest.mark.parametrize("what", ["counts", "sketch", "features", "infinite"])
def test_what_f_closes_over_may_be_traced_for_all_that_reads_paths(what):
    params, x = {"w": numbers(3, 4), "v": numbers(4, 1)}, np.round(numbers(2, 3))
    functions = {
        "counts": lambda f: npk.path_kernel(f)(params, x, normalize=False),
        "sketch": lambda f: npk.sketch(f)(params, x, features=4, key=jax.random.key(0)).features ** 2,
        "features": lambda f: npk.npf(f)(params, x) ** 2,
        "infinite": lambda f: npk.infinite.nngp(f)(params, x),
    }

    def total(c):
        return jnp.sum(functions[what](lambda p, x: jax.nn.relu(x @ p["w"]) * c @ p["v"]))

    np.testing.assert_allclose(jax.grad(total)(2.0), total(2.0), rtol=1e-4)  # c² times a number


def test_many_layers_that_are_read_together_are_no_recursion():
    def f(p, x):
        x = x @ p["first"]
        for w in p["rest"]:
            x = x + jax.nn.relu(x) @ w
        return jax.nn.relu(x) @ p["last"]

    params = {"first": numbers(3, 2), "rest": [numbers(2, 2)] * 150, "last": numbers(2, 1)}
    gates = (*[jnp.zeros((2, 2))] * 150, jnp.ones((2, 2)))
    x = numbers(2, 3)
    np.testing.assert_allclose(npk.path_kernel(f)(params, x, gates1=gates), npk.gram(x), rtol=1e-4)


def test_arrays_of_numpy_are_given_to_jax_where_it_computes_elsewhere(monkeypatch):
    """float64 is then float32, and the engines of a GPU are asked."""
    f, params, x = case(REGISTRY["mlp"])
    network, x = Network(f), np.asarray(x, np.float64)
    params = jax.tree.map(lambda a: np.asarray(a, np.float32), params)
    gates = [np.asarray(g) for g in network.own_gates(params, np.asarray(x, np.float32))]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    x, gates = network.laid_out(params, x, gates)
    assert all(isinstance(a, jax.Array) for a in (x, *gates)) and x.dtype == jnp.float32


def test_counts_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="path counts reach nan"):
        check_counts(float("nan"), jnp.float32)


@pytest.mark.standard_dtypes
def test_patterns_of_many_pairs_are_one_program_at_any_depth(x64):
    """A sum over kinds of terms below a bound of work, the whole network above it; the kernel is the same."""
    net = npk.networks.ViT(patch=(2, None), width=4, depth=2, heads=2, outputs=3)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 4, 4, 1)))
    params = net.init(jax.random.key(0), x[:1])
    found = {}
    for work in (0, float("inf")):
        chosen = npk.path_kernels.Thresholds(numpy_work=1, whole_terms=1, whole_work=work)
        kernel = npk.path_kernel(net.apply, thresholds=chosen)
        (said,) = (engine.why for engine in kernel.engines(params, x) if engine.runs)
        found[said.partition("; ")[2]] = kernel(params, x)
    assert list(found) == ["compiled as one program", "computed by a program for each kind of term"]
    assert_close(*found.values())
