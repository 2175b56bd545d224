"""Tables and pictures of a fixed set of records, against what is expected of them."""

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from pythae_fif.benchmark import RunSpec, load_experiment
from pythae_fif.reports import build_report, sample_figure, write_report
from pythae_fif.reports.table import Report, Row, to_csv, to_markdown, to_terminal

VERSIONS = {"pythae-fif": "0.1.0", "torch": "2.0"}


def result(
    model: str,
    parameters: dict,
    seed: int,
    distances: dict[str, tuple[float, float]],
    score: float | None = 8.5,
):
    """A specification with its record; distances of each sampler are (validation, test)."""
    spec = RunSpec(
        dataset="digits", arch="convnet", model=model, parameters=parameters,
        varied=tuple(parameters), latent_dim=8, image_size=None, seed=seed, extractor="classifier",
        samplers=tuple(distances), profile="quick", settings={}, data_hash="d" * 16,
    )  # fmt: skip
    scores = {
        sampler: {
            "num_samples": 2000,
            "extractor": "classifier",
            "extractor_hash": "e" * 16,
            "distance_name": "FD-classifier",
            "score_name": "classifier score" if score else None,
            "rounded": True,
            "frechet": {"val": val, "test": test},
            "score": None if score is None else {"mean": score + seed / 10, "std": 0.2},
            "kernel": {"test": {"mean": test / 1e3, "std": 0.001}},
            "neighbours": {
                "test": {"precision": 0.5, "recall": 0.75, "density": 1.25, "coverage": 0.875}
            },
        }
        for sampler, (val, test) in distances.items()
    }
    record = {
        "schema": 1,
        "run_id": spec.run_id,
        "scores": scores,
        "reconstruction_mse": {"val": 0.01, "test": 0.0123 + seed / 1000},
        "training": {"seconds": 20.0 + seed},
        "parameters": 105673,
        "data": {"source": "digits of a test", "partial": False,
                 "sizes": {"train": 1197, "val": 300, "test": 300}},
        "extractor_accuracy": 0.9967 if score else None,
        "provenance": {"versions": VERSIONS, "device": "cpu (x86_64)", "cores": 2},
    }  # fmt: skip
    return spec, record


RESULTS = [
    result("fif", {"beta": 10}, 0, {"normal": (5.0, 6.0), "gmm": (3.0, 2.5)}),
    result("fif", {"beta": 10}, 1, {"normal": (5.5, 7.0), "gmm": (3.0, 2.75)}),
    result("fif", {"beta": 0.5}, 0, {"normal": (9.0, 1.0), "gmm": (2.0, 0.25)}),
    result("fif", {"beta": 0.5}, 1, {"normal": (9.0, 1.0), "gmm": (2.0, 0.35)}),
    result("ae", {}, 0, {"normal": (140.0, 150.25), "gmm": (2.4, 2.3)}, score=2.5),
    result("ae", {}, 1, {"normal": (140.0, 151.25), "gmm": (2.4, 2.3)}, score=2.5),
    result("vae", {}, 0, {"normal": (7.0, 7.5), "gmm": (7.0, 7.5)}, score=1.5),
    result("vae", {}, 1, {"normal": (7.0, 7.5), "gmm": (7.0, 7.5)}, score=1.5),
]
EXPERIMENT = load_experiment(
    "digits", None, {"seeds": [0, 1], "models": ["fif", "ae", "vae"], "profile": "quick"}
)
REPORT = build_report(EXPERIMENT, RESULTS, "python run_benchmark.py --seeds 0 1")

MARKDOWN = """\
# digits, convnet, profile quick

| Model | Sampler | FD-classifier test ↓ | validation ↓ | classifier score ↑ | KD × 10³ ↓ | prec. / recall ↑ | dens. / cov. ↑ | recon. MSE ↓ | train s | chosen configuration |
|---|---|--:|--:|--:|--:|--:|--:|--:|--:|---|
| FIF | N | **6.50 ± 0.71** | 5.25 | 8.55 ± 0.07 | 6.50 | 0.50 / 0.75 | 1.25 / 0.88 | 0.0128 | 20 | beta=10 (of 2) |
| FIF | GMM | **0.300 ± 0.071** | 2.00 | 8.55 ± 0.07 | 0.30 | 0.50 / 0.75 | 1.25 / 0.88 | 0.0128 | 20 | beta=0.5 (of 2) |
| AE | N | 150.8 ± 0.7 | 140.0 | 2.55 ± 0.07 | 150.75 | 0.50 / 0.75 | 1.25 / 0.88 | 0.0128 | 20 | – |
| AE | GMM | <u>2.30 ± 0.00</u> | 2.40 | 2.55 ± 0.07 | 2.30 | 0.50 / 0.75 | 1.25 / 0.88 | 0.0128 | 20 | – |
| VAE | N | <u>7.50 ± 0.00</u> | 7.00 | 1.55 ± 0.07 | 7.50 | 0.50 / 0.75 | 1.25 / 0.88 | 0.0128 | 20 | – |
| VAE | GMM | 7.50 ± 0.00 | 7.00 | 1.55 ± 0.07 | 7.50 | 0.50 / 0.75 | 1.25 / 0.88 | 0.0128 | 20 | – |

* Profile `quick`: NOTE.
* Data: digits of a test; used 1,197 training, 300 validation and 300 test images.
* Scores: 2,000 samples, rounded to 8 bits; extractor `classifier` (eeeeeeeeeeeeeeee, test accuracy 99.7%). FD is its FD-classifier, CS its classifier score, KD the kernel distance (KID's formula), then improved precision and recall, density and coverage, all of the test images; MSE the squared reconstruction error a pixel; distances of another extractor or sample count are on another scale.
* Each model and sampler has the configuration of lowest validation distance; bold is the lowest test distance of a sampler, underlined the second.
* Epochs 60, batch 50, seeds 0, 1, on cpu (x86_64) with 2 cores; pythae-fif 0.1.0, torch 2.0.
* Made by `python run_benchmark.py --seeds 0 1`.

![Samples of every model](../figures/a.png)
"""  # noqa: E501

TERMINAL = """\
                        digits, convnet, profile quick

 model             FD test  FD val           CS     MSE  sec  chosen
 ─────────────────────────────────────────────────────────────────────────────
 FIF    N      6.50 ± 0.71    5.25  8.55 ± 0.07  0.0128   20  beta=10 (of 2)
 FIF    GMM  0.300 ± 0.071    2.00  8.55 ± 0.07  0.0128   20  beta=0.5 (of 2)

 AE     N      150.8 ± 0.7   140.0  2.55 ± 0.07  0.0128   20  –
 AE     GMM    2.30 ± 0.00    2.40  2.55 ± 0.07  0.0128   20  –

 VAE    N      7.50 ± 0.00    7.00  1.55 ± 0.07  0.0128   20  –
 VAE    GMM    7.50 ± 0.00    7.00  1.55 ± 0.07  0.0128   20  –
"""


def shown(report: Report, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO())
    with console.capture() as captured:
        console.print(to_terminal(report))
    return captured.get()


class TestTable:
    def test_markdown(self):
        expected = MARKDOWN.replace("NOTE", EXPERIMENT.settings.note)
        assert to_markdown(REPORT, "../figures/a.png") == expected

    def test_markdown_without_picture_ends_with_the_notes(self):
        assert to_markdown(REPORT).endswith("--seeds 0 1`.\n")

    def test_csv(self):
        header, first, *_ = lines = to_csv(REPORT).splitlines()
        assert len(lines) == 7
        assert header == (
            "model,sampler,configuration,candidates,frechet_val,frechet_test,frechet_test_std,"
            "score,score_std,kernel,precision,recall,density,coverage,"
            "reconstruction_mse,training_seconds,parameters,run_ids"
        )
        ids = " ".join(spec.run_id for spec, _ in RESULTS[:2])
        start, end = "FIF,N,beta=10,2,5.25,6.5,0.7071067811865476,8.55,", f",20.5,105673,{ids}"
        assert first.startswith(start)
        assert first.endswith(end)

    def test_marks_are_by_test_distance_within_a_sampler(self):
        assert REPORT.marks == {0: 1, 4: 2, 1: 1, 3: 2}

    def test_extractor_without_score(self):
        report = build_report(EXPERIMENT, [result("ae", {}, 0, {"normal": (1, 2)}, None)], "c")
        text = to_markdown(report)
        assert "None" not in text
        assert (
            "| AE | N | **2.00** | 1.00 | – | 2.00 | 0.50 / 0.75 | 1.25 / 0.88 | 0.0123 | 20 | – |"
            in text
        )

    def test_missing_runs_come_first(self):
        report = build_report(EXPERIMENT, RESULTS, "c", missing=3)
        assert report.notes[0].startswith("3 runs of the plan have no result")
        assert len(report.notes) == len(REPORT.notes) + 1

    def test_files(self, tmp_path):
        paths = write_report(REPORT, tmp_path / "tables", "name", None)
        assert [path.name for path in paths] == ["name.md", "name.csv"]
        assert paths[0].read_text(encoding="utf-8") == to_markdown(REPORT)
        assert paths[1].read_text(encoding="utf-8") == to_csv(REPORT)

    def test_tables_folder_that_cannot_be_made(self, tmp_path):
        (tmp_path / "tables").write_text("")
        with pytest.raises(OSError, match="tables"):
            write_report(REPORT, tmp_path / "tables", "name", None)


class TestTerminal:
    def test_expected(self):
        lines = [line.rstrip() for line in shown(REPORT).rstrip().splitlines()]
        assert lines == TERMINAL.splitlines()

    distance = st.floats(1e-3, 99_999)
    spread = st.none() | st.floats(1e-3, 999)

    @given(
        st.lists(
            st.builds(
                Row,
                model=st.sampled_from(["FIF", "WAE-IMQ"]),
                sampler=st.sampled_from(["N", "GMM"]),
                configuration=st.sampled_from(["–", "embedding_weight=1e-05, reg_weight=1e-06"]),
                candidates=st.integers(1, 10),
                frechet_val=distance,
                frechet_test=distance,
                frechet_test_std=spread,
                score=st.none() | st.floats(1, 1000),
                score_std=spread,
                kernel=st.none() | st.floats(0, 9),
                precision=st.none() | st.floats(0, 1),
                recall=st.floats(0, 1),
                density=st.none() | st.floats(0, 9),
                coverage=st.floats(0, 1),
                reconstruction_mse=st.floats(0, 1),
                training_seconds=st.floats(0, 1e5),
                parameters=st.just(1),
                run_ids=st.just(("a",)),
            ),
            min_size=1,
            max_size=4,
        )
    )
    @settings(deadline=None)
    def test_no_number_is_cut_at_80_columns(self, rows):
        report = dataclasses.replace(REPORT, rows=rows, marks={0: 1})
        text = shown(report)
        assert "…" not in text
        assert max(map(len, text.splitlines())) <= 80
        for line in to_markdown(report).splitlines()[4 : 4 + len(rows)]:
            cells = line.strip("| ").split(" | ")
            for cell in cells[2:5] + cells[8:10]:
                assert cell.strip("*") in text

    def test_best_is_bold_and_second_underlined(self):
        console = Console(width=80, force_terminal=True, color_system="standard")
        with console.capture() as captured:
            console.print(to_terminal(REPORT))
        text = captured.get()
        assert "\x1b[1m6.50 ± 0.71\x1b[0m" in text
        assert "\x1b[4m7.50 ± 0.00\x1b[0m" in text


class TestFigure:
    @staticmethod
    def _sheet(path: Path, height: int, width: int, channels: int, blocks: int) -> Path:
        """Images whose grey is the number of their row, plus 100 for each block before theirs."""
        rows = np.arange(1, 9)[:, None, None, None, None] * 10
        before = np.arange(blocks)[None, None, :, None, None] * 100
        images = np.broadcast_to(rows + before, (8, height, blocks, 8, width))
        sheet = images.reshape(8 * height, blocks * 8 * width, 1).astype(np.uint8)
        Image.fromarray(sheet.repeat(channels, axis=2).squeeze()).save(path)
        return path

    @pytest.mark.parametrize("size", [(8, 8), (5, 9), (12, 4)])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_every_panel_shows_its_block(self, tmp_path, monkeypatch, size, channels):
        drawn = []
        monkeypatch.setattr(
            "pythae_fif.reports.figures._show",
            lambda axis, image, label, heading: drawn.append((label, heading, np.unique(image))),
        )
        real = self._sheet(tmp_path / "real.png", *size, channels, blocks=1)
        run = self._sheet(tmp_path / "run.png", *size, channels, blocks=2)
        panels = {"FIF": [(run, 0, 2), (run, 1, 2)], "AE": [(run, 1, 2), (run, 0, 2)]}
        sample_figure(panels, ["N sampler", "GMM sampler"], real, "title", tmp_path / "p.png")
        assert [(label, heading, set(grey) - {255}) for label, heading, grey in drawn] == [
            ("data", "", {10, 20}),
            ("", "", {30, 40}),
            ("FIF", "N sampler", {10, 20}),
            ("", "GMM sampler", {110, 120}),
            ("AE", "", {110, 120}),
            ("", "", {10, 20}),
        ]

    @pytest.mark.parametrize(("size", "channels"), [((8, 8), 1), ((5, 9), 3)])
    def test_picture_is_not_blank(self, tmp_path, size, channels):
        real = self._sheet(tmp_path / "real.png", *size, channels, blocks=1)
        path = tmp_path / "figures" / "picture.png"
        sample_figure({"AE": [(real, 0, 1)]}, ["N sampler"], real, "title", path)
        picture = np.asarray(Image.open(path).convert("L"))
        assert min(picture.shape) > 150
        # The rows of images are of the greys 10 and 20.
        assert (picture < 25).mean() > 0.3
