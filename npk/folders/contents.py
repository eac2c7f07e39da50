"""JSON files that say themselves whether every bit is as it was written."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from npk.folders.identity import digest
from npk.folders.writing import replace

_DIGEST = "sha256"


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file whole, with a checksum of what it holds.

    Args:
        path: of the file.
        content: plain values.
    """
    plain = json.loads(json.dumps(dict(content)))
    plain.pop(_DIGEST, None)
    replace(path, json.dumps({**plain, _DIGEST: digest(plain)}, indent=1, ensure_ascii=False).encode())


def read_json(path: Path) -> dict[str, Any]:
    """The content of a file that `write_json` wrote.

    Args:
        path: of the file.

    Returns:
        The content, without its checksum.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or none of these.
    """
    try:
        content = json.loads(path.read_bytes())
        checksum = content.pop(_DIGEST)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged, or was not written by npk ({_why(error)}).") from None
    if checksum != digest(content):
        raise ValueError(f"{path} is damaged: its content is not that which its checksum is of.")
    return content


def _why(error: Exception) -> str:
    return "it has no checksum" if isinstance(error, KeyError) else " ".join(str(error).split())
