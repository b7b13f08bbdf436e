"""Classes of actors that rows share. Every worker imports this file, so it imports nothing."""


class Plain:
    def ready(self):
        return True


class UsesTorch:
    def __init__(self):
        import torch

        self.one = torch.ones(1)

    def ready(self):
        return float(self.one[0])


class Echo:
    def nop(self):
        return None


class AsyncEcho:
    async def nop(self):
        return None


class Numbers:
    def numbers(self, count):
        for number in range(count):  # noqa: UP028 (Ray cannot `yield from` an iterator)
            yield number


class Held:
    def hold(self, path):
        import os
        import time

        while not os.path.exists(path):
            time.sleep(0.01)

    def same(self, value):
        return value
