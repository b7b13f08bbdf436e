"""GRPO training: `examples/grpo.py`, the very same file, on each engine. Its own JSON has the figures."""

from __future__ import annotations
ROWS = []
