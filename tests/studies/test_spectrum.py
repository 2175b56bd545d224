"""The spectrum study: what it claims, with margins, and its runs."""

import dataclasses
import math
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from support.engines import InProcess, Refuses
from support.reference import REFERENCE, unpack

from pythae_fif import FIF, FIFConfig
from pythae_fif.data import load_images
from pythae_fif.errors import RunsLeftError
from pythae_fif.nn.tabular import TabularDecoder, TabularEncoder
from pythae_fif.runs.execute import execute
from pythae_fif.runs.store import Store
from pythae_fif.runs.verify import verify
from pythae_fif.studies import StudyOptions, run_study, spectrum, spectrum_run
from pythae_fif.studies.kinds import KINDS
from pythae_fif.studies.spectrum_run import SPECTRUM


@pytest.fixture(scope="module")
def spans():
    """Conditional models of two Gaussians in 12 dimensions, of six directions each that matter,
    with standard deviations above one: {beta: what is measured}."""
    std = torch.tensor([3, 2.5, 2, 1.7, 1.5, 1.3, *[0.1] * 6])
    found = {}
    for beta in (0.1, 10.0):
        torch.manual_seed(0)
        config = FIFConfig(input_dim=(12,), latent_dim=6, condition_dim=2, beta=beta)
        model = FIF(config, TabularEncoder((14,), 6, 32), TabularDecoder((12,), 8, 32)).train()
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _ in range(400):
            x, labels = std * torch.randn(128, 12), torch.arange(128) % 2
            x = torch.where(labels[:, None] == 1, x.flip(1) + 2, x - 2)
            optimizer.zero_grad()
            model({"data": x, "labels": labels}).loss.backward()
            optimizer.step()
        found[beta] = spectrum_run.measure(model.eval(), 64, 0)
    return found


def test_higher_beta_spans_more_dimensions(spans):
    low, high = spans[0.1], spans[10.0]
    assert (low.singular_values >= 1).sum() <= 2 and (high.singular_values >= 1).sum() >= 4
    assert low.entropy + 4 < high.entropy
    assert 2 * low.diversity < high.diversity


def test_entropy_of_equation_124(spans):
    """By the singular values, and by the likelihood of samples, which needs the encoder."""
    found = spans[10.0]
    assert found.shown.shape == (2, spectrum_run.SHOWN, 12)
    latent = 3 * math.log(2 * math.pi * math.e)
    assert found.entropy == pytest.approx(latent + found.log_volume)
    assert found.log_volume <= float(found.singular_values.log().sum())  # Jensen
    assert found.entropy == pytest.approx(found.entropy_by_log_prob, abs=2)


def test_error_bars_of_figure_8():
    found = spectrum.summarise(np.array([[3.0, 1.2, 0.5], [5.0, 0.9, 0.7]]))
    assert (found.low, found.above, found.high) == (1, 2, 2)
    one = spectrum.summarise(np.array([[3.0, 1.2, 0.5]]))
    assert (one.low, one.above, one.high) == (2, 2, 2)


# ---------------------------------------------------------------- its runs


@pytest.fixture
def options(tmp_path, monkeypatch):
    """A study of two models a weight that takes no time."""
    size = spectrum_run.Size(epochs=2, samples=12, images=100, channel_multiplier=0.25)
    monkeypatch.setattr(spectrum, "SIZES", {"quick": size})
    monkeypatch.setattr(spectrum, "BETAS", (1.0, 10.0))
    return StudyOptions(tmp_path, dataset="digits", latent_dim=4, engine=InProcess())


def test_figures_are_drawn_from_the_records_alone(options):
    root = options.results
    paths = run_study("spectrum", options, lambda *_: None)
    for name in ("spectrum-digits-d4-quick", "spectrum-digits-d4-quick-samples"):
        assert (root / f"figures/{name}.png").stat().st_size > 10_000
        assert "paper" in (root / f"figures/{name}.md").read_text()
    samples = (root / "figures/spectrum-digits-d4-quick-samples.md").read_text()
    assert f"of the first {len(load_images('digits').test)} test images" in samples
    assert len((root / "tables/spectrum-digits-d4-quick.csv").read_text().splitlines()) == 1 + 4
    store = Store(root, SPECTRUM)
    specs = list(store.specs())
    assert len(specs) == 4 == len(options.engine.done)
    for spec in specs:
        with Image.open(store.run_dir(spec) / spectrum_run.SAMPLES) as sheet:
            assert sheet.size == (8 * spectrum_run.SHOWN, 8 * 10)  # digits of 8 x 8, ten classes
        assert len(store.record(spec).singular_values) == 4
    before = {path: path.read_bytes() for path in paths}
    run_study("spectrum", dataclasses.replace(options, engine=Refuses()), lambda *_: None)
    assert before == {path: path.read_bytes() for path in paths}
    assert {f.kind for f in verify(root, KINDS)} <= {"fine", "dirty tree"}
    (store.run_dir(specs[0]) / spectrum_run.SAMPLES).write_bytes(b"")
    assert "corrupt" in {f.kind for f in verify(root, KINDS)}


def test_every_model_has_a_seed_of_its_own_and_its_last_weights(options, monkeypatch):
    """The first epoch has the lowest training loss here, which says nothing about the fit."""
    kept = []

    class Watched(spectrum_run.FIFTrainer):
        def train_step(self, epoch, in_pass):
            trained = super().train_step(epoch, in_pass)
            trained.losses = lambda: {"loss": float(epoch)}
            return trained

        def train(self):
            kept.append((self.training_config.seed, super().train().best_epoch))

    monkeypatch.setattr(spectrum_run, "FIFTrainer", Watched)
    run_study("spectrum", options, lambda *_: None)
    assert kept == [(0, 2), (1, 2)] * 2


def test_a_run_refuses_other_labels_than_its_plan(options, monkeypatch):
    planned = spectrum_run.load_labelled

    def load_labelled(*of):
        splits = planned(*of)
        return dataclasses.replace(splits, labels={k: 9 - v for k, v in splits.labels.items()})

    monkeypatch.setattr(spectrum_run, "load_labelled", load_labelled)
    with pytest.raises(RunsLeftError, match="the labels of digits changed"):
        run_study("spectrum", dataclasses.replace(options, seeds=[0]), lambda *_: None)


def test_a_run_that_was_cut_off_goes_on_from_its_checkpoint(options, monkeypatch):
    """Bitwise: the record of the interrupted run is that of one that was not."""
    run_study("spectrum", dataclasses.replace(options, seeds=[0]), lambda *_: None)
    store = Store(options.results, SPECTRUM)
    spec = next(store.specs())
    whole, run_dir = store.record(spec), store.run_dir(spec)
    (run_dir / "result.json").unlink()
    shutil.rmtree(run_dir / "model")
    trainer = spectrum_run.FIFTrainer

    class Interrupted(trainer):
        def __init__(self, *arguments, on_epoch, **more):
            def interrupt(row):
                on_epoch(row)
                raise KeyboardInterrupt

            super().__init__(*arguments, on_epoch=interrupt, **more)

    monkeypatch.setattr(spectrum_run, "FIFTrainer", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        execute(run_dir, SPECTRUM)
    assert (run_dir / "checkpoint.pt").exists()
    monkeypatch.setattr(spectrum_run, "FIFTrainer", trainer)
    again = execute(run_dir, SPECTRUM)
    assert again.singular_values == whole.singular_values and again.nll == whole.nll
    assert again.provenance.attempts == 3


@pytest.mark.shared
def test_committed_runs_are_not_done_again(tmp_path, shared_data):
    unpack("spectrum/", tmp_path)
    options = StudyOptions(tmp_path, str(shared_data), offline=True, engine=Refuses())
    run_study("spectrum", options, lambda *_: None)
    for name in ("spectrum-mnist-quick.csv", "spectrum-mnist-quick-values.csv"):
        drawn, committed = (root / "tables" / name for root in (tmp_path, REFERENCE))
        assert drawn.read_text() == committed.read_text()
