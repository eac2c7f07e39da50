"""Weight layers as bases, with their windows, and what a parameter is to paths."""

import dataclasses

import numpy as np

from npk.paths.factors import Factor, Numbers
from npk.paths.terms import Base, Leaf, Term
from npk.programs import is_traced


@dataclasses.dataclass(frozen=True)
class Window:
    """One spatial axis of a convolution: output o reads input o·stride + k·dilation of the padded axis."""

    size: int
    stride: int
    dilation: int
    low: int
    high: int
    spread: int  # the input's own dilation (transposed convolution)

    def count(self, length: int) -> int:
        padded = (length - 1) * self.spread + 1 + self.low + self.high
        return (padded - (self.size - 1) * self.dilation - 1) // self.stride + 1

    def chosen(self, length: int) -> np.ndarray:
        """[o, k] → the input element read, -1 for padding."""
        at = np.arange(self.count(length))[:, None] * self.stride + np.arange(self.size) * self.dilation - self.low
        return np.where((at >= 0) & (at % self.spread == 0) & (at // self.spread < length), at // self.spread, -1)


@dataclasses.dataclass(frozen=True, eq=False)
class Layer(Base):
    """The output of a weight layer, axes [batch.., kept.., out..].

    Its inputs are terms whose axes are [batch.., kept.., contracted..]; the weight has axes [batch..,
    contracted.., out..]; `windows` (a convolution's) belong to the kept axes and, in the weight, to the
    first contracted axes. Batch axes have weights of their own (groups); kept axes share them.
    """

    inputs: tuple[Term, ...]
    weight: Term
    n_batch: int
    n_kept: int
    n_out: int
    windows: tuple[Window, ...]
    fan_in: int
    constant: Factor
    source: str

    @property
    def number(self) -> float | None:
        """The constant that multiplies the weight; None while it is being traced, or made of the weight's numbers."""
        if any(leaf.op != "constant" or is_traced(leaf.how) for leaf in self.constant.leaves().values()):
            return None
        return float(Numbers(np, None, (), {}, np.dtype(float)).of(self.constant)[0])

    @property
    def leaf(self) -> Leaf:
        assert isinstance(self.weight.base, Leaf)
        return self.weight.base


@dataclasses.dataclass(frozen=True)
class Role:
    """What some elements of a parameter are to paths, and where: "weight", "bias" or "fixed"."""

    leaf: int
    role: str
    elements: int
    source: str
    fan_in: int | None = None
