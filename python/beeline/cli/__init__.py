"""The command line: `beeline status | stop | doctor | run`."""

from beeline.cli.commands import main

__all__ = ["main"]
