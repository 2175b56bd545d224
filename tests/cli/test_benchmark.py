"""The command `run`: plan, runs, table, exit code, and the progress display."""

import io
import re
import runpy
import shutil
import sys
import time
from pathlib import Path
from unittest import mock

import pytest
import torch
import yaml
from support.experiments import PROFILE
from support.folders import score_times
from support.image_files import fill_celeba
from support.reference import ROOT
from support.tasks import TaskSpec

from pythae_fif import cli
from pythae_fif.benchmark import estimate
from pythae_fif.benchmark import job as job_module
from pythae_fif.cli.display import Terminal
from pythae_fif.evaluation import Extractor, networks
from pythae_fif.files import read_json
from pythae_fif.runs.launch import Progress
from pythae_fif.runs.local import cores
from pythae_fif.runs.worker import Status

pytestmark = pytest.mark.filterwarnings("ignore:scores of 20 samples")


class TestRun:
    def test_a_grid_and_the_same_command_again(self, run, tiny):
        file = tiny(models=["fif", "ae"], samplers=["normal", "gmm"], seeds=[0, 1])
        code, out, err = run("--config", file)
        assert (code, run.executed, err) == (0, 6, "")
        assert out.startswith("device: CPU")
        for part in ("6 runs: 6 done; 100%", "FIF", "written: "):
            assert part in out
        page = run.results / "digits-convnet-tiny.html"
        assert f"written: {page}" in out.splitlines()
        assert page.is_file()
        first_scores = score_times(run.results)
        assert len(first_scores) == 12

        code, second_out, _ = run("--config", file)
        assert (code, run.executed) == (0, 0)
        assert score_times(run.results) == first_scores
        table_lines = second_out.splitlines()
        assert table_lines == out.splitlines()[-len(table_lines) :]
        assert cli.main(["verify", str(run.results)]) == 0

    def test_more_models_and_samplers_add_only_what_is_missing(self, run, tiny):
        assert run("--config", tiny())[0] == 0
        assert run.executed == 1
        first_scores = score_times(run.results)

        code, out, _ = run("--config", tiny(models=["vae", "ae"]))
        assert (code, run.executed) == (0, 1)
        assert "VAE" in out

        code, out, _ = run("--config", tiny(samplers=["normal", "gaussian"]))
        assert (code, run.executed) == (0, 1)
        assert "VAE" not in out, "the printed table has only this command's runs"
        assert first_scores.items() < score_times(run.results).items()
        table = run.results / "tables/digits-convnet-tiny.md"
        assert "VAE" in table.read_text()

        assert run("--config", tiny(), "--learning-rate", "0.2")[0] == 0
        assert run.executed == 1
        assert "VAE" not in table.read_text(), "runs of another learning rate are not comparable"
        assert "(1 seed" in table.read_text()

    def test_a_packed_run_is_trained_again_only_for_another_sampler_or_more_samples(
        self, run, tiny
    ):
        words = ("--config", tiny(samplers=["normal", "gmm"]))
        assert run(*words)[0] == 0
        (folder,) = (run.results / "runs").glob("*/*/*/*")

        pack = runpy.run_path(str(ROOT / "results/reference/add.py"))["packed"]
        line = pack(folder, folder.relative_to(run.results / "runs").as_posix())
        (run.results / "runs/tiny.jsonl").write_text(line.model_dump_json() + "\n")
        shutil.rmtree(folder)

        requests = [
            ((), 0, 2),
            (("--samplers", "gaussian"), 1, 1),
            ((), 1, 2),
            (("--num-samples", "30"), 1, 2),
        ]
        for flags, executed, columns in requests:
            code, out, _ = run(*words, *flags)
            assert (code, run.executed) == (0, executed)
            assert re.search(rf"^ AE( †)?( +[\d.]+ ± [\d.]+ ?=?){{{columns}}} ", out, re.M)

    def test_a_failed_run_does_not_affect_others_and_is_retried(self, run, tiny):
        file = tiny(models=["fif", "ae"], beta=[1e39], hutchinson_samples=[1])
        for attempt in (1, 2):
            code, out, err = run("--config", file)
            assert (code, run.executed) == (1, 2 if attempt == 1 else 1)
            assert re.search(r"^failed: fif .*epoch 1", out, re.M)
            assert err == "error: 1 run without a record; the same command tries again\n"
            (status,) = (run.results / "runs/digits/convnet/fif").glob("*/status.json")
            assert read_json(status)["attempt"] == attempt
        assert "1 run without a result" in out

    def test_a_results_folder_that_cannot_be_written_is_one_error_line(self, run, tiny):
        run.results.touch()
        code, _, err = run("--config", tiny())
        assert code == 2
        assert f"cannot write {run.results}: Not a directory" in err

    def test_a_users_model_that_fails(self, run, tiny, tmp_path, monkeypatch):
        """The other models are compared."""
        (tmp_path / "sick.py").write_text(
            "from pythae.models import AE, AEConfig\n"
            "class Sick(AE):\n"
            "    def forward(self, inputs, **kwargs):\n        return {}['loss']\n"
        )
        entry = {"label": "Sick", "source": "ours", "model": "sick.Sick"}
        entry["config"] = "pythae.models.AEConfig"
        (tmp_path / "sick_ae.yaml").write_text(yaml.safe_dump(entry))
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", list(sys.path))

        words = ("--config", tiny(), "--models", "sick_ae.yaml", "ae")
        code, out, err = run(*words, "--dry-run")
        assert "estimate: 0:00:0" in out
        assert code == 1
        assert err == "error: model sick_ae fails in a short run: KeyError: 'loss'\n"

        code, out, _ = run(*words)
        assert (code, run.executed) == (1, 2)
        assert "failed: sick_ae – seed 0: KeyError: 'loss'" in out
        assert "AE" in out
        sys.modules.pop("sick")

    def test_a_users_table(self, run, tmp_path):
        rows = [f"{100 + i % 7},{0.01 * (i % 11)},{i * 37 % 50}" for i in range(120)]
        (tmp_path / "w.csv").write_text("\n".join(["height,width,n", *rows]))
        content = {"profile": "tiny", "profiles": {"tiny": PROFILE}}
        (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(content))
        words = ["--dataset", "csv", "--data", tmp_path / "w.csv", "--samplers", "normal"]
        words += ["--config", tmp_path / "tiny.yaml"]

        code, out, err = run(*words, "--models", "fif", "vae")
        assert (code, run.executed, err) == (0, 3, "")
        assert "FID-like" in out

        code, _, err = run(*words, "--models", "vaegan")
        assert code == 2
        assert "model vaegan takes images only" in err

        code, _, err = run(*words, "--extractor", "pixels")
        assert code == 2
        assert "extractor 'pixels' does not take a table" in err

    @pytest.mark.slow
    @pytest.mark.timeout(1200)
    @pytest.mark.filterwarnings("ignore:scores of 30 samples")
    def test_the_published_protocol_on_celeba(self, run, tmp_path, monkeypatch):
        """All of its 42 runs, with one epoch each and a small network instead of Inception."""
        weights = tmp_path / "weights.pth"
        torch.save({}, weights)
        extractor = Extractor("inception", "FID", torch.nn.AdaptiveAvgPool2d(2), "0" * 16)
        monkeypatch.setattr(networks, "weights_file", lambda *_, **__: weights)
        monkeypatch.setattr(networks, "inception", lambda *_: extractor)
        monkeypatch.setattr(
            job_module, "marginal_likelihoods", lambda *_, **__: {}
        )  # half a minute

        words = "--dataset celeba --arch resnet --epochs 1 --num-samples 30"
        root = fill_celeba(tmp_path, (40, 30, 30))
        code, out, _ = run(*words.split(), "--data-root", root)
        assert (code, run.executed) == (0, 42)
        assert "FID" in out
        for label in ("FIF", "AE", "VAE", "β-VAE", "WAE-IMQ", "RAE-L2"):
            assert re.search(rf" {label}( †)?( +\d\.\d\d ± \d\.\d\d =?){{3}}", out)

    def test_runs_on_a_wall_clock_do_not_share_a_device(self, run, tiny, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        words = ("--config", tiny(), "--wall-clock", "0.1s", "--seeds")
        assert run(*words, 0)[0] == 0
        assert run.engine.cpus_per_run == cores()
        assert run(*words, 1, "--cpus-per-run", 1)[0] == 0
        assert run.engine.cpus_per_run == 1
        assert run.engine.runs_per_gpu == 1


class TestDryRun:
    def test_it_prints_plan_and_time_and_writes_nothing(self, run, tiny):
        code, out, err = run("--config", tiny(models=["fif", "ae"]), "--dry-run")
        assert (code, err, run.executed) == (0, "", 0)
        assert "3 runs, 3 of them to do" in out
        assert "beta=10, hutchinson_samples=2" in out
        words = " ".join(out.split())
        assert re.search(r"model runs training samplers, scores all its runs .*fif 2 \d:", words)
        assert re.search(
            r"estimate: 0:\d\d:\d\d one after the other, 0:\d\d:\d\d with 1 run", words
        )
        assert not run.results.exists()

    @pytest.mark.parametrize(("seconds", "has_lines"), [(0, True), (1000, False)])
    def test_its_progress_is_a_line_from_time_to_time(
        self, run, tiny, monkeypatch, seconds, has_lines
    ):
        monkeypatch.setattr("pythae_fif.cli.display.LINE_SECONDS", seconds)
        _, out, _ = run("--config", tiny(models=["fif", "ae"]), "--dry-run")
        line = r"^timing: 1 of 2(, 0:00:\d\d left)?$"
        assert bool(re.search(line, out, re.MULTILINE)) == has_lines

    def test_it_times_each_model_with_its_samplers_and_says_what_is_shorter(
        self, run, tiny, monkeypatch
    ):
        monkeypatch.setattr(estimate, "TIMING_SECONDS", 0.1)
        models = ["fif", "ae", "vae"]
        words = ("--config", tiny(models=models, samplers=["normal", "maf"]), "--dry-run")
        code, out, _ = run(*words)
        assert code == 0
        for model in models:
            assert re.search(rf"^{model} +\d( +0:\d\d:\d\d){{3}}$", out, re.MULTILINE)
        assert "shorter: a smaller --num-samples, fewer --samplers, a shorter --profile" in out

    def test_a_folder_that_cannot_be_written_is_an_error(self, run, tiny):
        run.results = Path("/proc/foo")
        code, _, err = run("--config", tiny(), "--dry-run")
        assert code == 2
        assert err.startswith("error: cannot write /proc/foo")

    def test_a_sampler_that_fails_is_one_error_line(self, run, tiny, monkeypatch):
        monkeypatch.setattr(job_module, "generate", lambda *_, **__: {}["x"])
        code, _, err = run("--config", tiny(), "--dry-run")
        assert code == 1
        assert err == "error: model ae fails in a short run: sampler normal: KeyError: 'x'\n"

    @pytest.mark.parametrize("peak", [7 * 2**30, 1])
    def test_it_prints_the_memory_that_a_run_needs(self, run, tiny, monkeypatch, peak):
        """A run also needs a context, and the features of training images."""
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: peak)
        _, out, _ = run("--config", tiny(), "--dry-run")
        assert f"GPU memory of a run: {1 + peak // 2**30}.0 GB; --runs-per-gpu" in out

    def test_it_prints_the_ids_of_the_runs(self, run, tiny):
        _, out, _ = run("--config", tiny(), "--dry-run")
        run("--config", tiny())
        (folder,) = (run.results / "runs/digits/convnet/ae").iterdir()
        assert folder.name in out
        code, out, _ = run("--config", tiny(), "--dry-run")
        assert code == 0
        assert "1 run, 0 of them to do" in out
        assert "estimate" not in out


class TestMissingFiles:
    """Missing data and weights are reported before anything is computed."""

    @pytest.fixture(autouse=True)
    def fresh_machine(self, tmp_path, monkeypatch):
        """A machine with an empty home folder, without data."""
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("PYTHAE_FIF_CACHE", str(tmp_path / "cache"))
        for name in ("PYTHAE_FIF_DATA", "TORCH_HOME", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(torch.hub, "_hub_dir", None)

    @pytest.mark.parametrize("flags", [(), ("--dry-run",)])
    def test_offline_names_all_missing_files(self, run, tmp_path, flags):
        words = ("--dataset", "celeba", "--arch", "resnet", "--offline", *flags)
        code, out, err = run(*words)
        assert (code, out) == (2, "")
        weights_line, data_line = err.splitlines()
        weights_folder = tmp_path / ".cache/torch/hub/checkpoints"
        for part in ("error: extractor 'inception'", "pt_inception-2015", str(weights_folder)):
            assert part in weights_line
        for part in ("error: celeba: ", "mmlab.ie.cuhk.edu.hk", ".cache/pythae-fif/data/celeba"):
            assert part in data_line
        assert [*tmp_path.glob("results*")] == []

    @pytest.mark.parametrize(
        ("dataset", "model", "downloads"),
        [
            ("digits", "ae", ["Inception's weights, 96 MB"]),
            ("celeba --image-size 16", "ae", ["Inception's weights, 96 MB", "CelebA, 1,490 MB"]),
        ],
    )
    def test_a_dry_run_lists_downloads_and_estimates_without_them(
        self, run, tmp_path, monkeypatch, dataset, model, downloads
    ):
        monkeypatch.setattr(
            "torch.hub.download_url_to_file", lambda *_, **__: pytest.fail("it does")
        )
        monkeypatch.setattr(estimate, "EXAMPLES", 40)
        monkeypatch.setattr(estimate, "MIN_EXAMPLES", 40)
        words = f"--dataset {dataset} --models {model} --dry-run --extractor inception --epochs 3"
        code, out, err = run(*words.split())
        assert (code, err) == (0, "")
        lines = [line for line in out.splitlines() if line.startswith("to download: ")]
        assert [line[len("to download: ") :].partition(", to /")[0] for line in lines] == downloads
        assert "estimate: " in out
        assert [*tmp_path.glob("results*")] == []

    def test_runs_with_another_extractor_do_not_hide_a_download(self, run, tiny, monkeypatch):
        monkeypatch.setattr(estimate, "EXAMPLES", 40)
        monkeypatch.setattr(estimate, "MIN_EXAMPLES", 40)
        assert run("--config", tiny())[0] == 0
        code, out, err = run("--config", tiny(), "--extractor", "inception", "--dry-run")
        assert (code, err) == (0, "")
        assert "to download: Inception's weights" in out


@pytest.mark.parametrize(("ended_by", "train_seconds"), [("num_epochs", 2.0), ("wall_clock", 3.0)])
def test_an_estimate_scales_training_with_the_data_and_not_the_evaluation(
    monkeypatch, ended_by, train_seconds
):
    epoch = mock.Mock(seconds=5.0, train_seconds=2.0)
    records = {"normal": mock.Mock(), "maf": mock.Mock()}
    result = mock.Mock(scores=records)
    result.training.result = mock.Mock(
        log=[mock.Mock(seconds=99.0, train_seconds=99.0), epoch],
        ended_by=ended_by,
        images=10,
        train_seconds=3.0,
    )
    result.training.provenance.seconds = 10.0
    records["normal"].provenance.seconds = 14.0
    records["maf"].provenance.seconds = 17.0
    monkeypatch.setattr(estimate, "execute_run", mock.Mock())
    monkeypatch.setattr(estimate, "read", lambda *_: result)

    scorings = [mock.Mock(num_samples=100, sampler=name, fit_steps=150) for name in records]
    short_job = mock.Mock(scorings=[mock.Mock(num_samples=50)] * 2)
    monkeypatch.setattr(estimate, "_shorten", lambda *_: short_job)
    training = mock.Mock(epochs=3, wall_clock=None)
    job = mock.Mock(training=training, scorings=scorings)
    subset = mock.Mock(train=range(10))
    time = estimate._time_job(job, subset, num_train=40, seconds=1)
    assert time.training == pytest.approx(3 * (4 * train_seconds + 3.0))
    # Twice as many samples, or five times as many steps of the fit.
    assert time.scoring == 2 * 4.0 + 150 / estimate.FIT_STEPS * 3.0


def _training(share: float) -> Status:
    return Status(state="running", stage="training", share=share)


class TestDisplay:
    @pytest.fixture
    def specs(self):
        return [TaskSpec(seed=seed) for seed in range(4)]

    @staticmethod
    def display(states, terminal: bool, width: int = 90) -> str:
        """Returns what the console writes while the progress has these states."""
        console = Terminal()
        console.file = io.StringIO()
        console.width = width
        with console.runs() as on_change:
            for state in states:
                on_change(state)
                time.sleep(0.2 if terminal else 0)  # rich draws ten times a second
        return console.file.getvalue()

    def test_one_line_per_run_without_a_terminal(self, specs):
        first = Progress(4, 1, {}, {specs[1]: _training(0.5)})
        second = Progress(4, 1, {specs[1]: "NaN [2J"}, {specs[2]: _training(0.1)})
        failed, state = self.display([first, second], terminal=False).splitlines()
        assert failed == f"failed: {specs[1].title}: NaN [2J"
        assert state.startswith("4 runs: 1 done, 1 failed, 1 running; 52%")
        assert self.display([first], terminal=False) == ""

    def test_titles_are_shortened_before_counts_and_time_left(self, specs, monkeypatch):
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("FORCE_COLOR", "1")
        spec = mock.Mock(title="wae_imq reg_weight=0.001, kernel_bandwidth=0.5 seed 0")
        state = Progress(18, 1, {}, {spec: _training(0.3)})
        out = self.display([state, state], terminal=True, width=80)
        text = re.sub(r"\x1b\[[\d;?]*\w", "", out)
        assert re.search(
            r"18 runs: 1 done, 1 running ━\S+ +\d+% (-|\d):\S+ wae_imq.*…: training", text
        )

    def test_bars_and_the_time_left_on_a_terminal(self, specs, monkeypatch):
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("FORCE_COLOR", "1")
        states = [Progress(4, 0, {}, {specs[0]: _training(share)}) for share in (0.3, 0.9)]
        out = self.display(states, terminal=True)
        assert "4 runs: 1 running" in out
        assert "training" in out
        assert re.search(r"22%\S* \S*0:00:0\d", out), "the time left comes from all runs so far"
