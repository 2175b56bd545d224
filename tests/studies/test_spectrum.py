"""The spectrum study: what it claims, with margins, and its runs."""

import math

import pandas
import pytest
import torch
from PIL import Image
from support.engines import InProcess

from pythae_fif import FIF, FIFConfig, FIFTrainer
from pythae_fif.errors import DataError
from pythae_fif.nn.tabular import TabularDecoder, TabularEncoder
from pythae_fif.runs.store import Store
from pythae_fif.runs.verify import verify
from pythae_fif.runs.worker import execute_run
from pythae_fif.studies import spectrum
from pythae_fif.studies.spectrum import Spectrum
from pythae_fif.studies.study import StudyOptions, run_study


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
        found[beta] = *spectrum.measure_spectrum(model.eval(), 64, 0), model
    return found


def test_higher_beta_spans_more_dimensions(spans):
    low, high = (spans[beta][1] for beta in (0.1, 10.0))
    above = [sum(value >= 1 for value in of.singular_values) for of in (low, high)]
    assert above[0] <= 2 and above[1] >= 4
    assert low.entropy + 4 < high.entropy


def test_entropy_of_equation_124(spans):
    """By the singular values, and by the likelihood of samples, which needs the encoder."""
    shown, found, model = spans[10.0]
    assert shown.shape == (2, spectrum.SAMPLES_IN_FIGURE, 12)
    assert found.log_volume <= sum(map(math.log, found.singular_values))  # Jensen
    likelihoods = [
        model.conditioned_on(label).log_prob(of).mean() for label, of in enumerate(shown)
    ]
    assert found.entropy == pytest.approx(-float(sum(likelihoods)) / 2, abs=2)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A study of a model a weight that takes no time: its options and its files."""
    size = spectrum.SpectrumSize(epochs=2, samples=12, images=100, channel_multiplier=0.25)
    of = {"dataset": "digits", "latent_dim": 4, "seeds": [0], "engine": InProcess(done=[])}
    options = StudyOptions(tmp_path_factory.mktemp("spectrum"), **of)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spectrum, "SIZES", {"quick": size})
        patch.setattr(spectrum, "BETAS", (1.0, 10.0))
        yield options, run_study("spectrum", options, lambda _: None)


def test_figures_are_drawn_from_the_records_alone(done):
    options, paths = done
    root = options.results
    assert (root / "figures/spectrum-digits-quick.png").stat().st_size > 10_000
    rows = pandas.read_csv(root / "tables/spectrum-digits-quick.csv")
    values = rows.filter(like="value_")
    assert values.shape == (2, 4) and list(rows.above_one) == list((values >= 1).sum(axis=1))
    store = Store(root)
    specs = list(store.specs(spectrum.SpectrumModel))
    for spec in specs:
        with Image.open(store.folder(spec) / spectrum.SAMPLES_FILE) as sheet:
            assert sheet.size == (
                8 * spectrum.SAMPLES_IN_FIGURE,
                8 * 10,
            )  # digits of 8 x 8, ten classes
        assert len(store.record(spec, "result.json", Spectrum).result.singular_values) == 4
    before = {path: path.read_bytes() for path in paths}
    options.engine.done.clear()
    run_study("spectrum", options, lambda _: None)
    assert options.engine.done == [] and before == {path: path.read_bytes() for path in paths}
    assert {of.kind for of in verify(root)} <= {"fine", "dirty tree"}
    (store.folder(specs[1]) / spectrum.SAMPLES_FILE).write_bytes(b"")
    assert "corrupt" in {of.kind for of in verify(root)}


def test_a_run_refuses_other_labels_than_its_plan(done, tmp_path):
    spec = next(Store(done[0].results).specs(spectrum.SpectrumModel))
    with pytest.raises(DataError, match="the data of digits changed"):
        execute_run(spec.model_copy(update={"labels_hash": "other"}), Store(tmp_path))


def test_a_run_that_was_cut_off_goes_on_from_its_checkpoint(done, tmp_path, monkeypatch):
    """Bitwise: the record of the interrupted run is that of one that was not."""
    store = Store(done[0].results)
    spec = next(store.specs(spectrum.SpectrumModel))
    cut, begun = Store(tmp_path), []

    class Interrupted(FIFTrainer):
        def __init__(self, *given, on_epoch, **more):
            def interrupt(row):
                begun.append(row.epoch)
                on_epoch(row)
                if len(begun) == 1:
                    raise KeyboardInterrupt

            super().__init__(*given, on_epoch=interrupt, checkpoint_every_seconds=0, **more)

    monkeypatch.setattr(spectrum, "FIFTrainer", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        execute_run(spec, cut)
    execute_run(spec, cut)
    assert begun == [1, 2]
    whole, resumed = (of.record(spec, "result.json", Spectrum) for of in (store, cut))
    assert resumed.result == whole.result
    assert resumed.provenance.attempts == 2
