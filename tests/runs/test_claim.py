"""Claims: one owner at a time, the dead found out, the sleeping told."""

import os
import signal
import threading
import time

import pytest
from support.processes import CONTEXT, process_of

import pythae_fif.runs.claim as claim_module
from pythae_fif.errors import ClaimLostError, StoreError
from pythae_fif.runs.claim import Claim, is_claimed, unclaimed_first


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(claim_module, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(claim_module, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(claim_module, "LEASE_SECONDS", 0.5)


class Elsewhere(claim_module._LocalClaims):
    """The folder as another machine sees it, where no lock tells who lives."""

    def is_dead(self, name, machine):
        return False


PLACES = {"here": lambda folder: folder, "elsewhere": Elsewhere}


def _hold(folder, claimed):
    with Claim(folder):
        claimed.set()
        time.sleep(60)


@pytest.fixture
def process(tmp_path):
    """Another process that has claimed the folder."""
    claimed = CONTEXT.Event()
    child = process_of(_hold, tmp_path, claimed)
    assert claimed.wait(60)
    yield child
    child.kill()
    child.join()


@pytest.mark.parametrize("place", PLACES)
def test_one_owner_at_a_time_and_everyone_has_a_turn(tmp_path, place):
    owners, most, turns = 0, 0, []

    def work(number):
        nonlocal owners, most
        for _ in range(5):
            with Claim(PLACES[place](tmp_path)):
                owners += 1
                most = max(most, owners)
                time.sleep(0.001)
                owners -= 1
            turns.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert sorted(turns) == sorted(list(range(6)) * 5)
    assert not list(tmp_path.iterdir())


def test_killed_owner_of_this_machine_is_found_out_at_once(tmp_path, process, monkeypatch):
    monkeypatch.setattr(claim_module, "LEASE_SECONDS", 1e9)
    assert is_claimed(tmp_path)
    assert not Claim(tmp_path).acquire(wait=False)
    process.kill()
    process.join()
    assert not is_claimed(tmp_path)
    with Claim(tmp_path):
        assert len(list(tmp_path.iterdir())) == 1


def test_owner_of_this_machine_that_stands_still_keeps_its_run(tmp_path, process):
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(0.7)
    claim = Claim(tmp_path)
    assert not claim.acquire(wait=False)


def test_killed_owner_of_another_machine_is_waited_for_as_long_as_its_lease(tmp_path, process):
    process.kill()
    process.join()
    start = time.monotonic()
    with Claim(Elsewhere(tmp_path)):
        assert 0.5 <= time.monotonic() - start < 5


def test_living_owner_of_another_machine_keeps_its_run(tmp_path):
    with Claim(tmp_path) as owner:
        other = Claim(Elsewhere(tmp_path))
        until = time.monotonic() + 1.2
        while time.monotonic() < until:
            assert not other.acquire(wait=False)
            time.sleep(0.02)
        owner.check()


def test_owner_that_stood_still_is_told_and_its_successor_undisturbed(tmp_path, monkeypatch):
    first = Claim(Elsewhere(tmp_path))
    beats = threading.Event()
    beat = first.place.beat

    def late(*arguments):
        beats.wait()
        return beat(*arguments)

    monkeypatch.setattr(first.place, "beat", late)
    assert first.acquire()
    with Claim(Elsewhere(tmp_path)) as second:
        beats.set()
        time.sleep(0.2)
        with pytest.raises(ClaimLostError, match="stood still"):
            first.check()
        first.release()
        second.check()
        assert is_claimed(tmp_path)
    assert not list(tmp_path.iterdir())


def test_interrupt_while_waiting_leaves_nothing(tmp_path, monkeypatch):
    with Claim(tmp_path):

        def interrupted(_):
            raise KeyboardInterrupt

        monkeypatch.setattr(claim_module.time, "sleep", interrupted)
        with pytest.raises(KeyboardInterrupt), Claim(tmp_path):
            pass
        assert len(list(tmp_path.iterdir())) == 1


def test_folder_system_without_locks(tmp_path, monkeypatch):
    monkeypatch.setattr(claim_module, "_lock", lambda file: False)
    with Claim(tmp_path):
        assert is_claimed(tmp_path)
        assert not Claim(tmp_path).acquire(wait=False)
    assert not is_claimed(tmp_path)


def test_folder_that_is_not_there(tmp_path):
    with pytest.raises(StoreError, match="cannot claim"):
        Claim(tmp_path / "nowhere").acquire()


def test_an_engine_starts_what_is_not_claimed_first(tmp_path):
    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        folder.mkdir()
    with Claim(folders[0]), Claim(folders[1]):
        assert unclaimed_first(folders) == folders[2]
        assert unclaimed_first(folders[:2]) == folders[0]
    assert unclaimed_first(folders) == folders[0]
