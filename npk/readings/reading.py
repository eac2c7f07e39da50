"""A reading: what a model was taken to be, as data, as a table, and as HTML."""

import dataclasses
import html
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

from npk.path_kernels import Engine
from npk.programs import shown

_CELL = "text-align: left; padding: 0 1em 0 0"
_ROWS = 40  # of one table that are printed; HTML and `as_dict` have them all


@shown()
@dataclasses.dataclass(frozen=True)
class ParameterReading:
    """One role of a parameter; a leaf whose parts differ has one for each.

    Attributes:
        name: the leaf's place in the parameters, keys joined by "/".
        shape: of the leaf.
        role: "weight", "bias", "fixed" (a number to paths), "feature" (it acts through the gates of others alone),
            "function" (part of what no rule covers), "unused", or "unread" where f is refused as a whole.
        elements: how many of its numbers have the role.
        fan_in: of a weight.
        source: the line that gives it the role.
        why: in words.
        counts: the tangent kernel is by it (`wrt`).

    Example:
        >>> import jax.numpy as jnp, npk
        >>> reading = npk.explain(lambda p, x: x @ p["w"])({"w": jnp.ones((2, 1))}, jnp.ones((1, 2)))
        >>> [(p.name, p.role, p.fan_in) for p in reading.parameters]
        [('w', 'weight', 2)]
    """

    name: str
    shape: tuple[int, ...]
    role: str
    elements: int = 0
    fan_in: int | None = None
    source: str = ""
    why: str = ""
    counts: bool = True


@shown()
@dataclasses.dataclass(frozen=True)
class GateReading:
    """One gate, in call order.

    Attributes:
        number: its place in `npk.gates(f)(params, x)`.
        kind: of an activation: "hard", "soft", "pool" (max-pooling), "given" (from another network), "identity"; of
            another factor: "scale" (a norm's 1/σ), "pattern" (softmax), "product", "declared" (`as_gate`, or given).
        function: γ in words, "1{q > 0}" for ReLU.
        shape: of the gate for the batch that was read.
        source: the line of the activation.
        module: its place in the model, where JAX knows it.

    Example:
        >>> import jax, jax.numpy as jnp, npk
        >>> reading = npk.explain(lambda w, x: jax.nn.relu(x @ w))(jnp.ones((2, 3)), jnp.ones((4, 2)))
        >>> [(g.kind, g.function, g.shape) for g in reading.gates]
        [('hard', '1{q > 0}', (4, 3))]
    """

    number: int
    kind: str
    function: str
    shape: tuple[int, ...]
    source: str
    module: str = ""


@shown()
@dataclasses.dataclass(frozen=True)
class Refusal:
    """Something in f that npk does not take as it stands.

    Attributes:
        what: the operation and its place, or what was found.
        needed: which transforms refuse it.
        remedy: what to do.
        allowed: it was allowed to stay.

    Example:
        >>> import jax.numpy as jnp, npk
        >>> reading = npk.explain(lambda w, x: jnp.exp(x @ w))(jnp.ones((2, 3)), jnp.ones((4, 2)))
        >>> reading.nonlinear[0].remedy
        "allow=('exp',) lets it stand as a part of f"
    """

    what: str
    needed: str
    remedy: str
    allowed: bool = False


@shown()
@dataclasses.dataclass(frozen=True)
class Certificate:
    """Whether f is its gated form, and linear given its gates.

    Attributes:
        same: |f(x) − gated(f)(x, its gates)| of the samples that were tried, relative to |f(x)|.
        affine: how far gated(f) at fixed gates is from an affine function of x, likewise; None where x is of integers.
        proven: every operation on the way of the values is affine in x given the gates.

    Example:
        >>> import jax, jax.numpy as jnp, npk
        >>> reading = npk.explain(lambda w, x: jax.nn.relu(x @ w))(jnp.ones((2, 3)), jnp.ones((4, 2)))
        >>> reading.certificate.proven, reading.certificate.same
        (True, 0.0)
    """

    same: float
    affine: float | None
    proven: bool


@dataclasses.dataclass(frozen=True)
class Reading:
    """What npk takes f to be.

    Attributes:
        parameters: what every parameter is to a path.
        gates: every gate, in call order.
        nonlinear: what is neither linear nor a gate: `gates`, `gated`, `split_ntk` refuse it unless it is allowed.
        refused: what the path rules refuse, all of it: `path_kernel`, `npf`, `sketch`.
        engines: what each form of the path kernel says of this one; none where it is refused.
        certificate: measured, and proven or not.
        tolerance: of the certificate's residuals, by the dtype of f's output.

    Example:
        >>> import jax, jax.numpy as jnp, npk
        >>> f = lambda p, x: jax.nn.relu(x @ p["w"] + p["b"]) @ p["v"]
        >>> p = {"w": jnp.ones((2, 3)), "b": jnp.ones((1, 3)), "v": jnp.ones((3, 1))}
        >>> reading = npk.explain(f)(p, jnp.ones((4, 2)))
        >>> {q.name: q.role for q in reading.parameters}, reading.certified
        ({'b': 'bias', 'v': 'weight', 'w': 'weight'}, True)
    """

    parameters: tuple[ParameterReading, ...]
    gates: tuple[GateReading, ...]
    nonlinear: tuple[Refusal, ...]
    refused: tuple[Refusal, ...]
    engines: tuple[Engine, ...]
    certificate: Certificate | None
    tolerance: float

    @property
    def certified(self) -> bool:
        """Whether f is gated(f) under its own gates, and that is affine in x given them: proven and measured."""
        found = self.certificate
        if found is None or not found.proven:
            return False
        return found.same <= self.tolerance and (found.affine is None or found.affine <= self.tolerance)

    @property
    def fixed(self) -> tuple[str, ...]:
        """The names of the parameters that are fixed numbers and nothing else, as `fixed=` takes them."""
        roles: dict[str, set[str]] = {}
        for parameter in self.parameters:
            roles.setdefault(parameter.name, set()).add(parameter.role)
        return tuple(name for name, found in roles.items() if found == {"fixed"})

    @property
    def verdict(self) -> str:
        """The certificate as a sentence."""
        found = self.certificate
        if found is None:
            return "Not certified: nothing was measured (f could not be read, see above, or its numbers are traced)."
        measured = f"f(x) is gated(f)(x, gates) to {found.same:.1e}"
        if found.affine is not None:
            measured += f", and that is affine in x given the gates to {found.affine:.1e}"
        if self.certified:
            return f"Certified, operation by operation; measured: {measured}."
        left = [_short(r.what) for r in (*self.nonlinear, *self.refused)]
        if left:
            return f"Not certified: {_first(left)}. Measured: {measured}."
        if not math.isfinite(found.same + (found.affine or 0.0)):
            return f"Not certified: f, or its gated form, leaves the range of its numbers here. Measured: {measured}."
        return f"Not certified: {measured}; rounding explains {self.tolerance:.0e}. Please report this model."

    def as_dict(self) -> dict[str, Any]:
        """Everything, in dictionaries, lists, strings and numbers alone."""
        held = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {**{k: _plain(v) for k, v in held.items()}, "fixed": list(self.fixed), "certified": self.certified}

    def _tables(self) -> Iterator[tuple[str, list[str], list[list[str]]]]:
        """Title, columns and rows of what is shown."""
        yield (
            "parameters",
            ["name", "shape", "in the NTK", "is", "where"],
            [[p.name, _shape(p.shape), "yes" if p.counts else "", _role(p), _short(p.source)] for p in self.parameters],
        )
        yield (
            "gates",
            ["", "kind", "γ", "shape", "where"],
            [[str(g.number), g.kind, g.function, _shape(g.shape), _joined(g.module, g.source)] for g in self.gates],
        )
        for title, found in (("neither linear nor a gate", self.nonlinear), ("outside the path rules", self.refused)):
            if found:
                rows = [[_short(r.what), _short(_done(r))] for r in found]
                yield title, ["what", "what to do"], rows
        if self.engines:
            rows = [["runs" if e.runs else "", e.name, e.why] for e in self.engines]
            yield "engines of the path kernel", ["", "name", "why"], rows

    def __repr__(self) -> str:
        parts = []
        for title, columns, rows in self._tables():
            left = len(rows) - _ROWS
            more = [f"  … {left} more: as_dict() has them all"] if left > 0 else []
            parts += [title, *(_aligned([columns, *rows[:_ROWS]]) if rows else ["  none"]), *more]
        return "\n".join([*parts, self.verdict])

    def _repr_html_(self) -> str:
        def row(cells: Sequence[str], tag: str) -> str:
            return "<tr>" + "".join(f'<{tag} style="{_CELL}">{html.escape(c)}</{tag}>' for c in cells) + "</tr>"

        tables = [
            f"<table><caption>{title}</caption>{row(columns, 'th')}{''.join(row(r, 'td') for r in rows)}</table>"
            for title, columns, rows in self._tables()
        ]
        return "".join(tables) + f"<p>{html.escape(self.verdict)}</p>"


def _done(refusal: Refusal) -> str:
    return "allowed" if refusal.allowed and refusal.remedy.startswith("allow=") else refusal.remedy


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {k: _plain(v) for k, v in dataclasses.asdict(value).items()}
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return value


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def _role(parameter: ParameterReading) -> str:
    text = "fixed number" if parameter.role == "fixed" else parameter.role
    if parameter.fan_in is not None:
        text += f", fan-in {parameter.fan_in}"
    return f"{text}: {parameter.why}" if parameter.why else text


def _shape(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape)) or "1"


def _short(text: str) -> str:
    """A text whose source lines are named without their folders; those of a notebook by its cell."""
    text = re.sub(r"[^\s`'\"]*ipykernel_\d+[/\\]\d+\.py:(\d+)(?::\d+)?", r"cell:\1", text)
    return re.sub(r"[^\s`'\"]*[/\\]([^\s/\\]+\.py:\d+)(?::\d+)?", r"\1", text)


def _joined(module: str, source: str) -> str:
    return f"{module}, {_short(source)}" if module else _short(source)


def _first(what: list[str]) -> str:
    return what[0] if len(what) == 1 else f"{what[0]} (and {len(what) - 1} more)"
