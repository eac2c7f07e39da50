"""Gates and kernels during training, in your own loop: what opens, closes and aligns while a network learns.

`recorder = npk.track(f, probe_x, probe_y)` before the loop and `recorder(step, params)` in it: a call records or skips,
so that records take a given share of the time, or at the steps that `every` says. A `GateRecord` holds flips, dead
units, distances between gate codes, the path kernel's alignment and the traces of the split tangent kernel, all of the
probe; `recorder.table()`, `.to_pandas()`, `.to_csv(path)`, `.to_tensorboard(folder)` and `.plot()` show all of them.
"""

from npk.tracking.making import track as track
from npk.tracking.recorder import Recorder as Recorder
from npk.tracking.records import GateRecord as GateRecord

__all__ = [
    "GateRecord",
    "Recorder",
    "track",
]
