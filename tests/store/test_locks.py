"""Locks: one at a time, and a dead owner's lock is taken over."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from rerank_eval.errors import StorageError
from rerank_eval.store import locks
from rerank_eval.store.locks import locked

HOLD = """
import sys, time
from pathlib import Path
from rerank_eval.store.locks import locked
with locked(Path(sys.argv[1])) as held:
    print("held", flush=True)
    time.sleep(60)
"""


def holder(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_waits_and_a_killed_owner_is_replaced_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    process = holder(path)
    with locked(path, wait=False) as held:
        assert held is None
    told: list[float] = []

    def kill() -> None:
        process.send_signal(signal.SIGKILL)
        process.wait()  # a zombie would count as alive

    threading.Timer(1.0, kill).start()
    started = time.monotonic()
    with locked(path, waiting=lambda: told.append(time.monotonic())) as held:
        assert held is not None
    assert len(told) == 1
    assert time.monotonic() - started < 10  # and not LEASE_SECONDS


def test_a_silent_host_is_replaced_when_its_lease_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another host's process cannot be asked whether it lives; only its silence can be waited out."""
    monkeypatch.setattr(locks, "LEASE_SECONDS", 1.5)
    path = tmp_path / "a.lock"
    with locked(path) as held:
        assert held is not None
        left = path.read_text().replace(socket.gethostname(), "some-other-host")
    path.write_text(left)
    with locked(path, wait=False) as other:
        assert other is None
    with locked(path) as held:
        assert held is not None
        held.check()


def test_who_slept_too_long_is_told_before_it_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "LEASE_SECONDS", 0.6)
    path = tmp_path / "a.lock"
    with locked(path) as held:
        assert held is not None
        held.check()
        path.replace(tmp_path / "taken away")
        path.write_text("1\nanother\n")
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with suppress(StorageError):
                held.check()
                time.sleep(0.1)
                continue
            break
        with pytest.raises(StorageError, match="taken this work over"):
            held.check()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_a_read_only_folder_is_one_clear_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="cannot be written"), locked(tmp_path / "locks" / "a.lock"):
        pass


def test_a_file_in_the_folders_place_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "locks").write_text("")
    wanted = "a file stands where a folder is needed"
    with pytest.raises(StorageError, match=wanted), locked(tmp_path / "locks" / "a.lock"):
        pass


def test_an_empty_file_that_a_crashed_host_left_is_no_lock_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The record of an owner is not synced: a host that loses power leaves a file without one."""
    monkeypatch.setattr(locks, "LEASE_SECONDS", 1.5)
    path = tmp_path / "a.lock"
    path.touch()
    with locked(path, wait=False) as held:
        assert held is None
    started = time.monotonic()
    with locked(path) as held:
        assert held is not None
        held.check()
    assert 1.5 <= time.monotonic() - started < 10
    assert "names no owner" in caplog.text


def test_an_empty_file_that_is_touched_is_somebodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another host may not see yet what an owner has written; its renewals it sees."""
    monkeypatch.setattr(locks, "LEASE_SECONDS", 1.5)
    path = tmp_path / "a.lock"
    path.touch()
    waiter = threading.Thread(target=locks._drop_empty, args=(path,), daemon=True)
    waiter.start()
    for _ in range(5):  # past the lease
        time.sleep(0.5)
        os.utime(path)
        assert waiter.is_alive()
    path.unlink()
    waiter.join(timeout=10)
    assert not waiter.is_alive()


def test_a_lock_that_another_has_now_is_noticed_at_once(tmp_path: Path) -> None:
    """Before the lease's own thread takes its next turn, which is 20 seconds away."""
    path = tmp_path / "a.lock"
    with locked(path) as held:
        assert held is not None
        held.check()
        own = path.read_text()
        path.replace(tmp_path / "taken away")
        path.write_text(own.replace("token=", "token=0"))
        with pytest.raises(StorageError, match="taken this work over"):
            held.check()
