"""The command line: `beeline status | list | get | summary | memory | transfers | logs | stop | doctor | run`, and
`top | paths | timeline | bench | metrics`.
"""

from beeline.cli.commands import main

__all__ = ["main"]
