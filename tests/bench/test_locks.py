"""Locks: one holder at a time, released by any death, with flock and without; leases survive clocks that jump."""

import errno
import fcntl
import os
import subprocess
import sys
import threading
import time

import pytest
from conftest import PROJECT, subprocess_environment

from bench.errors import BusyError
from bench.runs import locks
from bench.runs.locks import is_locked, locked

HOLDER = """
import sys, time, errno, fcntl, pathlib
from bench.runs import locks
if sys.argv[2] == "lease":
    def refuse(*_):
        raise OSError(errno.ENOLCK, "no locks available")
    locks.fcntl.flock = refuse
    locks.HEARTBEAT = 0.1
with locks.locked(pathlib.Path(sys.argv[1]), wait=False):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(params=["flock", "lease"])
def kind(request, monkeypatch):
    if request.param == "lease":

        def refuse(*_):
            raise OSError(errno.ENOLCK, "no locks available")

        monkeypatch.setattr(fcntl, "flock", refuse)
        monkeypatch.setattr(locks, "HEARTBEAT", 0.1)
        monkeypatch.setattr(locks, "LEASE_LASTS", 1.0)
    return request.param


def hold(path, kind):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, path, kind],
        cwd=PROJECT,
        env=subprocess_environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_one_holder_and_free_after_its_death(tmp_path, kind):
    path = tmp_path / "lock"
    assert not is_locked(path)
    holder = hold(path, kind)
    try:
        assert is_locked(path)
        time.sleep(1.5)  # a lease is renewed: it does not run out while its holder lives
        assert is_locked(path)
        with pytest.raises(BusyError, match="computed by another process"), locked(path, wait=False):
            pass
    finally:
        holder.kill()
        holder.communicate()
    with locked(path, wait=True):
        assert is_locked(path)
        with pytest.raises(BusyError), locked(path, wait=False):
            pass
    assert not is_locked(path)
    with locked(path, wait=False):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["lock"]


def test_waiting_until_it_is_free(tmp_path, kind):
    path, order = tmp_path / "lock", []

    def second():
        with locked(path, wait=True):
            order.append("second")

    with locked(path, wait=False):
        waiting = threading.Thread(target=second)
        waiting.start()
        time.sleep(0.5)
        order.append("first")
    waiting.join()
    assert order == ["first", "second"]


def test_looking_never_takes_a_lock_away(tmp_path):
    """Others look at a lock all the time, and hold it for that moment: who wants it gets it all the same."""
    path, ended = tmp_path / "lock", threading.Event()
    path.touch()

    def look():
        while not ended.is_set():
            is_locked(path)

    lookers = [threading.Thread(target=look) for _ in range(2)]
    for looker in lookers:
        looker.start()
    try:
        for _ in range(200):
            with locked(path, wait=False):
                pass
    finally:
        ended.set()
        for looker in lookers:
            looker.join()


@pytest.mark.parametrize("hours", [-5, 5])
def test_a_lease_survives_a_clock_that_jumps(tmp_path, monkeypatch, hours):
    """After a jump a lease looks old, or from the future; its holder's heartbeat shows that it lives."""

    def refuse(*_):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(locks, "HEARTBEAT", 0.1)
    monkeypatch.setattr(locks, "LEASE_LASTS", 1.0)
    path = tmp_path / "lock"
    real = os.utime

    def jumped(target, *_):
        now = time.time() + 3600 * hours
        real(target, (now, now))

    monkeypatch.setattr(os, "utime", jumped)
    with locked(path, wait=False):
        time.sleep(0.3)
        with pytest.raises(BusyError), locked(path, wait=False):
            pass
