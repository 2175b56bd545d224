"""What a study writes beside its figures."""

import matplotlib.figure

from pythae_fif.studies import StudyOptions
from pythae_fif.studies.output import Drawing, write_study


def test_a_caption_carries_neither_html_nor_links_nor_control_characters(tmp_path):
    bad = "of <img src=x onerror=alert(1)> [a](https://b.example)\x1b[2J\nand on"
    drawing = Drawing("figure", matplotlib.figure.Figure(), bad, bad)
    options = StudyOptions(results=tmp_path)
    _, page = write_study(options, [drawing], {})
    text = page.read_text()
    assert "<" not in text and "\x1b" not in text and text.count("](") == 1
    assert "and on" in text
