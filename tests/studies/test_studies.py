"""The claims of the studies, with margins."""

import ast
import csv
import math
from importlib import import_module
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from pythae_fif import FIF, FIFConfig, studies
from pythae_fif.cli.main import main
from pythae_fif.data import load_images, to_float
from pythae_fif.data.tabular import TABULAR_DATASETS
from pythae_fif.data.toy import TOY_DATA
from pythae_fif.errors import ConfigError
from pythae_fif.nn.tabular import TabularDecoder, TabularEncoder
from pythae_fif.studies import (
    DATASETS,
    STUDIES,
    StudyOption,
    StudyOptions,
    command_of,
    curvature,
    estimator,
    linear,
    run_study,
    sinusoid,
    spectrum,
    toy,
)
from pythae_fif.volume_change import sample_hutchinson, surrogate


def test_every_dataset_starts_the_study_that_is_about_it():
    assert set(STUDIES["toy"].datasets) == set(TOY_DATA)
    assert set(STUDIES["tabular"].datasets) == set(TABULAR_DATASETS)
    of_toy = dict.fromkeys(TOY_DATA, "toy")
    assert (
        of_toy | {"sinusoid": "sinusoid"} | dict.fromkeys(TABULAR_DATASETS, "tabular") == DATASETS
    )


@pytest.mark.parametrize("study", STUDIES.values(), ids=lambda study: study.name)
def test_every_declaration_is_consistent(study):
    assert STUDIES[study.name] is study
    assert hasattr(import_module(f"pythae_fif.studies.{study.name}"), "run")
    assert study.takes <= set(get_args(StudyOption)) <= set(StudyOptions.__dataclass_fields__)
    assert bool(study.datasets or study.dataset) == ("dataset" in study.takes)
    assert not study.one_seed or set(study.profiles.values()) == {1}


def test_studies_are_declared_without_torch():
    """`--list` must be fast: nothing but Python, pydantic and what this package says of errors."""
    tree = ast.parse(Path(studies.__file__).read_text("utf-8"))
    imported = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    ours = {name for name in imported if name and name.startswith("pythae_fif")}
    assert ours == {"pythae_fif.errors", "pythae_fif.files"}


@pytest.mark.parametrize(
    "name, options, words",
    [
        ("linear", {}, "--study linear"),
        ("linear", {"seeds": [0]}, "--study linear"),
        ("linear", {"seeds": [4], "profile": "paper"}, "--study linear --profile paper --seeds 4"),
        ("toy", {"dataset": "sinusoid", "seeds": [0, 1, 2]}, "--study toy"),
        ("sinusoid", {"dataset": "sinusoid"}, "--study sinusoid"),
        ("estimator", {"dataset": "digits", "latent_dim": 3},
         "--study estimator --dataset digits --latent-dim 3"),
        ("ablation", {"dataset": "csv", "data": "/a/b c.csv", "models": ["fif"], "seeds": [0]},
         "--study ablation --dataset csv --data 'b c.csv' --models fif --seeds 0"),
    ],
)  # fmt: skip
def test_the_command_below_a_figure_follows_from_the_options(name, options, words):
    found = command_of(STUDIES[name], StudyOptions(Path("anywhere"), offline=True, **options))
    assert found == f"python run_benchmark.py {words}"


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("sinusiod", {}, "study 'sinusiod' is unknown: did you mean 'sinusoid'"),
        ("linear", {"profile": "fast"}, "profile 'fast' is unknown: "),
        ("toy", {"dataset": "spirl"}, "study toy has no data set 'spirl': did you mean 'spiral'"),
    ],
)
def test_unknown_names_are_told(tmp_path, name, options, message):
    with pytest.raises(ConfigError, match=message):
        run_study(name, StudyOptions(tmp_path, **options), lambda *_: None)


# ---------------------------------------------------------------- the command line


@pytest.fixture
def none_starts(monkeypatch):
    def start(*_):
        raise AssertionError("a study was started")

    monkeypatch.setattr(studies, "run_study", start)


@pytest.mark.parametrize(
    "flags, said",
    [
        ("--dataset circle --seeds 0 0", "--seeds [0, 0]: give at least one value, and none twice"),
        ("--study linear --seeds 0 1", "--seeds [0, 1]: study linear takes one seed"),
        ("--study linear --seeds -5", "--seeds -5: a seed is at least 0 and below 2^32"),
        ("--dataset power --seeds 4294967296", "--seeds 4294967296: a seed is at least 0"),
        ("--study estimator --seeds 99999999999999999999999", "a seed is at least 0 and below"),
        ("--dataset power --models fif fif", "--models ['fif', 'fif']: give at least one value"),
        ("--study estimator --latent-dim 0", "--latent-dim 0: at least 1 is needed"),
        ("--study spectrum --latent-dim -1", "--latent-dim -1: at least 1 is needed"),
    ],
)
def test_values_out_of_range_are_one_line(none_starts, tmp_path, capsys, flags, said):
    assert main([*flags.split(), "--results", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1


def test_a_results_folder_that_cannot_be_written_is_found_before_training(
    tmp_path, monkeypatch, capsys
):
    def start(*_):
        raise AssertionError("the study was started")

    monkeypatch.setattr(linear, "run", start)
    (tmp_path / "file").write_text("")
    assert main(["--study", "linear", "--quiet", "--results", str(tmp_path / "file")]) == 2
    said = f"error: {tmp_path / 'file'} cannot be written (File exists): choose"
    assert capsys.readouterr().err.startswith(said)


@pytest.mark.parametrize("name", STUDIES)
def test_an_interrupt_says_what_is_kept(tmp_path, monkeypatch, capsys, name):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(studies, "run_study", interrupt)
    assert main(["--study", name, "--quiet", "--results", str(tmp_path)]) == 130
    goes_on = name in ("tabular", "ablation", "spectrum")
    said = "finished runs are kept" if goes_on else "this study keeps nothing of an unfinished run"
    assert capsys.readouterr().err.startswith(f"interrupted: {said}; the same command ")


# ---------------------------------------------------------------- linear


@pytest.fixture(scope="module")
def linear_rows():
    size = {"restarts": 16, "steps": 400, "batch_size": 16}
    return linear.measure(1, **size, decoders=("pseudo-inverse",))


@pytest.mark.parametrize("regime", linear.REGIMES)
def test_theorem_c4_for_ten_random_spectra(linear_rows, regime):
    tied = [row for row in linear_rows if row["regime"] == regime]
    assert len(tied) == 10
    assert all(row["overlap_theorem"] > 0.95 for row in tied)
    assert all(abs(row["loss_above_theorem"]) < 0.05 for row in tied)
    pca = sum(row["theorem"] == "0 1" for row in tied)
    last = sum(row["theorem"] == "3 4" for row in tied)
    assert (pca, last) in {"below": [(0, 10)], "above": [(10, 0)]}.get(regime, [(pca, last)])


def test_likelihood_does_not_move_a_linear_model_with_a_free_decoder():
    """Why a free decoder does not find theorem C.4's choice; see the caption of the figure."""
    root = torch.randn(5, 5, dtype=torch.float64)
    covariance = root @ root.T
    x = torch.linalg.qr(torch.randn(40, 5, dtype=torch.float64)).Q * math.sqrt(40) @ root.T
    a = torch.randn(2, 5, dtype=torch.float64)
    a = torch.linalg.solve(torch.linalg.cholesky(a @ covariance @ a.T), a).requires_grad_()
    w = (covariance @ a.T).detach()  # optimal for the reconstruction, as A Sigma A^T = I
    eps = sample_hutchinson(len(x), 2, 2, dtype=x.dtype)
    out = surrogate(lambda x: x @ a.T, lambda z: z @ w.T, x, eps)
    (out.z.square().sum(1) / 2 + out.surrogate).mean().backward()
    assert a.grad.abs().max() < 1e-10
    tied = torch.linalg.pinv(a.detach())
    out = surrogate(lambda x: x @ a.T, lambda z: z @ tied.T, x, eps)
    a.grad = None
    (out.z.square().sum(1) / 2 + out.surrogate).mean().backward()
    assert a.grad.abs().max() > 1e-2


# ---------------------------------------------------------------- curvature


@pytest.fixture(scope="module")
def curved():
    """Curvature of two models, {variant: (before, after)}, from the same start."""
    data = curvature.line_data(1000, torch.Generator().manual_seed(0))
    found = {}
    for at, name in curvature.VARIANTS.items():
        rows, _ = curvature.train(at, data, [0, 1], epochs=50, every=50)
        found[name] = tuple(
            np.median([row["curvature"] for row in rows if row["step"] == step])
            for step in (0, 100)
        )
    return found


def test_on_manifold_training_bends_and_off_manifold_training_straightens(curved):
    (start, bent), (same, straight) = curved["on-manifold"], curved["off-manifold"]
    assert start == same == pytest.approx(1 / curvature.RADIUS, rel=0.1)
    assert bent > 1.5 * start
    assert straight < 0.3 * start


def test_curvature_of_a_circle():
    angle = torch.linspace(0, 1, 200, dtype=torch.float64)
    circle = torch.stack([4 * angle.cos(), 4 * angle.sin()], 1)[None]
    assert torch.allclose(curvature.curve_curvature(circle), torch.tensor(0.25).double(), rtol=1e-3)


@pytest.mark.parametrize("beta", curvature.BETAS)
def test_small_circles_have_the_lowest_loss(beta):
    losses = [curvature.best_loss(radius, beta) for radius in curvature.RADII]
    assert losses[0] < min(losses[len(losses) // 2 :]) - 1
    assert losses[0] < losses[-1] - 5


@pytest.mark.parametrize("radius", [0.3, 2.0])
def test_entropy_of_projected_data_against_samples(radius):
    x = np.random.default_rng(0).standard_normal(200_000)
    u = radius * np.arctan(x / radius)
    density, edges = np.histogram(u, 400, density=True)
    width = np.diff(edges)
    sampled = -np.sum(width * density * np.log(np.maximum(density, 1e-12)))
    assert curvature.projected_entropy(radius) == pytest.approx(sampled, abs=0.02)


# ---------------------------------------------------------------- sinusoid


@pytest.fixture(scope="module")
def sinusoid_rows():
    """Four small models at either end of beta."""
    size = {"points": 4000, "epochs": 20, "blocks": 2, "width": 32}
    ensemble = sinusoid.train(0.1, (0.01, 10.0), [0, 1, 2, 3], **size)
    return sinusoid.measure(ensemble, 0.1)


def test_low_beta_encodes_the_noise_and_high_beta_the_sinusoid(sinusoid_rows):
    low, high = ([r for r in sinusoid_rows if r["beta"] == beta] for beta in (0.01, 10.0))
    assert min(row["along"] for row in high) > 0.95
    assert max(row["across"] for row in high) < 0.4
    assert np.median([row["along"] for row in low]) < 0.6
    assert np.median([row["across"] for row in low]) > 0.6
    errors = [np.median([row["reconstruction"] for row in rows]) for rows in (low, high)]
    assert errors[0] > 3 * errors[1]
    assert np.median([row["nll"] for row in low]) < min(row["nll"] for row in high) - 0.3


@pytest.mark.parametrize(
    "shares, expected",
    [([0, 0, 1, 1], math.sqrt(10)), ([0, 0.5, 0.5, 1], 1.0), ([1, 0, 0, 1], math.sqrt(1000)),
     ([0, 0, 0, 0], math.nan)],
)  # fmt: skip
def test_transition(shares, expected):
    rows = [
        {"beta": beta, "along": 1.0 if i < share * 4 else 0.0}
        for beta, share in zip((0.1, 1.0, 10.0, 100.0), shares, strict=True)
        for i in range(4)
    ]
    assert sinusoid.transition(rows) == pytest.approx(expected, nan_ok=True)


# ---------------------------------------------------------------- what is written


def test_a_study_from_the_command_line(tmp_path, monkeypatch, capsys):
    size = {"quick": {"restarts": 2, "steps": 20, "batch_size": 8}}
    monkeypatch.setattr(linear, "SIZES", size)
    assert main(["--study", "linear", "--results", str(tmp_path)]) == 0
    caption = (tmp_path / "figures/linear-quick.md").read_text()
    assert "python run_benchmark.py --study linear`" in caption
    assert (tmp_path / "figures/linear-quick.png").stat().st_size > 10_000
    with open(tmp_path / "tables/linear-quick.csv") as file:
        assert len(list(csv.DictReader(file))) == 2 * 10 * len(linear.REGIMES)
    assert "linear-quick.csv" in capsys.readouterr().out.replace("\n", "")
    assert main(["--study", "nonesuch"]) == 2


# ---------------------------------------------------------------- estimator

KINDS = [
    *[(kind, 1) for kind in ("rademacher", "gaussian", "scaled_gaussian", "orthogonal")],
    *[(kind, k) for kind in ("scaled_gaussian", "orthogonal") for k in (2, 5)],
]


@pytest.mark.parametrize("kind, samples", KINDS)
def test_variance_formulas_against_simulation(kind, samples):
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    formula = estimator.variance_formula(matrix, kind, samples)
    simulated = estimator.simulated_variance(matrix, kind, samples, 100_000, generator)
    assert simulated == pytest.approx(formula, rel=0.04)
    if kind == "orthogonal":
        independent = estimator.variance_formula(matrix, "scaled_gaussian", samples)
        assert formula / independent == pytest.approx((6 - samples) / 5)  # eq. 123


def test_orthogonal_vectors_are_exact_at_full_number():
    matrix = torch.randn(6, 6, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    assert estimator.variance_formula(matrix, "orthogonal", 6) == 0
    assert estimator.simulated_variance(matrix, "orthogonal", 6, 100, generator) < 1e-20


def test_gradient_distances():
    images = to_float(load_images("digits").train)
    model = estimator._trained(images, 6, 150, 0, lambda *_: None)
    rows = estimator.gradient_distances(
        model, images[:16], (1, 16), 6, torch.Generator().manual_seed(0), largest=64
    )
    distance = {(r["space"], r["kind"], r["batch_size"], r["samples"]): r["distance"] for r in rows}
    assert distance["latent", "orthogonal", 1, 6] < 1e-4
    assert distance["data", "orthogonal", 1, 64] < 1e-3
    for batch in (1, 16):
        assert (
            distance["data", "orthogonal", batch, 1]
            > 1.4 * distance["latent", "orthogonal", batch, 1]
        )
    for space in ("latent", "data"):
        one, many = (distance[space, "orthogonal", batch, 1] for batch in (1, 16))
        assert many < 0.7 * one
    assert (
        distance["latent", "orthogonal", 1, 5] < 0.7 * distance["latent", "scaled_gaussian", 1, 5]
    )


@pytest.mark.parametrize("flags, name", [(["--latent-dim", "1"], "digits-d1"), ([], "digits")])
def test_the_estimator_study_from_the_command_line(tmp_path, monkeypatch, flags, name):
    size = {"steps": 2, "repeats": 1, "batches": (1, 2), "draws": 100}
    monkeypatch.setattr(estimator, "SIZES", {"quick": size})
    command = ["--study", "estimator", "--dataset", "digits", "--quiet", *flags]
    assert main([*command, "--results", str(tmp_path)]) == 0
    written = {path.name for path in tmp_path.rglob("*.*")}
    assert written == {
        f"estimator-{name}-quick{end}" for end in (".png", ".md", ".csv", "-variance.csv")
    }


# ---------------------------------------------------------------- toy


def test_the_density_on_a_toy_manifold_is_learnt():
    manifold = TOY_DATA["sinusoid"]
    ensemble = toy.train(manifold, [0], points=2000, epochs=60, width=32, on_epoch=lambda *_: None)
    test = manifold.sample(1000, torch.Generator().manual_seed(1))
    values = toy.measure(ensemble, test)
    assert float(values["reconstruction"]) < 0.02
    assert float(values["nll"]) == pytest.approx(-float(test.log_density.mean()), abs=0.15)


# ---------------------------------------------------------------- spectrum


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
        found[beta] = spectrum.measure(model.eval(), 64, 0)
    return found


def test_higher_beta_spans_more_dimensions(spans):
    (low, of_low, _), (high, of_high, _) = spans[0.1], spans[10.0]
    assert (low >= 1).sum() <= 2 and (high >= 1).sum() >= 4
    assert of_low["entropy"] + 4 < of_high["entropy"]
    assert 2 * of_low["diversity"] < of_high["diversity"]


def test_entropy_of_equation_124(spans):
    """By the singular values, and by the likelihood of samples, which needs the encoder."""
    values, numbers, samples = spans[10.0]
    assert samples.shape == (2, spectrum.SHOWN, 12)
    latent = 3 * math.log(2 * math.pi * math.e)
    assert numbers["entropy"] == pytest.approx(latent + numbers["log_volume"])
    assert numbers["log_volume"] <= float(values.log().sum())  # Jensen
    assert numbers["entropy"] == pytest.approx(numbers["entropy_by_log_prob"], abs=2)


def test_error_bars_of_figure_8():
    found = spectrum.summarise(np.array([[3.0, 1.2, 0.5], [5.0, 0.9, 0.7]]))
    assert (found["low"], found["above"], found["high"]) == (1, 2, 2)
    one = spectrum.summarise(np.array([[3.0, 1.2, 0.5]]))
    assert (one["low"], one["above"], one["high"]) == (2, 2, 2)


def test_a_trained_model_of_the_spectrum_is_kept(tmp_path, monkeypatch):
    splits = load_images("digits").subset(train=100, val=50)
    size = spectrum.Size(epochs=1, models=1, samples=8)
    model = spectrum.train(splits, 1.0, 0, size, tmp_path, 4)
    monkeypatch.setattr(spectrum, "FIFTrainer", None)
    again = spectrum.train(splits, 1.0, 0, size, tmp_path, 4)
    x = to_float(splits.test)
    assert torch.equal(model.embed(x, labels=3), again.embed(x, labels=3))


def test_the_spectrum_study_from_the_command_line(tmp_path, monkeypatch):
    size = spectrum.Size(epochs=1, models=2, samples=12, images=100)
    monkeypatch.setattr(spectrum, "SIZES", {"quick": size})
    monkeypatch.setattr(spectrum, "BETAS", (1.0, 10.0))
    command = ["--study", "spectrum", "--dataset", "digits", "--latent-dim", "4", "--quiet"]
    assert main([*command, "--results", str(tmp_path)]) == 0
    for name in ("spectrum-digits-d4-quick", "spectrum-digits-d4-quick-samples"):
        assert (tmp_path / f"figures/{name}.png").stat().st_size > 10_000
        assert "paper" in (tmp_path / f"figures/{name}.md").read_text()
    with open(tmp_path / "tables/spectrum-digits-d4-quick.csv") as file:
        assert len(list(csv.DictReader(file))) == 4
