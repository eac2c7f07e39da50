"""A network written twice, step by step: as a line of Python for npk, and as an operation on the oracle's units.

A `Step` holds both. `Network.function()` is the Python function of the lines, `Network.units(...)` what the oracle
makes of the same steps; neither reads the other.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from oracles import dictionary as paths

import npk


@dataclasses.dataclass(frozen=True)
class Value:
    """A variable of the function: the shape of a sample, where its batch axis is, and how many paths may reach it."""

    name: str
    shape: tuple[int, ...]
    batch: int = 0
    paths: float = 1
    bent: bool = False  # an activation of it would be joined with the one behind it

    @property
    def rank(self) -> int:
        return len(self.shape) + 1

    @property
    def full(self) -> tuple[int, ...]:
        """Its shape for a batch of one."""
        return (*self.shape[: self.batch], 1, *self.shape[self.batch :])

    def axis(self, a: int) -> int:
        return a + (a >= self.batch)

    def at(self, **axes: str) -> str:
        """An index of all axes, as text: those named `_<axis>` of the sample as given."""
        parts = [":"] * self.rank
        for a, text in axes.items():
            parts[self.axis(int(a[1:]))] = text
        return f"[{', '.join(parts)}]"


@dataclasses.dataclass(frozen=True)
class Gate:
    """One activation: its gates have the shape `sample`, the samples at axis `batch` of a batch's."""

    sample: tuple[int, ...]
    batch: int
    own: Callable[[np.ndarray], np.ndarray]
    flat: bool = False  # all axes but the last are one in the function

    def laid_out(self, gates: np.ndarray) -> np.ndarray:
        """Gates [N, *sample] as those of a batch."""
        moved = np.moveaxis(gates, 0, self.batch)
        return moved.reshape(-1, moved.shape[-1]) if self.flat else moved


@dataclasses.dataclass(frozen=True)
class Step:
    """`chain`: an elementwise affine operation of one value; `power`: it reads a root of a parameter."""

    out: tuple[str, ...]
    ins: tuple[str, ...]
    code: str
    run: Callable[..., Any]
    chain: bool = False
    power: bool = False
    gates: tuple[Gate, ...] = ()
    reads: tuple[str, ...] = ()
    same: bool = False  # the result has the shape of the first operand
    maybe: bool = False  # it may be a link of a chain, or none: what moves nothing, repeats, or begins as one


@dataclasses.dataclass(frozen=True)
class Weight:
    """A parameter as a layer reads it: its text, the elements of the leaf in its places, and a constant factor."""

    text: str
    places: np.ndarray
    constant: float
    leaf: str

    def __getitem__(self, place) -> paths.Weight:
        return self.leaf, self.places[place]

    @property
    def repeated(self) -> bool:
        """Whether one element stands in two places."""
        return len(set(self.places.ravel())) < self.places.size


def indices(shape: tuple[int, ...]) -> np.ndarray:
    """Every element of an array is its own index."""
    out = np.empty(math.prod(shape), object)
    for number, place in enumerate(np.ndindex(*shape)):
        out[number] = place
    return out.reshape(shape)


class Reader:
    """What a step asks while the oracle runs it."""

    def __init__(self, network: "Network", x: np.ndarray, given: list[np.ndarray] | None):
        self.params, self.samples = network.params, len(x)
        self.given = None if given is None else iter(given)
        self.variance: dict[paths.Weight, float] = {}
        self.x = x
        self.fixed = False
        self.step: tuple = ()  # its number, and the layer within it
        self.used: dict[paths.Weight, tuple] = {}  # the step that an element is a weight of
        self.twice = False  # whether one is a weight again
        self.gates: list[np.ndarray] = []

    def number(self, weight: paths.Weight) -> float:
        return float(self.params[weight[0]][weight[1]])

    def through(self, unit: paths.Unit, weight: Weight, place, fan_in: int) -> paths.Unit:
        """One edge of a layer."""
        element = weight[place]
        self.use(element, 1 / (fan_in * weight.constant**2))
        self.twice |= weight.repeated
        return paths.through(unit, element, self.number(element), weight.constant)

    def use(self, element: paths.Weight, variance: float) -> None:
        self.variance[element] = variance
        self.twice |= self.used.setdefault(element, self.step) != self.step

    def plus(self, *units: paths.Unit) -> paths.Unit:
        return paths.plus(units, self.samples)

    def constant(self, number) -> paths.Unit:
        return paths.known(np.full(self.samples, float(number)))

    def gate(self, gate: Gate, q: np.ndarray) -> np.ndarray:
        """[N, *sample]: its own, but for the last samples those that are given."""
        gates = gate.own(q)
        if self.given is not None:
            given = next(self.given)
            gates = np.concatenate([gates[: len(gates) - len(given)], given])
        self.gates.append(gates)
        return gates


@dataclasses.dataclass
class Network:
    """Steps from x to the output, with the numbers they read."""

    input: Value
    steps: list[Step]
    output: Value
    params: dict[str, np.ndarray]
    constants: dict[str, np.ndarray]

    @property
    def text(self) -> str:
        lines = [f"    {step.code}" for step in self.steps]
        return "\n".join(["def f(p, x):", "    N = x.shape[0]", *lines, f"    return {self.output.name}"])

    def function(self) -> Callable[..., Any]:
        scope = {"jax": jax, "jnp": jnp, "lax": jax.lax, "np": np, "npk": npk, "c": self.constants}
        exec(compile(self.text, "network.py", "exec"), scope)
        return scope["f"]

    def live(self) -> list[Step]:
        needed, kept = {self.output.name}, []
        for step in reversed(self.steps):
            if needed.intersection(step.out):
                kept.append(step)
                needed.update(step.ins)
        return kept[::-1]

    def gates(self) -> list[Gate]:
        return [gate for step in self.live() for gate in step.gates]

    @property
    def certain(self) -> bool:
        """Whether it is the same network whatever JAX writes for what moves nothing."""
        return self.fixed(True) == self.fixed(False)

    def fixed(self, linked: bool = False) -> set[int]:
        """The steps of normalisations: elementwise affine chains that hold a power of a parameter.

        `linked` says whether what moves nothing is a link of a chain.
        """
        steps = [dataclasses.replace(s, chain=linked) if s.maybe else s for s in self.live()]
        readers: dict[str, list[int]] = {}
        for number, step in enumerate(steps):
            for name in set(step.ins):
                readers.setdefault(name, []).append(number)
        behind: set[str] = set()
        for step in steps:
            if step.chain and (step.power or step.ins[0] in behind):
                behind.update(step.out)
        leading: set[str] = set()
        for step in reversed(steps):
            for name in step.out:
                following = [steps[n] for n in readers.get(name, ())]
                if following and name != self.output.name:
                    if all(s.chain and (s.power or s.out[0] in leading) for s in following):
                        leading.add(name)
        chain = [(n, s) for n, s in enumerate(steps) if s.chain]
        return {n for n, s in chain if s.reads and (s.power or s.ins[0] in behind or s.out[0] in leading)}

    def units(self, x: np.ndarray, given: list[np.ndarray] | None = None) -> tuple[np.ndarray, Reader]:
        """The units of the output for samples x under their own gates, the last of them under those given."""
        reader = Reader(self, x, given)
        start = np.empty(x.shape[1:], object)
        for place in np.ndindex(*start.shape):
            start[place] = paths.known(x[(slice(None), *place)])
        known = {self.input.name: start}
        fixed = self.fixed()
        for number, step in enumerate(self.live()):
            reader.fixed, reader.step = number in fixed, (number,)
            result = step.run(reader, *(known[name] for name in step.ins))
            results = result if isinstance(result, tuple) else (result,)
            known.update(zip(step.out, results, strict=True))
        return known[self.output.name], reader

    def without(self, number: int) -> "Network | None":
        """The same with one step left out, where that changes no shape."""
        step = self.steps[number]
        if not step.same:
            return None
        passed = dataclasses.replace(
            step,
            code=f"{step.out[0]} = {step.ins[0]}",
            run=lambda reader, units, *others: units,
            chain=True,
            power=False,
            gates=(),
            same=False,
            reads=(),
        )
        return dataclasses.replace(self, steps=[*self.steps[:number], passed, *self.steps[number + 1 :]])


class Writer:
    """Adds steps to a network, in spellings drawn at random."""

    def __init__(self, rng: np.random.Generator, shape: tuple[int, ...]):
        self.rng = rng
        self.steps: list[Step] = []
        self.params: dict[str, np.ndarray] = {}
        self.constants: dict[str, np.ndarray] = {}
        self.names = map("h{}".format, itertools.count(1))
        self.input = Value("x", shape)

    def network(self, output: Value) -> Network:
        return Network(self.input, self.steps, output, self.params, self.constants)

    # -- drawing ------------------------------------------------------------------------------------

    def one(self, *choices):
        return choices[int(self.rng.integers(len(choices)))]

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def integer(self, low: int, high: int) -> int:
        """Of low..high, the last included."""
        return int(self.rng.integers(low, high + 1))

    def some(self, items) -> list:
        """At least one, in order."""
        items = list(items)
        kept = [i for i in items if self.chance(0.5)]
        return kept or [items[self.integer(0, len(items) - 1)]]

    def numbers(self, *shape: int) -> np.ndarray:
        """Of the order of one, none near zero."""
        return self.rng.uniform(0.4, 1.6, shape) * self.rng.choice([-1, 1], shape)

    # -- what steps read ----------------------------------------------------------------------------

    def parameter(self, shape: tuple[int, ...], positive: bool = False) -> str:
        name = f"w{len(self.params)}"
        values = self.numbers(*shape)
        self.params[name] = np.abs(values) if positive else values
        return name

    def constant(self, values: np.ndarray) -> str:
        name = f"k{len(self.constants)}"
        self.constants[name] = values
        return f"c[{name!r}]"

    def weight(self, shape: tuple[int, ...], repeats: float = 0.02) -> Weight:
        """A parameter of this shape, kept in its leaf in one of several ways; seldom it holds an element twice."""
        spelling = self.integer(0, 9)
        old = [name for name, value in self.params.items() if value.size > math.prod(shape)]
        if self.chance(0.05) and old:  # a part of one that there is already
            return self._part(self.one(*old), shape)
        order = [int(a) for a in self.rng.permutation(len(shape))]
        inverse = [int(a) for a in np.argsort(order)]
        if spelling == 0 and shape:  # transposed
            stored, text = tuple(shape[a] for a in order), f"{{}}.transpose({inverse})"
        elif spelling == 1:  # in one row
            stored, text = (math.prod(shape),), f"{{}}.reshape({shape})"
        elif spelling == 2 and shape:  # a part of a leaf
            low, high = self.integer(0, 2), self.integer(0, 2)
            axis = self.integer(0, len(shape) - 1)
            stored = tuple(s + low + high if a == axis else s for a, s in enumerate(shape))
            cut = ", ".join(f"{low}:{low + s}" if a == axis else ":" for a, s in enumerate(shape))
            text = f"{{}}[{cut}]"
        elif spelling == 3 and shape:  # turned about
            stored = shape
            text = f"{{}}[{', '.join('::-1' if self.chance(0.5) else ':' for _ in shape)}]"
        elif spelling == 4 and shape and shape[0] > 1:  # in another order
            picked = [int(i) for i in self.rng.permutation(shape[0])]
            if self.chance(10 * repeats):
                picked[0] = picked[1]
            stored, text = shape, f"{{}}[np.array({picked})]"
        elif spelling == 5:  # with an axis of size one
            axis = self.integer(0, len(shape))
            stored = (*shape[:axis], 1, *shape[axis:])
            text = f"{{}}[{', '.join([':'] * axis + ['0'])}]" if self.chance(0.5) else f"{{}}.reshape({shape})"
        else:
            stored, text = shape, "{}"
        return self._read(self.parameter(stored), stored, text)

    def _part(self, leaf: str, shape: tuple[int, ...]) -> Weight:
        size, whole = math.prod(shape), self.params[leaf].size
        start = self.one(0, whole - size, self.integer(0, whole - size))
        text = f"{{}}.reshape(-1)[{start}:{start + size}].reshape({shape})"
        return self._read(leaf, self.params[leaf].shape, text)

    def _read(self, leaf: str, stored: tuple[int, ...], text: str) -> Weight:
        places = eval(text.format("places"), {"places": indices(stored), "np": np})  # noqa: S307
        if not isinstance(places, np.ndarray):  # the element of an array without axes
            places = np.array([None, places], object)[1:].reshape(())
        text = text.format(f"p[{leaf!r}]")
        number = 1.0 if self.chance(0.8) else self.one(2.0, -1.0, 0.5)
        written = {1.0: text, -1.0: f"(-{text})", 2.0: f"(2.0 * {text})", 0.5: f"({text} / 2.0)"}[number]
        return Weight(written, places, number, leaf)

    # -- steps --------------------------------------------------------------------------------------

    def step(self, code: str, run: Callable[..., Any], of: Value | tuple[Value, ...], like: Value, **marks) -> Value:
        """Write `name = code`; `like` says what the result is."""
        ins = of if isinstance(of, tuple) else (of,)
        out = dataclasses.replace(like, name=next(self.names))
        same = (like.shape, like.batch) == (ins[0].shape, ins[0].batch)
        names = tuple(v.name for v in ins)
        self.steps.append(Step((out.name,), names, f"{out.name} = {code}", run, same=same, **marks))
        return out

    def move(self, v: Value, code: str, batch: int, numpy_code: str | None = None, **marks) -> Value:
        """A selection of elements: the line itself, run on their numbers, says which."""
        scope = {"jnp": np, "np": np, "N": 1, v.name: np.arange(1, math.prod(v.shape) + 1).reshape(v.full)}
        picked = np.asarray(eval(numpy_code or code, scope))  # noqa: S307
        assert picked.shape[batch] == 1, (code, picked.shape, batch)
        picked = np.moveaxis(picked, batch, 0)[0] - 1
        if not marks:
            marks["maybe"] = picked.shape == v.shape and bool((picked.ravel() == np.arange(picked.size)).all())

        def run(reader: Reader, units: np.ndarray) -> np.ndarray:
            flat = [*units.ravel(), paths.nothing(reader.samples)]
            out = np.empty(picked.shape, object)
            for place in np.ndindex(*picked.shape):
                out[place] = flat[picked[place]]
            return out

        return self.step(code, run, v, dataclasses.replace(v, shape=picked.shape, batch=batch), **marks)
