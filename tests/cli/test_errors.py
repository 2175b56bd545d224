"""Wrong input is one line on standard error, and exit code 2; `errors.yaml` lists commands."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from pythae.models import VAE, VQVAE, VAEConfig, VQVAEConfig
from support.experiments import train_on_table

from pythae_fif import FIF, FIFConfig, cli

ERRORS = yaml.safe_load(Path(__file__).with_name("errors.yaml").read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with saved models, images, tables and YAML files."""
    folder = tmp_path_factory.mktemp("errors")
    FIF(FIFConfig(input_dim=(1, 8, 8), latent_dim=2)).save(folder / "fif")
    FIF(FIFConfig(input_dim=(1, 6, 6), latent_dim=2, condition_dim=3)).save(folder / "labelled")
    FIF(FIFConfig(input_dim=(3,), latent_dim=2)).save(folder / "rows")
    VAE(VAEConfig(input_dim=(1, 8, 8), latent_dim=2)).save(str(folder / "vae"))
    VQVAE(VQVAEConfig(input_dim=(1, 8, 8), latent_dim=2)).save(str(folder / "vqvae"))
    (folder / "broken").mkdir()
    (folder / "broken/model_config.json").write_text('{"input_dim": [1,')

    (folder / "photos").mkdir()
    Image.fromarray(np.full((8, 8), 90, np.uint8)).save(folder / "photos/a.png")
    np.savez(folder / "c.npz", data=np.full((30, 6, 6), 90, np.uint8))
    np.savez(folder / "d.npz", data=np.arange(30 * 108).reshape(30, 6, 6, 3).astype(np.uint8))
    (folder / "t.csv").write_text("a,c\n1,2\n3,4\n")
    (folder / "own.yaml").write_text("profiles: {quick: {epoch: 1}}")
    (folder / "toy.yaml").write_text("dataset: circle")
    return folder


@pytest.fixture(scope="module")
def table_run(tmp_path_factory):
    """The folder of a run on a table."""
    store, jobs = train_on_table(tmp_path_factory.mktemp("table"), ["fif"])
    return store.folder(jobs[0].training)


@pytest.mark.filterwarnings("ignore:scores of")
@pytest.mark.parametrize("command", ERRORS)
def test_wrong_input_is_one_line_and_exit_code_2(command, folder, request, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.delenv("PYTHAE_FIF_DATA", raising=False)
    files = sorted(folder.iterdir())
    words = command.split()
    if "RUN" in words:
        words[words.index("RUN")] = str(request.getfixturevalue("table_run"))

    assert cli.main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert all(part in err for part in ERRORS[command]), err
    assert sorted(folder.iterdir()) == files
