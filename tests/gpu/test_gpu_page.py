"""The script that measures a GPU runs."""

from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_page_of_all_measurements(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import gpu

    file = tmp_path / "page.md"
    gpu.main(["--device", "cpu", "--tiny", "--output", str(file)])
    text = file.read_text()
    for name in gpu.WAYS:
        assert f" {name} |" in text
    tables = [
        section.strip().splitlines()[2:]
        for section in text.split("## ")[1:-1]  # the last says what was measured
    ]
    assert len(tables) == 7 and all(len(lines) >= 3 for lines in tables)
    names, values = ([cell.strip() for cell in line.split("|")] for line in tables[0][::2])
    steps = dict(zip(names, values, strict=True))
    assert all(float(steps[name]) > 0 for name in gpu.WAYS)
    assert "Tiny" in text and "digits-convnet: without" not in text
