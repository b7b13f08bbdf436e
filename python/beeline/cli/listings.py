"""`beeline list`, `get` and `summary`: what there is in a session."""

from __future__ import annotations

import re
from typing import Any

import click
from rich.text import Text

from beeline.cli import sessions
from beeline.cli.agents import size_text
from beeline.cli.sessions import output_options, session_option, timeout_option

RESOURCES = ("actors", "tasks", "objects", "nodes", "workers", "placement-groups", "jobs")
_SUMMARIES = ("tasks", "actors", "objects")
# The same in every row of one machine: not in tables.
_SAME_EVERYWHERE = ("job_id", "node_ip", "ip", "creator_job_id", "submission_id")


class Filter(click.ParamType):
    """KEY=VALUE or KEY!=VALUE."""

    name = "filter"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str, str]:
        """Fails for what is none."""
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"(\w+)(!=|=)(.*)", value, re.DOTALL)
        if not match:
            self.fail(f"{value!r} is no filter: write KEY=VALUE or KEY!=VALUE", param, ctx)
        return match[1], match[2], match[3]


@click.command("list", short_help="List the actors, tasks, objects or workers of a session.")
@click.argument("resource", type=click.Choice(RESOURCES))
@click.option("-f", "--filter", "filters", multiple=True, type=Filter(), help="KEY=VALUE or KEY!=VALUE; all must hold.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 10_000), help="How many at most.")
@click.option("--detail", is_flag=True, help="All that is known of each.")
@output_options
@session_option
@timeout_option
def list_(
    resource: str,
    filters: tuple[tuple[str, str, str], ...],
    limit: int,
    detail: bool,
    output: str,
    session: str | None,
    timeout: float,
) -> None:
    """List what there is in a running session, while it runs.

    \b
      beeline list actors --filter state=ALIVE
      beeline list tasks -f state=FAILED -f name!=warm_up --detail
      beeline list objects --limit 20 --json
      beeline list workers -f is_alive=False

    Tasks that have ended are shown as far as they are kept: of each process that called them the last 4096, and 1024
    that failed. Dead actors, ended workers and removed placement groups are shown, too.

    Columns have Ray's names; filters may name those that the error for a wrong one lists. Texts are compared without
    regard to case. In programs: beeline.util.state (ray.util.state).
    """  # noqa: D301 - \b is a character that click reads
    from beeline.util.state import kinds, query

    with sessions.errors_for_people():
        kind = kinds.BY_NAME[resource.replace("-", "_")]
        found, notes = query.rows_of(kind, session, filters, limit, timeout, detail, raise_on_missing_output=False)
    data = [row.asdict() for row in found]
    columns = found[0].list_columns(detail=detail) if found else []
    if output != "table":
        sessions.echo_data(output, [{column: row[column] for column in columns} for row in data])
    elif not found:
        click.echo(f"No {resource.replace('-', ' ')}.")
    elif detail:
        _show_each(columns, data)
    else:
        shown = [column for column in columns if column not in _SAME_EVERYWHERE]
        for row in data:
            if "object_size" in row:
                row["object_size"] = size_text(row["object_size"]) if row["object_size"] >= 0 else None
        sessions.console().print(sessions.table_of(shown, data, right=("object_size", "pid", "worker_pid")))
    sessions.echo_notes(notes)


def _show_each(columns: list[str], data: list[dict[str, Any]]) -> None:
    console = sessions.console()
    width = max(map(len, columns))
    for row in data:
        for column in columns:
            console.print(Text.assemble((f"{column:<{width}}  ", "bold"), sessions.cell(row[column])))
        console.print()


@click.command(short_help="Show all that is known of one actor, task or object.")
@click.argument("resource", type=click.Choice([name for name in RESOURCES if name != "jobs"]))
@click.argument("id")
@output_options
@session_option
@timeout_option
def get(resource: str, id: str, output: str, session: str | None, timeout: float) -> None:  # noqa: A002
    """Show all that is known of the actor, task, object, ... with that ID, as `beeline list` shows it.

    \b
      beeline get actors 00000000000000000000000100000001

    A task has an entry for each attempt, an object one for each process that holds it. Exits with 1 where there is
    none.
    """  # noqa: D301 - \b is a character that click reads
    from beeline.util.state import kinds, query
    from beeline.util.state.common import MAX_LIMIT

    kind = kinds.BY_NAME[resource.replace("-", "_")]
    with sessions.errors_for_people():
        found, notes = query.rows_of(
            kind, session, [(kind.key, "=", id)], MAX_LIMIT, timeout, detail=True, raise_on_missing_output=False
        )
    sessions.echo_notes(notes)
    if not found:
        raise click.ClickException(
            f"There is none of that id among the {resource}: beeline list {resource} shows them."
        )
    if output == "table":
        _show_each(found[0].list_columns(), [row.asdict() for row in found])
    else:
        sessions.echo_data(output, [row.asdict() for row in found])


@click.command(short_help="Count a session's tasks, actors or objects by state.")
@click.argument("resource", type=click.Choice(_SUMMARIES))
@output_options
@session_option
@timeout_option
def summary(resource: str, output: str, session: str | None, timeout: float) -> None:
    """Count the tasks of a running session by name and state, its actors by class, its objects by call site.

    Where objects come from is recorded in programs that run with RAY_record_ref_creation_sites=1 in the environment.
    """
    from beeline.util.state import kinds, query

    with sessions.errors_for_people():
        counts, _ = query.summary_of(kinds.BY_NAME[resource], session, timeout, raise_on_missing_output=False)
    found = counts["cluster"]
    if output != "table":
        sessions.echo_data(output, found)
        return
    rows = [{"name": name, **_flat(entry)} for name, entry in sorted(found["summary"].items())]
    if rows:
        sessions.console().print(sessions.table_of(list(rows[0]), rows))
    totals = ", ".join(f"{name}: {value:g}" for name, value in found.items() if name.startswith("total"))
    click.echo(totals.replace("_", " "))


def _flat(entry: dict[str, Any]) -> dict[str, Any]:
    """Without what the name says already."""
    return {key: value for key, value in entry.items() if key not in ("func_or_class_name", "class_name")}
