"""Infinitely wide networks, place by place: the covariance of every pair of (sample, position), in float64.

All channels of a layer are alike, so a value is known by its moments between any two of its places, [S, P, S, P].
A weight layer reads places through its taps, written out one by one; an activation is an expectation over
two jointly Gaussian numbers, in closed form for piecewise linear ones and else by summing over the plane.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from oracles import language as lang
from oracles.enumeration import windows

REGIMES = ("FR-II", "DLGN", "DLGN-SF")
Function = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Activation:
    """a(q), a'(q) and γ(q) = a(q) / q."""

    value: Function
    slope: Function
    gate: Function


def _logistic(q):
    return np.exp(-np.logaddexp(0, -q))


def soft_relu(beta: float) -> Activation:
    """q·γ_β(q); silu is β = 1."""

    def gate(q):
        return _logistic(beta * q)

    return Activation(lambda q: q * gate(q), lambda q: gate(q) + beta * q * gate(q) * (1 - gate(q)), gate)


def gelu() -> Activation:
    """q·Φ(q)."""

    def gate(q):
        return np.vectorize(math.erf)(q / math.sqrt(2)) / 2 + 0.5

    return Activation(
        lambda q: q * gate(q), lambda q: gate(q) + q * np.exp(-np.square(q) / 2) / math.sqrt(2 * math.pi), gate
    )


def gelu_by_tanh() -> Activation:
    """Its usual approximation."""
    c = math.sqrt(2 / math.pi)

    def gate(q):
        return 0.5 + 0.5 * np.tanh(c * (q + 0.044715 * q**3))

    def slope(q):
        tanh = np.tanh(c * (q + 0.044715 * q**3))
        return gate(q) + q * 0.5 * (1 - tanh**2) * c * (1 + 3 * 0.044715 * q**2)

    return Activation(lambda q: q * gate(q), slope, gate)


def over_the_plane(function: Function, uu: float, vv: float, uv: float, step: float = 0.04) -> float:
    """E[function(u) function(v)]: the trapezoid rule, whose error is exponentially small for analytic functions."""
    z = np.arange(-9, 9 + step / 2, step)
    density = np.exp(-np.square(z) / 2) * step / math.sqrt(2 * math.pi)
    rho = uv / math.sqrt(uu * vv)
    u = math.sqrt(uu) * z
    v = math.sqrt(vv) * (rho * z[:, None] + math.sqrt(max(1 - rho * rho, 0)) * z[None])
    return float((density * function(u)) @ (function(v) @ density))


def _by_summing(function: Function, joint: "Joint") -> np.ndarray:
    result = np.empty_like(joint.uv)
    for place in np.ndindex(*result.shape):
        uu, vv = (np.broadcast_to(a, result.shape)[place] for a in (joint.uu, joint.vv))
        result[place] = over_the_plane(function, uu, vv, joint.uv[place])
    return result


class Joint:
    """A covariance between all places, and of each place with itself."""

    def __init__(self, covariance: np.ndarray):
        s, p = covariance.shape[:2]
        own = np.einsum("spsp->sp", covariance)
        self.uv, self.uu, self.vv = covariance, own[:, :, None, None], own[None, None]
        same = np.eye(s * p, dtype=bool).reshape(s, p, s, p)
        sine = np.sqrt(np.maximum(self.uu * self.vv - np.square(covariance), 0))
        self.angle = np.where(same, 0.0, np.arctan2(sine, covariance))
        self.scale = np.sqrt(self.uu * self.vv)
        self.zero = np.broadcast_to(self.uu == 0, covariance.shape), np.broadcast_to(self.vv == 0, covariance.shape)

    def same_sign(self) -> np.ndarray:
        """P(u > 0, v > 0)."""
        return (math.pi - self.angle) / (2 * math.pi)

    def same_half(self) -> np.ndarray:
        """E[uv; u > 0, v > 0]: Cho & Saul's arc-cosine kernel of degree one, halved."""
        return self.scale * (np.sin(self.angle) + (math.pi - self.angle) * np.cos(self.angle)) / (2 * math.pi)

    def other_half(self) -> np.ndarray:
        """E[uv; u > 0, v < 0]: with v → -v an angle of π - θ."""
        return -self.scale * (np.sin(self.angle) - self.angle * np.cos(self.angle)) / (2 * math.pi)

    def moments(self, slope: float, smooth: Activation | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """E[a a], E[a' a'] and E[γ γ] of leaky ReLU or of a smooth activation."""
        if smooth is not None:
            parts = (smooth.value, smooth.slope, smooth.gate)
            return tuple(_by_summing(part, self) for part in parts)  # type: ignore[return-value]
        value = (1 + slope**2) * self.same_half() + 2 * slope * self.other_half()
        gate = (1 + slope**2) * self.same_sign() + 2 * slope * (0.5 - self.same_sign())
        # A number of variance zero is zero, where the gate is that of the negative side.
        u, v = (np.where(zero, slope, (1 + slope) / 2) for zero in self.zero)
        gate = np.where(self.zero[0] | self.zero[1], u * v, gate)
        return value, gate, gate


@dataclasses.dataclass(frozen=True)
class Value:
    """Moments by name, [S, P, S, P] each, of a value at positions of a shape; `flat`: they are channels by now."""

    moments: dict[object, np.ndarray]
    positions: tuple[int, ...]
    flat: bool = False

    def each(self, function: Callable[[np.ndarray], np.ndarray], positions: tuple[int, ...]) -> "Value":
        return Value({name: function(m) for name, m in self.moments.items()}, positions)


class Wide:
    """All kernels of an infinitely wide network.

    Args:
        network: the architecture; of the sizes of its layers only windows count.
        x: [S, *network.input], real numbers.
        weight_std: weights have variance weight_std² / fan-in.
        bias_std: biases have variance bias_std².
        smooth: an activation in the place of every `Relu`.
    """

    def __init__(
        self,
        network: lang.Network,
        x: np.ndarray,
        weight_std: float = math.sqrt(2),
        bias_std: float = 0.0,
        smooth: Activation | None = None,
    ):
        x = np.asarray(x, np.float64)
        self.weight, self.bias, self.smooth = weight_std**2, bias_std**2, smooth
        flat = x.reshape(len(x), -1)
        self.input = np.einsum("sd,td->st", flat, flat)
        places = x.reshape(len(x), -1, x.shape[-1])
        product = np.einsum("spc,tqc->sptq", places, places) / x.shape[-1]
        starts: dict[object, np.ndarray] = dict.fromkeys(("nngp", "linear"), product)
        starts |= dict.fromkeys(("ntk", "value"), np.zeros_like(product))
        for regime in REGIMES:
            starts |= {(regime, False): product, (regime, True): np.ones_like(product)}
        self.result = self.run(network.layers, Value(starts, x.shape[1:-1])).moments

    def __getitem__(self, name: object) -> np.ndarray:
        """[S, S]: "nngp", "ntk", "value" (the NTK with gates held), or the path kernel (regime, constant input)."""
        return self.result[name][:, 0, :, 0]

    def run(self, layers: tuple, value: Value) -> Value:
        for layer in layers:
            value = getattr(self, type(layer).__name__.lower())(layer, value)
        return value

    def weigh(self, value: Value, taps: list[list[int | None]], bias: bool, positions: tuple[int, ...]) -> Value:
        """A weight layer whose output o reads the places taps[o]; None is padding."""
        moments = {}
        for name, m in value.moments.items():
            s, outputs = m.shape[0], len(taps)
            total = np.zeros((s, outputs, s, outputs))
            for under in zip(*taps, strict=True):  # what every output reads at one tap
                inside = [o for o, a in enumerate(under) if a is not None]
                read = [under[o] for o in inside]
                total[np.ix_(range(s), inside, range(s), inside)] += m[np.ix_(range(s), read, range(s), read)]
            moments[name] = total / len(taps[0])
        for name in ("nngp", "linear", "ntk", "value"):
            moments[name] = self.weight * moments[name]
        for name in moments:
            if bias and name not in ("ntk", "value"):
                moments[name] = moments[name] + (self.bias if name in ("nngp", "linear") else 1.0)
        for name in ("ntk", "value"):  # what this layer's own parameters add
            moments[name] = moments[name] + moments["nngp"]
        return Value(moments, positions)

    def dense(self, layer: lang.Dense, value: Value) -> Value:
        count = math.prod(value.positions)
        if value.flat:
            return self.weigh(value, [list(range(count))], layer.bias, ())
        return self.weigh(value, [[p] for p in range(count)], layer.bias, value.positions)

    def taps(self, value: Value, kernel, stride, dilation, padding) -> tuple[list[list[int | None]], tuple[int, ...]]:
        under = windows(value.positions, kernel, stride, dilation, padding)
        positions = under.shape[: len(value.positions)]
        rows = under.reshape(math.prod(positions), -1)
        flat = [[None if at is None else int(np.ravel_multi_index(at, value.positions)) for at in r] for r in rows]
        return flat, positions

    def conv(self, layer: lang.Conv, value: Value) -> Value:
        assert layer.groups == 1
        taps, positions = self.taps(value, layer.kernel, layer.stride, layer.dilation, layer.padding)
        return self.weigh(value, taps, layer.bias, positions)

    def relu(self, layer: lang.Relu, value: Value) -> Value:
        m = value.moments
        values, slopes, gates = Joint(m["nngp"]).moments(layer.slope, self.smooth)
        _, _, linear = Joint(m["linear"]).moments(layer.slope, self.smooth)
        count = m["nngp"].shape[1]
        each_its_own = self.input[:, None, :, None] * np.eye(count)[None, :, None, :]
        _, _, shallow = Joint(each_its_own).moments(layer.slope, self.smooth)
        result = {"nngp": values, "linear": m["linear"], "ntk": m["ntk"] * slopes, "value": m["value"] * gates}
        by_regime = dict(zip(REGIMES, (gates, linear, shallow), strict=True))
        result |= {key: m[key] * by_regime[key[0]] for key in m if isinstance(key, tuple)}
        return Value(result, value.positions)

    def averages(self, value: Value, taps: list[list[int | None]], count: int, positions: tuple[int, ...]) -> Value:
        matrix = np.zeros((len(taps), math.prod(value.positions)))
        for o, row in enumerate(taps):
            for a in row:
                if a is not None:
                    matrix[o, a] += 1 / count
        return value.each(lambda m: np.einsum("op,sptq,rq->sotr", matrix, m, matrix), positions)

    def avgpool(self, layer: lang.AvgPool, value: Value) -> Value:
        taps, positions = self.taps(value, layer.window, layer.stride, 1, layer.padding)
        return self.averages(value, taps, math.prod(layer.window), positions)

    def globalavgpool(self, layer: lang.GlobalAvgPool, value: Value) -> Value:
        count = math.prod(value.positions)
        return self.averages(value, [list(range(count))], count, ())

    def reshape(self, layer: lang.Reshape, value: Value) -> Value:
        assert layer == lang.FLATTEN
        return dataclasses.replace(value, flat=True)

    def residual(self, layer: lang.Residual, value: Value) -> Value:
        branch, shortcut = self.run(layer.branch, value), self.run(layer.shortcut, value)
        return Value({k: branch.moments[k] + shortcut.moments[k] for k in branch.moments}, branch.positions)
