"""How the drivers of the lineage tests begin: values that they can lose, and a journal of what ran for them."""

SCRIPT = """
    import gc
    import torch
    from beeline import _core, exceptions

    SIZE = 100_000
    journal = __file__ + ".runs"

    def ran(what):
        with open(journal, "a") as file:  # one write each: lines of several processes do not mix
            file.write(f"{what} {os.getpid()}\\n")

    def runs():
        if not os.path.exists(journal):
            return []
        return [line.split()[0] for line in open(journal)]

    def settles(call, wanted, patience_s=30):
        deadline = time.monotonic() + patience_s
        while (got := call()) != wanted and time.monotonic() < deadline:
            gc.collect()
            time.sleep(0.02)
        return got

    def stat(name):
        return _core.transfer_stats()[name]

    def lose(*refs):
        "Kills whoever has run something, once the values are there; returns when this process knows them lost."
        assert len(ray.wait(list(refs), num_returns=len(refs), timeout=60)[0]) == len(refs)
        before = stat("lost_objects")
        for pid in {int(line.split()[1]) for line in open(journal)}:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # an earlier run's
        assert settles(lambda: stat("lost_objects") - before >= len(refs), True)

    @ray.remote(tensor_transport="shm", num_cpus=1)
    def make(i):
        ran(f"make{i}")
        return torch.full((SIZE,), float(i))

    @ray.remote(tensor_transport="shm", num_cpus=1)
    def double(value):
        ran("double")
        return value * 2

    def first(value):
        return float(value[0]), len(value)

    def outcome(call):
        try:
            return call()
        except Exception as error:
            return [type(error).__name__, str(error)]
"""
