"""What a session did otherwise than it was asked to, and what it leaves behind: said once, at its end, by the logger
`beeline`. Where there is nothing to say, nothing is said.

Nobody is asked, for who would have to answer may be gone: this process's own counts are read, and files of the
session's folder, which goes with the session.
"""

from __future__ import annotations

import glob
import logging
import os
from collections import Counter

from beeline import _core
from beeline.api import notices

_log = logging.getLogger("beeline")
# Of the daemon's log, from its end.
_SHOWN_LINES = 3
_SHOWN_BYTES = 4096
# What earlier summaries of this process have said of notices.counts.
_said: Counter[str] = Counter()


def before_end(session_dir: str) -> list[str]:
    """One line for each thing that went another way than asked. Reads only, and never raises."""
    lines = []
    for about in (_without_effect, _transfers, _values, _metrics, _daemon):
        try:
            lines += about(session_dir)
        except Exception as error:  # a summary must not stand between a program and its end
            lines.append(f"no summary of {about.__name__.strip('_')}: {error!r}")
    return lines


def after_end(session_dir: str) -> list[str]:
    """One line for what should have gone with the session, and has not."""
    if not os.path.exists(session_dir):
        return []
    if session_dir in _core.live_sessions():
        # As it should be where there is a detached actor, or another driver.
        _log.info("The session in %s goes on without this driver; `beeline stop` ends it.", session_dir)
        return []
    return [f"{session_dir} is left behind; the next init() or `beeline stop` removes it"]


def say(lines: list[str]) -> None:
    """Logs the lines as one warning; nothing where there are none."""
    if lines:
        _log.warning("The session has ended; not all went as asked:\n%s", "\n".join(f"  {line}" for line in lines))


def _without_effect(session_dir: str) -> list[str]:
    asked = Counter(notices.counts) - _said
    _said.update(asked)
    return [f"without effect: {name}, asked for {_times(count)}" for name, count in sorted(asked.items())]


def _transfers(session_dir: str) -> list[str]:
    """Those of all processes of the session that went on by another path, and what was not counted."""
    lines = []
    for path in sorted(glob.glob(os.path.join(glob.escape(session_dir), "agents", "*.counters"))):
        counters = _core.read_counters(path)
        if counters is None:  # its process has ended meanwhile
            continue
        left: Counter[str] = Counter()
        for row in counters["rows"]:
            left[row["path"]] += row["failovers"]
        name = counters["name"]
        lines += [
            f"transfers: {name} left the path {way} {_times(count)}, which failed, and took another one"
            for way, count in sorted(left.items())
            if count
        ]
        if counters["rows_lost"]:
            lines.append(f"transfers: {counters['rows_lost']} kinds by {name} are counted in one row for all of them")
    return lines


def _values(session_dir: str) -> list[str]:
    """Of this process's own: what was made again, and what went to disk. Both were said when they first happened."""
    if not _core.is_running():
        return []
    stats = _core.transfer_stats()
    lines = []
    if remade := stats["remade_calls"]:
        lines.append(f"values: calls ran again {_times(remade)}, as what they had made was lost with its process")
    if moved := stats["spilled_objects"]:
        lines.append(
            f"values: {moved} ({stats['spilled_bytes'] / 2**20:.0f} MiB) were moved to disk, as the object store was "
            f"full; publications waited {stats['spill_stalled_s']:.1f} s for it"
        )
    return lines


def _metrics(session_dir: str) -> list[str]:
    """Of all processes of the session: what they counted for nobody."""
    lines = []
    for path in sorted(glob.glob(os.path.join(glob.escape(session_dir), "agents", "*.metrics"))):
        read = _core.read_metrics(path)
        if read is not None and read["lost"]:
            lines.append(
                f"metrics: series of process {read['pid']} found no room {_times(read['lost'])}, and are missing"
            )
    return lines


def _daemon(session_dir: str) -> list[str]:
    """What the daemon wrote: processes that did not start or were cut off, requests that nobody can meet."""
    try:
        with open(os.path.join(session_dir, "logs", "beelined.err"), "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _SHOWN_BYTES))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:  # the folder was removed under the program
        return []
    found = [line for line in text.splitlines() if line.strip()]
    shown = [f"the daemon: {line.removeprefix('beelined: ')}" for line in found[-_SHOWN_LINES:]]
    more = len(found) - len(shown)
    return [*([f"the daemon: {more} lines or more before these"] if more else []), *shown]


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
