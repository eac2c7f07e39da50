"""Kernels of infinitely wide networks, read from the same f as the finite ones.

`nngp(f)(params, x1, x2)`, `ntk(f)` and `path_kernel(f)` are the limits under Gaussian weights; only shapes of
params are used. `neural_tangents()` loads that package on today's JAX to compare with; `ntk_parameterised` and
`variances` bring an empirical kernel into the parameterisation in which the limits are stated. `duals` holds the
expectations E[a(u)a(v)] of each activation in closed form.
"""

from npk.infinite.kernels import HE as HE
from npk.infinite.kernels import REGIMES as REGIMES
from npk.infinite.kernels import neural_tangents as neural_tangents
from npk.infinite.kernels import nngp as nngp
from npk.infinite.kernels import ntk as ntk
from npk.infinite.kernels import path_kernel as path_kernel
from npk.infinite.parameterisation import ntk_parameterised as ntk_parameterised
from npk.infinite.parameterisation import variances as variances

__all__ = [
    "HE",
    "REGIMES",
    "neural_tangents",
    "nngp",
    "ntk",
    "ntk_parameterised",
    "path_kernel",
    "variances",
]
