"""The script that measures a GPU runs, and what fails in it is a line."""

from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import gpu

    return gpu


@pytest.mark.slow
def test_page_of_all_measurements(tmp_path, gpu):
    file = tmp_path / "page.md"
    gpu.main(["--device", "cpu", "--tiny", "--output", str(file)])
    tables = [part.strip().splitlines()[2:] for part in file.read_text().split("## ")[1:]]
    assert len(tables) == 4 and all(len(lines) >= 3 for lines in tables)
    assert all(float(line.split("|")[3]) > 0 for line in tables[2][2:])


def test_what_fails_is_a_line(gpu):
    def fails():
        raise RuntimeError("CUDA out of memory\nadvice")

    row = gpu.tried("K=2", fails, ["way", "ms", "MB"])
    assert row == {"way": "K=2", "ms": "CUDA out of memory", "MB": ""}
