"""A JAX function as one flat list of equations: what every other room reads, and never a raw jaxpr.

`trace(f, params, x)` gives a `Program`, `evaluate` runs one by a rule for each equation, and `with_activations`
finds the activations a(q) = q·γ(q) in it. Beside them stand the checks of arguments that every transformation
makes (`check_batch`, `check_pair`, `check_finite`), which parameters are meant (`named`, `statistics`), blocks of
pairs of samples under one trace (`in_blocks`), and what the machine has (`cores`, `available_memory`). Differences
between versions of JAX live here and nowhere else.
"""

from npk.programs.activations import GATED as GATED
from npk.programs.activations import IDENTITY as IDENTITY
from npk.programs.activations import Activation as Activation
from npk.programs.batches import alone as alone
from npk.programs.batches import floats_of as floats_of
from npk.programs.batches import of_floats as of_floats
from npk.programs.batches import resized as resized
from npk.programs.batches import sample_of as sample_of
from npk.programs.batches import samples_in as samples_in
from npk.programs.batches import some_of as some_of
from npk.programs.batches import together as together
from npk.programs.blocks import block_of as block_of
from npk.programs.blocks import cuts as cuts
from npk.programs.blocks import in_blocks as in_blocks
from npk.programs.blocks import in_parts as in_parts
from npk.programs.checks import check_arrays as check_arrays
from npk.programs.checks import check_batch as check_batch
from npk.programs.checks import check_finite as check_finite
from npk.programs.checks import check_gate_shapes as check_gate_shapes
from npk.programs.checks import check_gates as check_gates
from npk.programs.checks import check_key as check_key
from npk.programs.checks import check_pair as check_pair
from npk.programs.checks import check_program as check_program
from npk.programs.checks import concrete as concrete
from npk.programs.checks import finite as finite
from npk.programs.checks import known_true as known_true
from npk.programs.checks import on_host as on_host
from npk.programs.checks import working_dtype as working_dtype
from npk.programs.cutting import KINDS as KINDS
from npk.programs.cutting import Wanted as Wanted
from npk.programs.cutting import wanted as wanted
from npk.programs.functions import check_function as check_function
from npk.programs.functions import check_takes as check_takes
from npk.programs.functions import transformation as transformation
from npk.programs.functions import tried as tried
from npk.programs.gatings import opens_all as opens_all
from npk.programs.gatings import opens_derivatives as opens_derivatives
from npk.programs.gatings import opens_for_gates as opens_for_gates
from npk.programs.gatings import opens_loops as opens_loops
from npk.programs.gatings import opens_without_gates as opens_without_gates
from npk.programs.gatings import says_derivative as says_derivative
from npk.programs.gatings import with_activations as with_activations
from npk.programs.gatings import with_gates as with_gates
from npk.programs.hashing import program_hash as program_hash
from npk.programs.independence import check_independent as check_independent
from npk.programs.layouts import channels_last as channels_last
from npk.programs.linearity import DECLARED as DECLARED
from npk.programs.linearity import GIVEN_SCALE as GIVEN_SCALE
from npk.programs.linearity import check_linear as check_linear
from npk.programs.linearity import is_allowed as is_allowed
from npk.programs.linearity import is_declared as is_declared
from npk.programs.linearity import opaque as opaque
from npk.programs.machine import available_memory as available_memory
from npk.programs.machine import cores as cores
from npk.programs.memo import Once as Once
from npk.programs.memo import remembered as remembered
from npk.programs.memo import shapes_of as shapes_of
from npk.programs.meshes import unsharded as unsharded
from npk.programs.program import Atom as Atom
from npk.programs.program import Const as Const
from npk.programs.program import Equation as Equation
from npk.programs.program import Program as Program
from npk.programs.program import Rule as Rule
from npk.programs.program import UnsupportedOperation as UnsupportedOperation
from npk.programs.program import Var as Var
from npk.programs.program import evaluate as evaluate
from npk.programs.program import is_traced as is_traced
from npk.programs.program import now as now
from npk.programs.program import require_supported_jax as require_supported_jax
from npk.programs.program import varies as varies
from npk.programs.program import varying_as as varying_as
from npk.programs.program import x64 as x64
from npk.programs.provenance import Origin as Origin
from npk.programs.provenance import Provenance as Provenance
from npk.programs.provenance import said as said
from npk.programs.samples import Place as Place
from npk.programs.selecting import Chosen as Chosen
from npk.programs.selecting import Selection as Selection
from npk.programs.selecting import named as named
from npk.programs.selecting import option_of as option_of
from npk.programs.selecting import paths_of as paths_of
from npk.programs.selecting import statistics as statistics
from npk.programs.showing import shown as shown
from npk.programs.stages import Kind as Kind
from npk.programs.stages import spelled as spelled
from npk.programs.stages import stages_of as stages_of
from npk.programs.tracing import path_name as path_name
from npk.programs.tracing import trace as trace

__all__ = [
    "UnsupportedOperation",
]
