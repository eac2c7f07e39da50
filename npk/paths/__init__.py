"""Paths: the rules by which every operation of a program acts on them, and their features and values as arrays.

`npf(f)(params, x)` is φ [N, P] and `npv(f)(params)` is v [P, K], so that φ @ v = f; `path_names` and `count_paths`
say which paths there are. Behind them every value of a network is a sum of `Term`s, a selection of a base times
known factors (`terms`, `sums`), which are names (`factors`): which elements of a gate they hold is in `selections`, and
`Numbers` are their numbers. `walk` carries terms from the input to the output by the `rules`, one for each operation.
`form_of(f, params, x)` is the result; the kernel, the sketches and the limits of infinite width read it.
"""

from npk.paths.ends import OWN_FEATURES as OWN_FEATURES
from npk.paths.ends import alike as alike
from npk.paths.factors import Factor as Factor
from npk.paths.factors import Numbers as Numbers
from npk.paths.factors import constant as constant
from npk.paths.factors import ones as ones
from npk.paths.features import MAX_PATHS as MAX_PATHS
from npk.paths.features import count_paths as count_paths
from npk.paths.features import npf as npf
from npk.paths.features import npv as npv
from npk.paths.features import path_names as path_names
from npk.paths.form import Form as Form
from npk.paths.form import bases_of as bases_of
from npk.paths.form import fixed_numbers as fixed_numbers
from npk.paths.form import fixed_variables as fixed_variables
from npk.paths.form import form_of as form_of
from npk.paths.layers import Layer as Layer
from npk.paths.layers import Role as Role
from npk.paths.layers import Window as Window
from npk.paths.reading import roles_of as roles_of
from npk.paths.rules import POSITIONWISE as POSITIONWISE
from npk.paths.rules import RULES as RULES
from npk.paths.rules import output_terms as output_terms
from npk.paths.scaling import Magnitude as Magnitude
from npk.paths.scaling import Normalize as Normalize
from npk.paths.scaling import Scaling as Scaling
from npk.paths.scaling import scaling_of as scaling_of
from npk.paths.selections import labels as labels
from npk.paths.selections import parts_of as parts_of
from npk.paths.selections import support as support
from npk.paths.terms import Axis as Axis
from npk.paths.terms import Base as Base
from npk.paths.terms import Index as Index
from npk.paths.terms import Leaf as Leaf
from npk.paths.terms import Source as Source
from npk.paths.terms import Term as Term
from npk.paths.terms import index_values as index_values
from npk.paths.terms import merge as merge
from npk.paths.terms import over as over
from npk.paths.terms import reshape as reshape
from npk.paths.walk import State as State
from npk.paths.walk import Walk as Walk
from npk.paths.walk import elements as elements

__all__ = [
    "MAX_PATHS",
    "count_paths",
    "npf",
    "npv",
    "path_names",
]
