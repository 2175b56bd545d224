"""The spectrum study: its claims, with margins, and its runs."""

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
from pythae_fif.study import StudyOptions, run_study
from studies import spectrum
from studies.spectrum import Spectrum


def train_model_of_gaussians(beta):
    """Trains a conditional model of two Gaussians in 12 dimensions.

    Six directions of each matter: they have standard deviations above one.
    """
    std = torch.tensor([3, 2.5, 2, 1.7, 1.5, 1.3, *[0.1] * 6])
    torch.manual_seed(0)
    config = FIFConfig(input_dim=(12,), latent_dim=6, condition_dim=2, beta=beta)
    model = FIF(config, TabularEncoder((14,), 6, 32), TabularDecoder((12,), 8, 32)).train()

    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    labels = torch.arange(128) % 2
    for _ in range(250):
        noise = std * torch.randn(128, 12)
        x = torch.where(labels[:, None] == 1, noise.flip(1) + 2, noise - 2)
        optimizer.zero_grad()
        model({"data": x, "labels": labels}).loss.backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def measurements():
    """Returns beta -> samples, spectrum and model."""
    measured = {}
    for beta in (0.1, 10.0):
        model = train_model_of_gaussians(beta)
        samples, result = spectrum.measure_spectrum(model, 64, 0)
        measured[beta] = samples, result, model
    return measured


def count_above_one(result):
    """Returns the number of singular values of at least one."""
    return sum(value >= 1 for value in result.singular_values)


def test_higher_beta_spans_more_dimensions(measurements):
    _, low, _ = measurements[0.1]
    _, high, _ = measurements[10.0]
    assert count_above_one(low) <= 2
    assert count_above_one(high) >= 4
    assert low.entropy + 4 < high.entropy


def test_entropy_of_equation_124(measurements):
    """Compares the singular values' entropy with the likelihood, which needs the encoder."""
    samples, result, model = measurements[10.0]
    assert samples.shape == (2, spectrum.SAMPLES_IN_FIGURE, 12)
    assert result.log_volume <= sum(map(math.log, result.singular_values))  # Jensen

    likelihoods = [
        model.conditioned_on(label).log_prob(class_samples).mean()
        for label, class_samples in enumerate(samples)
    ]
    assert result.entropy == pytest.approx(-float(sum(likelihoods)) / 2, abs=2)


@pytest.fixture(scope="module")
def small_study(tmp_path_factory):
    """Runs a tiny study of one model for each weight; returns its options and files."""
    size = spectrum.SpectrumSize(epochs=2, samples=12, images=100, channel_multiplier=0.25)
    options = StudyOptions(
        tmp_path_factory.mktemp("spectrum"),
        dataset="digits",
        latent_dim=4,
        seeds=[0],
        engine=InProcess(executed=[]),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spectrum, "SIZES", {"quick": size})
        patch.setattr(spectrum, "BETAS", (1.0, 10.0))
        yield options, run_study("spectrum", options, lambda _: None)


def test_figures_are_drawn_from_the_records_only(small_study):
    options, paths = small_study
    root = options.results
    assert (root / "figures/spectrum-digits-quick.png").stat().st_size > 10_000
    rows = pandas.read_csv(root / "tables/spectrum-digits-quick.csv")
    values = rows.filter(like="value_")
    assert values.shape == (2, 4)
    assert list(rows.above_one) == list((values >= 1).sum(axis=1))

    store = Store(root)
    specs = list(store.iterate_specs(spectrum.SpectrumModel))
    sheet_size = (8 * spectrum.SAMPLES_IN_FIGURE, 8 * 10)  # digits of 8 x 8, ten classes
    for spec in specs:
        with Image.open(store.folder(spec) / spectrum.SAMPLES_FILE) as sheet:
            assert sheet.size == sheet_size
        assert len(store.read_record(spec, "result.json", Spectrum).result.singular_values) == 4

    contents = {path: path.read_bytes() for path in paths}
    options.engine.executed.clear()
    run_study("spectrum", options, lambda _: None)
    assert options.engine.executed == []
    assert contents == {path: path.read_bytes() for path in paths}

    assert {verdict.kind for verdict in verify(root)} <= {"fine", "dirty tree"}
    (store.folder(specs[1]) / spectrum.SAMPLES_FILE).write_bytes(b"")
    assert "corrupt" in {verdict.kind for verdict in verify(root)}


def test_a_run_refuses_other_labels_than_planned(small_study, tmp_path):
    options, _ = small_study
    spec = next(Store(options.results).iterate_specs(spectrum.SpectrumModel))
    with pytest.raises(DataError, match="the data of digits changed"):
        execute_run(spec.model_copy(update={"labels_hash": "other"}), Store(tmp_path))


def test_an_interrupted_run_resumes_from_its_checkpoint(small_study, tmp_path, monkeypatch):
    """The results of the resumed and of the uninterrupted run are equal bit for bit."""
    options, _ = small_study
    store = Store(options.results)
    spec = next(store.iterate_specs(spectrum.SpectrumModel))
    resumed_store = Store(tmp_path)
    epochs = []

    class InterruptedTrainer(FIFTrainer):
        def __init__(self, *arguments, on_epoch, **options):
            def interrupt(row):
                epochs.append(row.epoch)
                on_epoch(row)
                if len(epochs) == 1:
                    raise KeyboardInterrupt

            super().__init__(*arguments, on_epoch=interrupt, checkpoint_every_seconds=0, **options)

    monkeypatch.setattr(spectrum, "FIFTrainer", InterruptedTrainer)
    with pytest.raises(KeyboardInterrupt):
        execute_run(spec, resumed_store)
    execute_run(spec, resumed_store)
    assert epochs == [1, 2]

    expected = store.read_record(spec, "result.json", Spectrum)
    resumed = resumed_store.read_record(spec, "result.json", Spectrum)
    assert resumed.result == expected.result
    assert resumed.provenance.attempts == 2
