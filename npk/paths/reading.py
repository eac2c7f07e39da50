"""What the path rules take every parameter to be, and everything that they refuse, with nothing computed."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from npk.paths.ends import OWN_FEATURES, alike, check_end
from npk.paths.rules import RULES, begun
from npk.paths.walk import Role
from npk.programs import Program, UnsupportedOperation


def roles_of(program: Program, gate_shapes: Sequence[Any]) -> tuple[list[Role], list[str]]:
    """What each parameter of a single-sample program is to its paths, and everything that the rules refuse.

    Args:
        program: the program of f for a batch of one, activations found.
        gate_shapes: shape and dtype of every gate of one sample.

    Returns:
        The roles in the order in which values meet them, and the refusals. Nothing is computed.
    """
    walks = []

    def walked(params: Any, x: Any, gates: Any) -> None:
        walk = begun(program, params, (x[None],), [(g[None],) for g in gates], False, jnp.float32, RULES)
        walks.append(walk)
        state = walk.go()
        if walk.errors:
            return
        try:
            check_end(walk, state or [])
            if state is None:
                raise UnsupportedOperation("the output of f does not depend on x.")
            if not all(map(alike, state)):
                raise UnsupportedOperation(OWN_FEATURES)
        except UnsupportedOperation as error:
            walk.errors[str(error)] = None

    abstract = [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in program.inputs]
    jax.eval_shape(walked, abstract[:-1], abstract[-1], list(gate_shapes))
    return walks[0].roles, list(walks[0].errors)
