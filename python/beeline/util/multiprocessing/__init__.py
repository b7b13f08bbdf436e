"""`multiprocessing.Pool` with actors instead of child processes; see `pool`."""

from multiprocessing import JoinableQueue, TimeoutError

from beeline.util.multiprocessing.pool import Pool

__all__ = ["JoinableQueue", "Pool", "TimeoutError"]
