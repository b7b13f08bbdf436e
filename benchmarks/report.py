"""The table a person reads and the JSON a program reads; both hold the same rows."""

from __future__ import annotations

import json
from pathlib import Path

from rich.table import Table
from rich.text import Text

from benchmarks.registry import Bound

VERDICT = {True: ("holds", "green"), False: ("misses", "bold red"), None: ("-", "dim")}


def number(value: float | None) -> str:
    """Three significant digits, without exponents for figures a person meets."""
    if value is None:
        return "-"
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}"
    if size >= 100:
        return f"{value:.0f}"
    if size >= 10:
        return f"{value:.1f}"
    return f"{value:.3g}"


def ratio_text(row: dict) -> str:
    """A ratio in the form of its bound: 1/570 for small ones."""
    ratio = row["ratio"]
    if ratio is None:
        return "-"
    return f"1/{number(1 / ratio)}" if 0 < ratio < 0.2 else number(ratio)


def bound_text(row: dict) -> str:
    if row["bound"] is None:
        return "-"
    return Bound(row["sense"], row["bound"], row["against"], row["slack"]).text(row["unit"])


def _with_spread(row: dict, name: str, value: float | None) -> str:
    spread = row["spread"].get(name)
    if value is None or not spread or spread[0] == spread[1]:
        return number(value)
    return f"{number(value)} [{number(spread[0])}..{number(spread[1])}]"


def verdict(row: dict) -> Text:
    if row["bound"] is None:
        return Text("reported", style="dim")
    if row["holds"] is None and row["errors"]:
        return Text("failed", style="bold red")
    word, style = VERDICT[row["holds"]]
    return Text(word, style=style)


def table(title: str, rows: list[dict]) -> Table:
    """Every row is in it; what failed shows its error in place of its figure."""
    shown = Table(title=title, show_lines=True)
    for heading in ("measure", "unit", "beeline", "peers", "limit", "ratio", "bound", ""):
        shown.add_column(
            heading, overflow="fold", justify="left" if heading in ("measure", "peers", "bound") else "right"
        )
    for row in rows:
        peers = [
            f"{name} {_with_spread(row, name, value)}" for name, value in row["peers"].items() if value is not None
        ]
        failures = [f"{name}: {error.splitlines()[0][:160]}" for name, error in row["errors"].items()]
        cell = Text("\n".join(peers))
        for failure in failures:
            cell.append(("\n" if cell.plain else "") + failure, style="red")
        measure = Text(row["measure"])
        if row["note"]:
            measure.append(f"\n{row['note']}", style="dim")
        shown.add_row(
            measure,
            row["unit"],
            _with_spread(row, row.get("ours", "beeline"), row["beeline"]),
            cell,
            number(row["limit"]),
            ratio_text(row),
            bound_text(row),
            verdict(row),
        )
    return shown


def markdown(rows: list[dict]) -> str:
    """The same table for a document."""
    lines = ["| measure | unit | Beeline | peers | limit | ratio | bound | |", "|---|---|---|---|---|---|---|---|"]
    for row in rows:
        peers = [
            f"{name} {_with_spread(row, name, value)}" for name, value in row["peers"].items() if value is not None
        ]
        peers += [f"{name}: failed" for name in row["errors"]]
        word = verdict(row).plain
        cells = [
            f"{row['measure']} ({row['note']})" if row["note"] else row["measure"],
            row["unit"],
            _with_spread(row, row.get("ours", "beeline"), row["beeline"]),
            "; ".join(peers),
            number(row["limit"]),
            ratio_text(row),
            bound_text(row),
            f"**{word}**" if word in ("misses", "failed") else word,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def missed(rows: list[dict]) -> list[str]:
    """Keys of rows whose bound does not hold, or could not be judged because something failed."""
    return [row["key"] for row in rows if row["bound"] is not None and not row["holds"]]


def document(machine: dict, commit: str, rows: list[dict]) -> dict:
    return {"machine": machine, "commit": commit, "rows": rows}


def write(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")
