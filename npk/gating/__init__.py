"""A ReLU network is a value function and its gates: the transformations everything else is made of.

`gates(f)(params, x)` returns the gates G = γ(q) of every activation of f, `gated(f)(params, x, gates)` the same
network under gates from outside, linear in its values; `preactivations(f)` the q, `linear(f)` f without gates.
`DGN`, `DLGN` and `DLGN_SF` hold gates and weights apart: a feature network makes the gates of a value network.
f is any function of (params, x); no model has to be changed for it.
"""

from npk.gating.declaring import as_gate as as_gate
from npk.gating.declaring import at_lines as at_lines
from npk.gating.gate_functions import NoLinearForm as NoLinearForm
from npk.gating.gate_functions import hard_gate as hard_gate
from npk.gating.gate_functions import permuted as permuted
from npk.gating.gate_functions import soft_gate as soft_gate
from npk.gating.gate_functions import soft_relu as soft_relu
from npk.gating.networks import DGN as DGN
from npk.gating.networks import DLGN as DLGN
from npk.gating.networks import DLGN_SF as DLGN_SF
from npk.gating.networks import shallow_features as shallow_features
from npk.gating.outputs import Place as Place
from npk.gating.outputs import check_place as check_place
from npk.gating.outputs import index_of as index_of
from npk.gating.outputs import of_output as of_output
from npk.gating.outputs import of_places as of_places
from npk.gating.outputs import place_of as place_of
from npk.gating.outputs import places_of as places_of
from npk.gating.running import Function as Function
from npk.gating.running import activation_program as activation_program
from npk.gating.running import activations as activations
from npk.gating.running import gate_kinds as gate_kinds
from npk.gating.running import gate_shapes as gate_shapes
from npk.gating.running import own_gates as own_gates
from npk.gating.running import run_with_gates as run_with_gates
from npk.gating.transforms import gated as gated
from npk.gating.transforms import gates as gates
from npk.gating.transforms import linear as linear
from npk.gating.transforms import preactivations as preactivations
from npk.gating.transforms import softened as softened
from npk.gating.untying import Copies as Copies
from npk.gating.untying import untie as untie
from npk.gating.values import per_sample as per_sample
from npk.gating.values import sample_program as sample_program
from npk.gating.values import value_program as value_program

__all__ = [
    "Copies",
    "DGN",
    "DLGN",
    "DLGN_SF",
    "Function",
    "as_gate",
    "gated",
    "gates",
    "hard_gate",
    "linear",
    "permuted",
    "preactivations",
    "shallow_features",
    "soft_gate",
    "soft_relu",
    "softened",
    "untie",
]
