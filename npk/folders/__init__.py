"""What is written beside the numbers: whole files, what a folder must hold, what its numbers are of, one writer.

A folder may come from a stranger, a disk may be full, a bit may flip, two processes may meet. `replace` writes a file
whole or not at all, `seal` notes the checksum of every file of a folder and `broken` says what is not as it was sealed;
`write_arrays` and `write_json` keep named arrays and plain values with a checksum, and never anything that runs.
`plain_name` and `inside` refuse a name that would lead elsewhere, `locked` holds a folder against other processes.
`fingerprint`, `versions` and `digest` say what numbers are of, `differences` what is not the same.
"""

from npk.folders.arrays import check_unpacked as check_unpacked
from npk.folders.arrays import read_arrays as read_arrays
from npk.folders.arrays import write_arrays as write_arrays
from npk.folders.contents import read_json as read_json
from npk.folders.contents import write_json as write_json
from npk.folders.identity import as_text as as_text
from npk.folders.identity import differences as differences
from npk.folders.identity import digest as digest
from npk.folders.identity import fingerprint as fingerprint
from npk.folders.identity import versions as versions
from npk.folders.locking import locked as locked
from npk.folders.manifest import broken as broken
from npk.folders.manifest import seal as seal
from npk.folders.names import inside as inside
from npk.folders.names import plain_name as plain_name
from npk.folders.writing import is_fresh as is_fresh
from npk.folders.writing import replace as replace
from npk.folders.writing import tidy as tidy
from npk.folders.writing import write_once as write_once

__all__ = [
    "as_text",
    "broken",
    "check_unpacked",
    "differences",
    "digest",
    "fingerprint",
    "inside",
    "is_fresh",
    "locked",
    "plain_name",
    "read_arrays",
    "read_json",
    "replace",
    "seal",
    "tidy",
    "versions",
    "write_arrays",
    "write_json",
    "write_once",
]
