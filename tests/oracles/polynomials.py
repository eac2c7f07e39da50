"""A value as what it is given the gates: polynomials in the weights, one a channel, in NumPy and float64.

A monomial is a set of weights, the bits of an integer; its coefficient depends on the sample and on the position. The
constant monomial is zero, the empty set: what is known (an input, a fixed number) and no weight.

    input       coefficients of the constant monomial
    weights     every monomial of channel i gets the weight from i to c longer
    gate        multiplies coefficients, as does a fixed number
    pattern     mixes the positions of coefficients
    sum         adds coefficients of equal monomials; so does centring, which is a value minus a mean

φ are the coefficients, v the products of the weights, f = ⟨φ, v⟩, H = Σ φ φ' times the weights' variances: 1 / fan-in
of a layer's, 1 of a bias, of a factor and of an embedding.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np

Weight = tuple[str, tuple[int, ...]]  # the leaf and the index into it


def leaf_name(path: tuple) -> str:
    """`block/0/kernel`; a variable of Flax NNX is a leaf by its own name."""
    path = path[:-1] if path and path[-1] == jax.tree_util.GetAttrKey("value") else path
    return jax.tree_util.keystr(path, simple=True, separator="/")


def leaves_of(params: Any) -> dict[str, np.ndarray]:
    """{name: numbers} of the leaves of a tree."""
    flat = jax.tree_util.tree_flatten_with_path(params)[0]
    return {leaf_name(path): np.asarray(leaf) for path, leaf in flat}


class Book:
    """What a model's oracle reads and writes: parameters, the weights met so far, and the gates.

    Args:
        params: any tree of arrays.
        given: gates in the order of their use, in place of the model's own.
    """

    def __init__(self, params: Any, given: Sequence[np.ndarray] | None = None):
        self.leaves = leaves_of(params)
        self.given = given
        self.gates: list[tuple[str, np.ndarray]] = []
        self.bits: dict[Weight, int] = {}
        self.variance: dict[Weight, float] = {}
        self.prefix = ""

    def at(self, name: str) -> "Book":
        """The same book, whose leaves are those below `name`."""
        below = Book.__new__(Book)
        below.__dict__ = {**self.__dict__, "prefix": f"{self.prefix}{name}/"}
        return below

    def __getitem__(self, leaf: str) -> np.ndarray:
        """The numbers of a leaf: of fixed numbers, and of weights that only gates read."""
        return self.leaves[self.prefix + leaf].astype(float)

    def __contains__(self, leaf: str) -> bool:
        return self.prefix + leaf in self.leaves

    def names(self, leaf: str) -> np.ndarray:
        """The elements of a leaf as names of weights, in its shape: move them as the model moves its numbers."""
        leaf = self.prefix + leaf
        out = np.empty(self.leaves[leaf].shape, object)
        for place in np.ndindex(*out.shape):
            out[place] = (leaf, place)
        return out

    def weight(self, name: Weight, variance: float) -> tuple[int, float]:
        """The bit of a weight, and its number."""
        assert self.variance.setdefault(name, variance) == variance, f"{name} is a weight of two layers"
        bit = self.bits.setdefault(name, 1 << len(self.bits))
        return bit, float(self.leaves[name[0]][name[1]])

    def gate(self, kind: str, own: np.ndarray) -> np.ndarray:
        """A gate: its own numbers, or those given."""
        gate = own if self.given is None else np.asarray(self.given[len(self.gates)], float).reshape(own.shape)
        self.gates.append((kind, gate))
        return gate


@dataclasses.dataclass(frozen=True)
class Polynomial:
    """Monomials, for each the product of its weights, and its coefficients [M, N, *positions]."""

    monomials: list[int]
    products: np.ndarray
    coefficients: np.ndarray

    def with_coefficients(self, coefficients: np.ndarray) -> "Polynomial":
        return Polynomial(self.monomials, self.products, coefficients)

    def times(self, factor) -> "Polynomial":
        """A gate [N, *positions] or a number."""
        return self.with_coefficients(self.coefficients * factor)

    def through(self, bit: int, number: float) -> "Polynomial":
        assert not any(m & bit for m in self.monomials), "a weight comes twice on one path"
        return Polynomial([m | bit for m in self.monomials], self.products * number, self.coefficients)

    def numbers(self) -> np.ndarray:
        """[N, *positions]."""
        return np.tensordot(self.products, self.coefficients, 1)


def total(polynomials: Iterable[Polynomial]) -> Polynomial:
    """Their sum."""
    polynomials = list(polynomials)
    if len(polynomials) == 1:
        return polynomials[0]
    place: dict[int, int] = {}
    for p in polynomials:
        for monomial in p.monomials:
            place.setdefault(monomial, len(place))
    products = np.empty(len(place))
    coefficients = np.zeros((len(place), *polynomials[0].coefficients.shape[1:]))
    for p in polynomials:
        at = [place[monomial] for monomial in p.monomials]  # each once
        products[at] = p.products
        coefficients[at] += p.coefficients
    return Polynomial(list(place), products, coefficients)


@dataclasses.dataclass(frozen=True)
class Value:
    """A polynomial a channel; all are of the same samples and positions."""

    book: Book
    channels: tuple[Polynomial, ...]

    def __len__(self) -> int:
        return len(self.channels)

    @property
    def shape(self) -> tuple[int, ...]:
        """[N, *positions]."""
        return self.channels[0].coefficients.shape[1:]

    def numbers(self) -> np.ndarray:
        """[N, *positions, C]: what the model computes here."""
        return np.stack([p.numbers() for p in self.channels], -1)

    def within(self, book: Book) -> "Value":
        return Value(book, self.channels)

    def each(self, function: Callable[[Polynomial], Polynomial]) -> "Value":
        return Value(self.book, tuple(map(function, self.channels)))

    def moved(self, function: Callable[[np.ndarray], np.ndarray]) -> "Value":
        """A linear function of coefficients [M, N, *positions] → [M, N, *positions]."""
        return self.each(lambda p: p.with_coefficients(function(p.coefficients)))

    def take(self, channels: Iterable[int]) -> "Value":
        return Value(self.book, tuple(self.channels[c] for c in channels))

    def __add__(self, other: "Value") -> "Value":
        pairs = zip(self.channels, other.channels, strict=True)
        return Value(self.book, tuple(total(pair) for pair in pairs))

    # -- weights -------------------------------------------------------------------------------------

    def dense(self, names: np.ndarray, fan_in: int | None = None) -> "Value":
        """A layer of weights over the channels; names [in, out]."""
        return self.convolution([(names, lambda c: c)], fan_in)

    def convolution(self, taps: Sequence[tuple[np.ndarray, Callable]], fan_in: int | None = None) -> "Value":
        """Of taps (names [in, out], how coefficients [M, N, *positions] lie under the tap)."""
        (inputs, outputs), out = taps[0][0].shape, []
        assert inputs == len(self)
        variance = 1 / (fan_in or len(taps) * inputs)
        for c in range(outputs):
            parts = []
            for names, lie in taps:
                for i, p in enumerate(self.channels):
                    under = p.with_coefficients(lie(p.coefficients))
                    parts.append(under.through(*self.book.weight(names[i, c], variance)))
            out.append(total(parts))
        return Value(self.book, tuple(out))

    def factors(self, names: np.ndarray) -> "Value":
        """A weight for each channel; names [C]."""
        ways = [self.book.weight(name, 1.0) for name in names]
        return Value(self.book, tuple(p.through(*way) for p, way in zip(self.channels, ways, strict=True)))

    def bias(self, names: np.ndarray) -> "Value":
        """One for each channel at all positions, names [C], or at each, names [*positions, C]."""
        positions = self.shape[1:]
        names = np.broadcast_to(names, (*positions, names.shape[-1]))
        out = []
        for c, p in enumerate(self.channels):
            lies: dict[Weight, np.ndarray] = {}
            for place in np.ndindex(*positions):
                lies.setdefault(names[(*place, c)], np.zeros(self.shape))[(slice(None), *place)] = 1
            out.append(total([p, *(started(self.book, name, lie) for name, lie in lies.items())]))
        return Value(self.book, tuple(out))

    # -- what is known -------------------------------------------------------------------------------

    def gate(self, kind: str, own: np.ndarray) -> "Value":
        """A factor [N, *positions, C], or one of which axes are one."""
        gate = np.broadcast_to(self.book.gate(kind, own), (*self.shape, len(self)))
        return Value(self.book, tuple(p.times(gate[..., c]) for c, p in enumerate(self.channels)))

    def pattern(self, own: np.ndarray) -> "Value":
        """A mixing of the positions, [N, P, Q], the same for all channels."""
        a = self.book.gate("pattern", own)
        return self.moved(lambda c: np.einsum("npq,mnq->mnp", a, c))

    def mixed(self, matrix: np.ndarray) -> "Value":
        """A constant mixing of the positions, [P, Q]."""
        return self.moved(lambda c: np.einsum("pq,mnq->mnp", matrix, c))

    def times(self, factors) -> "Value":
        """Fixed numbers: one, or one a channel."""
        factors = np.broadcast_to(factors, (len(self),))
        return Value(self.book, tuple(p.times(t) for p, t in zip(self.channels, factors, strict=True)))

    def plus(self, numbers) -> "Value":
        """Fixed numbers are added: one a channel."""
        ones = np.ones((1, *self.shape))
        known = [Polynomial([0], np.ones(1), ones * number) for number in numbers]
        return self + Value(self.book, tuple(known))

    def centred(self, groups: int | None = 1, positions: bool = False) -> "Value":
        """Minus the mean over the channels of a group (None: over none), and over all positions."""
        size = 1 if groups is None else len(self) // groups
        out = []
        for c, p in enumerate(self.channels):
            first = c // size * size
            mean = total(self.channels[first : first + size]).times(-1 / size)
            if positions:
                axes = tuple(range(2, mean.coefficients.ndim))
                over = mean.coefficients.mean(axes, keepdims=True)
                mean = mean.with_coefficients(np.broadcast_to(over, mean.coefficients.shape))
            out.append(total([p, mean]))
        return Value(self.book, tuple(out))

    def mean(self) -> "Value":
        """Over all positions."""
        return self.moved(lambda c: c.mean(tuple(range(2, c.ndim))))

    def position(self, place: int) -> "Value":
        return self.moved(lambda c: c[:, :, place])


def started(book: Book, name: Weight, lies: np.ndarray, variance: float = 1.0) -> Polynomial:
    """A path that starts at a weight: a bias where it is added, [N, *positions]."""
    bit, number = book.weight(name, variance)
    return Polynomial([bit], np.array([number]), lies[None].astype(float))


def joined(values: Sequence[Value]) -> Value:
    """Their channels, side by side."""
    return Value(values[0].book, tuple(p for value in values for p in value.channels))


def input_of(book: Book, x: np.ndarray) -> Value:
    """[N, *positions, C]."""
    x = np.asarray(x, float)
    return Value(book, tuple(Polynomial([0], np.ones(1), x[None, ..., c]) for c in range(x.shape[-1])))


def embedded(book: Book, names: np.ndarray, tokens: np.ndarray) -> Value:
    """Rows of a table, names [tokens, C], of tokens [N, P]."""
    out = []
    for c in range(names.shape[1]):
        out.append(total([started(book, row[c], tokens == t) for t, row in enumerate(names)]))
    return Value(book, tuple(out))


class Paths:
    """The paths to an output: φ [N, paths] and v [paths], and the weights' variances, multiplied."""

    def __init__(self, polynomial: Polynomial, book: Book):
        assert polynomial.coefficients.ndim == 2, "the output has no positions"
        self.features, self.values = polynomial.coefficients.T, polynomial.products
        self.names = list(book.bits)  # of the bits, from the lowest on
        size = len(self.names) // 8 + 1
        rows = np.frombuffer(b"".join(m.to_bytes(size, "little") for m in polynomial.monomials), np.uint8)
        bits = np.unpackbits(rows.reshape(-1, size), axis=1, bitorder="little")
        self.holds = bits[:, : len(self.names)].astype(bool)  # [paths, weights]
        self.variances = self.multiplied([book.variance[name] for name in self.names])

    def multiplied(self, numbers: Sequence[float]) -> np.ndarray:
        """A number for each weight: their products over the weights of every path."""
        return np.where(self.holds, np.array(numbers, float), 1).prod(1)

    def output(self) -> np.ndarray:
        return self.features @ self.values

    def output_of(self, params: Any) -> np.ndarray:
        """Of the same gates and fixed numbers with other weights."""
        leaves = leaves_of(params)
        return self.features @ self.multiplied([float(leaves[leaf][place]) for leaf, place in self.names])

    def gram(self, normalize: bool = True, other: "Paths | None" = None) -> np.ndarray:
        """H, with the samples of the same model under other inputs and gates."""
        right = self.features
        if other is not None:
            mine, theirs = self.by_name(), other.by_name()
            assert mine.keys() == theirs.keys()
            right = np.stack([theirs[path] for path in mine], 1)
        return (self.features * (self.variances if normalize else 1)) @ right.T

    def by_name(self) -> dict[frozenset[Weight], np.ndarray]:
        """{weights: feature [N]}."""
        sets = [frozenset(self.names[k] for k in np.flatnonzero(row)) for row in self.holds]
        return dict(zip(sets, self.features.T, strict=True))


def paths_of(value: Value, output: int = 0) -> Paths:
    """Of a value without positions."""
    return Paths(value.channels[output], value.book)
