"""The command line: `beeline start | status | list | get | summary | memory | transfers | logs | stop | doctor | run`,
and `top | paths | timeline | bench | metrics | config`.
"""

from beeline.cli.commands import main

__all__ = ["main"]
