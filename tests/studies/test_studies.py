"""The claims of the studies, with margins."""

import ast
import csv
import dataclasses
import math
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
import torch
from support.engines import InProcess

from pythae_fif import studies
from pythae_fif.cli.main import main
from pythae_fif.data import load_images, to_float
from pythae_fif.data.tabular import TABULAR_DATASETS
from pythae_fif.data.toy import TOY_DATA
from pythae_fif.errors import ConfigError, DataError
from pythae_fif.pictures import write_figure
from pythae_fif.runs.engines.local import LocalEngine
from pythae_fif.runs.execute import execute
from pythae_fif.runs.kind import Environment
from pythae_fif.runs.record import Provenance
from pythae_fif.runs.store import Store
from pythae_fif.studies import (
    DATASETS,
    STUDIES,
    StudyOption,
    StudyOptions,
    ablation,
    command_of,
    curvature,
    estimator,
    linear,
    parts,
    run_study,
    sinusoid,
    toy,
)
from pythae_fif.volume_change import sample_hutchinson, volume_surrogate


def test_every_dataset_starts_the_study_that_is_about_it():
    assert set(STUDIES["toy"].datasets) == set(TOY_DATA)
    of_toy = dict.fromkeys(TOY_DATA, "toy")
    assert (
        of_toy
        | {"sinusoid": "sinusoid"}
        | dict.fromkeys(set(TABULAR_DATASETS) - {"csv"}, "tabular")
        == DATASETS
    )


@pytest.mark.parametrize("study", STUDIES.values(), ids=lambda study: study.name)
def test_every_declaration_is_consistent(study):
    assert hasattr(import_module(f"pythae_fif.studies.{study.name}"), "run")
    assert study.takes <= set(get_args(StudyOption)) <= set(StudyOptions.__dataclass_fields__)
    assert study.dataset is None or study.dataset in study.datasets
    assert study.one_seed == (study.name in ("linear", "estimator"))


def test_studies_are_declared_without_torch():
    """`list` must be fast: nothing but Python, pydantic and what this package says of errors."""
    tree = ast.parse(Path(studies.__file__).read_text("utf-8"))
    imported = {n.module for n in tree.body if isinstance(n, ast.ImportFrom)}
    ours = {name for name in imported if name and name.startswith("pythae_fif")}
    assert ours == {"pythae_fif.data.names", "pythae_fif.errors", "pythae_fif.files"}


@pytest.mark.parametrize(
    "name, options, words",
    [
        ("linear", {}, "study linear"),
        ("linear", {"seeds": [0]}, "study linear"),
        ("tabular", {"seeds": [0, 1, 2, 3, 4]}, "study tabular"),
        ("linear", {"seeds": [4], "profile": "paper"}, "study linear --profile paper --seeds 4"),
        ("toy", {"dataset": "sinusoid", "seeds": [0, 1, 2]}, "study toy"),
        ("sinusoid", {"dataset": "sinusoid"}, "study sinusoid"),
        ("estimator", {"dataset": "digits", "latent_dim": 3},
         "study estimator --dataset digits --latent-dim 3"),
        ("ablation", {"dataset": "csv", "data": "/a/b c.csv", "models": ["fif"], "seeds": [0]},
         "study ablation --dataset csv --data 'b c.csv' --models fif --seeds 0"),
    ],
)  # fmt: skip
def test_the_command_below_a_figure_follows_from_the_options(name, options, words):
    found = command_of(STUDIES[name], StudyOptions(Path("anywhere"), offline=True, **options))
    assert found == f"python run_benchmark.py {words}"


def test_an_unknown_name_is_told(tmp_path):
    with pytest.raises(ConfigError, match="study 'sinusiod' is unknown: did you mean 'sinusoid'"):
        run_study("sinusiod", StudyOptions(tmp_path), lambda *_: None)


# ---------------------------------------------------------------- the command line


def test_one_seed_has_no_outliers_to_remove():
    rows = ablation._reconstructions({"fif": [1.0], "fif_on": [2.0]}, "power")
    assert [row[0].text for row in rows] == ["On manifold", "Off manifold"]


def test_a_part_refuses_other_data_than_were_planned():
    splits = load_images("digits")
    for changed, hashes in (("images", ("other", None)), ("labels", (splits.content_hash, None))):
        part = estimator.Part("digits", 4, 0, estimator.SIZES["quick"], *hashes)
        with pytest.raises(DataError, match=f"the {changed} of digits changed since"):
            part.compute(lambda share: None, Environment())


def test_a_source_without_labels_does_not_take_the_record_of_one_with(tmp_path, monkeypatch):
    """Its images are equal, but its model is not conditional."""
    monkeypatch.setattr(estimator, "SIZES", {"quick": SMALL["estimator"][2]})
    options = StudyOptions(tmp_path, dataset="digits", latent_dim=1, engine=InProcess())
    written = {path.name for path in run_study("estimator", options, lambda *_: None)}
    ends = (".png", ".md", ".csv", "-variance.csv")
    assert written == {f"estimator-digits-d1-quick{end}" for end in ends}
    splits = dataclasses.replace(load_images("digits"), labels=None)
    monkeypatch.setattr(estimator, "load_images", lambda *_, **__: splits)
    _, caption, *_ = run_study("estimator", options, lambda *_: None)
    assert "unconditional" in caption.read_text()
    assert len(options.engine.done) == 2


def test_a_results_folder_that_cannot_be_written_is_found_before_training(
    tmp_path, monkeypatch, capsys
):
    def start(*_):
        raise AssertionError("the study was started")

    monkeypatch.setattr(linear, "run", start)
    (tmp_path / "file").write_text("")
    assert main(["study", "linear", "--quiet", "--results", str(tmp_path / "file")]) == 2
    said = f"error: {tmp_path / 'file'} cannot be written (File exists): choose"
    assert capsys.readouterr().err.startswith(said)


def test_progress_says_how_long_is_left_and_does_not_count_what_was_kept(
    tmp_path, monkeypatch, capsys
):
    def told(name, options, on_progress):
        for share in (0.5, 0.55, 0.7, 1.0):
            on_progress("a model", share)
            clock[0] += 10
        return []

    clock = [0.0]
    monkeypatch.setattr(studies, "run_study", told)
    monkeypatch.setattr("pythae_fif.cli.study.time", SimpleNamespace(monotonic=lambda: clock[0]))
    assert main(["study", "linear", "--results", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [" 70% a model, 30 s left", "100% a model"]


def computed(part):
    """What a part of a study gives."""
    return part.compute(lambda _: None, Environment())


# ---------------------------------------------------------------- linear


@pytest.fixture(scope="module")
def linear_rows():
    return computed(linear.Part("pseudo-inverse", linear.Size(16, 400, 16), 1))


@pytest.mark.parametrize("regime", linear.REGIMES)
def test_theorem_c4_for_ten_random_spectra(linear_rows, regime):
    tied = [row for row in linear_rows if row.regime == regime]
    assert len(tied) == 10
    assert all(row.overlap_theorem > 0.95 for row in tied)
    assert all(abs(row.loss_above_theorem) < 0.05 for row in tied)
    pca = sum(row.theorem == "0 1" for row in tied)
    last = sum(row.theorem == "3 4" for row in tied)
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
    out = volume_surrogate(lambda x: x @ a.T, lambda z: z @ w.T, x, eps)
    (out.z.square().sum(1) / 2 + out.surrogate).mean().backward()
    assert a.grad.abs().max() < 1e-10
    tied = torch.linalg.pinv(a.detach())
    out = volume_surrogate(lambda x: x @ a.T, lambda z: z @ tied.T, x, eps)
    a.grad = None
    (out.z.square().sum(1) / 2 + out.surrogate).mean().backward()
    assert a.grad.abs().max() > 1e-2


def test_no_mark_of_the_figure_hides_another(linear_rows):
    free = [dataclasses.replace(row, decoder="free") for row in linear_rows]
    right = linear._figure([*linear_rows, *free]).axes[2]
    places = [line.get_xdata()[0] for line in right.lines]
    assert len({round(place, 3) for place in places}) == len(places) == 4 * len(linear.REGIMES)


# ---------------------------------------------------------------- curvature


@pytest.fixture(scope="module")
def curved():
    """Curvature of two models, {variant: (before, after)}, from the same start."""
    found = {}
    for at, name in curvature.VARIANTS.items():
        rows = computed(curvature.Part(at, epochs=30, seeds=(0, 1))).rows
        found[name] = tuple(
            np.median([row.curvature for row in rows if row.step == step]) for step in (0, 120)
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


def test_small_circles_have_the_lowest_loss():
    circles = [curvature.Circle.of(radius) for radius in curvature.RADII]
    for beta in curvature.BETAS:
        losses = [circle.loss_beta[beta] for circle in circles]
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
    size, seeds = sinusoid.Size(points=4000, epochs=20, blocks=2, width=32), range(4)
    ensemble = sinusoid.train(0.1, (0.01, 10.0), seeds, size)
    return sinusoid.measure(ensemble, 0.1, seeds, size)


def test_low_beta_encodes_the_noise_and_high_beta_the_sinusoid(sinusoid_rows):
    low, high = ([r for r in sinusoid_rows if r.beta == beta] for beta in (0.01, 10.0))
    assert [row.seed for row in low] == [row.seed for row in high] == [0, 1, 2, 3]
    assert min(row.along for row in high) > 0.95
    assert max(row.across for row in high) < 0.4
    assert np.median([row.along for row in low]) < 0.6
    assert np.median([row.across for row in low]) > 0.6
    errors = [np.median([row.reconstruction for row in rows]) for rows in (low, high)]
    assert errors[0] > 3 * errors[1]
    assert np.median([row.nll for row in low]) < min(row.nll for row in high) - 0.3


def test_the_released_codes_points_have_a_variance_of_one():
    height = sinusoid.SIZES["released"].height
    points = sinusoid.clean_points(100_000, torch.Generator().manual_seed(0), height)
    assert torch.allclose(points.std(0), torch.ones(2), atol=0.01)


@pytest.mark.parametrize(
    "shares, expected",
    [([0, 0, 1, 1], math.sqrt(10)), ([0, 0.5, 0.5, 1], 1.0), ([1, 0, 0, 1], math.sqrt(1000)),
     ([0, 0, 0, 0], math.nan)],
)  # fmt: skip
def test_transition(shares, expected):
    of_betas = dict(zip((0.1, 1.0, 10.0, 100.0), shares, strict=True))
    assert sinusoid.transition(of_betas) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("loss", [math.nan, -math.inf])
def test_a_model_that_diverged_is_not_the_best(monkeypatch, loss):
    part = toy.Part("circle", toy.Size(40, 1, 8), (0, 1))

    def measured(of_first):
        rows = [toy.Row(0, 1, of_first, 1.0), toy.Row(1, 1, 1.0, 1.0)]
        monkeypatch.setattr(toy, "measure", lambda *_: rows)
        return part.compute(lambda _: None, Environment())

    assert measured(loss).samples == measured(2.0).samples != measured(0.0).samples


def test_a_linear_model_that_diverged_is_not_the_best(monkeypatch):
    real = linear.linear_loss

    def diverged(encoders, *rest):
        losses = real(encoders, *rest)
        return losses if len(losses) == 1 else losses.where(torch.arange(len(losses)) > 0, math.nan)

    monkeypatch.setattr(linear, "linear_loss", diverged)
    rows = computed(linear.Part("pseudo-inverse", linear.Size(2, 20, 8), 1))
    assert all(math.isfinite(row.loss_above_theorem) for row in rows)


def test_the_record_of_linear_models_says_that_they_are_on_the_cpu(monkeypatch, tmp_path):
    monkeypatch.setattr(parts, "default_device", lambda: "cuda")
    monkeypatch.setattr(parts, "provenance", lambda device, *_: Provenance(device=device))
    store = Store(tmp_path, parts.PARTS)
    values = {"decoder": "free", "size": dataclasses.asdict(linear.Size(2, 1, 2)), "seed": 0}
    spec = parts.PartSpec(study="linear", values=values)
    assert execute(store.prepare(spec, Environment()), parts.PARTS).provenance.device == "cpu"


# ---------------------------------------------------------------- what is written


SMALL = {
    "sinusoid": (sinusoid, "SIZES", sinusoid.Size(256, 1, 1, 8, 2, True), []),
    "linear": (linear, "SIZES", linear.Size(2, 20, 8), []),
    "estimator": (
        estimator, "SIZES", estimator.Size(2, 1, (1, 2), 100, channel_multiplier=0.25),
        ["--dataset", "digits"],
    ),
    "toy": (toy, "SIZES", toy.Size(400, 2, 8), ["--dataset", "sphere"]),
    "curvature": (curvature, "EPOCHS", 12, []),
}  # fmt: skip
"""Study -> its module, and a size and flags with which it takes no time."""
WRITTEN = {
    "sinusoid": ("sinusoid-quick", "sinusoid-quick-transition", "sinusoid-quick.csv"),
    "linear": ("linear-quick", "linear-quick.csv"),
    "estimator": (
        "estimator-digits-quick", "estimator-digits-quick.csv",
        "estimator-digits-quick-variance.csv",
    ),
    "toy": ("toy-sphere-quick", "toy-sphere-quick.csv"),
    "curvature": (
        "curvature-quick", "curvature-radius", "curvature-quick.csv", "curvature-radius.csv"
    ),
}  # fmt: skip


def seeds_of(name):
    return ["0"] if STUDIES[name].one_seed or name == "curvature" else ["0", "7"]


@pytest.fixture(scope="module", params=SMALL)
def small(request, tmp_path_factory):
    """A study's name, and the folder that it has written to from the command line.

    The parts of `toy` are processes of their own; those of the others run in this one.
    """
    name, root = request.param, tmp_path_factory.mktemp(request.param)
    module, attribute, size, flags = SMALL[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, attribute, {"quick": size})
        if name != "toy":
            patch.setattr(LocalEngine, "run_all", lambda _, *given: InProcess().run_all(*given))
        command = ["study", name, *flags, "--seeds", *seeds_of(name), "--quiet"]
        assert main([*command, "--results", str(root)]) == 0
    return name, root


def test_every_figure_has_a_caption_and_every_table_rows(small):
    name, root = small
    figures = {f"{stem}{end}" for stem in WRITTEN[name] if ".csv" not in stem
               for end in (".png", ".md")}  # fmt: skip
    assert {path.name for path in (root / "figures").iterdir()} == figures
    tables = {table for table in WRITTEN[name] if ".csv" in table}
    assert {path.name for path in (root / "tables").iterdir()} == tables
    for path in root.rglob("*.png"):
        assert path.stat().st_size > 10_000
    for path in root.rglob("*.csv"):
        with open(path) as file:
            rows = list(csv.DictReader(file))
        assert rows and all(None not in row and None not in row.values() for row in rows)


def test_a_second_start_trains_nothing_and_draws_the_same(small, monkeypatch):
    name, root = small
    module, attribute, size, flags = SMALL[name]
    tables = {path: path.read_bytes() for path in root.rglob("*.csv")}
    runs = {path: path.read_bytes() for path in root.rglob("result.json")}

    def start(*_):
        raise AssertionError("a part was started")

    monkeypatch.setattr(module, attribute, {"quick": size})
    monkeypatch.setattr(LocalEngine, "run_all", start)
    monkeypatch.setattr("pythae_fif.studies.output.write_figure", lambda *_, **__: None)
    for path in tables:
        path.unlink()
    command = ["study", name, *flags, "--seeds", *seeds_of(name), "--quiet"]
    assert main([*command, "--results", str(root)]) == 0
    assert {path: path.read_bytes() for path in tables} == tables
    assert {path: path.read_bytes() for path in root.rglob("result.json")} == runs


def test_an_interrupt_keeps_the_parts_that_are_finished(tmp_path, monkeypatch, capsys):
    """Of three noise levels the second is being trained when Ctrl-C comes."""
    monkeypatch.setattr(sinusoid, "SIZES", {"quick": SMALL["sinusoid"][2]})
    command = ["study", "sinusoid", "--seeds", "0", "--quiet", "--results", str(tmp_path)]
    run_all, done = LocalEngine.run_all, []

    def interrupted(engine, batch, on_change):
        def watch(running, outcomes):
            if outcomes:
                raise KeyboardInterrupt
            on_change(running, outcomes)

        done.append(len(batch.run_dirs))
        return run_all(engine, batch, watch if len(done) == 1 else on_change)

    monkeypatch.setattr(LocalEngine, "run_all", interrupted)
    assert main(command) == 130
    said = "interrupted: finished runs are kept; the same command goes on from the last checkpoints"
    assert capsys.readouterr().err.startswith(said)
    kept = len([*tmp_path.rglob("result.json")])  # one that ran beside it may be over, too
    assert kept in (1, 2) and not (tmp_path / "figures").exists()
    assert main(command) == 0
    assert done == [3, 3 - kept] and len([*tmp_path.rglob("result.json")]) == 3


def test_captions_are_one_paragraph_with_the_command_below(small):
    name, root = small
    start = f"Made by `python run_benchmark.py study {name}"
    for path in root.rglob("*.md"):
        title, picture, caption, command = path.read_text().removesuffix("\n").split("\n\n")
        assert title.startswith("# ") and picture == f"![{title[2:]}]({path.stem}.png)"
        assert "\n" not in caption and "  " not in caption and len(caption) > 200
        assert "nan" not in caption.split() and "{" not in caption
        seeds = "" if STUDIES[name].one_seed else f" --seeds {' '.join(seeds_of(name))}"
        assert command.startswith(start) and command.endswith(f"{seeds}`.")


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


def test_the_variance_of_every_kind_is_drawn():
    distances = [
        estimator.Distance(space, "orthogonal", 1, 1, 1, 0) for space in ("latent", "data")
    ]
    variances = [estimator.Variance(kind, k, 2.0, 2.1) for kind, k in KINDS]
    right = estimator._figure(distances, variances).axes[2]
    drawn = [(tuple(line.get_xdata()), line.get_marker()) for line in right.lines]
    assert sorted(drawn) == sorted(
        [((1,), "o"), ((1,), "x"), ((1, 2, 5), ""), ((1, 2, 5), "x")] * 2
    )


def test_a_variance_is_simulated_in_chunks_of_every_length(monkeypatch):
    """As many estimates as were asked for, and no more at once than fit in memory."""
    counts = []

    def sample(count, *of, **how):
        counts.append(count)
        return sample_hutchinson(count, *of, **how)

    monkeypatch.setattr(estimator, "DRAWS_AT_ONCE", 1000)
    monkeypatch.setattr(estimator, "sample_hutchinson", sample)
    matrix, generator = torch.diag(torch.arange(6.0)), torch.Generator().manual_seed(0)
    found = estimator.simulated_variance(matrix, "gaussian", 2, 2500, generator)
    assert counts == [1000, 1000, 500]
    assert found == pytest.approx(estimator.variance_formula(matrix, "gaussian", 2), rel=0.2)


def test_orthogonal_vectors_are_exact_at_full_number():
    matrix = torch.randn(6, 6, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    assert estimator.variance_formula(matrix, "orthogonal", 6) == 0
    assert estimator.simulated_variance(matrix, "orthogonal", 6, 100, generator) < 1e-20


@pytest.mark.parametrize("conditional", [pytest.param(False, marks=pytest.mark.slow), True])
def test_gradient_distances(conditional):
    splits = load_images("digits")
    labels = splits.labels["train"] if conditional else None
    model = estimator._trained(splits.train, labels, 6, estimator.Size(150, 1, (1,), 1), 0)
    assert model.condition_dim == 10 * conditional
    images = to_float(splits.train, limit=16)
    few = None if labels is None else torch.from_numpy(labels[:16])
    generator = torch.Generator().manual_seed(0)
    rows = estimator.gradient_distances(
        model, images, (1, 16), 6, generator, labels=few, largest=64
    )
    distance = {(r.space, r.kind, r.batch_size, r.samples): r.distance for r in rows}
    assert distance["latent", "orthogonal", 1, 6] < 1e-4
    assert distance["data", "orthogonal", 1, 64] < 1e-3
    for batch in (1, 16):  # of one vector alone, often enough that a draw does not decide
        rows = estimator.gradient_distances(
            model, images, (batch,), 60, generator.manual_seed(1), labels=few, largest=batch
        )
        one = {r.space: r.distance for r in rows if (r.kind, r.samples) == ("orthogonal", 1)}
        assert one["data"] > 1.4 * one["latent"]
    for space in ("latent", "data"):
        one, many = (distance[space, "orthogonal", batch, 1] for batch in (1, 16))
        assert many < 0.7 * one
    assert (
        distance["latent", "orthogonal", 1, 5] < 0.7 * distance["latent", "scaled_gaussian", 1, 5]
    )


# ---------------------------------------------------------------- toy


def test_toy_models_are_measured_every_few_epochs_and_at_the_end():
    learnt = toy.Part("circle", toy.Size(40, 7, 8), (0, 1)).compute(lambda _: None, Environment())
    assert [(row.epoch, row.seed) for row in learnt.rows] == [(5, 0), (5, 1), (7, 0), (7, 1)]


@pytest.mark.parametrize("name", ["circle", "sphere"])
@pytest.mark.parametrize("lost", [1, 2])
def test_models_that_diverged_are_counted_and_not_drawn(name, lost, tmp_path):
    """Of two models one or both end with no finite loss, and what one draws is partly NaN."""
    test = toy._held_out(name)
    ends = [(math.nan, math.nan), (-math.inf, 1.0)][:lost] + [(2.0, 0.001)] * (2 - lost)
    rows = [toy.Row(seed, epoch, *of) for epoch in (1, 2) for seed, of in enumerate(ends)]
    samples = test.points.clone()
    samples[: 10 if lost == 1 else None] = math.nan
    learnt = toy.Learnt(rows, samples.tolist(), [1.0] * len(samples))
    write_figure(tmp_path / "figure.png", toy._figure(learnt, test), 50)
    caption = " ".join(toy._caption(name, rows[-2:], test, toy.Size(1, 1, 1)).split())
    assert f"{lost} of them diverged" in caption and "nan" not in caption and "inf" not in caption
    said = "2.000 to 2.000 nats at the end" if lost == 1 else "finite for no model at the end"
    assert said in caption
