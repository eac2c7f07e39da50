"""A checkpoint of every format gives back the parameters bit for bit, whatever stands around them, or says what not."""

import os
import subprocess
import sys

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from checkpoint_formats import (
    FORMATS,
    LIKE,
    TRAINED,
    assert_same,
    manager_step,
    msgpack,
    named,
    npz,
    standard,
    tensors,
    under,
    written,
)
from flax import nnx
from flax.training import train_state
from small_models import MODELS, Normed, X, trained

from npk.loading import function_of, read_checkpoint
from npk.programs import paths_of

pytestmark = pytest.mark.standard_dtypes


@pytest.fixture(scope="module")
def models():
    return {name: function_of(model(), X) for name, model in MODELS.items()}


@pytest.mark.parametrize("write", FORMATS.values(), ids=FORMATS.keys())
@pytest.mark.parametrize("model", MODELS)
def test_every_format_gives_back_the_parameters_of_every_framework(models, model, write, tmp_path):
    f, template = models[model]
    params = trained(template)
    found = read_checkpoint(write(tmp_path, params), template)
    assert_same(found, params)
    np.testing.assert_array_equal(f(found, X), f(params, X))
    assert not np.array_equal(f(found, X), f(template, X))


def test_the_whole_state_of_an_nnx_module_gives_its_parameters_and_not_what_it_draws_with(models, tmp_path):
    f, template = models["NNX"]
    model = MODELS["NNX"](1)
    path = standard(tmp_path, {"model": nnx.state(model), "step": 3})
    model.eval()
    assert "drop/rngs/key/value" in paths_of(nnx.state(model))
    np.testing.assert_array_equal(f(read_checkpoint(path, template), X), model(X))
    beside = named(TRAINED) | {"rngs/key": np.zeros(2, np.float32), "rngs/count": np.zeros((), np.float32)}
    with pytest.raises(ValueError, match="not of the model: rngs/key, rngs/count"):
        read_checkpoint(written(tmp_path, beside), LIKE)


class TrainState(train_state.TrainState):
    batch_stats: dict


def train_states(variables):
    state = TrainState.create(apply_fn=None, tx=optax.adam(0.1), **variables)
    return state.apply_gradients(grads=jax.tree.map(jnp.ones_like, variables["params"]))


@pytest.mark.parametrize("write", [standard, manager_step, msgpack], ids=["Orbax", "a manager", "msgpack"])
def test_a_train_state_gives_its_parameters_and_statistics_and_not_the_moments_of_its_optimiser(write, tmp_path):
    f, template = function_of(Normed(), X)
    state = train_states(trained(template))
    if write is msgpack:
        (tmp_path / "state.msgpack").write_bytes(flax.serialization.to_bytes(state))
        path = tmp_path / "state.msgpack"
    else:
        path = write(tmp_path, state)
    expected = {"params": state.params, "batch_stats": state.batch_stats}
    assert_same(read_checkpoint(path, template), expected)
    assert_same(read_checkpoint(path, template["params"]), state.params)
    np.testing.assert_array_equal(f(read_checkpoint(path, template), X), f(expected, X))


def test_arrays_that_were_on_many_devices_are_read_on_this_one(tmp_path):
    program = f"""
import jax, numpy as np, orbax.checkpoint as ocp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
assert len(jax.devices()) == 4
over = NamedSharding(Mesh(np.array(jax.devices()), ("d",)), PartitionSpec("d"))
with ocp.StandardCheckpointer() as checkpointer:
    w = jax.device_put(np.arange(8.0, dtype=np.float32), over)
    checkpointer.save({str(tmp_path / "sharded")!r}, {{"w": w}})
"""
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", program], check=True, env=os.environ | flags)
    found = read_checkpoint(tmp_path / "sharded", {"w": jax.ShapeDtypeStruct((8,), jnp.float32)})
    assert_same(found, {"w": np.arange(8, dtype=np.float32)})


DTYPES = {"float64": standard, "bfloat16": standard, "float16": npz}


@pytest.mark.parametrize("dtype, write", [*DTYPES.items(), ("bfloat16", tensors), ("bfloat16", msgpack)])
def test_numbers_stay_of_the_dtype_that_they_are_stored_in(dtype, write, tmp_path):
    stored = {"w": np.array([0.5, 1.75, -3], jnp.dtype(dtype))}
    assert_same(read_checkpoint(write(tmp_path, stored), {"w": jnp.zeros(3)}), stored)


# --- where in a checkpoint -------------------------------------------------------------------------


def test_the_one_subtree_with_the_names_and_shapes_is_read(tmp_path):
    others = {"step": np.array(3), "model/head/w": np.ones(3), **under("opt_state/0/mu", LIKE)}
    path = written(tmp_path, {**under("model/body", TRAINED), **others})
    assert_same(read_checkpoint(path, LIKE), TRAINED)


def test_several_subtrees_are_refused_until_one_is_chosen(tmp_path):
    path = written(tmp_path, {**under("stage-0", LIKE), **under("stage-1", TRAINED)})
    with pytest.raises(ValueError, match=r"in several places, 'stage-0', 'stage-1': choose one with at='stage-0'"):
        read_checkpoint(path, LIKE)
    assert_same(read_checkpoint(path, LIKE, at="stage-1"), TRAINED)
    with pytest.raises(ValueError, match="nothing at 'stage-2'; there are stage-0, stage-1"):
        read_checkpoint(path, LIKE, at="stage-2")


def test_an_optimiser_s_moments_are_read_where_they_are_asked_for(tmp_path):
    path = written(tmp_path, {**under("params", LIKE), **under("opt_state/0/mu", TRAINED)})
    assert_same(read_checkpoint(path, LIKE), LIKE)
    assert_same(read_checkpoint(path, LIKE, at="opt_state/0/mu"), TRAINED)


def test_collections_of_linen_are_looked_for_each_by_itself(tmp_path):
    _, template = function_of(Normed(), X)
    good, average = jax.tree.map(np.asarray, (trained(template, 1), trained(template, 2)))
    inner = written(tmp_path, named(TRAINED))
    assert_same(read_checkpoint(inner, {"params": LIKE}), {"params": TRAINED})
    held = {**named(good), **under("ema_params", average["params"])}
    with pytest.raises(ValueError, match="holds params in several places, 'params', 'ema_params'"):
        read_checkpoint(written(tmp_path, held), template)
    averaged = read_checkpoint(written(tmp_path, held), template, at="ema_params")
    assert_same(averaged, {"params": average["params"], "batch_stats": good["batch_stats"]})
    both = written(tmp_path, {**named(good), "step": np.array(1), **under("ema", average)})
    with pytest.raises(ValueError, match="'params', 'ema/params'"):
        read_checkpoint(both, template)
    assert_same(read_checkpoint(both, template, at="ema"), average)
    assert_same(read_checkpoint(both, template, at="params"), good)


def changed(**leaves):
    arrays = named(TRAINED) | leaves
    return {name: array for name, array in arrays.items() if array is not None}


DIFFERENT = {
    "missing": (changed(**{"Dense_0/bias": None}), "missing: Dense_0/bias"),
    "too many": (changed(**{"Dense_2/bias": np.ones(1)}), "not of the model: Dense_2/bias"),
    "another shape": (
        changed(**{"Dense_0/kernel": np.ones((5, 4))}),
        r"of another shape: Dense_0/kernel \(\[5, 4\] there, \[3, 4\] here\)",
    ),
    "turned": (changed(**{"Dense_1/kernel": np.ones((2, 4))}), r"\[2, 4\] there, \[4, 2\] here"),
    "below a name": (
        {"step": np.ones(1), **under("net", changed(**{"Dense_0/bias": None}))},
        r"below 'net', which comes closest, missing: Dense_0/bias\.",
    ),
    "another model": ({f"layer{i}/w": np.ones(1) for i in range(9)}, r"layer4/w, … \(9 in all\)"),
    "a name twice": (changed(**{"Dense_0.bias": np.ones(4)}), "one name, 'Dense_0/bias' and 'Dense_0.bias'"),
    "whole numbers": (changed(**{"Dense_0/bias": np.ones(4, np.int32)}), "Dense_0/bias of .* of dtype int32.*floating"),
    "bytes": (changed(**{"Dense_0/bias": np.ones(4, jnp.bfloat16)}), "is of dtype .V2.*do not keep what bfloat16 is"),
    "not a number": (changed(**{"Dense_0/bias": np.array([1, np.nan, 1, 1], np.float32)}), "Dense_0/bias .*not finite"),
    "infinite": (changed(**{"Dense_0/bias": np.array([1, np.inf, 1, 1], np.float32)}), "not finite"),
    "nothing": ({}, "holds no arrays"),
}  # fmt: skip


@pytest.mark.parametrize("arrays, said", DIFFERENT.values(), ids=DIFFERENT.keys())
def test_what_differs_is_said(arrays, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        read_checkpoint(written(tmp_path, arrays), LIKE)


def test_what_is_no_parameter_is_never_read_into(tmp_path):
    path = written(tmp_path, {"k": np.zeros(2, np.uint32)})
    with pytest.raises(ValueError, match="k is of dtype key<fry>, and no parameter"):
        read_checkpoint(path, {"k": jax.random.key(0)})
    with pytest.raises(ValueError, match="like has no leaves"):
        read_checkpoint(path, {})


def test_structure_and_shapes_are_all_that_a_template_gives(tmp_path):
    _, template = function_of(Normed(), X)
    path = written(tmp_path, named(trained(template)))
    shapes = jax.eval_shape(lambda: template)
    assert paths_of(shapes) == paths_of(template)
    assert_same(read_checkpoint(path, shapes), jax.tree.map(np.asarray, trained(template)))
