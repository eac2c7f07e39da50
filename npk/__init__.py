"""npk: gates, neural path features and exact path kernels of any JAX network."""

from npk._jaxpr import UnsupportedOperation as UnsupportedOperation
from npk._jaxpr import require_supported_jax as _require_supported_jax
from npk.gated_networks import DGN as DGN
from npk.gated_networks import DLGN as DLGN
from npk.gated_networks import DLGN_SF as DLGN_SF
from npk.gated_networks import hard_gate as hard_gate
from npk.gated_networks import permuted as permuted
from npk.gated_networks import shallow_features as shallow_features
from npk.gated_networks import soft_gate as soft_gate
from npk.gating import gated as gated
from npk.gating import gates as gates
from npk.gating import linear as linear
from npk.gating import preactivations as preactivations
from npk.gating import soft_relu as soft_relu
from npk.gradient_flow import GradientFlow as GradientFlow
from npk.gradient_flow import gradient_flow as gradient_flow
from npk.kernel_sketch import KernelSketch as KernelSketch
from npk.path_kernel import gram as gram
from npk.path_kernel import layer_overlaps as layer_overlaps
from npk.path_kernel import overlap as overlap
from npk.path_kernel import path_kernel as path_kernel
from npk.paths import count_paths as count_paths
from npk.paths import npf as npf
from npk.paths import npv as npv
from npk.paths import path_names as path_names
from npk.sketch import sketch as sketch
from npk.sketch import sketch_ntk as sketch_ntk
from npk.tangent import NTKSplit as NTKSplit
from npk.tangent import ntk as ntk
from npk.tangent import ntk_diagonal as ntk_diagonal
from npk.tangent import ntk_trace as ntk_trace
from npk.tangent import split_ntk as split_ntk
from npk.tangent import split_ntk_diagonal as split_ntk_diagonal

_require_supported_jax()

__version__ = "0.1.0"
