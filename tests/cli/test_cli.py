"""The command line: what is printed and left behind, exit codes, and an interrupt from outside."""

import csv
import dataclasses
import importlib.util
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
import webbrowser
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from pythae.models import AE
from support.engines import InProcess
from support.experiments import PROFILE, write_tiny
from support.reference import packer

import pythae_fif
from pythae_fif import FIF, FIFConfig, cli, studies
from pythae_fif.benchmark.yaml_files import configs_dir, names_in
from pythae_fif.data import DATASETS
from pythae_fif.data.images import decode_files, find_images
from pythae_fif.errors import DataError
from pythae_fif.evaluation import EXTRACTORS, load_extractor
from pythae_fif.files import read_json
from pythae_fif.pictures import write_figure, write_pixels
from pythae_fif.runs.engines.local import LocalEngine
from pythae_fif.sampling import SAMPLERS

pytestmark = pytest.mark.filterwarnings("ignore:scores of 20 samples")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def as_before():
    """One thread, and afterwards the handlers and threads of before."""
    handler, threads = signal.getsignal(signal.SIGTERM), torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    signal.signal(signal.SIGTERM, handler)
    torch.set_num_threads(threads)


@pytest.fixture
def tiny(tmp_path):
    """Writes a configuration that takes no time: tiny(key=value, ...) -> its path."""

    return lambda *profile, **values: str(write_tiny(tmp_path, *profile, **values))


@pytest.fixture
def run(tmp_path, capsys, monkeypatch):
    """Runs the program: run(*arguments) -> exit code, standard output, standard error.

    The runs are executed in this process; `run.executed` counts them. Figures of reports are drawn
    in test_reports.py; here their files are tiny.
    """

    def tiny_picture(path, figure):
        write_pixels(path, np.zeros((2, 2), np.uint8))

    engine = InProcess()
    monkeypatch.setattr("pythae_fif.reports.experiment.write_figure", tiny_picture)

    def words(*arguments):
        engine.done.clear()
        code = cli.main([*map(str, arguments)])
        call.executed = len(engine.done)
        return (code, *capsys.readouterr())

    def call(*arguments):
        return words(*arguments, "--results", call.results)

    call.words = words
    call.results = tmp_path / "results"
    monkeypatch.setattr(LocalEngine, "run_all", lambda _, *given: engine.run_all(*given))
    monkeypatch.setenv("COLUMNS", "80")
    return call


class TestShowing:
    def test_list(self, run):
        code, out, err = run.words("list")
        assert (code, err) == (0, "")
        for name in (*names_in("models"), *DATASETS, *SAMPLERS, *EXTRACTORS):
            assert f"  {name} " in out
        words = " ".join(out.split())
        assert "AE; 1 configuration;" in words
        assert "FIF; 10 configurations of beta, hutchinson_samples; Sorrenson" in words
        assert max(map(len, out.splitlines())) <= 80 and "…" not in out
        assert not run.results.exists()

    def test_table_2_is_a_plan_of_its_own_on_any_data_set(self, run):
        code, out, _ = run(
            "--table", 2, "--dataset", "digits", "--wall-clock", "1h30m", "--dry-run"
        )
        words = " ".join(out.split())
        assert code == 0
        assert "15 runs" in words and "manifold_epochs=10" in words
        assert "wall clock 1h30m" in words and "dnf 3 1 h 30 min" in words

    def test_wall_clock_is_in_the_record_and_the_table(self, run, tiny):
        code, _, _ = run("--config", tiny(), "--wall-clock", "0.2s")
        assert code == 0
        (path,) = run.results.rglob("result.json")
        assert read_json(path)["training"]["train_seconds"] >= 0.2
        (table,) = (run.results / "tables").glob("*pixels.md")
        assert "Wall clock 0.2s of training steps a run" in table.read_text()

    def test_the_estimate_of_one_run_does_not_fall_with_slots(self, run, tiny, monkeypatch):
        monkeypatch.setattr("pythae_fif.cli.dry_run.training_seconds", lambda *_: 100.0)
        _, out, _ = run("--config", tiny(models=["ae"]), "--dry-run")
        assert re.search(
            r"takes (\S+ \S+) one after the other, \1 on this machine", " ".join(out.split())
        )

    def test_dry_run_shows_the_plan_and_leaves_nothing(self, run, tiny):
        code, out, _ = run("--config", tiny(models=["fif", "ae"]), "--dry-run")
        assert code == 0
        assert "3 runs" in out
        assert "beta=10, hutchinson_samples=2" in out
        assert "60 training images of shape (1, 8, 8), 1 epoch, samplers" in " ".join(out.split())
        assert not run.results.exists()

    def test_one_broken_file_does_not_break_the_list_and_is_told_first(
        self, run, tiny, tmp_path, monkeypatch
    ):
        (tmp_path / "own/models").mkdir(parents=True)
        (tmp_path / "own/models/mine.yaml").write_text("label: [")
        ae = yaml.safe_load((configs_dir() / "models/ae.yaml").read_text())
        ae["label"] = "Mine [/x]"
        (tmp_path / "own/models/other.yaml").write_text(yaml.safe_dump(ae))
        (tmp_path / "own/experiments").mkdir()
        (tmp_path / "own/experiments/mine.yaml").write_text("models: [ae]")
        monkeypatch.setenv("PYTHAE_FIF_CONFIGS", str(tmp_path / "own"))
        code, out, _ = run.words("list")
        assert code == 0 and "cannot be used: " in out and "  vae " in out and "Mine [/x]" in out
        code, _, err = run("--config", tiny(models=["ae"]))
        assert code == 2 and "mine.yaml" in err and not run.results.exists()
        (tmp_path / "own/models/mine.yaml").write_text(yaml.safe_dump({**ae, "lable": 1}))
        code, _, err = run("--config", tiny(models=["mine"]))
        assert code == 2 and err.count("\n") == 1
        assert err.startswith(f"error: {tmp_path}/own/models/mine.yaml: unknown key 'lable'")

    def test_version(self, capsys):
        with pytest.raises(SystemExit) as stop:
            cli.main(["--version"])
        assert stop.value.code == 0
        assert capsys.readouterr().out == f"pythae-fif {pythae_fif.__version__}\n"

    def test_default_is_the_digits(self, run):
        code, out, _ = run("--dry-run")
        assert code == 0
        assert "digits, convnet, profile quick: 1,197 training images" in out
        assert "networks: small convnet for images of 1x8x8, latent dimension 8" in out

    def test_dry_run_estimates_the_time(self, run, tiny):
        _, out, _ = run("--config", tiny(models=["fif", "ae"]), "--dry-run")
        words = " ".join(out.split())
        row = r"model runs training a run all its runs fif 2 \d+ s \d+ s ae 1 \d+ s \d+ s"
        assert re.search(row, words)
        assert "estimate from a few timed steps" in words
        file = tiny(models=["fif"], beta=[1e39], hutchinson_samples=[1])
        code, out, _ = run("--config", file, "--dry-run")
        assert code == 1
        assert "fif 1 fails at once:" in " ".join(out.split())

    def test_dry_run_of_a_model_that_cannot_run(self, run, tiny, monkeypatch):
        def forward(self, inputs, **kwargs):
            return {}["loss"]

        monkeypatch.setattr(AE, "forward", forward)
        code, out, _ = run("--config", tiny(models=["ae"]), "--dry-run")
        assert code == 1
        assert "ae 1 fails at once: KeyError: 'loss'" in " ".join(out.split())

    @pytest.mark.parametrize(
        "words", [[], ["run"], ["study"], ["study", "tabular"], ["verify"], ["score"]]
    )
    def test_help_shows_the_flags_of_the_command_alone(self, capsys, words):
        with pytest.raises(SystemExit) as stop:
            cli.main([*words, "--help"])
        assert stop.value.code == 0
        text = capsys.readouterr().out
        expected = {
            "": [
                "--arch",
                "--engine",
                "--gpus",
                "local: visible GPUs",
                "130 interrupted",
                "verify",
            ],
            "run": ["--arch", "--engine", "--results"],
            "study": ["sinusoid"],
            "study tabular": ["--data", "--results", "--latent-dim", "data sets: power, "],
            "verify": ["RESULTS"],
            "score": ["--training", "for memorisation"],
        }[" ".join(words)]
        assert all(part in text for part in expected)
        flags = set(re.findall(r"--[a-z-]+", text))
        assert ("--arch" in flags) is (words in ([], ["run"]))
        assert ("--engine" in flags) is (words in ([], ["run"], ["study", "tabular"]))
        assert ("--quiet" in flags) is (words not in (["study"], ["verify"], ["score"]))

    def test_waits_for_no_torch(self):
        code = """
import sys
from pythae_fif.cli import main

SLOW = {"torch", "pythae", "matplotlib", "numpy", "scipy", "sklearn", "zuko"}
for words in (
    "--help", "list", "--betas", "study toy --help", "--dataset circle -h", "--latent-dim 0"
):
    try:
        main(words.split())
    except SystemExit:
        pass
    if found := SLOW & sys.modules.keys():
        sys.exit(f"{words} imports {found}")
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_a_stream_without_greek_letters_gets_question_marks():
    done = subprocess.run(
        [sys.executable, "-c", "from pythae_fif.cli.main import main; main(['list'])"],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
    )
    assert done.returncode == 0, done.stderr
    assert b"?-VAE" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["list"], "nothing was written"),
        (["--dry-run"], "finished runs are kept; the same command"),
    ],
)
def test_an_interrupt_promises_what_the_command_keeps(monkeypatch, capsys, words, said):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules[cli.main.__module__], "list_command", interrupt)
    monkeypatch.setattr("pythae_fif.cli.run.run_benchmark", interrupt)
    assert cli.main(words) == 130
    assert capsys.readouterr().err.startswith(f"interrupted: {said}")


class TestShards:
    def test_all_shards_are_the_plan_and_the_last_report_shows_it(self, run, tiny):
        file = tiny(models=["fif", "ae"], seeds=[0, 1])
        executed = []
        for shard in ("0/4", "1/4", "2/4", "3/4"):
            code, out, _ = run("--config", file, "--shard", shard)
            assert code == 0
            executed.append(run.executed)
        assert executed == [2, 2, 1, 1]
        assert run("--config", file)[0] == 0 and run.executed == 0
        code, out, _ = run("--config", file, "--shard", "2/4", "--dry-run")
        assert code == 0 and "1 run, 0 of them to do" in out and "estimate" not in out

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (["--shard", "4/4"], "error: --shard 4/4: needs i/n with i from 0 to n - 1"),
            (["--gpus", "9"], "error: --gpus 9: "),
            (["--precision", "half"], "error: --precision 'half': valid: float32, bfloat16"),
            (["--engine", "rya"], "error: --engine 'rya': did you mean 'ray'?"),
            (["study", "linear", "--shard", "0/2"], "error: unknown flag '--shard' of study"),
        ],
    )
    def test_refused(self, run, flags, message):
        code, _, err = run(*flags)
        assert code == 2 and err.startswith(message) and err.count("\n") == 1


@pytest.mark.parametrize(
    ("package", "flags"),
    [
        ("tensorboard", ["--tensorboard"]),
        ("ray", ["--engine", "ray"]),
        ("submitit", ["--engine", "slurm", "--time", "5"]),
    ],
)
def test_a_package_that_is_missing(run, monkeypatch, package, flags):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == package else found(name)
    )
    monkeypatch.setitem(sys.modules, package, None)
    for name in ("ray", "slurm"):
        monkeypatch.delitem(sys.modules, f"pythae_fif.runs.engines.{name}", raising=False)
    code, _, err = run(*flags)
    assert code == 2
    assert f"needs the package {package}: pip install 'pythae-fif[" in err


def test_a_packed_store_trains_nothing_and_tells_what_failed(run, tmp_path):
    words = ["--models", "ae", "fif", "--beta", 1e39, "--hutchinson-samples", 1, "--epochs", 1]
    words += ["--train-size", 60, "--num-samples", 20, "--extractor", "pixels"]
    code, _, _ = run(*words)
    assert (code, run.executed) == (1, 2)
    script = packer()
    script.pack(run.results, tmp_path / "packed")
    run.results = tmp_path / "packed"
    code, _, _ = run(*words)
    assert (code, run.executed) == (0, 0)
    (table,) = (run.results / "tables").glob("*.md")
    assert "Runs that failed" in table.read_text() and "epoch 1" in table.read_text()
    assert sorted(path.name for path in (run.results / "runs").iterdir()) == ["digits.jsonl"]


def test_a_class_of_ones_own_as_the_docs_show_it(run, tiny, tmp_path, monkeypatch):
    page = (ROOT / "docs/add_model.md").read_text()
    for file in ("my_model.py", "small_codes.yaml"):
        shown = re.search(rf"`{file}`:\n\n```\w+\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
        (tmp_path / file).write_text(shown[1])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("PYTHAE_FIF_CONFIGS", "")
    words = "run_benchmark.py --models fif small_codes.yaml"
    assert f"{words}\n" in page
    code, _, err = run("--config", tiny(), *words.split()[1:])
    assert (code, run.executed, err) == (0, 4, "")
    sys.modules.pop("my_model")
    (table,) = (run.results / "tables").glob("*.md")
    assert re.search(r"small codes .*weight=\S+ \(of 2\)", table.read_text())


def test_own_table_from_file_to_page(run, tmp_path):
    lines = [f"{100 + i % 7};{0.01 * (i % 11)};{i}" for i in range(120)]
    (tmp_path / "w.csv").write_text("\n".join(["height;width;n", *lines, "100;;3"]))
    content = {"profile": "tiny", "profiles": {"tiny": PROFILE}}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(content))
    words = ["--dataset", "csv", "--data", tmp_path / "w.csv", "--config", tmp_path / "tiny.yaml"]
    words += ["--samplers", "normal", "--columns", "height", "width", "n"]
    code, out, err = run(*words, "--models", "fif", "vae")
    assert (code, run.executed, err) == (0, 3, "")
    text = " ".join(out.split())
    assert "networks: tabular for rows of 3" in text and "more notes are on the page" in text
    (path,) = (run.results / "tables").glob("*.md")
    table = path.read_text()
    assert "60 training, 12 validation and 12 test rows" in table
    assert "1 of 121 rows with missing values left out" in table and "FID-like" in table
    assert "--columns height width n" in table and "published" not in table
    pictures = re.findall(r"\]\(([^)]+png)\)", table)
    assert len(pictures) > 2 and all((path.parent / link).is_file() for link in pictures)
    (folder,) = (run.results / "runs/csv/tabular/vae").iterdir()
    rows = list(csv.DictReader((folder / "samples-normal.csv").open()))
    assert len(rows) == 20 and list(rows[0]) == ["height", "width", "n"]
    assert all(95 < float(row["height"]) < 112 for row in rows)
    assert read_json(folder / "model/columns.json")["names"] == ["height", "width", "n"]
    assert not any("samples" in path.name for path in (run.results / "figures").iterdir())
    (page,) = (run.results / "pages").iterdir()
    assert (folder / "samples-normal.png").is_file() and "VAE, N samples" in page.read_text()
    code, out, _ = run.words("verify", run.results)
    assert code == 0 and "nothing is wrong" in out
    code, _, err = run(*words, "--models", "vaegan")
    assert code == 2 and "model vaegan takes images alone" in err
    code, _, err = run(*words, "--extractor", "pixels")
    assert code == 2 and "extractor 'pixels' does not take a table: choose columns" in err


class TestScore:
    @pytest.fixture
    def folders(self, tmp_path):
        draws = np.random.default_rng(0)
        for name, shift in (("a", 0), ("b", 40)):
            (tmp_path / name).mkdir()
            for index in range(30):
                pixels = draws.integers(0, 200, (9, 8), dtype=np.uint8) + np.uint8(shift)
                Image.fromarray(pixels).save(tmp_path / name / f"{index}.png")
        return tmp_path

    @pytest.mark.filterwarnings("ignore:scores of")
    def test_folders_files_and_models(self, run, folders):
        words = ["score", folders / "a", folders / "b", "--extractor", "pixels"]
        file = folders / "scores.json"
        code, out, err = run.words(*words, "--to-json", file)
        assert (code, err) == (0, "") and out.split()[-3:] == ["30", "references", "30"]
        scores = read_json(file)
        assert f"FD-pixels {scores['frechet']['reference']:.4g}" in " ".join(out.split())
        b = [np.asarray(Image.open(p).convert("RGB")) for p in sorted((folders / "b").iterdir())]
        np.savez(folders / "b.npz", data=np.stack(b)[:, :8])
        _, same, _ = run.words("score", folders / "b.npz", folders / "b.npz", *words[3:])
        assert float(re.search(r"FD-pixels +(\S+)", same)[1]) < 1e-9
        model = FIF(FIFConfig(input_dim=(3, 8, 8), latent_dim=2))
        model.save(str(folders / "model"))
        words[1] = folders / "model"
        code, out, _ = run.words(*words, "--num-samples", 25)
        assert code == 0 and out.split()[-4:] == ["samples", "25", "references", "30"]

    @pytest.mark.filterwarnings("ignore:scores of")
    @pytest.mark.parametrize("order", [("a", "b.npz"), ("b.npz", "a")])
    def test_grey_folders_beside_grey_files(self, run, folders, order):
        pixels = np.stack([np.asarray(Image.open(p)) for p in (folders / "b").iterdir()])
        np.savez(folders / "b.npz", data=pixels[:, :8])
        words = ["score", *(folders / name for name in order), "--extractor", "pixels"]
        code, out, err = run.words(*words, "--training", folders / "a")
        assert (code, err) == (0, "") and out.split()[-3:] == ["30", "references", "30"]

    @pytest.mark.filterwarnings("ignore:scores of")
    def test_samples_may_be_almost_black(self, run, folders):
        np.savez(folders / "dark.npz", data=np.arange(30 * 72).reshape(30, 9, 8) % 9)
        np.savez(folders / "b.npz", data=np.arange(30 * 72).reshape(30, 9, 8) % 200)
        words = ["score", folders / "dark.npz", folders / "b.npz", "--extractor", "pixels"]
        assert run.words(*words)[0] == 0

    @pytest.mark.filterwarnings("ignore:scores of")
    @pytest.mark.parametrize("count", [25, 30])
    def test_one_subset_has_no_spread(self, run, folders, count):
        for number in range(count, 30):
            (folders / f"a/{number}.png").unlink()
        words = ["score", folders / "a", folders / "b", "--extractor", "pixels"]
        (line,) = (row for row in run.words(*words)[1].splitlines() if "kernel" in row)
        assert ("±" in line) == (count != 30)

    @pytest.mark.filterwarnings("ignore:scores of")
    def test_the_folder_of_a_run_means_its_model(self, run, folders):
        for name in ("config.yaml", "status.json"):
            (folders / "a" / name).touch()
        words = ["score", folders / "a", folders / "b", "--extractor", "pixels"]
        code, _, err = run.words(*words)
        assert code == 2 and f"{folders / 'a'}: the run has no model" in err
        FIF(FIFConfig(input_dim=(3, 8, 8), latent_dim=2)).save(str(folders / "a/model"))
        code, out, _ = run.words(*words, "--num-samples", 25)
        assert code == 0 and out.split()[-4:] == ["samples", "25", "references", "30"]

    @pytest.mark.filterwarnings("ignore:scores of")
    def test_own_network_and_training_images(self, run, folders):
        network = torch.jit.script(torch.nn.Sequential(torch.nn.AvgPool2d(4), torch.nn.ReLU()))
        network.save(str(folders / "mine.pt"))
        words = ["score", folders / "a", folders / "b", "--extractor", folders / "mine.pt"]
        code, out, err = run.words(
            *words, "--training", folders / "a", "--to-json", folders / "s.json"
        )
        assert (code, err) == (0, "") and "FD-mine " in out
        assert re.search(r"nearer to training +1.0000\nauthenticity +0.0000", out)
        scores = read_json(folders / "s.json")
        assert (scores["extractor"], len(scores["extractor_hash"])) == ("mine.pt", 16)
        assert scores["memorisation"] == {"nearer": {"reference": 1.0}, "authenticity": 0.0}
        assert "nearer" not in run.words(*words)[1]

    @pytest.mark.filterwarnings("ignore:scores of")
    def test_training_images_of_a_file_are_those_of_its_training_split(self, run, tmp_path):
        train, test = np.random.default_rng(0).integers(0, 256, (2, 40, 8, 8), dtype=np.uint8)
        np.savez(tmp_path / "samples.npz", data=train)
        np.savez(tmp_path / "data.npz", train=train, test=test)
        words = ["score", tmp_path / "samples.npz", tmp_path / "data.npz"]
        code, out, _ = run.words(
            *words, "--extractor", "pixels", "--training", tmp_path / "data.npz"
        )
        assert code == 0 and re.search(r"nearer to training +1.0000", out) and "0.0000" in out

    @pytest.mark.parametrize(
        ("flags", "told"),
        [
            (["--seed", 7], {"seed": 7}),
            (["--image-size", 5], {"size": (5, 5)}),
            (["--offline"], {"offline": True}),
            (["--extractor-weights", "w"], {"weights": "w"}),
        ],
        ids=str,
    )
    def test_flags_reach_what_they_are_of(self, run, folders, monkeypatch, flags, told):
        def build(name, input_dim, **options):
            seen.update(options, size=input_dim[1:])
            return load_extractor("pixels", input_dim)

        def scored(samples, *_, seed, **options):
            assert tuple(samples.shape[2:]) == seen["size"]
            seen["seed"] = seed
            raise DataError("that will do")

        seen = {}
        monkeypatch.setattr("pythae_fif.cli.score.load_extractor", build)
        monkeypatch.setattr("pythae_fif.cli.score.score_samples", scored)
        usual = {"seed": 0, "size": (8, 8), "offline": False, "weights": None}
        for given, expected in (([], usual), (flags, usual | told)):
            code, _, err = run.words("score", folders / "a", folders / "b", *given)
            assert (code, err) == (2, "error: that will do\n")
            assert {key: seen[key] for key in usual} == expected

    @pytest.mark.parametrize(
        ("names", "flags", "part"),
        [
            ("a b", ["--seed", -1], "--seed -1: at least 0 is needed"),
            ("a b", ["--num-samples", 99], "--num-samples: is for a saved model, and "),
            ("nowhere b", ["--num-samples", 99], "nowhere: "),
            ("c.npz c.npz", ["--image-size", 4], "--image-size: is for folders of images"),
            ("d.npz c.npz", ["--extractor", "pixels"], "d.npz has images of 3x6x6, "),
            ("c.npz c.npz", ["--extractor", "pixels", "--training", "d.npz"], "c.npz of 1x6x6"),
        ],
        ids=str,
    )
    def test_one_line_for_what_does_not_fit(self, run, folders, monkeypatch, names, flags, part):
        monkeypatch.chdir(folders)
        np.savez("c.npz", data=np.full((30, 6, 6), 90, np.uint8))
        np.savez("d.npz", data=np.arange(30 * 108).reshape(30, 6, 6, 3) % 251)
        code, _, err = run.words("score", *names.split(), *flags)
        assert code == 2 and part in err and err.count("\n") == 1

    @pytest.mark.filterwarnings("ignore:scores of")
    def test_a_model_of_grey_images_beside_a_folder_of_them(self, run, folders):
        """Read in the model's size, and as one channel."""
        FIF(FIFConfig(input_dim=(1, 4, 4), latent_dim=2)).save(str(folders / "model"))
        names = find_images(folders / "a")
        images = decode_files(folders / "a", names, image_size=4).images[:, :1]
        np.savez(folders / "a.npz", data=images)
        words = ("--extractor", "pixels", "--num-samples", 20)
        told = [
            run.words("score", folders / "model", folders / name, *words)
            for name in ("a", "a.npz", "b")
        ]
        assert [code for code, *_ in told] == [0, 0, 0]
        assert told[0][1] == told[1][1] != told[2][1]

    @pytest.mark.filterwarnings("default:scores of")
    def test_a_warning_is_one_line(self, run, folders):
        code, _, err = run.words("score", folders / "a", folders / "b", "--extractor", "pixels")
        assert code == 0 and err.startswith("warning: scores of 30 samples")
        assert err.count("\n") == 1

    def test_one_line_for_a_damaged_model_and_an_image_too_large(self, run, folders, monkeypatch):
        (folders / "model").mkdir()
        (folders / "model" / "model_config.json").write_text('{"input_dim": [1,')
        code, _, err = run.words("score", folders / "model", folders / "b")
        assert code == 2 and "no whole saved model" in err and err.count("\n") == 1
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4)
        code, _, err = run.words("score", folders / "a", folders / "b", "--extractor", "pixels")
        assert code == 2 and "b/0.png: cannot be decoded" in err and err.count("\n") == 1

    def test_one_line_for_what_is_no_images(self, run, folders):
        (folders / "empty").mkdir()
        code, _, err = run.words("score", folders / "empty", folders / "a", "--extractor", "pixels")
        assert code == 2 and "neither a folder of images" in err and err.count("\n") == 1

    @pytest.mark.parametrize(
        ("samples", "flags", "line"),
        [
            ("nowhere", [], "nowhere: no such file or folder"),
            ("b", ["--extractor", "tf-inception"], "extractor 'tf-inception': "),
        ],
    )
    def test_what_is_missing_is_told_before_samples_are_read(
        self, run, folders, monkeypatch, samples, flags, line
    ):
        read, images = [], pythae_fif.cli.score._images
        monkeypatch.setattr(
            "pythae_fif.cli.score._images",
            lambda path, *of, **how: read.append(path) or images(path, *of, **how),
        )
        code, _, err = run.words("score", folders / samples, folders / "a", *flags)
        assert code == 2 and line in err and err.count("\n") == 1
        assert folders / samples not in read


def test_runs_with_a_network_of_ones_own(run, tiny, tmp_path):
    """A run is told by what the network is, not by where it lies."""
    for place, kernel in (("a", 4), ("b", 4), ("c", 2)):
        (tmp_path / place).mkdir()
        network = torch.jit.script(torch.nn.Sequential(torch.nn.AvgPool2d(kernel)))
        network.save(str(tmp_path / place / "mine.pt"))
    ids = []
    for place, executed in (("a", 1), ("b", 0), ("c", 1)):
        (tmp_path / "b/mine.pt").write_bytes((tmp_path / "a/mine.pt").read_bytes())
        words = ("--config", tiny(), "--extractor", tmp_path / place / "mine.pt")
        code, _, err = run(*words)
        assert (code, run.executed, err) == (0, executed, "")
        assert "FD-mine" in (text := next(run.results.glob("tables/*-mine*.md")).read_text())
        assert "mem. / auth." in text and str(tmp_path / place) not in text
    for path in run.results.rglob("result.json"):
        record = read_json(path)
        ids.append(record["scores"]["normal"]["extractor_hash"])
        assert record["scores"]["normal"]["extractor"] == "mine.pt"
        assert set(record["scores"]["normal"]["memorisation"]["nearer"]) == {"val", "test"}
        config = (path.parent / "config.yaml").read_text()
        assert re.search(r"extractor: mine.pt@[0-9a-f]{16}\n", config)
    assert len(set(ids)) == 2
    (tmp_path / "c/mine.pt").write_text("no network")
    run.results = tmp_path / "others"
    code, _, err = run(*words)
    assert (code, run.executed) == (2, 0) and "cannot be loaded" in err and err.count("\n") == 1


class TestGrid:
    def test_grid_then_the_same_again(self, run, tiny, monkeypatch):
        monkeypatch.setattr("pythae_fif.reports.experiment.write_figure", write_figure)
        file = tiny(models=["fif", "ae"], samplers=["normal", "gmm"], seeds=[0, 1])
        code, out, err = run("--config", file, "--arch", "convnet")
        assert (code, run.executed) == (0, 6)
        assert err == ""
        assert "[6/6] finished ae –" in out
        table = run.results / "tables" / "digits-convnet-tiny-pixels.md"
        assert "| FIF † | GMM |" in table.read_text()
        made = "Made by `python run_benchmark.py --dataset digits --arch convnet --config FILE"
        assert made in table.read_text()
        with open(table.with_suffix(".csv")) as lines:
            rows = list(csv.DictReader(lines))
        assert [(row["model"], row["sampler"]) for row in rows] == [
            ("AE", "N"), ("AE", "GMM"), ("FIF", "N"), ("FIF", "GMM"),
        ]  # fmt: skip
        assert all(float(row["frechet_test_std"]) > 0 for row in rows)
        picture = Image.open(run.results / "figures" / "digits-convnet-tiny-pixels-samples.webp")
        assert np.asarray(picture.convert("L")).std() > 20

        before = {path: path.stat().st_mtime_ns for path in run.results.rglob("result.json")}
        again, out_again, _ = run("--config", file, "--arch", "convnet")
        assert (again, run.executed, len(before)) == (0, 0, 6)
        device, *table_again = out_again.splitlines()
        assert device == out.splitlines()[0] and device.startswith("device: ")
        assert "\n".join(table_again) in out
        assert before == {
            path: path.stat().st_mtime_ns for path in run.results.rglob("result.json")
        }

    def test_quiet_prints_the_table_alone(self, run, tiny):
        code, out, _ = run("--config", tiny(), "--quiet")
        assert code == 0
        assert "[1/1]" not in out
        assert "FD test" in out

    def test_more_models_add_only_their_runs(self, run, tiny):
        run("--config", tiny())
        assert run.executed == 1
        run("--config", tiny(models=["vae", "ae"]))
        assert run.executed == 1

    def test_failed_run_costs_itself_and_is_tried_again(self, run, tiny):
        file = tiny(models=["fif", "ae"], beta=[1e39], hutchinson_samples=[1])
        for attempt in (1, 2):
            code, out, _ = run("--config", file)
            assert (code, run.executed) == (1, 2 if attempt == 1 else 1)
            assert "1 run has no result" in out
            (failed,) = (run.results / "runs/digits/convnet/fif").iterdir()
            line = next(line for line in out.splitlines() if line.startswith("failed: "))
            assert str(failed) in line
            assert "epoch 1" in line
            status = read_json(failed / "status.json")
            assert status["attempt"] == attempt
            assert "Traceback" in status["traceback"]

    def test_no_run_after_so_many_failures(self, run, tiny):
        file = tiny(models=["fif", "ae"], beta=[1e39, 1e38], hutchinson_samples=[1])
        code, out, _ = run("--config", file, "--max-failures", "1")
        assert (code, run.executed) == (1, 1)
        assert "2 runs not started after 1 failure (--max-failures)" in out

    def test_a_time_limit_of_silence_reaches_the_engine(self, run, tiny, monkeypatch):
        batches = []
        run_all = lambda engine, batch, on_change: batches.append(batch) or []  # noqa: E731
        monkeypatch.setattr(LocalEngine, "run_all", run_all)
        assert run("--config", tiny(), "--run-timeout", "1m30s")[0] == 0
        assert [batch.run_timeout for batch in batches] == [90]

    def test_fewer_samplers_leave_the_table_whole(self, run, tiny):
        run("--config", tiny(models=["vae"], samplers=["normal", "gmm"]))
        table = run.results / "tables" / "digits-convnet-tiny-pixels.md"
        assert "| GMM |" in table.read_text()
        before = table.read_text().splitlines()[:6]
        _, out, _ = run("--config", tiny(models=["vae"]))
        assert run.executed == 0 and "GMM" not in out
        assert table.read_text().splitlines()[:6] == before

    def test_nothing_but_failures(self, run, tiny):
        code, out, _ = run("--config", tiny(models=["fif"], beta=[1e39], hutchinson_samples=[1]))
        assert code == 1
        assert "failed: " in out
        assert not (run.results / "tables").exists()

    def test_results_and_note_do_not_change_what_is_done(self, run, tiny, tmp_path):
        run("--config", tiny())
        (first,) = run.results.rglob("result.json")
        run("--config", tiny({"note": "another"}), "--data-root", tmp_path, "--offline")
        assert run.executed == 0
        run.results = tmp_path / "elsewhere"
        run("--config", tiny())
        (second,) = run.results.rglob("result.json")
        assert first.parent.name == second.parent.name


class TestOwnImages:
    @pytest.fixture
    def folder(self, tmp_path) -> Path:
        generator = np.random.default_rng(0)
        folder = tmp_path / "images"
        folder.mkdir()
        for index in range(110):
            pixels = generator.integers(0, 256, (12, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{index:03}.png")
        return folder

    def test_folder(self, run, tiny, folder, monkeypatch, caplog):
        opened = []
        monkeypatch.setattr(webbrowser, "open", lambda page: opened.append(page) or len(opened) > 1)
        code, out, err = run("--dataset", "folder", "--data", folder, "--config", tiny(),
                             "--image-size", "8", "--open")  # fmt: skip
        assert (code, err) == (0, "")
        assert "AE" in out
        assert "folder images, 8x8" in " ".join(out.split())
        assert out.count("\n· ") == 4 and " more notes are on the page" in out
        page = next(run.results.glob("pages/*.html"))
        assert out.splitlines()[-1] == f"open: {page}" and opened == [page.as_uri()]
        (table,) = run.results.glob("tables/folder-images-resnet-tiny-8px-pixels-??????.md")
        assert "there is no browser here" in caplog.text
        text = table.read_text()
        caplog.clear()
        run(
            "--dataset",
            "folder",
            "--data",
            folder,
            "--config",
            tiny(),
            "--image-size",
            "8",
            "--open",
        )
        assert len(opened) == 2 and "browser" not in caplog.text
        assert "--data images" in text
        assert str(folder) not in text

    def test_undecodable_image_is_named_and_can_be_skipped(self, run, tiny, folder):
        (folder / "050.png").write_bytes(b"no image")
        flags = ("--dataset", "folder", "--data", folder, "--config", tiny(), "--image-size", "8")
        code, _, err = run(*flags)
        assert code == 2
        assert "1 of 110 images cannot be decoded" in err
        assert "050.png" in err
        code, out, _ = run(*flags, "--skip-undecodable")
        assert code == 0
        assert "1 undecodable images left out" in " ".join(out.split())

    def test_npz_of_images_that_are_not_square(self, run, tiny, tmp_path):
        for seed, samplers in ((1, ["normal"]), (0, ["normal", "gmm"])):  # two files of one name
            file = tmp_path / str(seed) / "own.npz"
            file.parent.mkdir()
            np.savez(file, data=np.random.default_rng(seed).random((100, 3, 6, 11)))
            config = tiny(dataset="npz", data=str(file), samplers=samplers)
            code, out, _ = run("--config", config)
            assert code == 0
        assert len([*run.results.glob("tables/npz-own-*.md")]) == 2
        assert len([*run.results.glob("figures/npz-own-*-samples.webp")]) == 2
        (sheet,) = run.results.rglob("samples-gmm.png")
        assert Image.open(sheet).size == (8 * 11, 8 * 6)
        assert "npz own.npz, shuffled 80/10/10" in " ".join(out.split())

    @pytest.mark.parametrize(
        ("extractor", "more", "line"),
        [
            ("classifier", {}, "'classifier' needs class labels, and this data set has none"),
            ("classifier", {"labels": np.zeros(100, int)}, "at least two classes counted from 0"),
            ("columns", {}, "'columns' does not take images: choose pixels"),
        ],
        ids=("no labels", "one class", "columns"),
    )
    def test_extractor_of_other_data(self, run, tiny, tmp_path, caplog, extractor, more, line):
        images = np.arange(6400, dtype=np.uint8).reshape(100, 8, 8)
        np.savez(tmp_path / "own.npz", data=images, **more)
        words = ("--dataset", "npz", "--data", tmp_path / "own.npz", "--config", tiny(),
                 "--extractor", extractor)  # fmt: skip
        code, _, err = run(*words)
        assert (code, run.executed, err.count("\n")) == (2, 0, 1) and line in err
        assert run(*words, "--dry-run")[0] == 0
        assert "no run would start: " in caplog.text and line in caplog.text

    @pytest.mark.parametrize(
        "steps, told",
        [(4, ["2 runs of 4 steps may take days on a CPU: --profile tiny is shorter, and"]),
         (8, [])],
    )  # fmt: skip
    def test_a_cpu_is_warned_of_days(self, run, tmp_path, monkeypatch, caplog, steps, told):
        monkeypatch.setattr("pythae_fif.cli.run.MANY_STEPS", steps)
        short = {**PROFILE, "configurations": 1}
        profiles = {"tiny": short, "long": {**short, "epochs": 2}}
        content = {"extractor": "pixels", "profiles": profiles, "profile": "long"}
        (tmp_path / "two.yaml").write_text(yaml.safe_dump(content))
        words = ("--config", tmp_path / "two.yaml", "--models", "ae", "vae", "--seeds", 0)
        assert run(*words, "--samplers", "normal")[0] == 0
        told_days = [line for line in caplog.messages if "may take days" in line]
        assert len(told_days) == len(told)
        assert all(line.startswith(start) for line, start in zip(told_days, told, strict=True))

    def test_weights_of_an_extractor_that_has_none(self, run, tiny):
        code, _, err = run("--config", tiny(), "--extractor-weights", "w")
        assert (code, run.executed) == (2, 0)
        assert err == "error: extractor 'pixels' takes no weights (--extractor-weights)\n"


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "parts"),
        [
            (["--latent-dims", "3"], ["'--latent-dims'", "did you mean '--latent-dim'"]),
            (["--latent-dims=3"], ["'--latent-dims'", "did you mean '--latent-dim'"]),
            (["lst"], ["unknown command 'lst': did you mean 'list'? valid: run, study, list, "]),
            (["results"], ["unknown command 'results': valid: run, study"]),
            (["run", "digits"], ["run does not take 'digits'"]),
            (["--latent-dim", "x"], ["--latent-dim", "int", "'x'"]),
            (["--latent-dim", "0"], ["--latent-dim 0: at least 1"]),
            (["--models"], ["--models", "at least one"]),
            (["--models", "fiff"], ["--models 'fiff'", "did you mean 'fif'", "vae"]),
            (["--dataset", "digit"], ["--dataset 'digit'", "did you mean 'digits'"]),
            (["--arch", "resnet_fc"], ["--arch 'resnet_fc'", "resnet_fc2", "resnet_fc4"]),
            (["--profile", "paper"], ["--profile 'paper'", "quick"]),
            (["--beta", "-1"], ["--beta", "beta=-1", "at least 0"]),
            (["--beta", "nan"], ["--beta", "beta=nan"]),
            (["--beta", "3", "3"], ["--beta", "none twice"]),
            (["--beta", "3", "--models", "ae"], ["--beta [3.0]", "fif"]),
            (["--hutchinson-samples", "99"], ["--hutchinson-samples", "=99: at most 8"]),
            (["--hutchinson-samples", "0"], ["--hutchinson-samples", "=0", "at least 1"]),
            (["--image-size", "16"], ["image_size=16", "8x8"]),
            (["--data", "here"], ["--data", "folder, npz and csv"]),
            (["--dataset", "folder"], ["'folder'", "--data"]),
            (["--dataset", "folder", "--data", "nowhere"], ["nowhere", "--data"]),
            (["--dataset", "npz", "--data", "nowhere.npz"], ["nowhere.npz: no such file"]),
            (["--dataset", "npz", "--data", "."], [": a folder (choose --dataset folder)"]),
            (
                ["--config", "toy.yaml"],
                ["toy.yaml: dataset 'circle' is of a study: run `study toy"],
            ),
            (["--config", "toys.yaml"], ["toys.yaml: dataset 'circl' is unknown: did you mean"]),
            (
                ["--dataset", "mnist", "--data-root", "nowhere", "--extractor", "pixels"],
                ["nowhere", "--data-root"],
            ),
            (
                ["--dataset", "mnist", "--data-root", ".", "--offline", "--extractor", "pixels"],
                ["mnist", "--offline"],
            ),
            (["--config", "nowhere.yaml"], ["nowhere.yaml"]),
            (["--config", "."], ["cannot read ."]),
            (["--config", "own.yaml"], ["own.yaml", "'epoch'", "did you mean 'epochs'"]),
            (["--results", "own.yaml/results"], ["own.yaml/results", "--results"]),
            (["--wall-clock", "90"], ["--wall-clock '90'", "no duration", "5h"]),
            (["--table", "3"], ["--table 3", "valid: 2"]),
            (["--table", "2", "--config", "own.yaml"], ["--table and --config"]),
            (["--max-failures", "0"], ["--max-failures 0: at least 1"]),
            (["list", "--dataset", "mnist"], ["unknown flag '--dataset' of list"]),
            (["verify"], ["RESULTS"]),
            (["verify", ".", "--offline"], ["unknown flag '--offline' of verify"]),
            (["study"], ["NAME"]),
            (["study", "--seeds"], ["'--seeds'"]),
        ],
        ids=" ".join,
    )
    def test_one_line_and_exit_code_2(self, tmp_path, monkeypatch, capsys, arguments, parts):
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("PYTHAE_FIF_DATA", raising=False)
        Path("own.yaml").write_text("profiles: {quick: {epoch: 1}}")
        Path("toy.yaml").write_text("dataset: circle")
        Path("toys.yaml").write_text("dataset: circl")
        assert cli.main(arguments) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        for part in parts:
            assert part in err

    def test_tables_folder_that_is_a_file(self, run, tiny):
        run.results.mkdir()
        (run.results / "tables").write_text("")
        code, out, err = run("--config", tiny())
        assert code == 2
        assert "FD test" in out
        assert str(run.results / "tables") in err
        assert err.count("\n") == 1


def _descendants(pid: int) -> set[int]:
    """The processes below one, by Linux' /proc."""
    found, todo = set(), [pid]
    while todo:
        tasks = Path(f"/proc/{todo.pop()}/task").glob("*/children")
        children = {int(child) for file in tasks for child in file.read_text().split()}
        todo += children - found
        found |= children
    return found


class TestStudies:
    @pytest.mark.parametrize(
        ("flags", "told"),
        [
            (["--data-root", "there"], {"data_root": "there"}),
            (["--offline"], {"offline": True}),
            (["--models", "fif", "rectangular_flow"], {"models": ["fif", "rectangular_flow"]}),
            (["--run-timeout", "2m"], {"run_timeout": 120, "engine": None}),
            (
                ["--run-timeout", "2m", "--cpus-per-run", "1"],
                {"run_timeout": 120, "engine": LocalEngine(cpus_per_run=1, run_timeout="2m")},
            ),
            (["--engine", "local"], {"engine": LocalEngine()}),
            (["--runs-per-gpu", "3"], {"engine": LocalEngine(runs_per_gpu=3)}),
        ],
        ids=str,
    )
    def test_flags_reach_the_study(self, tmp_path, monkeypatch, flags, told):
        asked = []
        monkeypatch.setattr(
            studies, "run_study", lambda name, options, watch: asked.append(options) or []
        )
        words = ["study", "tabular", "--results", str(tmp_path), "--quiet"]
        assert cli.main(words) == cli.main([*words, *flags]) == 0
        usual, options = asked
        assert usual == studies.StudyOptions(tmp_path)
        assert options == dataclasses.replace(usual, **told)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["study", ""], "study '' is unknown: valid: sinusoid"),
            (["study", "lineer"], "study 'lineer' is unknown: did you mean 'linear'?"),
            (["--dataset", "sinusiod"], "--dataset 'sinusiod' is unknown: did you mean 'sinusoid'"),
            (["study", "linear", "--beta", "3"], "unknown flag '--beta' of study linear"),
            (
                ["--dataset", "circle", "--dry-run"],
                "unknown flag '--dry-run' of study toy (data set circle): ",
            ),
            (["--dataset=circle", "--latent-dim", "2"], "unknown flag '--latent-dim' of study toy"),
            (
                ["--dataset", "digits", "--dataset", "circle", "--beta", "2"],
                "unknown flag '--beta' of",
            ),
            (["run", "--dataset", "circle", "--wall-clock", "5h"], "unknown flag '--wall-clock'"),
            (["study", "linear", "--dataset", "mnist"], "unknown flag '--dataset' of study linear"),
            (["study", "curvature", "--models", "ae"], "unknown flag '--models' of study"),
            (["--dataset", "sinusoid", "--data", "x"], "unknown flag '--data' of study sinusoid"),
            (["study", "linear", "--profile", "slow"], "profile 'slow' is unknown"),
            (["study", "spectrum", "--dataset", "folder"], "study spectrum has no data set 'f"),
            (
                ["study", "estimator", "--dataset", "npz"],
                "study estimator has no data set 'npz': valid: digits, mnist, cifar10, celeba",
            ),
            (["study", "spectrum", "--dataset", "csv"], "study spectrum has no data set 'csv': v"),
            (["study", "toy", "--dataset", "spirl"], "study toy has no data set 'spirl': did you"),
            (["study", "linear", "--seeds", "1", "2"], "--seeds [1, 2]: study linear takes one"),
            (["study", "curvature", "--seeds", "1", "1"], "--seeds [1, 1]: give at least one"),
            (["study", "linear", "--seeds", "-5"], "--seeds -5: at least 0"),
            (["--dataset", "power", "--seeds", "4294967296"], "--seeds 4294967296: below 42949"),
            (["study", "estimator", "--seeds", "9" * 23], f"--seeds {'9' * 23}: below 4294967296"),
            (["study", "tabular", "--models", "fif", "fif"], "--models ['fif', 'fif']: give at le"),
            (["study", "tabular", "--latent-dim", "0"], "--latent-dim 0: at least 1"),
            (["study", "spectrum", "--latent-dim", "-1"], "--latent-dim -1: at least 1"),
            (["study", "linear", "--results", "s3://a/b"], "--results s3://a/b: studies write to"),
        ],
    )
    def test_bad_input_is_one_line(self, tmp_path, monkeypatch, capsys, arguments, message):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(LocalEngine, "run_all", None)
        assert cli.main(arguments) == 2
        assert not [*tmp_path.iterdir()]
        err = capsys.readouterr().err
        assert err.startswith(f"error: {message}")
        assert err.count("\n") == 1


class TestInceptionWeights:
    def test_without_weights_nothing_is_trained(self, run, tiny, monkeypatch, tmp_path):
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        code, _, err = run("--config", tiny(extractor="inception"), "--offline")
        assert (code, run.executed) == (2, 0)
        assert err.startswith("error: extractor 'inception' has no weights (no file ")
        assert "efficientnet-lite0 works offline" in err
        assert err.count("\n") == 1

    def test_another_file_is_refused(self, run, tiny, tmp_path):
        file = tmp_path / "weights.pth"
        file.write_bytes(b"0")
        flags = ("--extractor-weights", str(file))
        code, _, err = run("--config", tiny(extractor="inception"), *flags)
        assert (code, run.executed) == (2, 0)
        assert err.startswith("error: extractor 'inception' has no weights (")
        assert "sha256" in err


class TestProgram:
    """The program from its own file."""

    PROGRAM = str(ROOT / "run_benchmark.py")

    def test_bad_flag(self, monkeypatch, capsys):
        monkeypatch.setattr(sys, "argv", [self.PROGRAM, "--betas"])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(self.PROGRAM, run_name="__main__")
        assert ended.value.code == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("error: unknown flag '--betas' of run: did you mean '--beta'?")
        assert err.count("\n") == 1

    @pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux' /proc")
    def test_interrupt_in_the_middle_of_a_grid_then_the_same_command(self, tiny, tmp_path, capsys):
        results = tmp_path / "results"
        # One run more than there is room for: it starts when the first one is finished.
        runs = len(LocalEngine().slots()) + 1
        file = tiny({"epochs": 8}, seeds=list(range(runs)))
        arguments = ["--config", file, "--results", str(results)]
        program = subprocess.Popen(
            [sys.executable, self.PROGRAM, *arguments],
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # A job in the background of a shell without job control ignores SIGINT, and with it
            # whatever it starts; this program is to stand for one in the foreground.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        try:
            states: list[str] = []
            while len(states) < runs or set(states) != {"finished", "running"}:
                assert program.poll() is None
                time.sleep(0.02)
                states = self._states(results)
            descendants = _descendants(program.pid)
            os.killpg(program.pid, signal.SIGINT)
            _, err = program.communicate(timeout=60)
        finally:
            program.kill()
        assert program.returncode == 130
        said = "finished runs are kept; the same command goes on from the last checkpoints"
        assert err.decode() == f"interrupted: {said}\n"
        assert descendants
        deadline = time.monotonic() + 10
        while any(Path(f"/proc/{pid}").exists() for pid in descendants):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        states = self._states(results)
        assert len(states) == runs and set(states) == {"finished", "interrupted"}

        finished = {p: p.stat().st_mtime_ns for p in results.rglob("result.json")}
        assert finished
        assert cli.main(arguments) == 0
        assert capsys.readouterr().err == ""
        assert self._states(results) == ["finished"] * runs
        after = {p: p.stat().st_mtime_ns for p in results.rglob("result.json")}
        assert len(after) == runs
        assert finished.items() <= after.items()

    @staticmethod
    def _states(results: Path) -> list[str]:
        return [(read_json(path) or {}).get("state", "") for path in results.rglob("status.json")]


def test_wheel_contains_the_package_and_the_configurations(tmp_path):
    pytest.importorskip("setuptools", minversion="77")
    source = tmp_path / "source"  # a copy, for setuptools leaves its own files behind
    for name in ("pythae_fif", "benchmark_configs"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet",
         "--wheel-dir", str(tmp_path), str(source)],
        check=True,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    files = {path.relative_to(configs_dir()).as_posix() for path in configs_dir().rglob("*.yaml")}
    assert "models/fif.yaml" in files
    assert {f"pythae_fif/configs/{file}" for file in files} <= names
    package = [path.relative_to(source) for path in (source / "pythae_fif").rglob("*.*")]
    assert {path.as_posix() for path in package} <= names
