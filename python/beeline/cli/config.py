"""`beeline config`: what can be set, and what is."""

from __future__ import annotations

import json

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from beeline import settings

TITLES = {
    "variable": "Environment variables",
    "init": "Arguments of beeline.init()",
    "Agent": "Arguments of beeline.transfer.Agent()",
}


@click.command(short_help="Show what can be set, and what is.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list, an object per setting.")
@click.option("--all", "with_internal", is_flag=True, help="Also variables that Beeline sets for its own processes.")
@click.argument("names", nargs=-1, metavar="[NAME]...")
def config(as_json: bool, with_internal: bool, names: tuple[str, ...]) -> None:
    """Show every environment variable, and every argument of init() and Agent(); or only those with NAME in theirs.

    The value is what counts in a program that is started from here: what the environment says, or else the default, as
    it comes out on this machine. What a session that runs was given shows in `beeline status`.
    """
    wanted = [name.lower() for name in names]
    rows = [
        row
        for row in settings.rows()
        if (with_internal or not row.internal) and (not wanted or any(name in row.name.lower() for name in wanted))
    ]
    if not rows:
        raise click.ClickException(f"no setting has {' or '.join(names)} in its name")
    if as_json:
        click.echo(json.dumps([row._asdict() for row in rows], indent=2))
        return
    console = Console()
    for kind, title in TITLES.items():
        table = Table("name", "value", "default", "read by", "what it does", title=title, title_justify="left")
        for row in rows:
            if row.kind == kind:
                style = "bold" if row.value != row.default else ""
                default = "" if row.value == row.default else row.default
                texts = (Text(row.name, style), Text(row.value, style), default, row.read_by, row.meaning)
                table.add_row(*(text if isinstance(text, Text) else Text(text) for text in texts))
        if table.row_count:
            console.print(table)
