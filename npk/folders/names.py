"""Names of files and folders that come from elsewhere: one component of a path, which stays where it is put."""

import unicodedata
from pathlib import Path

_LONGEST = 200  # bytes; file systems take 255, of which some are for what is added


def plain_name(name: str, what: str = "a name") -> str:
    r"""The name, if it is one plain component of a path.

    Args:
        name: what would be a file or a folder.
        what: whose name it is, for the message.

    Returns:
        The same name.

    Raises:
        ValueError: it is empty or hidden, leads elsewhere, is too long, or holds what cannot be read.

    Example:
        >>> plain_name("blocks.kernel"), plain_name("width-64.npz")
        ('blocks.kernel', 'width-64.npz')
        >>> plain_name("../../evil", "the name of an array")
        Traceback (most recent call last):
        ValueError: '../../evil' cannot be the name of an array: it must be one plain name of a file, without / or \\
    """
    held = any(c in "/\\" or unicodedata.category(c) in ("Cc", "Cs") for c in name)
    if not name or name[0] == "." or held or len(name.encode(errors="replace")) > _LONGEST:
        raise ValueError(f"{name!r} cannot be {what}: it must be one plain name of a file, without / or \\.")
    return name


def inside(folder: Path, name: str) -> Path:
    """The path of a file or folder below a folder, of which no part is a link or leads elsewhere.

    Args:
        folder: wherever it lies.
        name: plain names with / between.

    Returns:
        Its path.

    Raises:
        ValueError: a name is none, or a link.
    """
    path = folder
    for part in name.split("/"):
        path = path / plain_name(part, "the name of a file")
        if path.is_symlink():
            raise ValueError(f"{path} is a link, and may lead anywhere: npk neither reads nor writes through it.")
    return path
