"""The device: whether torch and the driver belong together, what it is, how much memory is free."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from rerank_eval.doctor.findings import Finding, failure, ok, said, warning
from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.loading import resolve_device

GIB = 1 << 30
OCCUPIED = 0.5
"""Share of a GPU's memory in use by others from which there is a warning."""

_OTHER_BUILD = (
    "install the torch build that this driver supports (pytorch.org names it) into this environment; or update the "
    "driver"
)


@dataclass(frozen=True)
class Driver:
    """What decides whether torch sees an NVIDIA device.

    Attributes:
        build: CUDA version that torch was built for, None for a build without.
        available: Whether torch can use CUDA.
        files: NVIDIA's device files, such as `nvidia0`.
        version: The kernel driver's first line, empty where there is none.
        hidden: `CUDA_VISIBLE_DEVICES` leaves no device.
        reason: What torch says when CUDA is switched on and fails.
    """

    build: str | None
    available: bool
    files: tuple[str, ...] = ()
    version: str = ""
    hidden: bool = False
    reason: str = ""


def read_driver(device_files: Path = Path("/dev"), proc: Path = Path("/proc/driver/nvidia/version")) -> Driver:
    """Look for NVIDIA's device files and for what torch makes of them."""
    files = tuple(sorted(path.name for path in device_files.glob("nvidia[0-9]*")))
    try:
        version = proc.read_text(encoding="utf-8", errors="replace").splitlines()[0]
    except (OSError, IndexError):
        version = ""
    available, reason = torch.cuda.is_available(), ""
    if not available and torch.version.cuda:
        try:
            torch.cuda.init()  # type: ignore[no-untyped-call]
        except Exception as error:  # torch raises RuntimeError and AssertionError, drivers more
            reason = said(error)
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in {"", "-1"}
    return Driver(torch.version.cuda, available, files, version, hidden, reason)


def check_driver(driver: Driver) -> Iterator[Finding]:
    """Judge whether torch's build and the driver belong together."""
    name = "driver"
    if driver.available:
        yield ok(name, f"torch is built for CUDA {driver.build or '(none)'} and can use it")
    elif driver.build is not None and driver.files and driver.hidden:
        yield warning(
            name,
            f"CUDA_VISIBLE_DEVICES hides {', '.join(driver.files)}",
            "unset it to use a GPU, or name one: CUDA_VISIBLE_DEVICES=0",
        )
    elif driver.build is not None and driver.files:
        version = f", driver: {driver.version}" if driver.version else ", no kernel driver is loaded"
        why = f" ({driver.reason})" if driver.reason else ""
        found = f"torch is built for CUDA {driver.build} and cannot use {', '.join(driver.files)}{why}{version}"
        yield failure(name, found, _OTHER_BUILD)
    elif driver.files:
        found = f"{', '.join(driver.files)} is here, and torch is a build without CUDA"
        yield warning(name, found, "install a CUDA build of torch (pytorch.org names it) into this environment")
    else:
        yield ok(
            name,
            f"no NVIDIA device here; torch is built {f'for CUDA {driver.build}' if driver.build else 'without CUDA'}",
        )


def check_device(name: str) -> Iterator[Finding]:
    """Find the device that a config names, and compute something on it."""
    try:
        device = resolve_device(name)
    except EngineError as error:
        yield failure("device", str(error), "set device to auto or cpu (--set device=auto), or mend the driver first")
        return
    try:
        total = float(torch.ones(1024, device=device).sum().item())
    except RuntimeError as error:
        found = f"{device} does not compute: {said(error)}"
        yield failure("device", found, f"{_OTHER_BUILD}; or another device by --set device=...")
        return
    if total != 1024:  # noqa: PLR2004 - the sum of as many ones
        yield failure("device", f"{device} adds 1,024 ones up to {total}", "the device is defective: choose another")
        return
    free, size = memory(device)
    room = f"{free / GIB:.1f} of {size / GIB:.1f} GiB free"
    yield from _cuda(device, free, size, room) if device.type == "cuda" else _host(device, room)


def _cuda(device: torch.device, free: int, size: int, room: str) -> Iterator[Finding]:
    major, minor = torch.cuda.get_device_capability(device)
    count = torch.cuda.device_count()
    found = f"{device}, {torch.cuda.get_device_name(device)}, compute capability {major}.{minor}, {room}"
    found += f", {count} device{'s' if count > 1 else ''} in all"
    if free < (1 - OCCUPIED) * size:
        yield warning(
            "device", found, "another process holds its memory: end it, or choose another with --set device=..."
        )
    else:
        yield ok("device", found)


def _host(device: torch.device, room: str) -> Iterator[Finding]:
    cores, threads = available_cores(), torch.get_num_threads()
    found = f"{device}, {threads} threads on {cores} cores, memory {room}"
    if threads * 2 <= cores and device.type == "cpu":
        yield warning("device", found, f"torch uses few of the cores: unset OMP_NUM_THREADS, or set it to {cores}")
    else:
        yield ok("device", found)


def available_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory(device: torch.device) -> tuple[int, int]:
    """Ask for a device's memory.

    Returns:
        Free and all bytes. A CPU's are those of the machine or of the container, whichever is less; pages that the
        system can drop count as free.
    """
    if device.type == "cuda":
        free, size = torch.cuda.mem_get_info(device)
        return int(free), int(size)
    if device.type == "mps":
        size = int(torch.mps.recommended_max_memory())
        return size - int(torch.mps.current_allocated_memory()), size
    free, size = _machine()
    inside = _container()
    return (min(free, inside[0]), min(size, inside[1])) if inside is not None else (free, size)


def _machine() -> tuple[int, int]:
    lines = _table(Path("/proc/meminfo"))
    if "MemAvailable:" in lines and "MemTotal:" in lines:
        return lines["MemAvailable:"] * 1024, lines["MemTotal:"] * 1024
    page = os.sysconf("SC_PAGE_SIZE")
    size = os.sysconf("SC_PHYS_PAGES") * page
    # macOS does not say how much is free.
    free = os.sysconf("SC_AVPHYS_PAGES") * page if "SC_AVPHYS_PAGES" in os.sysconf_names else size
    return free, size


def _container(group: Path = Path("/sys/fs/cgroup")) -> tuple[int, int] | None:
    """Return free and all bytes of a memory limit (cgroup v2), or None where none is set."""
    try:
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
    except (OSError, ValueError):  # no such file, or `max`
        return None
    dropped = _table(group / "memory.stat").get("inactive_file", 0)
    return max(0, limit - used + dropped), limit


def _table(path: Path) -> dict[str, int]:
    """Read lines of a name and a number."""
    try:
        rows = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return {}
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}
