"""Linear algebra of a kernel, given as an array or as an operator that computes it tile by tile.

`kernel_operator(kernel, x)` stands for K of all of x without storing it; `kernel_ridge(K, y)` solves
(K + r·k̄·I) α = y, by Cholesky or by block conjugate gradients with `pivoted_cholesky` in front of it; `choose_ridge`
and `classify` do so for class labels. `moments`, `spectrum` and `alignment` measure a kernel: an array exactly, an
operator with intervals; `cka`, `drift` and `relative_error` compare two arrays. `unit_states`, `mean_overlaps` and
`code_distances` measure gates. `proportion`, `paired_difference` and `jackknife` give what is measured on some samples
its interval. `gradient_flow` predicts what training with a frozen kernel does.
"""

from npk.solving.accumulate import threads as threads
from npk.solving.classification import Classified as Classified
from npk.solving.classification import accuracy as accuracy
from npk.solving.classification import choose_ridge as choose_ridge
from npk.solving.classification import classify as classify
from npk.solving.classification import held_out as held_out
from npk.solving.classification import hits as hits
from npk.solving.classification import one_hot as one_hot
from npk.solving.codes import CodeDistances as CodeDistances
from npk.solving.codes import UnitStates as UnitStates
from npk.solving.codes import code_distances as code_distances
from npk.solving.codes import mean_overlaps as mean_overlaps
from npk.solving.codes import unit_states as unit_states
from npk.solving.flow import GradientFlow as GradientFlow
from npk.solving.flow import gradient_flow as gradient_flow
from npk.solving.intervals import jackknife as jackknife
from npk.solving.intervals import paired_difference as paired_difference
from npk.solving.intervals import proportion as proportion
from npk.solving.iterates import Iterate as Iterate
from npk.solving.kernel_regression import NotConverged as NotConverged
from npk.solving.kernel_regression import NotPositiveDefinite as NotPositiveDefinite
from npk.solving.kernel_regression import Ridge as Ridge
from npk.solving.kernel_regression import kernel_ridge as kernel_ridge
from npk.solving.low_rank import LowRank as LowRank
from npk.solving.low_rank import nystrom as nystrom
from npk.solving.low_rank import pivoted_cholesky as pivoted_cholesky
from npk.solving.measures import PowerLaw as PowerLaw
from npk.solving.measures import alignment as alignment
from npk.solving.measures import center as center
from npk.solving.measures import cka as cka
from npk.solving.measures import drift as drift
from npk.solving.measures import gate_changes as gate_changes
from npk.solving.measures import gate_flips as gate_flips
from npk.solving.measures import label_kernel as label_kernel
from npk.solving.measures import power_law as power_law
from npk.solving.measures import relative_error as relative_error
from npk.solving.operators import KernelOperator as KernelOperator
from npk.solving.operators import joined as joined
from npk.solving.operators import operator_of as operator_of
from npk.solving.operators import part_of as part_of
from npk.solving.recomputed import kernel_operator as kernel_operator
from npk.solving.singular_values import largest_singular_values as largest_singular_values
from npk.solving.spectra import Moments as Moments
from npk.solving.spectra import Spectrum as Spectrum
from npk.solving.spectra import moments as moments
from npk.solving.spectra import spectrum as spectrum
from npk.solving.traces import Estimate as Estimate

__all__ = [
    "Classified",
    "CodeDistances",
    "Estimate",
    "GradientFlow",
    "Iterate",
    "KernelOperator",
    "LowRank",
    "Moments",
    "NotConverged",
    "NotPositiveDefinite",
    "PowerLaw",
    "Ridge",
    "Spectrum",
    "UnitStates",
    "accuracy",
    "alignment",
    "center",
    "choose_ridge",
    "cka",
    "classify",
    "code_distances",
    "drift",
    "gate_changes",
    "gate_flips",
    "gradient_flow",
    "held_out",
    "hits",
    "jackknife",
    "joined",
    "kernel_operator",
    "kernel_ridge",
    "label_kernel",
    "mean_overlaps",
    "moments",
    "nystrom",
    "one_hot",
    "operator_of",
    "paired_difference",
    "part_of",
    "pivoted_cholesky",
    "power_law",
    "proportion",
    "relative_error",
    "spectrum",
    "unit_states",
]
