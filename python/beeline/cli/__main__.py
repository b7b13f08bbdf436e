"""`python -m beeline.cli`."""

from beeline.cli.commands import main

main()
