"""`beeline logs`: what workers and the daemon have written."""

from __future__ import annotations

import contextlib
import os

import click

from beeline.cli import sessions
from beeline.cli.agents import size_text
from beeline.cli.sessions import session_option, timeout_option


@click.command(short_help="Show log files of a session.")
@click.argument("glob", required=False)
@click.option("--actor-id", help="Of the worker that this actor lives in.")
@click.option("--task-id", help="Of the worker that has run this task.")
@click.option("--pid", type=int, help="Of the worker with this pid.")
@click.option("--err", is_flag=True, help="Its stderr instead of its stdout, with --actor-id, --task-id or --pid.")
@click.option("--follow", is_flag=True, help="Wait for more, until Ctrl-C or the session's end.")
@click.option(
    "--tail", default=-1, type=click.IntRange(min=-1), help="Only so many lines from the end.  [default: all]"
)
@session_option
@timeout_option
def logs(
    glob: str | None,
    actor_id: str | None,
    task_id: str | None,
    pid: int | None,
    err: bool,
    follow: bool,
    tail: int,
    session: str | None,
    timeout: float,
) -> None:
    """Show the log file of a running session that GLOB names, or list those that match if there are several.

    \b
      beeline logs                          which there are
      beeline logs worker-4711.err          one of them
      beeline logs 'worker-*.err'           those that match
      beeline logs --pid 4711 --follow      what that worker prints
      beeline logs --actor-id 0000... --err --tail 50

    Logs are in the session's folder, and go with it: log_to_driver shows them in the program's own output.
    """  # noqa: D301 - \b is a character that click reads
    from beeline.util.state import logs as kept

    by_id = actor_id is not None or task_id is not None or pid is not None
    with sessions.errors_for_people():
        names = [] if by_id else kept.files(session, glob or "*")
        if not by_id and (glob is None or len(names) != 1):
            _list_files(kept.folder(session), names, glob)
            return
        pieces = kept.get_log(
            session,
            filename=None if by_id else names[0],
            actor_id=actor_id,
            task_id=task_id,
            pid=pid,
            follow=follow,
            tail=tail,
            timeout=int(max(1, timeout)),
            suffix="err" if err else "out",
            errors="replace",
        )
        with contextlib.suppress(KeyboardInterrupt):
            for piece in pieces:
                click.echo(piece, nl=False)


def _list_files(folder: str, names: list[str], glob: str | None) -> None:
    if not names:
        raise click.ClickException(f"No log file in {folder}" + (f" matches {glob!r}." if glob else "."))
    for name in names:
        with contextlib.suppress(FileNotFoundError):  # its session has just ended
            click.echo(f"{size_text(os.path.getsize(os.path.join(folder, name))):>10}  {name}")
