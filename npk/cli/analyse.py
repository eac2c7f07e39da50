"""`npk analyse`: a user's own model, checkpoints and data; the work is in `npk.studies`."""

import importlib
import importlib.util
import os
import shlex
import sys
import zlib
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import rich.text
import typer

from npk.cli.options import configured, folder_of
from npk.cli.tables import stages_table
from npk.cli.terminal import running, show, stdout
from npk.data import Dataset, from_file, load
from npk.loading import function_of
from npk.studies import AnalysisConfig, analyse


@configured
def analyse_command(
    model: Annotated[
        str,
        typer.Option(
            help="MODULE:NAME or FILE.py:NAME of a function without arguments, which returns the model (Flax linen, "
            "NNX, Equinox) or a pair (f, params). It is imported, and so run.",
            metavar="MODULE:NAME",
            rich_help_panel="Model",
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            help="An NPZ file with arrays x and y, and as you have them x_test, y_test, class_names; or a data set by "
            "name, see `npk data list`.",
            metavar="FILE.npz|NAME",
            rich_help_panel="Data",
        ),
    ],
    config: AnalysisConfig,
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(
            help="A checkpoint: an Orbax folder, Flax msgpack, .npz or .safetensors; once for each, in their order.",
            show_default="the parameters that the model comes with",
            rich_help_panel="Model",
        ),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(help="Where in the checkpoints the parameters are, as in model/params.", rich_help_panel="Model"),
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder that `npk data prepare` has filled.", rich_help_panel="Data")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder.", show_default="runs/analyse-NAME-DATA", rich_help_panel="Run")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue an interrupted analysis of the same flags.", rich_help_panel="Run"),
    ] = False,
) -> None:
    """Ask your own model at its checkpoints what its gates know.

    For each checkpoint: the exact neural path kernel H of its gates, the split of its tangent kernel into value,
    feature and cross parts, the gates flipped since the first checkpoint, each kernel's alignment with the labels, and
    the accuracy of kernel ridge regression with H. The run folder gets study.json, the arrays, the figures and
    report.html, as of `npk study`; one checkpoint is enough.

    The model is your own code and is run. Nothing in a checkpoint or a data file is.
    """
    name = model.rpartition(":")[2]
    folder = out or folder_of(f"analyse-{name}-{Path(data).stem}{_mark(checkpoint or [])}", config)
    with running(f"What was finished is kept in {folder}; continue with:", again=_again(folder)) as progress:
        progress(0.0, "loading the model")
        dataset = _dataset(data, data_dir, config.seed)
        made = _made(model)
        f, params = _function(made, dataset)
        found = analyse(
            f,
            _named(checkpoint or []) or [("as it is made", params)],
            dataset.x_train,
            dataset.y_train,
            x_test=dataset.x_test,
            y_test=dataset.y_test,
            like=params,
            at=at,
            class_names=dataset.class_names,
            title=dataset.title,
            model=name if isinstance(made, tuple) else type(made).__name__,
            out=folder,
            config=config,
            resume=resume,
            progress=progress,
        )
    show(stages_table(found.content))
    stdout.print("\nReport:", rich.text.Text(str(found.report), "bold"), soft_wrap=True)


def _again(folder: Path) -> str:
    """The command that goes on: as it was given, with its folder, and --resume."""
    given = [word for word in sys.argv[1:] if word != "--resume"]
    named = [] if "--out" in given or any(word.startswith("--out=") for word in given) else ["--out", str(folder)]
    return shlex.join(["npk", *given, *named, "--resume"])


def _dataset(given: str, data_dir: Path | None, seed: int) -> Dataset:
    if given.endswith(".npz") or Path(given).is_file():
        return from_file(given, seed=seed)
    return load(given, data_dir=data_dir, seed=seed)


def _mark(paths: list[Path]) -> str:
    """What tells the run folders of other checkpoints apart."""
    return f"-{zlib.crc32(repr([str(path.resolve()) for path in paths]).encode()):08x}" if paths else ""


def _named(paths: list[Path]) -> list[tuple[str, Path]]:
    """Checkpoints by the shortest ends of their paths that tell them apart, a file's without its ending."""
    whole = [path.resolve() for path in paths]
    parts = [(path.with_suffix("") if path.is_file() else path).parts for path in whole]
    longest = max((len(p) for p in parts), default=1)
    for count in range(1, longest + 1):
        names = ["/".join(p[-count:]) for p in parts]
        if len(set(names)) == len(names):
            return list(zip(names, paths, strict=True))
    raise ValueError("--checkpoint names one checkpoint twice.")


def _made(model: str) -> Any:
    """What the user's function returns."""
    where, colon, name = model.rpartition(":")
    if not colon or not where or not name.isidentifier():
        raise ValueError(f"--model must be MODULE:NAME or FILE.py:NAME, as in nets.py:make, got {model!r}.")
    module = _module(where)
    make = getattr(module, name, None)
    if make is None:
        raise ValueError(f"--model: {where} has no {name}.")
    if not callable(make):
        raise ValueError(f"--model: {name} of {where} must be a function without arguments, got {type(make).__name__}.")
    return make()


def _function(made: Any, data: Dataset) -> tuple[Any, Any]:
    try:
        return function_of(made, data.x_train[:2])
    except TypeError as error:  # what a model must be, or what it takes
        shape = list(data.x_train.shape[1:])
        raise ValueError(f"--model: {error} (A sample of {data.title} has shape {shape}.)") from error


def _module(where: str) -> ModuleType:
    """A module by its name, found from the folder one is in as well, or by its file."""
    if where.endswith(".py"):
        path = Path(where)
        if not path.is_file():
            raise ValueError(f"--model: {where} is no file.")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        sys.path.insert(0, str(path.parent.resolve()))
        spec.loader.exec_module(module)
        return module
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(where)
    except ModuleNotFoundError as error:
        if error.name is not None and where.split(".")[: len(error.name.split("."))] == error.name.split("."):
            raise ValueError(
                f"--model: there is no module {where} here or installed; a file is FILE.py:NAME."
            ) from None
        raise
