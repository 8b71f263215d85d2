"""The application, and the options that verbs share; the rooms of verbs add theirs to it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tamis import __version__
from tamis.cli import output

app = typer.Typer(
    name="tamis",
    help="Chooses the fine-tuning data that is worth training on, and proves it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Json = Annotated[bool, typer.Option("--json", help="Print one machine-readable object on standard output.")]
Place = Annotated[Path, typer.Option("--workspace", envvar="TAMIS_WORKSPACE", help="Folder of the store and the runs.")]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Override a setting; repeatable.")]
Workers = Annotated[int | None, typer.Option("--workers", help="Worker processes (default: one a core; one a GPU).")]
Device = Annotated[str | None, typer.Option("--device", help="cpu or cuda (default: the GPU if there is one).")]
Model = Annotated[str | None, typer.Option("--model", help="Folder, hub name or tamis:tiny-lm.")]
Judge = Annotated[str | None, typer.Option("--judge", help="Model that judges, for what needs one.")]
Reference = Annotated[str | None, typer.Option("--reference", help="Model to compare with, for what needs one.")]
Refit = Annotated[bool, typer.Option("--refit", help="Fit anew what was fitted before the pool changed.")]
MaxHours = Annotated[
    float | None, typer.Option("--max-hours", help="Stop cleanly after so many hours; the same command goes on.")
]
MaxTokens = Annotated[int, typer.Option("--max-tokens", help="Cut rows at this many tokens.")]


_CHOSEN: dict[str, str | None] = {"engine": None}


def _choose_engine(name: str | None) -> str | None:
    _CHOSEN["engine"] = name
    return name


def machine_options(workers: int | None, device: str | None) -> dict[str, Any]:
    """Options of the machine that the command gave, its engine included."""
    given = {"workers": workers, "device": device, **_CHOSEN}
    return {key: value for key, value in given.items() if value is not None}


Engine = Annotated[
    str | None,
    typer.Option("--engine", envvar="TAMIS_ENGINE", help="local, or ray: a Ray cluster.", callback=_choose_engine),
]


def _choose_log(name: str | None) -> str | None:
    """Lines of text, or JSON for machines; also where it is asked for by `TAMIS_LOG`."""
    from tamis.operations import logs

    if name is not None and name not in logs.FORMATS:
        raise typer.BadParameter(f"{name!r} is none of {', '.join(logs.FORMATS)}")
    if name == "json":
        logs.to_json()
    return name


LogFormat = Annotated[
    str | None,
    typer.Option(
        "--log-format", envvar="TAMIS_LOG", help="text, or json: one object a line on stderr.", callback=_choose_log
    ),
]


def _say_version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", help="Print the version and stop.", is_eager=True, callback=_say_version)
]


@app.callback()
def root(version: Version = False, log_format: LogFormat = None) -> None:
    """Chooses the fine-tuning data that is worth training on, and proves it."""
    if log_format != "json":
        output.show_progress()
