"""Leaves are meant by name, glob or predicate; what a framework marks as statistics is told by its mark alone."""

import types

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from npk.programs import named, option_of, paths_of, statistics

PATHS = ["encoder/0/bias", "encoder/0/kernel", "encoder_2/kernel", "head/kernel/value"]


@pytest.mark.parametrize(
    ("chosen", "positions"),
    [
        (None, set()),
        ("encoder/0/kernel", {1}),
        ("encoder", {0, 1}),  # what lies below it, and nothing that begins alike
        ("encoder/", {0, 1}),
        ("encoder*", {0, 1, 2}),
        ("*/kernel", {1, 2, 3}),  # of a leaf, or of what holds it
        ("encoder/?/[bk]*", {0, 1}),
        (["head", "*/bias"], {0, 3}),
        ({"head", "*/bias"}, {0, 3}),
        ((), set()),
        (lambda path: "0" in path, {0, 1}),
        (lambda path: False, set()),
    ],
)
def test_names_globs_and_predicates(chosen, positions):
    assert named(PATHS, chosen, "wrt") == positions
    hash(option_of(chosen, "wrt"))
    assert named(PATHS, option_of(chosen, "wrt"), "wrt") == positions


def test_brackets_in_a_name_are_themselves():
    assert named(["a[0]/w", "a0/w"], "a[0]/w", "wrt") == {0}
    assert named(["a[0]/w", "a1/w"], "a[0]", "wrt") == {0}


def test_the_name_of_the_only_leaf_is_empty():
    assert paths_of(jnp.zeros(2)) == [""] and named([""], "*", "wrt") == named([""], "", "wrt") == {0}
    with pytest.raises(ValueError, match="there are '' .params is an array"):
        named([""], "w", "wrt")


@pytest.mark.parametrize(
    ("name", "near"), [("encoder/0/kernal", "there are encoder/0/kernel"), ("zzz", "there are encoder/0/bias, ")]
)
def test_a_name_of_no_leaf_is_told_what_there_is(name, near):
    with pytest.raises(ValueError, match=f"fixed: '{name}' names no leaf of params; {near}"):
        named(PATHS, ["head", name], "fixed")


@pytest.mark.parametrize("chosen", [{"encoder": True, "head": False}, [0, 1], 3, b"encoder"])
def test_what_is_no_selection(chosen):
    """A mask, whose keys would be names, too."""
    with pytest.raises(TypeError, match="wrt must be a name"):
        option_of(chosen, "wrt")


# ------------------------------------------------------------------------------------- marked as statistics


def marked(tree):
    paths = paths_of(tree)
    return {paths[i].removesuffix("/value") for i in statistics(tree)}  # what some versions of Flax add


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(nn.BatchNorm(use_running_average=True)(x))


def linen():
    return jax.eval_shape(Linen().init, jax.random.key(0), jnp.zeros((1, 3)))


LINEN = {"batch_stats/BatchNorm_0/mean", "batch_stats/BatchNorm_0/var"}


def test_the_collection_of_linen():
    assert marked(linen()) == LINEN
    sides = {"feature": linen(), "value": linen()}
    assert marked(sides) == {f"{side}/{name}" for side in sides for name in LINEN}


@pytest.mark.parametrize(
    "tree",
    [
        {"params": {"batch_stats": {"mean": 0.0}}},  # a module of that name
        {"encoder": {"batch_stats": 0.0, "kernel": 0.0}},
        {"statistics": {"mean": 0.0, "var": 1.0}, "params": 0.0},  # renamed
        [{"mean": 0.0}, {"running_var": 0.0}],
    ],
)
def test_nothing_is_guessed_from_other_names(tree):
    assert not marked(tree)


class Norm(nnx.BatchNorm):
    pass


class Count(nnx.BatchStat):
    pass


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.layer, self.norm = nnx.Linear(3, 4, rngs=rngs), Norm(4, use_running_average=True, rngs=rngs)
        self.count, self.type = Count(jnp.zeros(())), nnx.Param(jnp.zeros(()))


def test_variables_of_nnx_by_their_class():
    found = {"count", "norm/mean", "norm/var"}
    model = Nnx(nnx.Rngs(0))
    _, state = nnx.split(model)
    assert marked(state) == marked(nnx.state(model)) == found
    assert marked({"feature": state, "value": state}) == {f"{side}/{n}" for side in ("feature", "value") for n in found}
    assert marked(jax.eval_shape(lambda s: s, state)) == found
    _, weights, rest = nnx.split(model, nnx.Param, ...)
    assert not marked(weights) and marked((weights, rest)) == {f"1/{name}" for name in found}
    assert not marked(nnx.to_pure_dict(state))  # numbers alone bear no mark


def test_the_state_of_a_variable_says_of_which_class_it_is():
    """In the versions of Flax whose states hold it, and not variables."""

    class VariableState:
        def __init__(self, kind, value):
            self.type, self.value = kind, value

    VariableState.__module__ = "flax.nnx.variablelib"
    jax.tree_util.register_pytree_with_keys(
        VariableState,
        lambda v: (((jax.tree_util.GetAttrKey("value"), v.value),), v.type),
        lambda kind, children: VariableState(kind, *children),
    )
    state = {"mean": VariableState(nnx.BatchStat, 0.0), "scale": VariableState(nnx.Param, 0.0)}
    assert marked(state) == {"mean"}


class Equinox(eqx.Module):
    layer: eqx.nn.Linear
    norm: eqx.nn.BatchNorm

    def __init__(self, key):
        self.layer = eqx.nn.Linear(3, 4, key=key)
        self.norm = eqx.nn.BatchNorm(4, axis_name="batch", mode="ema")


def test_the_state_of_equinox():
    model, state = eqx.nn.make_with_state(Equinox)(jax.random.key(0))
    tree = {"model": eqx.filter(model, eqx.is_array), "state": eqx.filter(state, eqx.is_array)}
    assert marked(tree) == {"state/0", "state/1/0", "state/1/1"}
    alone = eqx.filter(Equinox(jax.random.key(0)), eqx.is_array)  # statistics still inside the model
    inside = {"norm/ema_first_time_index/init", "norm/ema_state_index/init/0", "norm/ema_state_index/init/1"}
    assert marked(alone) == inside


def test_classes_of_the_users_own_that_bear_the_names_are_not_marked():
    class State(eqx.Module):
        weight: jax.Array

    class BatchStat(types.SimpleNamespace):
        pass

    jax.tree_util.register_pytree_node(BatchStat, lambda b: ((b.w,), None), lambda _, w: BatchStat(w=w[0]))
    assert not marked([State(jnp.zeros(2)), BatchStat(w=jnp.zeros(2))])


def test_a_name_is_a_glob_only_where_nothing_is_called_so():
    assert named(["s*", "st"], "s*", "fixed") == {0}
    assert named(["sa", "st"], "s*", "fixed") == {0, 1}
    assert named(["a", "b"], {"a": 1}.keys(), "fixed") == {0}
