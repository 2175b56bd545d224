"""The script that measures a GPU runs."""

import pytest
from support.reference import ROOT


@pytest.mark.slow
def test_page_of_all_measurements(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import gpu

    file = tmp_path / "page.md"
    gpu.main(["--device", "cpu", "--tiny", "--output", str(file)])
    tables = [part.strip().splitlines()[2:] for part in file.read_text().split("## ")[1:]]
    assert len(tables) == 3 and all(len(lines) >= 3 for lines in tables)
    assert all(float(line.split("|")[3]) > 0 for line in tables[2][2:])
