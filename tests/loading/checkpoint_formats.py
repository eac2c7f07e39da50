"""Parameters of a small model, and what frameworks write of parameters: a function of a folder for every format."""

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import safetensors.numpy
from flax import nnx
from small_models import trained

from npk.folders import write_arrays

SHAPES = {"Dense_0": {"kernel": (3, 4), "bias": (4,)}, "Dense_1": {"kernel": (4, 2), "bias": (2,)}}
LIKE = jax.tree.map(lambda shape: np.zeros(shape, np.float32), SHAPES, is_leaf=lambda s: isinstance(s, tuple))
TRAINED = jax.tree.map(np.asarray, trained(LIKE))


def named(tree, separator="/"):
    return {
        jax.tree_util.keystr(path, simple=True, separator=separator): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    }


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, two in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert isinstance(one, np.ndarray) and one.dtype == two.dtype
        np.testing.assert_array_equal(one, two)


def standard(folder, params):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "standard", params)
    return folder / "standard"


def old_orbax(folder, params):
    ocp.PyTreeCheckpointer(use_ocdbt=False, use_zarr3=True).save(folder / "tree", {"model": params, "step": 3})
    return folder / "tree"


def manager_step(folder, params):
    with ocp.CheckpointManager(folder / "run") as manager:
        manager.save(100, args=ocp.args.StandardSave(params))
    return folder / "run" / "100"


def manager_items(folder, params):
    items = {"state": ocp.args.StandardSave(params), "extra": ocp.args.JsonSave({"epoch": 3})}
    with ocp.CheckpointManager(folder / "run") as manager:
        manager.save(7, args=ocp.args.Composite(**items, seen=ocp.args.StandardSave({"n": jnp.ones(1)})))
    return folder / "run" / "7"


def npz(folder, params, separator="/"):
    np.savez(folder / "params.npz", **named(params, separator))
    return folder / "params.npz"


def npz_of_paths(folder, params):
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    np.savez(folder / "params.npz", **{jax.tree_util.keystr(path): leaf for path, leaf in leaves})
    return folder / "params.npz"


def npks_own(folder, params):
    write_arrays(folder / "parameters.npz", {f"net/{name}": leaf for name, leaf in named(params).items()})
    return folder / "parameters.npz"


def tensors(folder, params):
    safetensors.numpy.save_file(named(params, "."), folder / "model.safetensors")
    return folder / "model.safetensors"


def msgpack(folder, params):
    plain = nnx.to_pure_dict(params) if isinstance(params, nnx.State) else params
    if not isinstance(plain, dict):
        plain = named(params)
    (folder / "params.msgpack").write_bytes(flax.serialization.to_bytes(plain))
    return folder / "params.msgpack"


def without_suffix(folder, params):
    return msgpack(folder, params).rename(folder / "checkpoint_100")


FORMATS = {
    "Orbax": standard,
    "Orbax, a file an array": old_orbax,
    "a step of a manager": manager_step,
    "a step of several items": manager_items,
    "NPZ": npz,
    "NPZ with dots": lambda folder, params: npz(folder, params, "."),
    "NPZ with paths of JAX": npz_of_paths,
    "NPZ of npk": npks_own,
    "safetensors": tensors,
    "msgpack": msgpack,
    "msgpack without a suffix": without_suffix,
}


def written(folder, arrays):
    np.savez(folder / "c.npz", **arrays)
    return folder / "c.npz"


def under(place, tree):
    return {f"{place}/{name}": leaf for name, leaf in named(tree).items()}
