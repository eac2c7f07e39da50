"""What a folder is, of what, and whether every byte of it is as it was written."""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from npk.folders import locked, tidy
from npk.programs import shown
from npk.studies.comparison import CompareConfig, run_comparison
from npk.studies.published import TABLES
from npk.studies.reproduction import Scale, reproduce
from npk.studies.run_folder import Progress, lost_files, read_content, read_run
from npk.studies.training_study import StudyConfig, run_study
from npk.tiles import check_store, is_store
from npk.training import check_checkpoints, is_checkpoints

_RUNS: dict[str, tuple[str, type, Callable[..., Any]]] = {
    "study": ("a study", StudyConfig, run_study),
    "compare": ("a comparison", CompareConfig, run_comparison),
}


@shown()
@dataclasses.dataclass(frozen=True)
class Verdict:
    """What was found in a folder.

    Attributes:
        kind: what it is.
        of: what its numbers are of: configuration, data, network, versions; each a name and a text.
        harms: what is missing, or not as it was written; a sentence each.
        mended: what was repaired.
        advice: what to do about the harms.

    Example:
        >>> from npk.studies import Verdict
        >>> Verdict("a study", (("dataset", "digits"),)).whole
        True
    """

    kind: str
    of: tuple[tuple[str, str], ...]
    harms: tuple[str, ...] = ()
    mended: tuple[str, ...] = ()
    advice: str = ""

    @property
    def whole(self) -> bool:
        """Whether all is there, every byte as it was written."""
        return not self.harms


def verify(
    folder: str | os.PathLike[str],
    *,
    repair: bool = False,
    data_dir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Verdict:
    """Look through a folder of npk: a stored kernel, a study, an analysis, a comparison, a reproduction, checkpoints.

    Every checksum is compared; nothing in the folder is believed, and nothing of it is run.

    Args:
        folder: of any of these kinds.
        repair: compute again what seed and configuration determine: lost arrays and unfinished parts of a run. Of a
            store descriptions and lists are made again, of checkpoints damaged ones are removed where an earlier one is
            whole. Of an analysis nothing is: its model is not in the folder.
        data_dir: where prepared data sets lie, for a repair.
        progress: called with the fraction done and what is being done, during a repair.

    Returns:
        What the folder is, of what, what is not as it was written, and what was mended.

    Raises:
        FileNotFoundError: there is no such folder, or it is none of these.
        ValueError: a run cannot be gone on with, as its data or versions are others.

    Example:
        >>> import tempfile
        >>> from npk.studies import StudyConfig, run_study, verify
        >>> config = StudyConfig(width=8, depth=2, epochs=1, samples=20, test_samples=20, stages=2, regimes=False)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = run_study(config, folder)
        ...     verdict = verify(folder)
        >>> verdict.kind, verdict.whole, dict(verdict.of)["dataset"]
        ('a study', True, 'digits:0-4,5-9')
    """
    path = Path(folder)
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is no folder.")
    try:
        return _verdict(path, repair, data_dir, progress)
    except (AttributeError, IndexError, KeyError, OverflowError, RecursionError, TypeError) as error:
        # What has the right checksums and the wrong content was written by nobody's npk.
        raise ValueError(f"{path} holds what npk does not write ({type(error).__name__}: {error}).") from error


def _verdict(path: Path, repair: bool, data_dir: Any, progress: Progress | None) -> Verdict:
    for name, (kind, config, run) in _RUNS.items():
        if (path / f"{name}.json").is_file():
            return _run(path, name, kind, config, run, repair, data_dir, progress)
    for table in TABLES:
        if (path / f"{table}.json").is_file():
            return _reproduction(path, table, repair, data_dir, progress)
    if is_checkpoints(path):
        found, harms, mended = check_checkpoints(path, repair)
        advice = "Give the command that trains again: it goes on from the newest whole checkpoint."
        return Verdict("checkpoints of a training run", _told(found), harms, mended, advice if harms else "")
    if is_store(path):
        record, harms, mended = check_store(path, repair)
        advice = "Give the command that made the store again: it computes what is missing or damaged."
        content = {} if record is None else record.as_json()
        return Verdict("a stored kernel", _told(content), harms, mended, advice if harms else "")
    raise FileNotFoundError(
        f"{path} is none of npk's folders: a stored kernel, a study, an analysis, a comparison, a reproduction, "
        "checkpoints."
    )


def _run(
    path: Path,
    name: str,
    kind: str,
    config: type,
    run: Callable[..., Any],
    repair: bool,
    data_dir: Any,
    progress: Progress | None,
) -> Verdict:
    """A study or a comparison."""
    if repair:
        _clear(path)
    try:
        content = read_run(path, name)
    except ValueError as error:
        return Verdict(kind, (), (str(error),))
    harms, analysed = _harms_of(path, name, content), "checkpoints" in content["config"]
    identity = content.get("identity", {})
    versions = {**identity.get("versions", {}), **content["versions"]}
    of = _told({**content["config"], **identity, "versions": versions})
    if analysed:  # the model is not in the folder
        advice = "Give `npk analyse … --resume`, or analyse(…, resume=True), again: it computes what is missing."
        return Verdict("an analysis", of, harms, (), advice if harms else "")
    if harms and repair:
        run(config(**_fields(content["config"])), path, resume=True, data_dir=data_dir, progress=progress)
        return Verdict(kind, of, _harms_of(path, name, read_run(path, name)), harms)
    return Verdict(kind, of, harms, (), "`npk verify --repair` computes it again." if harms else "")


def _harms_of(path: Path, name: str, content: Mapping[str, Any]) -> tuple[str, ...]:
    files = content.get("files", {})
    unfinished = () if content["finished"] else ("It is not finished.",)
    if name == "study":
        trained = [] if "checkpoints" in content["config"] else ["parameters.npz"]
        expected = [*trained, "samples.npz", *(f"kernels/stage-{s}.npz" for s in range(len(content["stages"])))]
    else:
        widths = dict.fromkeys(row["width"] for row in content["ladder"])
        expected = ["limits.npz", "samples.npz", *(f"kernels/width-{width}.npz" for width in widths)]
    if not content["finished"] and not files:
        expected = []
    unknown = [file for file in expected if file not in files]
    if content["format"] == 1:  # without checksums
        unknown = [file for file in expected if not (path / file).is_file()]
    lost = tuple(f"{path / file} is not noted, or missing." for file in unknown)
    return (*lost_files(path, files), *lost, *unfinished)


def _reproduction(path: Path, table: str, repair: bool, data_dir: Any, progress: Progress | None) -> Verdict:
    kind = f"a reproduction of {table}"
    if repair:
        _clear(path)
    try:
        content = read_content(path / f"{table}.json", ("asked", "identity", "finished", "rows"))
    except ValueError as error:
        return Verdict(kind, (), (str(error),))
    asked, finished = dict(content["asked"]), content["finished"]
    harms = () if finished else (f"It is not finished: {len(content['rows'])} rows are done.",)
    removed: tuple[str, ...] = ()
    for folder in sorted((path / "checkpoints").glob("*")):
        if is_checkpoints(folder):
            _, damaged, mended = check_checkpoints(folder, repair)
            removed += mended
            harms += tuple(f"{folder.name}: {harm}" for harm in damaged)
    of = _told({**asked, **content["identity"]})
    if harms and repair:
        asked.pop("table", None)
        show = progress or (lambda share, text: None)
        reproduce(table, path, Scale(**_fields(asked)), data_dir=data_dir, progress=show)
        after = _reproduction(path, table, False, data_dir, progress)
        return dataclasses.replace(after, mended=(*removed, *harms))
    return Verdict(kind, of, harms, removed, "`npk verify --repair` trains the other rows." if harms else "")


def _clear(path: Path) -> None:
    """Remove what a process that ended has left: its lock, and what it was writing."""
    with locked(path):
        tidy(path)


def _fields(content: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a configuration as they were before JSON."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in content.items()}


def _told(content: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Every value by its name; hashes by their beginning."""
    rows: list[tuple[str, str]] = []
    for key, value in content.items():
        if isinstance(value, Mapping):
            rows += [(f"{key}.{inner}", text) for inner, text in _told(value)]
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            rows.append((str(key), f"{text[:12]}…" if len(text) == 64 else text))
    return tuple(rows)
