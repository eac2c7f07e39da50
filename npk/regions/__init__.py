"""The linear regions of a network: where its gates stay as they are, and so f is affine.

`segment(f)(params, a, b)` gives every point between two inputs at which a gate changes, `gate_distances(f)(params, x)`
how far each gate's hyperplane is from x; `local_complexity` counts those within a radius, and `region_numbers` says
which samples share a region. The affine map inside one is `npk.linear_map`.
"""

from npk.regions.distances import gate_distances as gate_distances
from npk.regions.distances import local_complexity as local_complexity
from npk.regions.numbering import region_numbers as region_numbers
from npk.regions.segments import Segment as Segment
from npk.regions.segments import segment as segment

__all__ = [
    "Segment",
    "gate_distances",
    "local_complexity",
    "region_numbers",
    "segment",
]
