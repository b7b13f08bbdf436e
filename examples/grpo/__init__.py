"""The parts of `examples/grpo.py` that know nothing about actors: algorithm, flags and report."""
