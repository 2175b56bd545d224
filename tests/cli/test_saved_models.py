"""`sample` and `likelihood` write what a trained model says as PNG and CSV files."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from pythae.models import AE, VAE, VAMP, AEConfig, VAEConfig, VAMPConfig
from support.experiments import train_on_table
from support.tabular_files import table

from pythae_fif import FIF, FIFConfig, cli
from pythae_fif.benchmark import load_trained
from pythae_fif.data import load_images, load_table, to_float
from pythae_fif.evaluation import export_samples, likelihood_frame

pytestmark = pytest.mark.filterwarnings("ignore:scores of")


@pytest.fixture(scope="module")
def table_run(tmp_path_factory):
    """The folder of a run on `table.csv`."""
    store, jobs = train_on_table(tmp_path_factory.mktemp("table"), ["fif"])
    return store.folder(jobs[0].training)


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """Runs a command in an empty folder: run(*words) -> its exit code and line of output."""
    monkeypatch.chdir(tmp_path)

    def run_command(*words) -> tuple[int, str]:
        code = cli.main([*map(str, words)])
        out, err = capsys.readouterr()
        assert out.count("\n") == (code == 0)
        return code, err or out

    return run_command


@pytest.fixture
def photos(tmp_path) -> list[str]:
    """Grey images of 8 x 8 pixels in the folder `photos`; returns their names."""
    (tmp_path / "photos/dark").mkdir(parents=True)
    names = ["9.png", "a.png", "dark/b.png"]
    for number, name in enumerate(names):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / name)
    return names


def test_samples_of_a_table(run, table_run):
    words = ("sample", table_run, "--to", "rows.csv", "--number", 600)
    line = "600 samples from the prior of the training (normal) written to rows.csv\n"
    assert run(*words) == (0, line)
    frame = pd.read_csv("rows.csv")
    assert (len(frame), [*frame]) == (600, ["a", "b", "c"])
    original = pd.DataFrame(table() * [1, 100, 0.01], columns=[*"abc"])
    ratios = frame.mean() / original.mean()
    assert ratios.between(0.2, 5).all()

    run(*words[:4], "--to", "again.csv", "--number", 600)
    assert Path("again.csv").read_bytes() == Path("rows.csv").read_bytes()


def test_samples_of_images(run):
    FIF(FIFConfig(input_dim=(1, 8, 8), latent_dim=2, condition_dim=3)).save("fif")
    assert run("sample", "fif", "--to", "digits", "--number", 3, "--label", 2)[0] == 0
    assert sorted(path.name for path in Path("digits").iterdir()) == [
        "00000.png",
        "00001.png",
        "00002.png",
    ]
    image = Image.open("digits/00002.png")
    assert (image.size, image.mode) == ((8, 8), "L")

    VAE(VAEConfig(input_dim=(3, 6, 6), latent_dim=2)).save("vae")
    assert run("sample", "vae", "--to", "colours", "--number", 2)[0] == 0
    assert Image.open("colours/00001.png").mode == "RGB"


@pytest.mark.parametrize("original_units", [False, True])
def test_likelihoods_of_rows(run, table_run, original_units):
    frame = pd.read_csv(table_run.parents[5] / "table.csv")
    frame.loc[7, "b"] = None
    frame[["c", "b", "a"]].to_csv("mine.csv", index=False)
    flags = ["--original-units"] * original_units
    code, line = run("likelihood", table_run, "mine.csv", "--to", "nats.csv", *flags)
    assert code == 0
    units = "original" if original_units else "standardised"
    assert line == (
        f"119 log-likelihoods in nats, for rows in {units} units, written to nats.csv; "
        "1 row with missing values\n"
    )

    result = pd.read_csv("nats.csv", index_col="row")
    complete = frame.drop(index=7)
    model = load_trained(table_run)
    pd.testing.assert_frame_equal(
        likelihood_frame(model, frame, original_units=original_units), result, rtol=1e-4
    )
    expected = model.log_prob(complete, original_units=original_units)
    x = torch.tensor(model.columns.transform(complete), dtype=torch.float32)
    distance = (model.reconstruct(complete) - x).norm(dim=1)
    assert [*result.index] == [*range(120)]
    assert result.loc[7].isna().all()
    np.testing.assert_allclose(result["log_likelihood"].drop(index=7), expected, rtol=1e-4)
    np.testing.assert_allclose(result["distance"].drop(index=7), distance, rtol=1e-4)
    torch.manual_seed(0)
    options = {"samples": 500, "original_units": original_units}
    marginal = model.marginal_log_prob(complete, model.noise_std, **options)
    difference = result["marginal_log_likelihood"].drop(index=7) - marginal.numpy()
    assert difference.abs().median() < 0.1


def test_quantiles_among_validation_rows(run, table_run):
    frame = pd.DataFrame(table() * [1, 100, 0.01], columns=[*"abc"])
    frame.to_csv("normal.csv", index=False)
    frame.loc[3, "a"] = 1000 * frame["a"].abs().max()
    frame.loc[7, "b"] = None
    frame.to_csv("mine.csv", index=False)
    words = ("likelihood", table_run, "mine.csv", "--to", "nats.csv", "--validation", "normal.csv")
    code, line = run(*words)
    assert code == 0
    end = "more unusual than 99% of the validation data: 2 by log-likelihood, 2 by distance, 2 by "
    assert f"{end}marginal log-likelihood" in line

    result = pd.read_csv("nats.csv", index_col="row")
    quantiles = result.filter(like="_quantile")
    assert [*quantiles] == [f"{name}_quantile" for name in result if f"{name}_quantile" in result]
    assert result.loc[7].isna().all()
    assert (quantiles.loc[3] == 1).all()
    assert quantiles.mean().between(0.49, 0.51).all()

    code, line = run(*words[:4], "normal.csv", *words[5:], "--overwrite")
    assert (code, "normal.csv is read by this command" in line) == (2, True)
    frame.assign(b=np.nan).to_csv("mine.csv", index=False)
    assert "all 120 rows have missing values" in run(*words, "--overwrite")[1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("prior", ["gaussian", "mixture"])
def test_models_in_half_precision(run, photos, prior, dtype):
    """PyTorch solves no triangular systems in half precision."""
    model = FIF(FIFConfig(input_dim=(1, 8, 8), latent_dim=2))
    model.fit_prior(torch.rand(60, 1, 8, 8), prior)
    model.to(dtype).save("fif")
    assert load_trained("fif").encoder(torch.rand(1, 1, 8, 8)).embedding.dtype == torch.float32
    assert run("sample", "fif", "--to", "digits", "--number", 3)[0] == 0
    assert run("likelihood", "fif", "photos", "--to", "nats.csv")[0] == 0
    assert pd.read_csv("nats.csv")["log_likelihood"].notna().all()


def test_classes_by_name(run):
    """A class by name, and each row's class from a column of the table."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(200, 3)), columns=[*"abc"])
    frame["sex"] = rng.choice(["male", "female"], 200)
    frame.to_csv("t.csv", index=False)
    splits = load_table("t.csv", label="sex")
    torch.manual_seed(0)
    model = FIF(FIFConfig(input_dim=(3,), latent_dim=2, condition_dim=2))
    model.columns = splits.columns
    model.class_names = splits.class_names
    model.save("fif")

    for label in ("male", "1"):
        assert run("sample", "fif", "--to", f"{label}.csv", "--number", 4, "--label", label)[0] == 0
    assert Path("male.csv").read_bytes() == Path("1.csv").read_bytes()

    assert run("likelihood", "fif", "t.csv", "--to", "nats.csv", "--label", "sex")[0] == 0
    expected = model.log_prob(frame, frame["sex"])
    np.testing.assert_allclose(pd.read_csv("nats.csv")["log_likelihood"], expected, rtol=1e-4)
    assert (
        "needs labels: class indices 0 to 1, or the names female, male"
        in run("likelihood", "fif", "t.csv", "--to", "nats.csv", "--overwrite")[1]
    )


def test_all_classes_are_drawn_in_their_training_shares(run):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(200, 3)), columns=[*"abc"])
    frame["grade"] = rng.choice([1, 5], 200, p=[0.25, 0.75])
    splits = load_table(frame, label="grade")
    model = FIF(FIFConfig(input_dim=(3,), latent_dim=2, condition_dim=2))
    model.columns = splits.columns
    model.class_names = splits.class_names
    model.save("fif")
    assert run("sample", "fif", "--to", "rows.csv", "--number", 1000)[0] == 0
    rows = pd.read_csv("rows.csv")
    shares = np.bincount(splits.labels["train"]) / len(splits.train)
    assert rows["grade"].value_counts(normalize=True).sort_index().tolist() == pytest.approx(
        shares, abs=1e-3
    )
    assert {*rows["grade"].head(20)} == {1, 5}
    assert load_table(rows, label="grade").columns.names == [*"abc"]

    assert run("sample", "fif", "--to", "ones.csv", "--number", 3, "--label", 1)[0] == 0
    assert pd.read_csv("ones.csv")["grade"].tolist() == [1, 1, 1]


def test_files_are_not_replaced_by_mistake(run, table_run):
    frame = pd.DataFrame(table(), columns=[*"abc"])
    frame.to_csv("t.csv", index=False)
    content = Path("t.csv").read_bytes()
    Path("link.csv").symlink_to("t.csv")
    Path("folder.csv").mkdir()
    for target in ("t.csv", "link.csv"):
        words = ("likelihood", table_run, "t.csv", "--to", target, "--overwrite")
        assert run(*words) == (
            2,
            f"error: {target} is read by this command: choose another file to write\n",
        )
    for words in (("sample", table_run), ("likelihood", table_run, "t.csv")):
        line = run(*words, "--to", "folder.csv")[1]
        assert "folder.csv is a folder" in line
    assert (
        "t.csv exists: choose another file, or replace it by --overwrite"
        in (run("sample", table_run, "--to", "t.csv")[1])
    )
    assert Path("t.csv").read_bytes() == content
    assert run("sample", table_run, "--to", "t.csv", "--overwrite")[0] == 0
    assert Path("t.csv").read_bytes() != content


def test_an_interrupted_command_leaves_no_part_of_a_folder(run, tmp_path):
    model = FIF(FIFConfig(input_dim=(1, 8, 8), latent_dim=2))

    def interrupt(done, total):
        if done > 500:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_samples(model, "digits", 1200, progress=interrupt)
    assert [*tmp_path.iterdir()] == []


def test_names_that_look_like_formulas_are_quoted(run, photos):
    FIF(FIFConfig(input_dim=(1, 8, 8), latent_dim=2)).save("fif")
    Path("photos/a.png").rename("photos/=a.png")
    assert run("likelihood", "fif", "photos", "--to", "nats.csv")[0] == 0
    assert [*pd.read_csv("nats.csv")["file"]] == ["9.png", "'=a.png", "dark/b.png"]


def test_a_wrong_number_is_one_line(run):
    for word in ("100000000000", "1" * 5000):
        code, line = run("sample", "fif", "--to", "rows.csv", "--number", word)
        assert (code, len(line) < 600) == (2, True)


def test_a_row_without_its_class_has_no_likelihood(run):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(200, 3)), columns=[*"abc"])
    frame["kind"] = pd.Series(rng.integers(1, 4, 200), dtype="Int64")
    frame.loc[7, "kind"] = pd.NA
    frame.to_csv("t.csv", index=False)
    splits = load_table("t.csv", label="kind")
    assert splits.class_names == ("1", "2", "3")

    model = FIF(FIFConfig(input_dim=(3,), latent_dim=2, condition_dim=3))
    model.columns = splits.columns
    model.class_names = splits.class_names
    model.save("fif")
    assert run("likelihood", "fif", "t.csv", "--to", "nats.csv", "--label", "kind")[0] == 0
    assert [*pd.read_csv("nats.csv").query("log_likelihood.isna()")["row"]] == [7]


@pytest.mark.parametrize(
    ("model", "prior"),
    [
        (VAMP(VAMPConfig(input_dim=(1, 8, 8), latent_dim=2)), "VAMP's own prior"),
        (AE(AEConfig(input_dim=(1, 8, 8), latent_dim=2)), "standard normal codes"),
        (FIF(FIFConfig(input_dim=(1, 8, 8), latent_dim=2)), "the fitted prior (gaussian)"),
    ],
)
def test_samples_come_from_the_models_own_prior(run, model, prior):
    if isinstance(model, FIF):
        model.fit_prior(torch.rand(50, 1, 8, 8), "gaussian")
    model.save("model")
    code, line = run("sample", "model", "--to", "samples", "--number", 7)
    assert code == 0
    assert f"7 samples from {prior}" in line


def test_likelihoods_of_images(run, photos):
    model = FIF(FIFConfig(input_dim=(1, 8, 8), latent_dim=2))
    model.save("fif")
    assert run("likelihood", "fif", "photos", "--to", "nats.csv")[0] == 0
    result = pd.read_csv("nats.csv", index_col="file")
    assert [*result.index] == photos
    pixels = np.stack([np.asarray(Image.open(f"photos/{name}"))[None] for name in photos])
    np.testing.assert_allclose(
        result["log_likelihood"], model.log_prob(to_float(pixels)), rtol=1e-3
    )

    digits = load_images("digits")["test"][:5]
    np.savez("digits.npz", data=digits)
    assert run("likelihood", "fif", "digits.npz", "--to", "nats.csv", "--overwrite")[0] == 0
    written = pd.read_csv("nats.csv", index_col="row")
    assert [*written.index] == [0, 1, 2, 3, 4]
    pd.testing.assert_frame_equal(likelihood_frame(model, digits), written, rtol=1e-4)


def test_broken_images_are_left_out_on_request(run, photos, caplog):
    FIF(FIFConfig(input_dim=(1, 8, 8), latent_dim=2)).save("fif")
    Path("photos/9.jpg").write_text("no image")
    code, error = run("likelihood", "fif", "photos", "--to", "nats.csv")
    assert (code, "leave them out by --skip-broken" in error) == (2, True)

    assert run("likelihood", "fif", "photos", "--to", "nats.csv", "--skip-broken")[0] == 0
    assert "photos: 1 file that cannot be decoded left out: 9.jpg" in caplog.text
    assert [*pd.read_csv("nats.csv")["file"]] == photos
    words = ("--extractor", "pixels", "--num-samples", 20, "--skip-broken")
    assert run("score", "photos", "photos", *words)[1].endswith("not 3 and 3\n")

    for name in photos:
        Path("photos", name).write_text("no image")
    line = run("likelihood", "fif", "photos", "--to", "none.csv", "--skip-broken")[1]
    assert "photos: no file can be decoded: 9.jpg" in line
    assert not Path("none.csv").exists()
