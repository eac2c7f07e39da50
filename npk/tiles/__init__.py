"""Any kernel of two batches, tile by tile, on every device there is, in memory or on disk.

`tiled(kernel)(x1, x2)` gives the whole as an array; `stored(kernel, "H.zarr")(x)` a Zarr store that continues
where it was interrupted, whose chunks carry checksums, and which `open_kernel` reads again and any solver takes.
`fingerprint(params)` names what a store was computed from. `plan` says which tiles there are, `devices` and
`filling` compute them, `store`, `records` and `ledger` keep them, `stored_kernel` reads
them, `verification` looks through a store of which nothing but the folder is known.
"""

from npk.folders import fingerprint as fingerprint
from npk.tiles.progress import Progress as Progress
from npk.tiles.progress import bar_or_lines as bar_or_lines
from npk.tiles.progress import progress_bar as progress_bar
from npk.tiles.stored_kernel import StoredKernel as StoredKernel
from npk.tiles.verification import check_store as check_store
from npk.tiles.verification import is_store as is_store
from npk.tiles.whole import open_kernel as open_kernel
from npk.tiles.whole import stored as stored
from npk.tiles.whole import tiled as tiled

__all__ = [
    "Progress",
    "StoredKernel",
    "fingerprint",
    "open_kernel",
    "progress_bar",
    "stored",
    "tiled",
]
