"""Arrays on a mesh with explicit axes, whose types say how they are laid over its devices."""

from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec, SingleDeviceSharding

from npk.programs.program import is_traced


def unsharded(tree: Any) -> Any:
    """The tree with every array that an explicit mesh holds in shards whole on each of its devices; others as they are.

    JAX lets no product of two batches that are laid over the same devices choose its own layout.
    """
    return jax.tree_util.tree_map(_unsharded, tree)


def _unsharded(leaf: Any) -> Any:
    if not isinstance(leaf, jax.Array) or (not is_traced(leaf) and isinstance(leaf.sharding, SingleDeviceSharding)):
        return leaf
    sharding: Any = getattr(jax.typeof(leaf), "sharding", None)
    if not isinstance(sharding, NamedSharding):
        return leaf
    kinds = dict(zip(sharding.mesh.axis_names, sharding.mesh.axis_types, strict=True))
    if not any(kinds[axis] == AxisType.Explicit for axis in _axes(sharding.spec)):
        return leaf
    if is_traced(leaf):
        return jax.sharding.reshard(leaf, NamedSharding(sharding.mesh, PartitionSpec()))
    devices: Any = leaf.sharding
    return jax.device_put(leaf, NamedSharding(devices.mesh, PartitionSpec()))


def _axes(spec: PartitionSpec) -> list[str]:
    """The axes of a mesh over which an array is laid."""
    return [a for part in spec if part is not None for a in (part if isinstance(part, tuple) else (part,))]
