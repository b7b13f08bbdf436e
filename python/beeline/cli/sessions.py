"""What commands that ask a session have in common: which one is meant, how its answers are printed."""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from beeline.cli.agents import printable

# Of what goes into a file or a pipe, where nobody wants lines folded.
_WIDE = 400
DEFAULT_TIMEOUT_S = 10.0

session_option = click.option(
    "--session",
    "--address",
    "session",
    metavar="SESSION",
    help="The session's name or folder, or the pid of its driver.  [default: the only one]",
)
timeout_option = click.option(
    "--timeout",
    default=DEFAULT_TIMEOUT_S,
    show_default=True,
    type=click.FloatRange(min=0.5),
    help="Seconds that the session may take to answer.",
)


def output_options(command: Callable[..., None]) -> Callable[..., None]:
    """--format and --json: the command gets `output`."""

    @functools.wraps(command)
    def with_output(*args: Any, output: str, as_json: bool, **options: Any) -> None:
        command(*args, output="json" if as_json else output, **options)

    chosen = click.option(
        "--format",
        "output",
        default="table",
        show_default=True,
        type=click.Choice(["table", "json", "yaml"]),
        help="yaml needs PyYAML.",
    )
    return chosen(click.option("--json", "as_json", is_flag=True, help="As --format json.")(with_output))


@contextlib.contextmanager
def errors_for_people() -> Iterator[None]:
    """What the state API raises, as the command's own error."""
    from beeline.util.state.exception import RayStateApiException

    try:
        yield
    except (RayStateApiException, ValueError) as error:
        raise click.ClickException(str(error)) from error


def echo_data(output: str, data: Any) -> None:
    """Prints plain values as JSON or YAML."""
    if output == "json":
        click.echo(json.dumps(data, indent=2, default=str))
        return
    try:
        import yaml  # type: ignore[import-untyped]
    except ImportError as error:
        raise click.ClickException("--format yaml needs PyYAML: pip install pyyaml; or take --format json") from error
    click.echo(yaml.safe_dump(json.loads(json.dumps(data, default=str)), sort_keys=False), nl=False)


def console() -> Console:
    """To print tables to: as wide as the terminal, or so wide that no line is folded."""
    plain = Console()
    return plain if plain.is_terminal or "COLUMNS" in os.environ else Console(width=_WIDE)


def table_of(columns: Sequence[str], rows: Sequence[Mapping[str, Any]], *, right: Sequence[str] = ()) -> Table:
    """A table with those columns; what is None shows as "-"."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold", justify="right" if column in right else "left")
    for row in rows:
        table.add_row(*(cell(row[column]) for column in columns))
    return table


def cell(value: Any) -> Text:
    """One value, for people: without what would steer a terminal."""
    if value is None:
        return Text("-")
    if isinstance(value, dict):
        value = ", ".join(f"{key}: {each}" for key, each in value.items())
    return Text(printable(str(value)))


def echo_notes(notes: Sequence[str]) -> None:
    """What is to be said of an answer, to stderr."""
    for note in notes:
        click.echo(note, err=True)
