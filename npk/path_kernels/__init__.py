"""The exact neural path kernel H(s, s') = ⟨φ_s, φ_s'⟩ of any network the path rules cover, without listing paths.

`path_kernel(f)(params, x1, x2)` is H, normalised by fan-in or as a count of paths, under f's own gates or any that
are given; `log_path_kernel(f)` is its sign and logarithm, at any depth. For dense networks H = Σ ⊙ Λ: `gram`,
`layer_overlaps` and `overlap` are its factors. `demands` says what a kernel asks of the terms of a network, `moments`
is the algebra position by position, `interpreters` compute it in NumPy and by kinds of terms, `wide` in numbers of
any size; `engines` are the fast forms for large kernels, each for one kind of network.
"""

from npk.path_kernels.choice import Engine as Engine
from npk.path_kernels.costs import Cost as Cost
from npk.path_kernels.dense import gram as gram
from npk.path_kernels.dense import layer_overlaps as layer_overlaps
from npk.path_kernels.dense import overlap as overlap
from npk.path_kernels.kernel import path_kernel as path_kernel
from npk.path_kernels.log_kernel import LogKernel as LogKernel
from npk.path_kernels.log_kernel import log_path_kernel as log_path_kernel
from npk.path_kernels.moments import SecondMoments as SecondMoments
from npk.path_kernels.moments import output_moment as output_moment
from npk.path_kernels.thresholds import Thresholds as Thresholds

__all__ = [
    "Cost",
    "Engine",
    "LogKernel",
    "Thresholds",
    "gram",
    "layer_overlaps",
    "log_path_kernel",
    "overlap",
    "path_kernel",
]
