"""What the path rules take every parameter to be, and everything that they refuse, with nothing computed."""

from collections.abc import Sequence
from typing import Any

from npk.paths.ends import OWN_FEATURES, alike, check_end
from npk.paths.layers import Role
from npk.paths.rules import RULES, begun
from npk.programs import Program, UnsupportedOperation


def roles_of(program: Program, gate_shapes: Sequence[Any]) -> tuple[list[Role], list[str]]:
    """What each parameter of a single-sample program is to its paths, and everything that the rules refuse.

    Args:
        program: the program of f for a batch of one, activations found.
        gate_shapes: of every activation the shape of its gate for one sample.

    Returns:
        The roles in the order in which values meet them, and the refusals. Nothing is computed.
    """
    walk = begun(program, gate_shapes, RULES)
    state = walk.go()
    if not walk.errors:
        try:
            check_end(walk, state or [])
            if state is None:
                raise UnsupportedOperation("the output of f does not depend on x.")
            if not all(map(alike, state)):
                raise UnsupportedOperation(OWN_FEATURES)
        except UnsupportedOperation as error:
            walk.errors[str(error)] = None
    return walk.roles, list(walk.errors)
