"""Every unit and every edge of a network, written out; and every path through them.

Each unit (layer, position, channel) is a node with its list of incoming edges (from, weight or none,
factor). A path's monomial is the tuple of weights on it; its feature is the product of its start and of
the factors and gates on it. Features of paths with one monomial add up. Numbers are Python integers and
fractions (exact) when the inputs are integers, else float64.
"""

import dataclasses
import fractions
import functools
import itertools
import math
from collections.abc import Iterator

import numpy as np

from oracles import language as lang

Weight = tuple[str, tuple[int, ...]]  # the leaf and the index into it
Monomial = tuple[Weight, ...]


@dataclasses.dataclass(frozen=True)
class Edge:
    source: int
    weight: Weight | None
    factor: object  # a number, or one a sample: [N]


def exactly(value):
    """A number as the integer or fraction that it is."""
    value = fractions.Fraction(value)
    return value.numerator if value.denominator == 1 else value


def as_numbers(array, exact: bool) -> np.ndarray:
    """An array of Python integers and fractions, or of float64."""
    array = np.asarray(array)
    if not exact:
        return array.astype(np.float64)
    flat = [exactly(v) for v in array.ravel().tolist()]
    result = np.empty(len(flat), object)
    result[:] = flat
    return result.reshape(array.shape)


def taps(n: int, kernel: int, stride: int, dilation: int, padding) -> list[list[int | None]]:
    """For every output position along one axis, the input position under each tap (None: padding)."""
    reach = (kernel - 1) * dilation + 1
    wrap = padding == "CIRCULAR"
    if padding == "SAME":
        outputs = -(-n // stride)
        total = max((outputs - 1) * stride + reach - n, 0)
        low, high = total // 2, total - total // 2
    elif padding == "VALID":
        low, high = 0, 0
    elif wrap:
        low, high = (reach - 1) // 2, reach // 2
    else:
        low, high = padding
    outputs = (n + low + high - reach) // stride + 1
    rows = []
    for o in range(outputs):
        at = [o * stride + k * dilation - low for k in range(kernel)]
        rows.append([a % n if wrap else a if 0 <= a < n else None for a in at])
    return rows


@functools.lru_cache(maxsize=256)
def windows(shape: tuple[int, ...], kernel, stride, dilation, padding) -> np.ndarray:
    """[*outputs, *kernel] → tuple of input positions or None, for all axes of `shape`."""
    each = [padding] * len(shape) if isinstance(padding, str) else padding
    axes = [taps(n, k, stride, dilation, p) for n, k, p in zip(shape, kernel, each, strict=True)]
    result = np.empty((*(len(a) for a in axes), *kernel), object)
    for out in itertools.product(*(range(len(a)) for a in axes)):
        for tap in itertools.product(*(range(k) for k in kernel)):
            place = tuple(axis[o][t] for axis, o, t in zip(axes, out, tap, strict=True))
            result[(*out, *tap)] = None if None in place else place
    result.flags.writeable = False
    return result


class Enumeration:
    """A network on a batch, unit by unit.

    Args:
        network: the architecture.
        params: {leaf: array}, e.g. {"Dense_0/kernel": [in, out]}; batch norm's mean and var too.
        x: [N, *network.input]; integers make everything exact.
        gates: one [N, ...] an activation, in order; None for the network's own.
    """

    def __init__(self, network: lang.Network, params: dict[str, np.ndarray], x: np.ndarray, gates=None):
        x = np.asarray(x)
        self.exact = np.issubdtype(x.dtype, np.integer)
        self.params = {leaf: as_numbers(value, self.exact) for leaf, value in params.items()}
        self.given = None if gates is None else [as_numbers(g, self.exact) for g in gates]
        self.n = x.shape[0]
        self.incoming: list[list[Edge]] = []
        self.starts: dict[int, np.ndarray] = {}
        self.values: list[np.ndarray] = []
        self.variance: dict[str, object] = {}
        self.gates: list[np.ndarray] = []
        self.preactivations: list[np.ndarray] = []
        self.names = lang.Names()
        self.fixed = False  # whether the layer at work leads into a batch norm
        self.normalised: set[int] = set()  # units with a batch norm behind them
        self.known: dict[int, dict[Monomial, np.ndarray]] = {}
        one = as_numbers(np.ones(self.n, int), self.exact)
        self.one = self.start(one)
        numbers = as_numbers(x, self.exact)
        units = np.empty(x.shape[1:], int)
        for place in np.ndindex(*units.shape):
            units[place] = self.start(numbers[(slice(None), *place)])
        self.outputs = self.run(network.layers, units)

    # -- nodes and edges -----------------------------------------------------------------------------

    def start(self, value: np.ndarray) -> int:
        self.incoming.append([])
        self.values.append(value)
        self.starts[len(self.values) - 1] = value
        return len(self.values) - 1

    def node(self, edges: list[Edge]) -> int:
        self.incoming.append(edges)
        total = as_numbers(np.zeros(self.n, int), self.exact)
        for edge in edges:
            weight = 1 if edge.weight is None else self.params[edge.weight[0]][edge.weight[1]]
            total = total + self.values[edge.source] * edge.factor * weight
        self.values.append(total)
        return len(self.values) - 1

    def value(self, units: np.ndarray) -> np.ndarray:
        """[N, *units]."""
        flat = np.stack([self.values[u] for u in units.ravel().tolist()], 1)
        return flat.reshape(self.n, *units.shape)

    # -- layers: units in, units out -----------------------------------------------------------------

    def run(self, layers: tuple, units: np.ndarray) -> np.ndarray:
        for i, layer in enumerate(layers):
            # What comes before or after a batch norm, with nothing but factors between, is fixed with it.
            ahead = itertools.dropwhile(lambda later: isinstance(later, lang.Scale), layers[i + 1 :])
            self.fixed = isinstance(next(ahead, None), lang.BatchNorm)
            units = getattr(self, type(layer).__name__.lower())(layer, units)
        return units

    def bias(self, name: str, channel: int) -> list[Edge]:
        leaf = f"{name}/bias"
        if self.fixed and leaf in self.params:
            return [Edge(self.one, None, self.params[leaf][channel])]
        self.variance[leaf] = 1
        return [Edge(self.one, (leaf, (channel,)), 1)] if leaf in self.params else []

    def dense(self, layer: lang.Dense, units: np.ndarray) -> np.ndarray:
        name = self.names(layer)
        fan_in = units.shape[-1]
        self.variance[f"{name}/kernel"] = fractions.Fraction(1, fan_in)
        out = np.empty((*units.shape[:-1], layer.out), int)
        for *place, c in np.ndindex(*out.shape):
            row = units[tuple(place)]
            edges = [Edge(int(row[i]), (f"{name}/kernel", (i, c)), 1) for i in range(fan_in)]
            out[(*place, c)] = self.node(edges + self.bias(name, c))
        return out

    def conv(self, layer: lang.Conv, units: np.ndarray) -> np.ndarray:
        name = self.names(layer)
        per_group, out_per_group = units.shape[-1] // layer.groups, layer.out // layer.groups
        self.variance[f"{name}/kernel"] = fractions.Fraction(1, math.prod(layer.kernel) * per_group)
        under = windows(units.shape[:-1], layer.kernel, layer.stride, layer.dilation, layer.padding)
        positions = under.shape[: units.ndim - 1]
        out = np.empty((*positions, layer.out), int)
        for *place, c in np.ndindex(*out.shape):
            first = (c // out_per_group) * per_group
            edges = []
            for tap in np.ndindex(*layer.kernel):
                at = under[(*place, *tap)]
                if at is None:
                    continue
                for i in range(per_group):
                    edges.append(Edge(int(units[(*at, first + i)]), (f"{name}/kernel", (*tap, i, c)), 1))
            out[(*place, c)] = self.node(edges + self.bias(name, c))
        return out

    def scale(self, layer: lang.Scale, units: np.ndarray) -> np.ndarray:
        leaf = f"{self.names(layer)}/scale"
        if self.fixed or self.normalised.issuperset(units.ravel().tolist()):
            return self.after_norm(self.each(units, lambda u, place: [Edge(u, None, self.params[leaf][place[-1]])]))
        self.variance[leaf] = 1
        return self.each(units, lambda u, place: [Edge(u, (leaf, (place[-1],)), 1)])

    def after_norm(self, units: np.ndarray) -> np.ndarray:
        self.normalised.update(units.ravel().tolist())
        return units

    def batchnorm(self, layer: lang.BatchNorm, units: np.ndarray) -> np.ndarray:
        name = self.names(layer)
        scale, bias, mean, var = (self.params[f"{name}/{part}"] for part in ("scale", "bias", "mean", "var"))

        def normalised(u: int, place: tuple[int, ...]) -> list[Edge]:
            c = place[-1]
            root = math.sqrt(float(var[c]) + layer.eps)
            if self.exact:
                assert root * root == float(var[c]) + layer.eps, "an exact case needs square variances"
                root = exactly(root)
            factor = scale[c] * fractions.Fraction(1, root) if self.exact else scale[c] / root
            return [Edge(u, None, factor), Edge(self.one, None, bias[c] - mean[c] * factor)]

        return self.after_norm(self.each(units, normalised))

    def each(self, units: np.ndarray, edges) -> np.ndarray:
        out = np.empty(units.shape, int)
        for place in np.ndindex(*units.shape):
            out[place] = self.node(edges(int(units[place]), place))
        return out

    def next_gate(self, q: np.ndarray, own) -> np.ndarray:
        gate = own() if self.given is None else self.given[len(self.gates)]
        self.preactivations.append(q)
        self.gates.append(gate)
        return gate

    def relu(self, layer: lang.Relu, units: np.ndarray) -> np.ndarray:
        q = self.value(units)
        one, slope = (exactly(1), exactly(layer.slope)) if self.exact else (1.0, layer.slope)
        gate = self.next_gate(q, lambda: np.where(q > 0, one, slope))
        return self.each(units, lambda u, place: [Edge(u, None, gate[(slice(None), *place)])])

    def averages(self, units: np.ndarray, under: np.ndarray, count: int) -> np.ndarray:
        share = fractions.Fraction(1, count) if self.exact else 1 / count
        positions = under.shape[: units.ndim - 1]
        out = np.empty((*positions, units.shape[-1]), int)
        for *place, c in np.ndindex(*out.shape):
            inside = [at for at in under[tuple(place)].ravel() if at is not None]
            out[(*place, c)] = self.node([Edge(int(units[(*at, c)]), None, share) for at in inside])
        return out

    def avgpool(self, layer: lang.AvgPool, units: np.ndarray) -> np.ndarray:
        under = windows(units.shape[:-1], layer.window, layer.stride, 1, layer.padding)
        return self.averages(units, under, math.prod(layer.window))

    def globalavgpool(self, layer: lang.GlobalAvgPool, units: np.ndarray) -> np.ndarray:
        flat = units.reshape(-1, units.shape[-1])
        share = fractions.Fraction(1, len(flat)) if self.exact else 1 / len(flat)
        return np.array([self.node([Edge(int(u), None, share) for u in flat[:, c]]) for c in range(flat.shape[1])])

    def maxpool(self, layer: lang.MaxPool, units: np.ndarray) -> np.ndarray:
        under = windows(units.shape[:-1], layer.window, layer.stride, 1, layer.padding)
        positions = under.shape[: units.ndim - 1]
        shape = (*positions, units.shape[-1])
        candidates = {
            (*place, c): [None if at is None else int(units[(*at, c)]) for at in under[tuple(place)].ravel()]
            for *place, c in np.ndindex(*shape)
        }

        def first_largest() -> np.ndarray:
            choice = np.zeros((self.n, *shape, math.prod(layer.window)), object if self.exact else float)
            for place, row in candidates.items():
                for s in range(self.n):
                    inside = [k for k, u in enumerate(row) if u is not None]
                    best = max(inside, key=lambda k: (self.values[row[k]][s], -k))
                    choice[(s, *place, best)] = 1
            return choice

        gate = self.next_gate(self.value(units), first_largest)
        out = np.empty(shape, int)
        for place, row in candidates.items():
            edges = [Edge(u, None, gate[(slice(None), *place, k)]) for k, u in enumerate(row) if u is not None]
            out[place] = self.node(edges)
        return out

    def reshape(self, layer: lang.Reshape, units: np.ndarray) -> np.ndarray:
        return units.reshape(layer.shape)

    def transpose(self, layer: lang.Transpose, units: np.ndarray) -> np.ndarray:
        return units.transpose(layer.order)

    def subsample(self, layer: lang.Subsample, units: np.ndarray) -> np.ndarray:
        kept = units[tuple(slice(None, None, layer.step) for _ in range(units.ndim - 1))]
        zeros = np.array([[self.node([]) for _ in range(layer.extra)] for _ in range(kept[..., 0].size)], int)
        return np.concatenate([kept, zeros.reshape(*kept.shape[:-1], layer.extra)], -1)

    def residual(self, layer: lang.Residual, units: np.ndarray) -> np.ndarray:
        branch = self.run(layer.branch, units)
        shortcut = self.run(layer.shortcut, units)
        assert branch.shape == shortcut.shape, (branch.shape, shortcut.shape)
        return self.each(branch, lambda u, place: [Edge(u, None, 1), Edge(int(shortcut[place]), None, 1)])

    def concat(self, layer: lang.Concat, units: np.ndarray) -> np.ndarray:
        return np.concatenate([self.run(branch, units) for branch in layer.branches], -1)

    # -- paths ---------------------------------------------------------------------------------------

    def output(self) -> np.ndarray:
        return self.value(self.outputs)

    def features_of(self, unit: int) -> dict[Monomial, np.ndarray]:
        """{monomial: feature [N]} of one unit, node by node in order of creation."""
        needed, stack = {unit}, [unit]
        while stack:
            for edge in self.incoming[stack.pop()]:
                if edge.source not in needed:
                    needed.add(edge.source)
                    stack.append(edge.source)
        ways: dict[int, dict[Monomial, np.ndarray]] = {}
        for u in sorted(needed):
            if u in self.starts:
                ways[u] = {(): self.starts[u]}
                continue
            ways[u] = {}
            for edge in self.incoming[u]:
                last = () if edge.weight is None else (edge.weight,)
                for monomial, feature in ways[edge.source].items():
                    longer = monomial + last
                    value = feature * edge.factor
                    ways[u][longer] = ways[u][longer] + value if longer in ways[u] else value
        return ways[unit]

    def each_path(self, unit: int) -> Iterator[tuple[Monomial, np.ndarray]]:
        """Every single path to a unit: its weights and its feature. Exponentially slow, obviously right."""
        if unit in self.starts:
            yield (), self.starts[unit]
        for edge in self.incoming[unit]:
            last = () if edge.weight is None else (edge.weight,)
            for monomial, feature in self.each_path(edge.source):
                yield monomial + last, feature * edge.factor

    def features(self, output: int = 0) -> dict[Monomial, np.ndarray]:
        """{monomial up to the output's own index: feature [N]} — the same for every output."""
        if output not in self.known:
            named = {}
            for monomial, feature in self.features_of(int(self.outputs[output])).items():
                leaf, index = monomial[-1]
                named[(*monomial[:-1], (leaf, (*index[:-1], ":")))] = feature
            self.known[output] = named
        return self.known[output]

    def path_value(self, monomial: Monomial) -> np.ndarray:
        """[K]: the product of a path's weights, for every output."""
        product = 1
        for leaf, index in monomial[:-1]:
            product = product * self.params[leaf][index]
        leaf, index = monomial[-1]
        return product * self.params[leaf][(*index[:-1], slice(None))]

    def path_variance(self, monomial: Monomial):
        """The product of 1 / fan-in over its kernels, 1 over its biases."""
        return math.prod((self.variance[leaf] for leaf, _ in monomial), start=fractions.Fraction(1))


def name_of(monomial: Monomial, prefix: str = "") -> str:
    """The contract's name of a coordinate."""
    return " -> ".join(f"{prefix}{leaf}[{','.join(map(str, index))}]" for leaf, index in monomial)


def over_one_denominator(values: np.ndarray) -> tuple[np.ndarray, int]:
    """Integers and the denominator of all of them: sums of integers are much faster than sums of fractions."""
    shared = math.lcm(*(value.denominator for value in values.ravel().tolist()))
    whole = [value.numerator * (shared // value.denominator) for value in values.ravel().tolist()]
    return np.array(whole, object).reshape(values.shape), shared


def gram_of(one: Enumeration, two: Enumeration, normalize: bool) -> np.ndarray:
    """H = Σ over monomials of φ φ' (times the variance of the monomial), [N1, N2]."""
    left, right = one.features(), two.features()
    assert left.keys() == right.keys()
    a, b = np.stack(list(left.values())), np.stack([right[monomial] for monomial in left])
    variances = [one.path_variance(monomial) if normalize else 1 for monomial in left]
    if not one.exact:
        return a.T @ (np.array(variances, float)[:, None] * b)
    (a, of_a), (b, of_b) = over_one_denominator(a), over_one_denominator(b)
    v, of_v = over_one_denominator(np.array(variances, object))
    total, shared = a.T @ (v[:, None] * b), of_a * of_b * of_v
    return total if shared == 1 else total * fractions.Fraction(1, shared)
