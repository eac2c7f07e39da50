"""Complex values: the real and the imaginary part, two values of terms like any other.

A Fourier transform and a product with complex constants are linear maps with constant coefficients between the parts;
whatever acts on both parts alike follows the rule that it has for real values. An imaginary part without terms is zero.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from npk.paths import sums
from npk.paths.factors import constant
from npk.paths.rules import maps
from npk.paths.walk import State, Walk
from npk.programs import Atom, Const, Equation, Var, is_traced

Parts = tuple[State, State]
_PRODUCTS = frozenset(("mul", "dot_general", "conv_general_dilated"))
_SUMS = frozenset(("add", "add_any", "sub"))
_JOINS = frozenset(("concatenate", "stack"))


def complex_values(walk: Walk, equation: Equation) -> list[State]:
    """The real parts of what an equation makes; the imaginary parts it notes."""
    for atom in equation.inputs:
        if walk.is_parameter(atom) or walk.is_declared(atom):
            raise walk.refuse(
                equation,
                f"complex numbers made of parameters ({_names(walk, atom)}) are outside the rules: multiply the real "
                "and the imaginary part by real weights, or close over constants.",
            )
    name, out = equation.name, equation.outputs
    if name in ("real", "imag"):
        part = _parts(walk, equation.inputs[0])[name == "imag"]
        return [part or walk.known(constant(np.zeros(())), out[0].shape)]
    made = _made(walk, equation)
    if not _is_complex(out[0]):  # a cast, which leaves the imaginary part out
        return [made[0][0] or walk.known(constant(np.zeros(())), out[0].shape)]
    walk.imaginary.update(zip(out, (imaginary for _, imaginary in made), strict=True))
    return [real for real, _ in made]


def _made(walk: Walk, equation: Equation) -> list[Parts]:
    """The parts of every value that an equation makes."""
    name, atoms, out = equation.name, equation.inputs, equation.outputs[0]
    if name == "fft":
        return [_transformed(equation, _parts(walk, atoms[0]))]
    if name == "complex":
        return [(_parts(walk, atoms[0])[0], _parts(walk, atoms[1])[0])]
    if name in ("conj", "convert_element_type", "neg"):
        real, imaginary = _parts(walk, atoms[0])
        sign = constant(-1.0)
        return [
            (
                walk.scaled(real, sign) if name == "neg" else real,
                imaginary if name == "convert_element_type" else walk.scaled(imaginary, sign),
            )
        ]
    if name in _SUMS:
        first, second = (_parts(walk, a) for a in atoms)
        added = [
            [walk.spread(a, out.shape), walk.spread(walk.scaled(b, constant(-1.0)) if name == "sub" else b, out.shape)]
            for a, b in zip(first, second, strict=True)
        ]
        return [(sums.add(added[0]), sums.add(added[1]))]
    if name in _PRODUCTS or name == "div":
        return [_product(walk, equation)]
    if name in walk.moves or name in walk.rules:
        return _moved(walk, equation)
    raise walk.refuse(equation, "not linear in the real and the imaginary part of the values it is given.")


def _product(walk: Walk, equation: Equation) -> Parts:
    """(a + bi)(c + di), of which one side is constant."""
    first, second = equation.inputs
    if walk.is_data(first) and walk.is_data(second):
        raise walk.refuse(equation, "a product of two complex values that both depend on x.")
    if equation.name == "div":
        if walk.is_data(second):
            raise walk.refuse(equation, "a division by a complex value that depends on x.")
        value = walk.value(second)
        second = Const(1 / (value if is_traced(value) else np.asarray(value)))
        equation = dataclasses.replace(equation, primitive=jax.lax.mul_p)
    at = 0 if walk.is_data(first) else 1
    data, number = (first, second) if at == 0 else (second, first)
    parts = _parts(walk, data)
    numbers = walk.value(number)

    def times(part: State, one: str, sign: float) -> State:
        own = _part_of(numbers, one)
        if not part or not (is_traced(own) or np.any(own)):
            return []
        pair: list[Atom] = [_real(walk, data, part), Const(own)]
        (out,) = equation.outputs
        plain = _plainly(equation, pair if at == 0 else pair[::-1], [out])
        made = walk.rules[equation.name](walk, plain)[0]
        return made if sign > 0 else walk.scaled(made, constant(sign))

    real = sums.add([times(parts[0], "real", 1), times(parts[1], "imag", -1)])
    return real, sums.add([times(parts[0], "imag", 1), times(parts[1], "real", 1)])


def _moved(walk: Walk, equation: Equation) -> list[Parts]:
    """What acts on both parts alike."""
    parts = {a: _parts(walk, a) for a in equation.inputs if _is_complex(a)}
    made: list[list[State]] = []
    for side in (0, 1):
        given = {a: both[side] for a, both in parts.items() if isinstance(a, Var) and walk.is_data(a)}
        if not any(given.values()):
            made.append([[] for _ in equation.outputs])
            continue
        atoms = [_side(walk, a, given, side) if a in parts else a for a in equation.inputs]
        made.append(walk.rule(_plainly(equation, atoms, equation.outputs)))
    return list(zip(*made, strict=True))


def _side(walk: Walk, atom: Atom, given: Mapping[Any, State], side: int) -> Atom:
    """One part of an operand as an operand of its own."""
    if atom not in given:
        return Const(_part_of(walk.value(atom), ("real", "imag")[side]))
    if not given[atom]:
        return Const(np.zeros(atom.shape, np.float32))
    return _real(walk, atom, given[atom])


def _transformed(equation: Equation, parts: Parts) -> Parts:
    """A Fourier transform along the last axes: the matrices of cosines and of sines of every axis."""
    kind, lengths = equation.params["fft_type"].name, equation.params["fft_lengths"]
    rank = len(equation.inputs[0].shape)
    axes = list(range(rank - len(lengths), rank))
    last = _matrix(lengths[-1], inverse=kind in ("IFFT", "IRFFT"))
    full = [(axis, _matrix(n, inverse=kind in ("IFFT", "IRFFT"))) for axis, n in zip(axes[:-1], lengths, strict=False)]
    if kind == "RFFT":  # the real input first, of which half is enough
        return _all_along(parts, [(axes[-1], last[:, : lengths[-1] // 2 + 1]), *full])
    if kind == "IRFFT":  # to real numbers last: what is left out is the conjugate of what is there
        half = lengths[-1] // 2 + 1
        once = np.where((np.arange(half) == 0) | (2 * np.arange(half) == lengths[-1]), 1.0, 2.0)
        real, imaginary = _all_along(parts, full)
        matrix = last[:half] * once[:, None]
        made = [maps.along(real, axes[-1], np.real(matrix)), maps.along(imaginary, axes[-1], -np.imag(matrix))]
        return sums.add(made), []
    return _all_along(parts, [*full, (axes[-1], last)])


def _all_along(parts: Parts, matrices: Sequence[tuple[int, np.ndarray]]) -> Parts:
    """Complex matrices [read, made] along axes, one after the other."""
    for axis, matrix in matrices:
        (a, b), cosines, sines = parts, np.real(matrix), np.imag(matrix)
        by_sines = [maps.along(b, axis, -sines), maps.along(a, axis, sines)] if sines.any() else [[], []]
        real = sums.add([maps.along(a, axis, cosines), by_sines[0]])
        parts = real, sums.add([by_sines[1], maps.along(b, axis, cosines)])
    return parts


def _matrix(n: int, inverse: bool) -> np.ndarray:
    """Of a transform of n numbers, quarters of a turn exact."""
    turns = np.outer(np.arange(n), np.arange(n)) % n
    cosines, sines = np.cos(2 * np.pi * turns / n), np.sin(2 * np.pi * turns / n)
    cosines, sines = (np.where(4 * turns % n == 0, np.round(a), a) for a in (cosines, sines))
    return (cosines + 1j * sines) / n if inverse else cosines - 1j * sines


# -- parts -------------------------------------------------------------------------------------------


def _is_complex(atom: Atom) -> bool:
    return jnp.issubdtype(atom.dtype, jnp.complexfloating)


def _names(walk: Walk, atom: Atom) -> str:
    origin = walk.origin(atom)
    numbers = sorted(origin.leaves | origin.fixed) if origin is not None else ()
    return ", ".join(f"`{walk.program.param_paths[n]}`" for n in numbers)


def _parts(walk: Walk, atom: Atom) -> Parts:
    """The real and the imaginary part of an operand that depends on x, or is constant."""
    if isinstance(atom, Var) and walk.is_data(atom):
        return walk.states[atom], walk.imaginary.get(atom, [])
    numbers = [_part_of(walk.value(atom), part) for part in ("real", "imag")]
    real, imaginary = (walk.known(constant(n), atom.shape) if is_traced(n) or np.any(n) else [] for n in numbers)
    return real, imaginary


def _part_of(value: jax.typing.ArrayLike, part: str) -> jax.typing.ArrayLike:
    return getattr(jnp if is_traced(value) else np, part)(value)


def _real(walk: Walk, like: Atom, state: State) -> Var:
    """One part of a value as a value of its own."""
    part = Var(jax.ShapeDtypeStruct(like.shape, jnp.finfo(like.dtype).dtype))
    walk.states[part] = state
    return part


def _plainly(equation: Equation, atoms: Sequence[Atom], outputs: Sequence[Var]) -> Equation:
    """The same equation of real values."""
    plain = tuple(
        Var(jax.ShapeDtypeStruct(v.shape, jnp.finfo(v.dtype).dtype if _is_complex(v) else v.dtype)) for v in outputs
    )
    return dataclasses.replace(equation, inputs=tuple(atoms), outputs=plain)
