"""Which parameters are fixed numbers: those of a normalisation.

A normalisation is a region, found by what it computes, in whatever order and spelling: a chain of elementwise affine
operations on one value, with nothing but numbers and parameters, that holds a negative or fractional power of a
parameter somewhere (batch norm's 1/√(variance + ε)), or a scale gate (layer norm's 1/σ). All parameters of the chain
are fixed numbers, a shift behind it included; in front of a power of a parameter a layer's bias as well, in front of a
scale gate factors alone, since its statistics read the bias too. Powers of constants are constants and make no
normalisation.
"""

from collections.abc import Callable

from npk.programs import Atom, Const, Equation, Origin, Program, Var

_AFFINE = frozenset(("add", "add_any", "sub", "mul", "div", "neg"))
_MOVES = frozenset(("broadcast_in_dim", "convert_element_type", "expand_dims", "reduce_precision", "reshape"))
_MOVES |= {"sharding_constraint", "squeeze", "stop_gradient", "transpose"}
_PLACED = frozenset(("concatenate", "gather", "rev", "slice", "split", "stack", "unstack"))


def normalising(program: Program, origins: dict[Var, Origin]) -> set[Equation]:
    """The equations of normalisations: what parameters they read are fixed numbers."""
    readers = program.consumers()
    making = _of_scales(program, origins)
    scales: set[Atom] = {v for e in making for v in e.outputs}
    chain = {e: link for e in program.equations if (link := _link(e, origins, scales)) is not None}

    def holds_power(equation: Equation) -> bool:
        value = chain[equation]
        if not scales.isdisjoint(equation.inputs):
            return True
        others = [a for a in equation.inputs if a is not value]
        divides = equation.name == "div" and isinstance(others[0], Var) and origins[others[0]].from_params
        return divides or any(isinstance(a, Var) and origins[a].powered for a in others)

    before: set[Var] = set()  # values with a power behind them on their chain
    for equation in program.equations:
        if equation in chain and (holds_power(equation) or chain[equation] in before):
            before.update(equation.outputs)

    def leading_to(ends: Callable[[Equation], bool], through: Callable[[Equation], bool]) -> set[Var]:
        """Values all of whose readers lead to such an end on the chain."""
        found: set[Var] = set()
        for equation in reversed(program.equations):
            for var in equation.outputs:
                following = readers.get(var, [])
                if (
                    following
                    and var not in program.outputs
                    and all(
                        e in chain and chain[e] is var and (ends(e) or (through(e) and e.outputs[0] in found))
                        for e in following
                    )
                ):
                    found.add(var)
        return found

    def is_scaled(equation: Equation) -> bool:
        return not scales.isdisjoint(equation.inputs)

    ahead = leading_to(lambda e: holds_power(e) and not is_scaled(e), lambda e: True)
    # The statistics of a norm of values read a bias in front of it as well: it stays one. A factor may change places.
    factors = leading_to(is_scaled, _multiplies)
    return making | {
        e
        for e, value in chain.items()
        if holds_power(e) or value in before or e.outputs[0] in ahead or (_multiplies(e) and e.outputs[0] in factors)
    }


def _multiplies(equation: Equation) -> bool:
    return equation.name not in ("add", "add_any", "sub")


def _of_scales(program: Program, origins: dict[Var, Origin]) -> set[Equation]:
    """What is made elementwise of a norm of values (layer norm's 1/σ), of numbers and parameters."""
    making = {e for e in program.equations if e.activation is not None and e.activation.kind == "scale"}
    found: set[Atom] = {v for e in making for v in e.outputs}
    for equation in program.equations:
        known = all(a in found or isinstance(a, Const) or a in origins for a in equation.inputs)
        if known and equation.name in _AFFINE | _MOVES | _PLACED and not found.isdisjoint(equation.inputs):
            making.add(equation)
            found.update(equation.outputs)
    return making


def _link(equation: Equation, origins: dict[Var, Origin], scales: set[Atom]) -> Atom | None:
    """The one value that depends on x of an elementwise affine operation, its scale apart; None where it is none."""
    data = [a for a in equation.inputs if isinstance(a, Var) and a not in origins and a not in scales]
    if len(data) != 1 or equation.name not in _AFFINE | _MOVES:
        return None
    if equation.name == "div" and equation.inputs[0] is not data[0]:
        return None
    return data[0]
