"""What npk takes a model to be: every parameter, every gate, everything refused, stated and checked.

`explain(f)(params, x)` gives a `Reading`: it prints as a table, in notebooks as HTML, and `as_dict()` is for files.
What each parameter is to a path (weight, bias, fixed number), where the gates lie, which operations are neither linear
nor gates and what to do about each, which engine would compute the kernel, and a certificate: f is the same network
under its own gates, and linear given them, proven operation by operation and measured. `linear_map(f)(params, x)` is
that map: M(x) and c(x) of f(x') = M x' + c. `attribute(f)(params, x, output)` says which pixels,
biases or units give an output.
"""

from npk.readings.attributing import Attribution as Attribution
from npk.readings.attributing import attribute as attribute
from npk.readings.explaining import explain as explain
from npk.readings.linear_maps import LinearMap as LinearMap
from npk.readings.linear_maps import linear_map as linear_map
from npk.readings.reading import Certificate as Certificate
from npk.readings.reading import GateReading as GateReading
from npk.readings.reading import ParameterReading as ParameterReading
from npk.readings.reading import Reading as Reading
from npk.readings.reading import Refusal as Refusal

__all__ = [
    "Attribution",
    "Certificate",
    "GateReading",
    "LinearMap",
    "ParameterReading",
    "Reading",
    "Refusal",
    "attribute",
    "explain",
    "linear_map",
]
