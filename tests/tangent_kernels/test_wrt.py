"""A tangent kernel is by the leaves that count: K = J Jᵀ, J the derivative by those leaves and by no others."""

import logging

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import normal, variables
from flax import nnx
from tolerances import assert_close

import npk
from npk.programs import wanted
from npk.tangent_kernels.derivatives import plan_of

X = normal(5, 3)


def mlp(p, x):
    h = npk.soft_relu(x @ p["first"]["kernel"] + p["first"]["bias"][None])
    return npk.soft_relu(h @ p["second"]["kernel"]) @ p["head"]["kernel"] * p["scale"][None]


def mlp_params():
    return {
        "first": {"kernel": normal(3, 6), "bias": normal(6)},
        "second": {"kernel": normal(6, 6) / 2},
        "head": {"kernel": normal(6, 2)},
        "scale": normal(2, seed=1),
        "steps": jnp.arange(3),
    }


def jacobian_by(f, params, x, names):
    """[N, K, numbers]: by the named leaves alone, all others closed over."""
    leaves, tree = jax.tree_util.tree_flatten(params)
    paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree.leaves_with_path(params)]
    places = [paths.index(name) for name in names]

    def of_chosen(chosen):
        held = list(leaves)
        for place, leaf in zip(places, chosen, strict=True):
            held[place] = leaf
        return f(jax.tree_util.tree_unflatten(tree, held), x)

    parts = jax.jit(jax.jacrev(of_chosen))([leaves[place] for place in places])
    return [np.asarray(part, np.float64).reshape(*part.shape[:2], -1) for part in parts]


def gram_of(parts):
    return sum(np.einsum("nkp,mkp->nm", j, j) for j in parts)


def check(f, params, x, wrt, names):
    """The tangent kernel of f is that of the named leaves, and its blocks are theirs."""
    parts = jacobian_by(f, params, x, names)
    kernel = gram_of(parts)
    assert_close(npk.ntk(f, wrt=wrt)(params, x), kernel)
    split = npk.split_ntk(f, wrt=wrt)(params, x)
    assert_close(split.total, kernel)
    assert set(split.blocks) == set(names)
    scale = np.abs(kernel).max()
    for name, part in zip(names, parts, strict=True):
        assert np.abs(split.blocks[name].total - gram_of([part])).max() <= 1e-5 * scale
    return split


WEIGHTS = ["first/kernel", "head/kernel", "second/kernel"]


@pytest.mark.parametrize(
    ("wrt", "names"),
    [
        (None, [*WEIGHTS, "first/bias", "scale"]),
        ("head/kernel", ["head/kernel"]),
        ("first", ["first/kernel", "first/bias"]),
        ("*/kernel", WEIGHTS),
        (("scale", "first/b*"), ["scale", "first/bias"]),
        (lambda path: path.startswith("second"), ["second/kernel"]),
        (lambda path: True, [*WEIGHTS, "first/bias", "scale"]),  # integers never count
    ],
    ids=["none", "name", "above", "glob", "several", "predicate", "all"],
)
def test_the_kernel_is_by_the_chosen_leaves(wrt, names):
    check(mlp, mlp_params(), X, wrt, names)


@pytest.mark.parametrize("wrt", ["first", "second", "head", "scale"])
def test_value_and_feature_part_are_by_the_chosen_leaves(wrt):
    params = mlp_params()
    names = [name for name in [*WEIGHTS, "first/bias", "scale"] if name.startswith(wrt)]
    gates = npk.gates(mlp)(params, X)
    value = jacobian_by(lambda p, x: npk.gated(mlp)(p, x, gates), params, X, names)
    feature = [whole - part for whole, part in zip(jacobian_by(mlp, params, X, names), value, strict=True)]
    split = npk.split_ntk(mlp, wrt=wrt)(params, X)
    scale = float(jnp.abs(split.total).max())
    cross = sum(np.einsum("nkp,mkp->nm", v, f) for v, f in zip(value, feature, strict=True))
    for part, expected in (("value", gram_of(value)), ("feature", gram_of(feature)), ("cross", cross + cross.T)):
        assert np.abs(getattr(split, part) - expected).max() <= 1e-5 * scale
    assert bool(split.feature.any()) == (wrt in ("first", "second"))  # the head's weights move no gate


def test_diagonals_and_two_batches_are_by_the_chosen_leaves():
    params, wrt = mlp_params(), ("first", "scale")
    kernel = gram_of(jacobian_by(mlp, params, X, ["first/bias", "first/kernel", "scale"]))
    assert_close(npk.ntk(mlp, wrt=wrt)(params, X[:2], X[2:]), kernel[:2, 2:])
    assert_close(npk.ntk_diagonal(mlp, wrt=wrt)(params, X), np.diag(kernel))
    assert_close(npk.ntk_trace(mlp, wrt=wrt)(params, X), np.trace(kernel))
    diagonal = npk.split_ntk_diagonal(mlp, wrt=wrt)(params, X)
    assert_close(diagonal.total, np.diag(kernel))
    assert set(diagonal.blocks) == {"first/bias", "first/kernel", "scale"}


def test_a_kernel_by_one_part_is_a_block_of_the_whole():
    params = mlp_params()
    blocks = npk.split_ntk(mlp)(params, X).blocks
    assert_close(npk.ntk(mlp, wrt="first/kernel")(params, X), blocks["first/kernel"].total)


def test_under_jit_and_with_all_outputs():
    params = mlp_params()
    compiled = jax.jit(lambda p, x: npk.ntk(mlp, wrt="first")(p, x, outputs="full"))
    parts = jacobian_by(mlp, params, X, ["first/bias", "first/kernel"])
    assert_close(compiled(params, X), sum(np.einsum("nkp,mlp->nmkl", j, j) for j in parts))


def shared(p, x):
    """A leaf that is read twice, one that meets it before the data, and integers that look up."""
    w = p["w"] * jax.lax.rsqrt(p["norm"])[None]
    return jnp.concatenate([npk.soft_relu(x @ w) @ w.T, x * p["table"][p["rows"]].sum(0)[None]], 1)


def test_leaves_that_are_shared_combined_or_looked_up():
    params = {"w": normal(3, 4), "norm": normal(4) ** 2 + 1, "table": normal(7, 3), "rows": jnp.array([5, 0, 5])}
    for names in (["w"], ["norm"], ["table"], ["norm", "table"]):
        parts = jacobian_by(shared, params, X, names)
        assert_close(npk.ntk(shared, wrt=names)(params, X), gram_of(parts))


# ----------------------------------------------------------------------------------------- statistics


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(use_running_average=True)(nn.Conv(3, (3,))(x[..., None]))
        return nn.Dense(2)(npk.soft_relu(x).reshape(x.shape[0], -1))


NORMED = variables(Normed(), X)
LEARNED = [
    f"params/{name}"
    for name in (
        "BatchNorm_0/bias",
        "BatchNorm_0/scale",
        "Conv_0/bias",
        "Conv_0/kernel",
        "Dense_0/bias",
        "Dense_0/kernel",
    )
]
STATISTICS = ["batch_stats/BatchNorm_0/mean", "batch_stats/BatchNorm_0/var"]


def test_statistics_of_linen_are_no_parameters_unless_they_are_chosen():
    f = Normed().apply
    split = check(f, NORMED, X, None, LEARNED)
    every = check(f, NORMED, X, lambda path: True, [*LEARNED, *STATISTICS])
    assert np.abs(every.total - split.total).max() > 1e-2 * np.abs(every.total).max()
    check(f, NORMED, X, "batch_stats", STATISTICS)


def test_statistics_of_both_networks_of_a_deep_gated_network():
    params = {"feature": NORMED, "value": jax.tree.map(lambda a: a + 0.25, NORMED)}
    f = npk.DGN(Normed().apply, beta=4.0)
    names = [f"{side}/{name}" for side in params for name in LEARNED]
    split = npk.split_ntk(f)(params, X)
    assert set(split.blocks) == set(names)
    assert_close(split.total, gram_of(jacobian_by(f, params, X, names)), factor=2)


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.layer, self.head = nnx.Linear(3, 4, rngs=rngs), nnx.Linear(4, 2, rngs=rngs)
        self.norm = nnx.BatchNorm(4, use_running_average=True, rngs=rngs)

    def __call__(self, x):
        return self.head(npk.soft_relu(self.norm(self.layer(x))))


def test_statistics_of_nnx_are_no_parameters():
    graph, state = nnx.split(Nnx(nnx.Rngs(0)))
    f = lambda p, x: nnx.merge(graph, p)(x)  # noqa: E731
    paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree.leaves_with_path(state)]
    names = [name for name in paths if not name.startswith(("norm/mean", "norm/var"))]
    assert len(names) == len(paths) - 2 == 6
    check(f, state, X, None, names)
    check(f, state, X, ["norm/scale", "norm/mean"], [n for n in paths if n.startswith(("norm/scale", "norm/mean"))])


class Equinox(eqx.Module):
    layer: eqx.nn.Linear
    norm: eqx.nn.BatchNorm

    def __init__(self, key):
        self.layer = eqx.nn.Linear(3, 2, key=key)
        self.norm = eqx.nn.BatchNorm(2, axis_name="batch", inference=True, mode="ema")

    def __call__(self, x, state):
        return npk.soft_relu(self.norm(self.layer(x), state)[0])


def test_the_state_of_equinox_is_no_parameter():
    model, state = eqx.nn.make_with_state(Equinox)(jax.random.key(0))
    state = state.set(model.norm.ema_first_time_index, jnp.array(False))
    state = state.set(model.norm.ema_state_index, (normal(2), normal(2) ** 2 + 1))
    arrays, static = eqx.partition(model, eqx.is_array)
    f = lambda p, x: jax.vmap(lambda t: eqx.combine(p["model"], static)(t, p["state"]))(x)  # noqa: E731
    names = ["model/layer/bias", "model/layer/weight", "model/norm/bias", "model/norm/weight"]
    check(f, {"model": arrays, "state": state}, X, None, names)


def test_what_is_left_out_is_said_once_for_each_transform(caplog):
    f = lambda p, x: Normed().apply(p, x)  # noqa: E731
    with caplog.at_level(logging.INFO, logger="npk"):
        kernel = npk.ntk(f)
        for x in (X, X[:2], X):
            kernel(NORMED, x)
        assert [r.getMessage() for r in caplog.records] == [
            f"the tangent kernel is not by the statistics {', '.join(STATISTICS)}, which are held constant; wrt= "
            "chooses what counts."
        ]
        npk.ntk(f, wrt="params")(NORMED, X)
        npk.ntk(mlp)(mlp_params(), X)
        assert len(caplog.records) == 1


# ----------------------------------------------------------------------- what is held constant costs nothing


def test_leaves_that_do_not_count_are_neither_factors_nor_gradients():
    for wrt, count in (("params", set(range(2, 8))), (("*/kernel", "batch_stats/*/var"), {1, 5, 7})):
        plan = plan_of(Normed().apply, NORMED, X, False, wanted(), wrt)
        factors = {n for use in plan.uses.products for n in (use.leaf, use.bias) if n is not None}
        assert factors | set(plan.uses.leaves) == set(plan.blocks) == count
    by_head = plan_of(mlp, mlp_params(), X, True, wanted(), "head")
    assert len(by_head.uses.products) == 1 and not by_head.uses.reads and not by_head.soft


def test_a_large_leaf_that_is_held_is_not_copied_for_each_sample():
    """What is read beside a leaf that counts, by one equation, is no data."""
    f = lambda p, x: jax.lax.cond(p["b"][0] > 0, lambda: x @ p["held"] @ p["w"], lambda: x @ p["w"][:3])  # noqa: E731
    params = {"b": jnp.ones(1), "held": normal(3, 4), "w": normal(4, 2)}
    plan = plan_of(f, params, X, False, wanted(), "w")
    (read,) = plan.uses.reads
    x = [i for i, a in enumerate(read.equation.inputs) if i not in read.made]
    assert len(x) == 1 and read.equation.inputs[x[0]].shape == (1, 3)
    assert_close(npk.ntk(f, wrt="w")(params, X), gram_of(jacobian_by(f, params, X, ["w"])))


def test_new_numbers_of_what_is_held_compile_nothing():
    traces = []

    def f(p, x):
        traces.append(None)
        return Normed().apply(p, x)

    kernel = npk.ntk(f)
    kernel(NORMED, X)
    before = len(traces)
    moved = {**NORMED, "batch_stats": jax.tree.map(lambda a: a + 0.5, NORMED["batch_stats"])}
    found = kernel(moved, X)
    assert len(traces) == before
    assert_close(found, gram_of(jacobian_by(Normed().apply, moved, X, LEARNED)))


# --------------------------------------------------------------------------------------------- refusals

TRANSFORMS = [
    npk.ntk,
    npk.split_ntk,
    npk.ntk_diagonal,
    npk.ntk_trace,
    npk.split_ntk_diagonal,
    lambda f, wrt: lambda p, x: npk.sketch_ntk(f, wrt=wrt)(p, x, features=4, key=jax.random.key(0)),
]


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize(
    ("wrt", "message"),
    [
        ("heads", "wrt: 'heads' names no leaf of params; there are first/bias, first/kernel, head/kernel, sc"),
        ("steps", "wrt chooses only steps, of integers"),
        (lambda path: False, "wrt chooses no leaf of params: .* Params are first/bias, "),
        ((), "wrt chooses no leaf of params"),
    ],
)
def test_a_choice_of_nothing(transform, wrt, message):
    with pytest.raises(ValueError, match=message):
        transform(mlp, wrt=wrt)(mlp_params(), X)


def test_statistics_alone_are_nothing():
    f = lambda p, x: x * p["batch_stats"]["mean"][None]  # noqa: E731
    params = {"batch_stats": {"mean": normal(3)}}
    with pytest.raises(ValueError, match="hold nothing but statistics .batch_stats/mean"):
        npk.ntk(f)(params, X)
    assert_close(npk.ntk(f, wrt="batch_stats")(params, X), np.asarray(X) @ np.asarray(X).T)


@pytest.mark.standard_dtypes
def test_a_complex_leaf_is_refused_unless_it_is_held():
    f = lambda p, x: npk.soft_relu(x @ p["w"]) * jnp.real(p["phase"] * p["phase"])[None]  # noqa: E731
    params = {"w": normal(3, 2), "phase": jnp.array([1.0 + 2j, 0.5j])}
    for transform in TRANSFORMS:
        for wrt in (None, "phase", ("phase", "w")):
            with pytest.raises(npk.UnsupportedOperation, match="params/phase is of complex"):
                transform(f, wrt=wrt)(params, X)
    assert_close(npk.ntk(f, wrt="w")(params, X), gram_of(jacobian_by(f, params, X, ["w"])))
    assert_close(npk.split_ntk(f, wrt="w")(params, X).total, gram_of(jacobian_by(f, params, X, ["w"])))


def test_integers_alone_are_nothing_to_differentiate_by():
    params = {"i": jnp.arange(2)}
    with pytest.raises(ValueError, match="nothing to differentiate by"):
        npk.ntk(lambda p, x: x[:, p["i"]], wrt="i")(params, jnp.ones((3, 2)))
