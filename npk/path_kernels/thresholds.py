"""From where on which form of the path kernel is the faster one, as measured on one machine."""

import dataclasses
import numbers

from npk.programs import shown


@shown()
@dataclasses.dataclass(frozen=True)
class Thresholds:
    """From where on a form of the path kernel repays what it compiles; what is chosen depends on shapes alone.

    The defaults were measured on two cores. Those of another machine are given to `path_kernel`; all forms compute the
    same kernel, rounded differently.

    Attributes:
        packed_pairs: pairs of samples from which dense networks are computed by bit counts.
        paired_seconds: what the loop over position pairs must be expected to save against the plain rules; below zero
            it is taken where it is expected to be slower, too.
        numpy_work: multiplications up to which the plain rules are computed by NumPy, where nothing is compiled.
        whole_terms: terms up to which a network is compiled as a whole; deeper ones by their kinds of terms.
        whole_work: multiplications a term from which patterns (attention) are compiled as a whole at any depth: a
            program for all runs in some 40 % of the time, and takes up to a tenth of a second a term to compile.

    Raises:
        ValueError: a threshold is no number.

    Example:
        >>> import jax.numpy as jnp, npk
        >>> f = lambda p, x: jnp.maximum(x @ p["w"], 0) @ p["v"]
        >>> p, x = {"w": jnp.ones((2, 3)), "v": jnp.ones((3, 1))}, jnp.ones((4, 2))
        >>> early = npk.path_kernels.Thresholds(packed_pairs=1)
        >>> [engine.name for engine in npk.path_kernel(f, thresholds=early).engines(p, x) if engine.runs]
        ['packed']
    """

    packed_pairs: float = 1 << 20
    paired_seconds: float = 0.5
    numpy_work: float = 1 << 22
    whole_terms: float = 8
    whole_work: float = 1e9

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, bool) or not isinstance(value, numbers.Real) or value != value:
                raise ValueError(f"{name} must be a number, got {value!r}.")
