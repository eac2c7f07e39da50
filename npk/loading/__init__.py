"""Your own model and your own checkpoint, as f and params: what every transformation of npk takes.

`function_of` makes of a Flax, NNX or Equinox model a function f(params, x) with parameters to begin with, in
evaluation mode; `params_of` are those that an NNX or Equinox module holds. `read_checkpoint` reads the parameters that
you have trained from what the frameworks write (Orbax, Flax's msgpack, NPZ, safetensors), in the structure of those: by
name and shape, whatever stands around them, or an error that says what differs. Nothing of a file is ever run.
"""

from npk.loading.checkpoint_files import read_checkpoint as read_checkpoint
from npk.loading.models import function_of as function_of
from npk.loading.models import params_of as params_of

__all__ = [
    "function_of",
    "params_of",
    "read_checkpoint",
]
