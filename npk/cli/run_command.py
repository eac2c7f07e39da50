"""A command that fills a run folder: flags of a configuration, a folder, a report, and how to go on."""

import inspect
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import rich.text
import typer

from npk.cli.options import configured, folder_of, words
from npk.cli.terminal import running, stdout


def run_command(
    name: str, noun: str, kind: type, run: Callable[..., dict[str, Any]], report: Callable[[Path], Path]
) -> Callable[[Callable[[dict[str, Any]], None]], Callable[..., None]]:
    """Make of a function that prints a finished run the command that runs it; its docstring is the command's help."""

    def command_of(summarise: Callable[[dict[str, Any]], None]) -> Callable[..., None]:
        def command(
            config: Any,
            data_dir: Annotated[
                Path | None, typer.Option(help="Folder that `npk data prepare` has filled.", rich_help_panel="Data")
            ] = None,
            out: Annotated[
                Path | None,
                typer.Option(
                    help="Run folder.",
                    show_default=f"runs/{name}-DATASET-NETWORK-sSEED, and what else is not the default",
                    rich_help_panel="Run",
                ),
            ] = None,
            resume: Annotated[
                bool,
                typer.Option(
                    "--resume", help=f"Continue an interrupted {noun} of the same flags.", rich_help_panel="Run"
                ),
            ] = False,
        ) -> None:
            named = f"{name}-{config.dataset}-{config.network}-s{config.seed}"
            folder = out or folder_of(named, config, ("dataset", "network", "seed"))
            source = [] if data_dir is None else ["--data-dir", str(data_dir)]
            again = shlex.join(["npk", name, *words(config), *source, "--out", str(folder), "--resume"])
            with running(f"What was finished is kept in {folder}; continue with:", again=again) as progress:
                result = run(config, folder, resume=resume, data_dir=data_dir, progress=progress)
                progress(1.0, "drawing the report")
                page = report(folder)
            summarise(result)
            stdout.print("\nReport:", rich.text.Text(str(page), "bold"), soft_wrap=True)

        command.__annotations__["config"] = kind
        command.__doc__ = inspect.getdoc(summarise)
        return configured(command)

    return command_of
