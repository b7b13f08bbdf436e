"""The command line: `beeline status | stop | doctor | run | top | paths | timeline | bench | metrics | config`."""

from beeline.cli.commands import main

__all__ = ["main"]
