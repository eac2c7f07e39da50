"""What encodes an input of integers: masks, one-hot vectors, the rows of a table that tokens choose.

Paths of tokens start at one-hot vectors: a table of embeddings is a weight layer that reads them, of fan-in one, since
one row alone is read.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from npk.programs import Program, Var, evaluate


@dataclasses.dataclass(frozen=True, eq=False)
class Encoding:
    """Numbers that are a function of the input alone: `var` of the program of one sample.

    With `rows` they are one-hot: which of so many rows the integers in a `column` of `var` choose. An integer beyond
    them chooses the nearest row where the program `clips` it, none where it `fills` with zeros, and else makes NaN, as
    it does in f.
    """

    program: Program
    var: Var
    rows: int | None = None
    column: int = 0
    clips: bool = False
    fills: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        return self.var.shape if self.rows is None else (*self.var.shape[:-1], self.rows)

    def numbers(self, xp: Any, x: Any, dtype: Any) -> Any:
        """[n, *shape] of samples, all leaves of x [n, ...]."""
        making = dataclasses.replace(self.program, outputs=(self.var,)).pruned()
        unused = [None] * len(making.params)
        own = zip(x, self.program.x, strict=True)
        laid = [jnp.asarray(a).reshape(len(a), *var.shape) for a, var in own]
        found = jax.vmap(lambda *sample: evaluate(making, [*unused, *sample])[0])(*laid)
        if self.rows is not None:
            found = found[..., self.column]
            inside = (found >= 0) & (found < self.rows)
            chosen = jax.nn.one_hot(jnp.clip(found, 0, self.rows - 1), self.rows, dtype=dtype)
            beyond = jnp.asarray(0.0 if self.fills else jnp.nan, dtype)
            found = chosen if self.clips else jnp.where(inside[..., None], chosen, beyond)
        return xp.asarray(found, dtype)
