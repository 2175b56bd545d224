"""80 kills, 30 stops and 72 damages of a store, each beside a run that was left alone.

`PYTHAE_FIF_FAULTS=0.1` does a tenth of them.
"""

import contextlib
import functools
import itertools
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from support.experiments import ENVIRONMENT, tiny
from support.folders import flipped
from support.processes import process_of, until

import pythae_fif.benchmark.run as run_module
import pythae_fif.runs.claim as claim_module
from pythae_fif.benchmark.plan import expand
from pythae_fif.benchmark.run import IMAGES
from pythae_fif.errors import ClaimLostError
from pythae_fif.runs.execute import execute
from pythae_fif.runs.store import Store
from pythae_fif.runs.verify import WRONG
from pythae_fif.training import FIFTrainer

from .test_store_faults import (
    contents,
    kill_at_random_moments,
    kinds_in,
    numbers,
    plan_of,
    two_runs,  # noqa: F401 - a fixture
)

pytestmark = [
    pytest.mark.faults,
    pytest.mark.timeout(1200),
    pytest.mark.filterwarnings("ignore:scores of 20 samples"),
    pytest.mark.usefixtures("one_thread"),
]

SHARE = float(os.environ.get("PYTHAE_FIF_FAULTS", "1"))


def some(count: int) -> int:
    return max(1, round(SHARE * count))


def test_many_kills(tmp_path):
    kill_at_random_moments(tmp_path, some(80))


LOST = 3


def _short_lease(run_dir: Path) -> None:
    """A process of one run whose claim is taken for dead after a second."""
    torch.set_num_threads(1)
    claim_module.BEAT_SECONDS, claim_module.LEASE_SECONDS = 0.1, 1.0
    claim_module.POLL_SECONDS = 0.05
    run_module.FIFTrainer = functools.partial(FIFTrainer, checkpoint_every_seconds=0)
    try:
        execute(run_dir, IMAGES)
    except ClaimLostError:
        sys.exit(LOST)


def test_many_stops(tmp_path):
    """A process stands still until another has done its run, and then wakes up."""
    (spec,) = plan_of(tmp_path, epochs=4)
    store = Store(tmp_path / "results", IMAGES)
    run_dir = store.prepare(spec, ENVIRONMENT)
    process_of(_short_lease, run_dir).join()
    expected = numbers(store.record(spec))
    draws, stops, duration = random.Random(0), 0, 1.0
    while stops < some(30):
        shutil.rmtree(run_dir)
        store.prepare(spec, ENVIRONMENT)
        first = process_of(_short_lease, run_dir)
        until(lambda: [*run_dir.glob("claim-*")] or (run_dir / "result.json").exists())
        start = time.monotonic()
        first.join(draws.uniform(0, 1) * duration)
        if first.exitcode is not None:  # too late
            duration *= 0.9
            continue
        with contextlib.suppress(ProcessLookupError):  # it was about to end
            os.kill(first.pid, signal.SIGSTOP)
        second = process_of(_short_lease, run_dir)
        second.join()
        assert second.exitcode == 0, time.monotonic() - start
        assert numbers(store.record(spec)) == expected
        left = contents(run_dir)
        with contextlib.suppress(ProcessLookupError):
            os.kill(first.pid, signal.SIGCONT)
        first.join()
        assert first.exitcode in (0, LOST)  # 0 where it had just given the run free
        assert contents(run_dir) == left
        assert not kinds_in(store) & {*WRONG, "set aside"}
        stops += 1


def asked_for_more(tmp_path: Path):
    flags = {"seeds": [0], "samplers": ["normal", "gmm"]}
    return expand(*tiny(tmp_path, flags, epochs=3, batch_size=20))[0]


def healed(tmp_path: Path, store: Store, expected: tuple) -> None:
    """The same command with one sampler more makes the same numbers, and a store without fault."""
    asked = asked_for_more(tmp_path)
    record = execute(store.prepare(asked, ENVIRONMENT), IMAGES)
    assert set(record.scores) == {"normal", "gmm"}
    scores = {"normal": record.scores["normal"]}
    assert numbers(record.model_copy(update={"scores": scores})) == expected
    assert store.is_done(asked) and not kinds_in(store) & set(WRONG)


@contextlib.contextmanager
def copy_of(tmp_path: Path, root: Path):
    """A store of its own for one fault."""
    shutil.copytree(root, tmp_path / "results")
    yield Store(tmp_path / "results", IMAGES)
    shutil.rmtree(tmp_path / "results")


DAMAGES = {
    "a bit flipped": lambda content, foreign: flipped(content),
    "cut": lambda content, foreign: content[: len(content) // 2],
    "emptied": lambda content, foreign: b"",
    "binary": lambda content, foreign: bytes(range(256)) * 4,
    "another run's": lambda content, foreign: foreign,
    "[1]": lambda content, foreign: b"[1]",
    "nested": lambda content, foreign: b"[" * 200_000,
    "gone": lambda content, foreign: None,
}
SEALED = ("result.json", "train_log.jsonl", "samples-normal.png", "reconstructions.png",
          "model/model.pt", "model/model_config.json")  # fmt: skip
FILES = (*SEALED, "config.yaml", "status.json", "training.json")


def test_many_damages(tmp_path, two_runs):  # noqa: F811
    root, (spec, other) = two_runs
    damages = list(itertools.product(FILES, DAMAGES))
    random.Random(0).shuffle(damages)
    for name, damage in damages[: some(72)]:
        with copy_of(tmp_path, root) as store:
            run_dir, expected = store.run_dir(spec), numbers(store.record(spec))
            path, foreign = run_dir / name, (store.run_dir(other) / name).read_bytes()
            before = path.read_bytes()
            after = DAMAGES[damage](before, foreign)
            if after is None:
                path.unlink()
            else:
                path.write_bytes(after)
            changed = contents(store.root)
            found = kinds_in(store)
            assert contents(store.root) == changed  # verify writes nothing
            if name in SEALED and after != before:
                assert found & set(WRONG) or (name, damage) == ("result.json", "gone"), (
                    name, damage
                )  # fmt: skip
            healed(tmp_path, store, expected)
