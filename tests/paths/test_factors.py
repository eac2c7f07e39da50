"""Known factors are expressions: whatever is done to one, its numbers are those of arrays to which the same is done."""

import numpy as np
import pytest

from npk.paths import Factor, Numbers, constant
from npk.paths.factors import join

N, SHAPES = 3, ((2, 3, 1), (1, 3, 4), (2, 1, 1), (1, 1, 1), (2, 3, 4))


class Drawn:
    """Expressions at random, each beside the array [n, ...] that it stands for."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.gates = [self.rng.normal(size=(N, *shape)) for shape in SHAPES]

    def leaf(self):
        number = int(self.rng.integers(len(SHAPES)))
        if self.rng.random() < 0.7:
            return Factor("gate", (), number, SHAPES[number]), self.gates[number]
        value = self.rng.integers(-1, 3, size=SHAPES[number]).astype(float)
        return constant(value), value[None]

    def made(self, depth):
        if not depth:
            return self.leaf()
        factor, array = self.made(depth - 1)
        kind = str(self.rng.choice(["times", "plus", "twice", "take", "transpose", "broadcast", "sum", "norm", "join"]))
        axis = int(self.rng.integers(3))
        if kind in ("times", "plus", "join"):
            other, numbers = self.made(depth - 1)
            if not _broadcast(factor.shape, other.shape, axis if kind == "join" else None):
                return factor, array
            if kind == "join":
                whole = np.broadcast_shapes(*(a.shape[:1] for a in (array, numbers)))
                rest = np.broadcast_shapes(*(np.delete(f.shape, axis) for f in (factor, other)))
                sides = [
                    np.broadcast_to(a, (*whole, *np.insert(rest, axis, f.shape[axis])))
                    for f, a in ((factor, array), (other, numbers))
                ]
                return join([factor, other], axis), np.concatenate(sides, 1 + axis)
            made = factor.times(other) if kind == "times" else factor.plus(other)
            return made, array * numbers if kind == "times" else array + numbers
        if kind == "twice":
            return factor.plus(factor), array + array
        if kind == "take":
            chosen = self.rng.integers(-1, factor.shape[axis], size=int(self.rng.integers(1, 4)))
            picked = np.take(array, np.maximum(chosen, 0), axis=1 + axis)
            return factor.take(axis, chosen), picked * (chosen >= 0).reshape(-1, *(1,) * (2 - axis))
        if kind == "transpose":
            order = tuple(int(d) for d in self.rng.permutation(3))
            return factor.transpose(order), array.transpose(0, *(1 + d for d in order))
        if kind == "broadcast":
            shape = tuple(2 if s == 1 and self.rng.random() < 0.5 else s for s in factor.shape)
            return factor.broadcast(shape), np.broadcast_to(array, (len(array), *shape))
        if kind == "sum":
            kept = factor.sum(axis)
            return kept.reshape(_with_one(kept.shape, axis)), array.sum(1 + axis, keepdims=True)
        if not factor.is_alike:
            return factor, array
        return factor.norm(axis), np.sqrt(np.square(array).sum(1 + axis, keepdims=True))


def _with_one(shape, axis):
    return (*shape[:axis], 1, *shape[axis:])


def _broadcast(one, two, but):
    return all(a == b or 1 in (a, b) or d == but for d, (a, b) in enumerate(zip(one, two, strict=True)))


@pytest.mark.parametrize("part", range(4))
def test_numbers_and_parts_of_expressions(part):
    for seed in range(part, 1200, 4):
        drawn = Drawn(seed)
        factor, array = drawn.made(1 + seed % 5)
        found = Numbers(np, None, drawn.gates, {}, np.dtype(float))
        expected = np.broadcast_to(array, (len(array), *factor.shape))
        np.testing.assert_allclose(
            np.broadcast_to(found.of(factor), (N, *factor.shape)),
            np.broadcast_to(expected, (N, *factor.shape)),
            rtol=1e-9,
            atol=1e-9,
            err_msg=f"seed {seed}",
        )
        product = np.ones((N, *factor.shape))
        for one in factor.parts:
            assert len(one.shape) == len(factor.shape), seed
            product = product * found.of(one)
        np.testing.assert_allclose(
            product,
            np.broadcast_to(expected, (N, *factor.shape)),
            rtol=1e-9,
            atol=1e-9,
            err_msg=f"seed {seed}: its parts",
        )
