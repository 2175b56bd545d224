"""FIFTrainer in several processes: the loss of one process on the whole batch, and who writes."""

import functools
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.devices import PLACES_OF_TWO

from pythae_fif import FIF, FIFConfig, FIFTrainerConfig
from pythae_fif.data import ImageDataset
from pythae_fif.errors import DataError
from pythae_fif.training import BatchLoader, FIFTrainer
from pythae_fif.training.distributed import Processes

ROOT = Path(__file__).resolve().parents[2]
SHAPE, LATENT = (1, 4, 4), 3


class Squares:
    def __len__(self):
        return 21

    def batch(self, indices, device=None):
        return indices**2


def test_slices_of_a_batch_are_the_batch():
    def loader_of(rank, batch_size=8):
        return BatchLoader(Squares(), batch_size, shuffle=False, processes=Processes(rank, 3))

    whole = [batch.tolist() for batch in BatchLoader(Squares(), 8, shuffle=False)]
    loaders = [loader_of(rank) for rank in range(3)]
    slices = [[batch.tolist() for batch in loader] for loader in loaders]
    assert [[*itertools.chain(*batch)] for batch in zip(*slices, strict=True)] == whole
    for step, batch in enumerate(whole):  # weighted, the mean of the slices is that of the batch
        mean = sum(
            list(loader.weights())[step] * sum(own[step]) / len(own[step])
            for loader, own in zip(loaders, slices, strict=True)
        )
        assert mean / 3 == pytest.approx(sum(batch) / len(batch))
    small = loader_of(1, batch_size=10)
    assert len(small) == len(list(small)) == 2, "the last batch of one is for nobody"


def trainer_of(folder: Path, *, processes: int = 1, **options) -> FIFTrainer:
    """float64, K = d and no noise: the draws do not matter, the order of the data is fixed."""
    torch.manual_seed(0)
    images = torch.randint(256, (22, *SHAPE), dtype=torch.uint8)
    config = FIFConfig(
        input_dim=SHAPE, latent_dim=LATENT, hutchinson_samples=LATENT, noise=0.0,
        mode=options.pop("mode", "replay"),
    )  # fmt: skip
    model = FIF(config).double()
    training = FIFTrainerConfig(
        num_epochs=3, per_device_train_batch_size=8 // processes,
        per_device_eval_batch_size=8 // processes, learning_rate=1e-2,
        no_cuda=options.pop("device", "cpu") == "cpu",
        max_grad_norm=10.0, scheduler_cls="ReduceLROnPlateau",
    )  # fmt: skip
    data = Doubles(images)
    return FIFTrainer(
        model, data, data, training, run_dir=folder, checkpoint_every_seconds=0, **options
    )


class Doubles(ImageDataset):
    def batch(self, indices, device=None):
        batch = super().batch(indices, device)
        batch["data"] = batch["data"].double()
        return batch


def _until_epoch_2(train_step, epoch: int, in_pass: int) -> float:
    if epoch == 2:
        raise InterruptedError
    return train_step(epoch, in_pass)


MODES = ("replay", "backward")


def _train(rank: int, count: int, folder: str, device: str) -> None:
    """A process as torchrun starts it; each training is interrupted once, in its second epoch."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
    torch.set_num_threads(1)
    torch.randperm = lambda size, **_: torch.arange(size)
    if device == "cuda":
        torch.cuda.set_device(rank)
    torch.distributed.init_process_group(
        {"cpu": "gloo", "cuda": "nccl"}[device],
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=count,
    )
    for mode in MODES:
        run_dir = Path(folder) / mode
        interrupted = trainer_of(run_dir, processes=count, mode=mode, device=device)
        interrupted.train_step = functools.partial(_until_epoch_2, interrupted.train_step)
        with pytest.raises(InterruptedError):
            interrupted.train()
        heard: list[int] = []
        tell = lambda epoch, *_, heard=heard: heard.append(epoch)  # noqa: E731
        trainer = trainer_of(run_dir, processes=count, mode=mode, device=device, on_epoch=tell)
        result = trainer.train()
        torch.save((trainer.model.state_dict(), vars(result), heard), f"{folder}/{mode}-{rank}.pt")
    torch.distributed.barrier()
    os._exit(0)  # the destructors of a gloo group can wait for one another for ever


@pytest.mark.parametrize("device", PLACES_OF_TWO)
def test_training_is_that_of_one_process_on_the_whole_batch(device, tmp_path, monkeypatch):
    """22 images in batches of 8: the last batch is shared three and three."""
    torch.multiprocessing.set_forkserver_preload(["pythae_fif.benchmark.run", "torch._dynamo"])
    torch.multiprocessing.start_processes(
        _train, (2, str(tmp_path), device), nprocs=2, start_method="forkserver"
    )
    monkeypatch.setattr(torch, "randperm", lambda size, **_: torch.arange(size))
    for mode in MODES:
        alone = trainer_of(tmp_path / "alone" / mode, mode=mode)
        result = alone.train()
        ends = [torch.load(tmp_path / f"{mode}-{i}.pt", map_location="cpu") for i in (0, 1)]
        for state, theirs, _ in ends:
            torch.testing.assert_close(state, alone.model.state_dict(), rtol=1e-9, atol=1e-11)
            assert theirs["best_epoch"] == result.best_epoch
            # summed in float32
            assert theirs["best_eval_loss"] == pytest.approx(result.best_eval_loss, rel=1e-6)
        assert [heard for *_, heard in ends] == [[2, 3], []], "the first process alone tells"
        logs = [(tmp_path / run / "train_log.jsonl").read_text() for run in (mode, f"alone/{mode}")]
        rows = [[json.loads(line) for line in log.splitlines()] for log in logs]
        for ours, theirs in zip(*rows, strict=True):
            for key in ("epoch", "train_loss", "eval_loss", "learning_rate"):
                assert ours[key] == pytest.approx(theirs[key], rel=1e-6)
        assert not (tmp_path / mode / "checkpoint.pt").exists()


@pytest.mark.parametrize("device", PLACES_OF_TWO)
def test_example_trains_with_torchrun(device, tmp_path):
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = [*torchrun, "-m", "examples.distributed", "--epochs", "1", "--output", tmp_path / "fif"]
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=ROOT, capture_output=True, text=True, timeout=240, check=False,
        env={**os.environ, **hidden, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("best epoch 1, evaluation loss") == 1
    assert {path.name for path in (tmp_path / "fif").iterdir()} == {"model", "train_log.jsonl"}


@pytest.mark.parametrize("held", ["training", "evaluation"])
def test_fewer_items_than_processes_are_one_line(held, tmp_path, monkeypatch):
    for key, value in {"WORLD_SIZE": "4", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(key, value)
    of = {"training": 8, "evaluation": 8, held: 3}
    images = {name: torch.zeros(count, *SHAPE, dtype=torch.uint8) for name, count in of.items()}
    train, val = ImageDataset(images["training"]), ImageDataset(images["evaluation"])
    model = FIF(FIFConfig(input_dim=SHAPE, latent_dim=LATENT))
    with pytest.raises(DataError, match=f"the {held} set has 3 items for 4 processes"):
        FIFTrainer(model, train, val, FIFTrainerConfig(output_dir=str(tmp_path)))
