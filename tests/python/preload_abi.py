"""The preload library's C interface (src/beeline/memory/heap_abi.h) through ctypes.

Imported by the programs that test_preload.py starts, so that these tests stand on nothing above the library.
"""

import ctypes
from ctypes import CFUNCTYPE, POINTER, Structure, c_bool, c_char_p, c_int, c_int64, c_uint32, c_uint64, c_void_p


class HeapStats(Structure):
    """`HeapStats` of src/beeline/memory/heap.h; bytes, but for `blocks`, `fork_children` and `allocations`."""

    _fields_ = [
        (name, c_uint64)
        for name in (
            "capacity_bytes",
            "quota_bytes",
            "used_bytes",
            "warm_free_bytes",
            "pinned_bytes",
            "blocks",
            "fork_children",
            "allocations",
        )
    ]


class HeapAbi(Structure):
    """`beeline_heap_abi`."""

    _fields_ = [
        ("version", c_uint32),
        ("table_bytes", c_uint32),
        ("_stands_aside", CFUNCTYPE(c_char_p)),
        ("_activate", CFUNCTYPE(c_int, c_void_p, c_uint64, c_uint64)),
        ("_heap", c_void_p),
        ("_is_active", CFUNCTYPE(c_bool, c_void_p)),
        ("_fd", CFUNCTYPE(c_int, c_void_p)),
        ("_base", CFUNCTYPE(c_void_p, c_void_p)),
        ("_allocate", CFUNCTYPE(c_void_p, c_void_p, c_uint64)),
        ("_release", CFUNCTYPE(c_bool, c_void_p, c_void_p)),
        ("_offset_of", CFUNCTYPE(c_int64, c_void_p, c_void_p, c_uint64)),
        ("_pin", CFUNCTYPE(c_int64, c_void_p, c_uint64, c_uint64)),
        ("_unpin", CFUNCTYPE(None, c_void_p, c_uint64)),
        ("_is_private", CFUNCTYPE(c_bool, c_void_p, c_uint64)),
        ("_trim", CFUNCTYPE(c_uint64, c_void_p, c_uint64)),
        ("_set_quota", CFUNCTYPE(None, c_void_p, c_uint64)),
        ("_stats", CFUNCTYPE(None, c_void_p, POINTER(HeapStats))),
    ]

    def __getattr__(self, name):
        """`abi.trim(0)` calls the table's `trim(heap, 0)`."""
        function = object.__getattribute__(self, "_" + name)
        if name == "stands_aside":
            return function
        return lambda *arguments: function(self._heap, *arguments)

    def statistics(self):
        """The heap's current figures."""
        stats = HeapStats()
        self._stats(self._heap, ctypes.byref(stats))
        return stats


def preloaded():
    """The table of the library that was preloaded into this process; ValueError when there is none."""
    abi = HeapAbi.in_dll(ctypes.CDLL(None), "beeline_arena_abi")
    assert abi.version == 3 and abi.table_bytes == ctypes.sizeof(HeapAbi)
    return abi
