"""Engines run actors: `embedded`, on this machine."""
