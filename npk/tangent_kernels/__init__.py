"""The neural tangent kernel and its split K = K^V + K^F + K^CROSS, layer by layer, never the whole Jacobian.

`ntk(f)(params, x1, x2)` is K; `split_ntk(f)` the parts of the weights (gates held fixed), of the gates, and of both
together, as an `NTKSplit`; `ntk_diagonal`, `split_ntk_diagonal` and `ntk_trace` cost one pass a sample. Which leaves
count as parameters `wrt=` says: all floats but the statistics that a framework marks. Inside: `uses` finds where
each parameter enters, `derivatives` the cotangents there, `factors` the products of both.
"""

from npk.tangent_kernels.checks import Checks as Checks
from npk.tangent_kernels.checks import check_real_leaves as check_real_leaves
from npk.tangent_kernels.checks import counted as counted
from npk.tangent_kernels.kernel import NTKSplit as NTKSplit
from npk.tangent_kernels.kernel import ntk as ntk
from npk.tangent_kernels.kernel import ntk_diagonal as ntk_diagonal
from npk.tangent_kernels.kernel import ntk_trace as ntk_trace
from npk.tangent_kernels.kernel import split_ntk as split_ntk
from npk.tangent_kernels.kernel import split_ntk_diagonal as split_ntk_diagonal

__all__ = [
    "NTKSplit",
    "ntk",
    "ntk_diagonal",
    "ntk_trace",
    "split_ntk",
    "split_ntk_diagonal",
]
