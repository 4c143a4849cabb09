"""How OpenMP's threads wait for each other: asleep, so that two programs on one machine do not take each other's cores.

They spin by default. With one of two cores taken by another process, each of a model's thousands of small steps then
waits for a thread that spins while it should compute: measured there, 6 pairs/s with spinning where there are 42
without; alone it is the same either way.

`OMP_WAIT_POLICY` is read once, when the OpenMP runtime is loaded, which importing torch does. Where that has happened,
the runtime is asked by what it offers: Intel's and LLVM's have `kmp_set_blocktime`. GNU's has no such call, but spins
300 times less (1,000 turns and not 300,000) as soon as it manages more threads than there are processors: `do_spin` in
libgomp's config/linux/wait.h, `gomp_managed_threads` in team.c. So one idle team of one thread more than that is made,
which sleeps from then on.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from pathlib import Path

VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Environment variables that say how threads wait; a user who sets one is obeyed."""

_MAPS = Path("/proc/self/maps")
_once = threading.Lock()
_done = False


def wait_asleep() -> None:
    """Let OpenMP's threads sleep while they wait, whether or not torch is imported already; told once, it holds.

    It changes no result: neither the number of threads nor what each of them computes.
    """
    global _done  # noqa: PLW0603 - it is about the process, as what it guards
    with _once:
        if _done or any(name in os.environ for name in VARIABLES):
            return
        _done = True
        if "torch" not in sys.modules:
            os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
            return
        for path in _runtimes():
            try:
                _tell(ctypes.CDLL(path))
            except (OSError, AttributeError, RuntimeError):  # another build of it: slower beside others, not wrong
                continue


def _runtimes() -> list[str]:
    """List the OpenMP runtimes that this process has loaded, torch's own alone where it has one."""
    try:
        paths = {line.split(maxsplit=5)[5] for line in _MAPS.read_text().splitlines() if "/" in line}
    except OSError:  # not Linux
        folder = Path(sys.modules["torch"].__file__ or "").parent / "lib"
        paths = {str(path) for pattern in ("lib*omp*.dylib", "lib*omp*.dll") for path in folder.glob(pattern)}
    found = sorted(path for path in paths if Path(path).name.startswith(("libgomp", "libiomp", "libomp")))
    return [path for path in found if "/torch/" in path] or found


def _tell(runtime: ctypes.CDLL) -> None:
    if hasattr(runtime, "kmp_set_blocktime"):
        runtime.kmp_set_blocktime(0)
        return
    ready = threading.Event()

    def keep_a_team() -> None:
        # What the team runs has to be a function in C: one that takes nothing and changes nothing.
        idle = ctypes.cast(runtime.omp_get_thread_num, ctypes.c_void_p)
        runtime.GOMP_parallel(idle, None, ctypes.c_uint(runtime.omp_get_num_procs() + 1), ctypes.c_uint(0))
        ready.set()
        threading.Event().wait()  # a team ends with the thread that made it

    threading.Thread(target=keep_a_team, name="openmp-waits-asleep", daemon=True).start()
    ready.wait(10)
