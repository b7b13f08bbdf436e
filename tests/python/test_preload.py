"""The preload library as a whole program sees it: each test starts a fresh interpreter with LD_PRELOAD."""

import os
import pathlib
import shutil
import subprocess
import sys
import textwrap

import pytest

HERE = pathlib.Path(__file__).parent


def library_path() -> str:
    """The installed package's library; BEELINE_PRELOAD_LIBRARY names another one (a build folder's)."""
    if named := os.environ.get("BEELINE_PRELOAD_LIBRARY"):
        return named
    import beeline

    return str(pathlib.Path(beeline.__file__).parent / "lib" / "libbeeline_preload.so")


def run(body: str, *, preload: str | None = None, **environment: str) -> str:
    """Runs `body` with the library preloaded and `abi` bound to its table; returns what it printed."""
    program = "import preload_abi\nabi = preload_abi.preloaded()\n" + textwrap.dedent(body)
    variables = {
        **os.environ,
        "PYTHONPATH": str(HERE),
        "LD_PRELOAD": preload or library_path(),
        **environment,
    }
    done = subprocess.run([sys.executable, "-c", program], env=variables, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert "cannot be preloaded" not in done.stderr, done.stderr
    return done.stdout.strip()


# After the imports, whose own large buffers stay for good.
ACTIVATE = "import numpy, torch\nassert abi.activate(16 << 30, 2 << 30) == 0\n"


def test_serves_nothing_before_activation():
    assert run("""
        import numpy
        array = numpy.empty(4 << 20, numpy.uint8)
        print(abi.is_active(), abi.offset_of(array.ctypes.data, array.nbytes), abi.stands_aside())
    """) == "False -1 None"  # fmt: skip


def test_leaves_the_environment_so_that_children_run_plainly():
    assert run("""
        import os, subprocess, sys
        code = "import os; print(os.environ.get('LD_PRELOAD'), 'preload' in open('/proc/self/maps').read())"
        print(os.environ.get("LD_PRELOAD"), subprocess.run([sys.executable, "-c", code],
              capture_output=True, text=True).stdout.strip())
    """) == "None None False"  # fmt: skip


def test_leaves_other_entries_of_ld_preload_alone():
    other = "/lib/x86_64-linux-gnu/libm.so.6"
    assert run("import os; print(os.environ['LD_PRELOAD'])", preload=f"{library_path()}:{other}") == other
    assert run("import os; print(os.environ['LD_PRELOAD'])", preload=f"{other}:{library_path()}") == other


def test_torch_tensors_and_numpy_arrays_are_born_in_the_arena():
    assert run(ACTIVATE + textwrap.dedent("""
        import os
        tensor = torch.arange(1 << 20, dtype=torch.int32)
        array = numpy.full(1 << 21, 7, numpy.uint8)
        small = torch.ones(1000)
        places = [abi.offset_of(t.data_ptr(), t.nbytes) for t in (tensor, small)]
        place = abi.offset_of(array.ctypes.data, array.nbytes)
        assert os.pread(abi.fd(), tensor.nbytes, places[0]) == tensor.numpy().tobytes()
        assert os.pread(abi.fd(), array.nbytes, place) == array.tobytes()
        view = tensor[100:]
        assert abi.offset_of(view.data_ptr(), view.nbytes) == places[0] + 400
        print(places[1])
    """)) == "-1"  # fmt: skip


def test_memory_is_reused_warm():
    """The second tensor of a size adds nothing to what the file holds."""
    run(ACTIVATE + textwrap.dedent("""
        import os
        for round in range(5):
            tensor = torch.full((64 << 20,), round, dtype=torch.uint8)
            place = abi.offset_of(tensor.data_ptr(), tensor.nbytes)
            backed = os.fstat(abi.fd()).st_blocks * 512
            assert round == 0 or (place, backed) == before
            before = place, backed
            del tensor
        assert abi.trim(0) >= 64 << 20
        assert os.fstat(abi.fd()).st_blocks == 0
    """))  # fmt: skip


def test_exhausted_quota_falls_back_to_ordinary_memory():
    assert run("""
        assert abi.activate(1 << 30, 32 << 20) == 0
        import numpy
        arrays = [numpy.full(8 << 20, i, numpy.uint8) for i in range(10)]
        assert all((array == i).all() for i, array in enumerate(arrays))
        served = sum(abi.offset_of(array.ctypes.data, array.nbytes) >= 0 for array in arrays)
        print(served)
    """) == "4"  # fmt: skip


def test_calloc_stays_lazy():
    run(ACTIVATE + textwrap.dedent("""
        import ctypes
        array = numpy.full(256 << 20, 1, numpy.uint8)
        del array
        def resident():
            return int(open("/proc/self/statm").read().split()[1]) * 4096
        before = resident()
        zeros = numpy.zeros(256 << 20, numpy.uint8)
        assert resident() - before < 16 << 20
        assert not zeros[:: 4096].any()
    """))  # fmt: skip


def test_the_whole_family_across_the_boundary():
    """Every function, below and above the threshold, with realloc in every direction."""
    run(ACTIVATE + textwrap.dedent("""
        import ctypes
        c = ctypes.CDLL(None, use_errno=True)
        V, N = ctypes.c_void_p, ctypes.c_size_t
        for name, arguments in {"malloc": [N], "calloc": [N, N], "realloc": [V, N], "reallocarray": [V, N, N],
                                "memalign": [N, N], "aligned_alloc": [N, N], "valloc": [N], "pvalloc": [N]}.items():
            getattr(c, name).restype, getattr(c, name).argtypes = V, arguments
        c.free.argtypes, c.free.restype = [V], None
        c.malloc_usable_size.argtypes, c.malloc_usable_size.restype = [V], N
        c.posix_memalign.argtypes = [ctypes.POINTER(V), N, N]
        def in_arena(data):
            return abi.offset_of(data, 1) >= 0
        for size in (1, 5000, (1 << 20) - 1, 1 << 20, 3 << 20, 40 << 20):
            large = size >= 1 << 20
            blocks = [c.malloc(size)]
            blocks += [c.memalign(64, size), c.aligned_alloc(4096, size), c.valloc(size), c.pvalloc(size)]
            for data in blocks:
                assert in_arena(data) == large
                assert c.malloc_usable_size(data) >= size
                ctypes.memset(data, 0x5A, size)
                old = size
                for new in (size * 2, size, size // 2 + 1, 1 << 21, size):
                    data = c.realloc(data, new)
                    kept, old = min(old, new), new
                    assert ctypes.string_at(data, kept) == b"\\x5a" * kept
                    ctypes.memset(data, 0x5A, new)
                c.free(data)
            data = c.calloc(size, 1)
            assert not any(ctypes.string_at(data, size))
            c.free(data)
            out = V()
            assert c.posix_memalign(ctypes.byref(out), 2 << 20, size) == 0 and out.value % (2 << 20) == 0
            c.free(out)
            assert c.posix_memalign(ctypes.byref(out), 3, size) == 22
            assert c.posix_memalign(ctypes.byref(out), 64 << 20, size) == 0 and out.value % (64 << 20) == 0
            c.free(out)
        assert c.reallocarray(None, 1 << 40, 1 << 40) is None and ctypes.get_errno() in (0, 12)
        assert c.malloc((1 << 63) - 1) is None
        assert c.realloc(c.malloc(2 << 20), 0) is None
        c.free(None)
        assert abi.statistics().blocks == 0
    """))  # fmt: skip


def test_fork_keeps_its_meaning():
    """As DataLoader's workers: the child sees what was, whatever the parent does, and the other way round."""
    run(ACTIVATE + textwrap.dedent("""
        import multiprocessing
        torch.set_num_threads(1)
        context = multiprocessing.get_context("fork")
        data = torch.full((4 << 20,), 1, dtype=torch.uint8)
        def work(go, result):
            go.wait()
            result.put(int(data.sum()))
            data.fill_(9)
            fresh = torch.full((4 << 20,), 3, dtype=torch.uint8)
            result.put((abi.is_active(), int(fresh.sum()), int(data.sum())))
        go, result = context.Event(), context.SimpleQueue()
        child = context.Process(target=work, args=(go, result))
        child.start()
        data.fill_(2)
        fresh = [torch.full((4 << 20,), 5, dtype=torch.uint8) for _ in range(3)]
        go.set()
        assert result.get() == 4 << 20
        assert result.get() == (False, 3 * (4 << 20), 9 * (4 << 20))
        child.join()
        assert child.exitcode == 0
        assert int(data.sum()) == 2 * (4 << 20)
        # Written since the fork: a publication has to copy it. A new tensor needs none.
        assert abi.offset_of(data.data_ptr(), data.nbytes) == -1
        assert abi.offset_of(fresh[0].data_ptr(), fresh[0].nbytes) >= 0
        del data, fresh
        abi.trim(0)
        stats = abi.statistics()
        assert (stats.blocks, stats.used_bytes, stats.fork_children) == (0, 0, 0)
    """))  # fmt: skip


def test_a_data_loader_reads_its_dataset_from_the_arena():
    run(ACTIVATE + textwrap.dedent("""
        from torch.utils.data import DataLoader, TensorDataset
        data = torch.arange(1 << 20, dtype=torch.float32).reshape(-1, 1024)
        seen = torch.cat([batch[0] for batch in DataLoader(TensorDataset(data), 64, num_workers=2,
                                                            multiprocessing_context="fork")])
        assert torch.equal(seen, data)
    """))  # fmt: skip


def test_stands_aside_when_switched_off():
    assert run("print(abi.stands_aside().decode(), abi.activate(1 << 30, 1 << 30) != 0)", BEELINE_PRELOAD="0") == (
        "switched off by BEELINE_PRELOAD=0 True"
    )


@pytest.fixture
def compile_library(tmp_path):
    """Compiles a C source to a shared library; skips where there is no compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")

    def compile_source(name: str, source: str, *options: str, folder: pathlib.Path = tmp_path) -> str:
        folder.mkdir(exist_ok=True)
        (tmp_path / f"{name}.c").write_text(source)
        target = folder / f"lib{name}.so"
        subprocess.run([compiler, "-shared", "-fPIC", "-o", target, tmp_path / f"{name}.c", *options], check=True)
        return str(target)

    return compile_source


OTHER_ALLOCATOR = """
#include <stddef.h>
void* __libc_malloc(size_t); void __libc_free(void*); void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t); void* __libc_memalign(size_t, size_t);
size_t calls;
void* malloc(size_t size) { ++calls; return __libc_malloc(size); }
void free(void* data) { __libc_free(data); }
"""


@pytest.mark.parametrize("ours_first", [True, False])
def test_stands_aside_for_another_allocator(compile_library, ours_first):
    other = compile_library("other", OTHER_ALLOCATOR)
    order = [library_path(), other] if ours_first else [other, library_path()]
    printed = run(
        """
        import ctypes
        calls = ctypes.c_size_t.in_dll(ctypes.CDLL(None), "calls")
        before = calls.value
        data = b'x' * (2 << 20)
        print(calls.value > before, abi.activate(1 << 30, 1 << 30) != 0, abi.stands_aside().decode())
        """,
        preload=":".join(order),
    )
    assert printed.startswith("True True another allocator")


def test_deepbind_does_not_split_the_allocator(compile_library):
    """A library opened with RTLD_DEEPBIND frees what it was given through the same allocator."""
    library = compile_library("deep", "#include <stdlib.h>\nvoid take(void* data) { free(data); }\n")
    run(
        ACTIVATE
        + textwrap.dedent(f"""
        import ctypes
        c = ctypes.CDLL(None)
        c.malloc.restype, c.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
        deep = ctypes.CDLL({library!r}, mode=8 | 2)
        deep.take.argtypes = [ctypes.c_void_p]
        data = c.malloc(2 << 20)
        assert abi.statistics().blocks == 1
        deep.take(data)
        assert abi.statistics().blocks == 0
    """)
    )


def test_dlopen_still_follows_its_callers_runpath(compile_library, tmp_path):
    compile_library("inner", "int answer(void) { return 42; }\n", folder=tmp_path / "inner")
    outer = compile_library(
        "outer",
        """
        #include <dlfcn.h>
        int ask(void) {
          void* inner = dlopen("libinner.so", RTLD_NOW);
          return inner ? ((int (*)(void))dlsym(inner, "answer"))() : -1;
        }
        """,
        "-Wl,-rpath,$ORIGIN/inner,--enable-new-dtags",
        "-O2",
        "-ldl",
    )
    assert run(f"import ctypes; print(ctypes.CDLL({outer!r}).ask())") == "42"
