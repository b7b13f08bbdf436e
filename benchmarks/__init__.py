"""Benchmarks of Beeline beside its peers: `python -m benchmarks core`, `python -m benchmarks handoff`.

Each measure is written once against a Ray-like module and runs on every engine, in fresh processes, interleaved.
"""
