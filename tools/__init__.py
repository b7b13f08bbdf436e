"""Checks of the repository itself, and the parts that ./dev is made of. Standard library only."""
