"""The command line: `beeline status | stop | doctor | run | top | paths | timeline | bench | metrics`."""

from beeline.cli.commands import main

__all__ = ["main"]
