"""What an idle worker imports and makes once, as it will its first actor; see `_worker.WorkerHooks.rehearse`."""


class Rehearsal:
    """A class as programs have them."""

    def __init__(self) -> None:
        self.rehearsed = True
