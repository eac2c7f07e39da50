"""Kernels as operators: products, columns and the diagonal, without a matrix that has to fit into memory.

Solvers, low-rank approximations and estimates of spectra ask a kernel for nothing else. An array, a stored kernel and
a kernel that is computed anew at every product all answer.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Float, Int, Shaped

from npk.programs import cuts, shown
from npk.solving.accumulate import threads
from npk.solving.checks import finite, indices, square, vectors

# Bytes of an array that are read at a time: what a pass over an array on disk holds.
_BAND = 1 << 26


@runtime_checkable
class KernelOperator(Protocol):
    """A kernel matrix [N1, N2] by what it does. Anything with these five names is one; nothing has to inherit.

    Attributes:
        shape: (N1, N2).
        dtype: of the kernel's entries, which says how exact they are.

    Example:
        >>> import numpy as np
        >>> from npk.solving import KernelOperator, operator_of
        >>> isinstance(operator_of(np.eye(2)), KernelOperator)
        True
    """

    @property
    def shape(self) -> tuple[int, int]:
        """(N1, N2)."""
        ...

    @property
    def dtype(self) -> Any:
        """Of the entries."""
        ...

    def product(self, v: Float[np.ndarray, "n2 k"]) -> Float[np.ndarray, "n1 k"]:
        """K v in float64, one pass over the kernel for all k vectors."""
        ...

    def columns(self, places: Int[np.ndarray, " r"]) -> Shaped[np.ndarray, "n1 r"]:
        """K[:, places]."""
        ...

    def diagonal(self) -> Shaped[np.ndarray, " n"]:
        """The diagonal of a square kernel."""
        ...


@shown("shape")
@dataclasses.dataclass(frozen=True, eq=False)
class _Array:
    """An array, read a band of rows at a time."""

    array: Any
    symmetric: bool

    @property
    def shape(self) -> tuple[int, int]:
        return self.array.shape

    @property
    def dtype(self) -> Any:
        return self.array.dtype

    def product(self, v: np.ndarray) -> np.ndarray:
        v = vectors(v, self.shape[1])
        out = np.zeros((self.shape[0], v.shape[1]))
        rows = max(1, _BAND // (self.array.dtype.itemsize * self.shape[1]))
        with threads() as pool:
            for some in cuts(self.shape[0], rows):
                pool.add_product(out[some], np.asarray(self.array[some]), v)
        return finite(out, "the kernel")

    def columns(self, places: np.ndarray) -> np.ndarray:
        places = indices(places, self.shape[1])
        return np.asarray(self.array[places]).T if self.symmetric else np.asarray(self.array[:, places])

    def diagonal(self) -> np.ndarray:
        square(self)
        places = np.arange(self.shape[0])
        return np.asarray(self.array[places, places])


def is_operator(kernel: Any) -> bool:
    """Whether it multiplies by itself; else it is an array, or nothing."""
    return callable(getattr(kernel, "product", None))


def operator_of(kernel: Any, *, symmetric: bool = False) -> Any:
    """A kernel operator of an array; an operator is returned as it is.

    Args:
        kernel: of shape (N1, N2): a NumPy or JAX array, or a memory map, which is read in bands of rows.
        symmetric: whether columns may be read as rows, which are together on disk.

    Returns:
        A `KernelOperator`.

    Raises:
        ValueError: neither an operator nor a real array of two axes that are not empty; or symmetric but not square.

    Example:
        >>> import numpy as np
        >>> from npk.solving import operator_of
        >>> operator_of(np.array([[2.0, 1.0], [1.0, 2.0]])).product(np.ones((2, 1))).tolist()
        [[3.0], [3.0]]
    """
    if is_operator(kernel):
        return kernel
    array = kernel if isinstance(kernel, np.ndarray | jax.Array) else np.asarray(kernel)
    real = array.dtype.kind in "fiub" or jax.numpy.issubdtype(array.dtype, jax.numpy.floating)
    if array.ndim != 2 or array.size == 0 or not real:
        raise ValueError(
            f"kernel must be real [N1, N2] and not empty, or have product, columns and diagonal; got "
            f"{array.dtype}{list(array.shape)}."
        )
    operator = _Array(array, symmetric)
    if symmetric:
        square(operator)
    return operator


@shown("shape")
@dataclasses.dataclass(frozen=True, eq=False)
class _Part:
    """Some rows and columns of another operator."""

    whole: KernelOperator
    rows: np.ndarray
    chosen: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.rows), len(self.chosen)

    @property
    def dtype(self) -> Any:
        return self.whole.dtype

    def product(self, v: np.ndarray) -> np.ndarray:
        v = vectors(v, self.shape[1])
        spread = np.zeros((self.whole.shape[1], v.shape[1]))
        spread[self.chosen] = v
        return self.whole.product(spread)[self.rows]

    def columns(self, places: np.ndarray) -> np.ndarray:
        return self.whole.columns(self.chosen[indices(places, self.shape[1])])[self.rows]

    def diagonal(self) -> np.ndarray:
        if not np.array_equal(self.rows, self.chosen):
            raise ValueError("a part of a kernel has a diagonal only where its rows are its columns.")
        return self.whole.diagonal()[self.rows]


def part_of(kernel: Any, rows: Sequence[int] | np.ndarray, columns: Any = None) -> KernelOperator:
    """Some rows and columns of a kernel, e.g. the samples that are fitted while others are held out.

    A product costs a pass over the whole kernel.

    Args:
        kernel: an operator or array of shape (N1, N2).
        rows: different places below N1, of shape (n1,).
        columns: different places below N2, of shape (n2,); None for the rows.

    Returns:
        A `KernelOperator` of shape (n1, n2).

    Raises:
        ValueError: no places, places outside the kernel, or a place given twice.

    Example:
        >>> import numpy as np
        >>> from npk.solving import part_of
        >>> part_of(np.diag([1.0, 2.0, 3.0]), [0, 2]).product(np.ones((2, 1))).ravel().tolist()
        [1.0, 3.0]
    """
    operator = operator_of(kernel)
    places = [
        indices(np.asarray(chosen), size)
        for chosen, size in zip((rows, rows if columns is None else columns), operator.shape)
    ]
    for chosen in places:
        if len(chosen) == 0 or len(np.unique(chosen)) != len(chosen):
            raise ValueError("rows and columns must be different places, at least one of each.")
    return _Part(operator, *places)


@shown("shape")
@dataclasses.dataclass(frozen=True, eq=False)
class _Joined:
    """Products of one operator, columns and diagonal of another."""

    products: KernelOperator
    entries: KernelOperator

    @property
    def shape(self) -> tuple[int, int]:
        return self.products.shape

    @property
    def dtype(self) -> Any:
        return self.products.dtype

    def product(self, v: np.ndarray) -> np.ndarray:
        return self.products.product(v)

    def columns(self, places: np.ndarray) -> np.ndarray:
        return self.entries.columns(places)

    def diagonal(self) -> np.ndarray:
        return self.entries.diagonal()


def joined(products: Any, entries: Any) -> KernelOperator:
    """One kernel with two ways to it: products from a store, columns and diagonal computed anew.

    A few columns of a kernel stored in tiles cost a pass over all tiles; computed anew they cost next to nothing.

    Args:
        products: an operator or array of shape (N1, N2).
        entries: the same kernel, whose columns and diagonal are used.

    Returns:
        A `KernelOperator`.

    Raises:
        ValueError: the two differ in shape.

    Example:
        >>> import numpy as np
        >>> from npk.solving import joined, kernel_operator
        >>> x = np.arange(4.0)[:, None]
        >>> joined(x @ x.T, kernel_operator(lambda a, b: a @ b.T, x, tile=4)).diagonal().tolist()
        [0.0, 1.0, 4.0, 9.0]
    """
    first, second = operator_of(products), operator_of(entries)
    if tuple(first.shape) != tuple(second.shape):
        raise ValueError(f"the two must be one kernel, got shapes {list(first.shape)} and {list(second.shape)}.")
    return _Joined(first, second)
