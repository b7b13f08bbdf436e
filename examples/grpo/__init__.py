"""The parts of `examples/grpo.py` that know nothing about actors: the algorithm and the report."""
