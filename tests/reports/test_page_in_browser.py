"""The page in a real browser, headless: sorting, hiding, enlarging, widths and colours."""

import html
import json
import re
import shutil
import subprocess

import pytest
from support import report_store

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium")

USE = """
const found = {}, table = document.querySelector("#scores table");
const rows = () => every("tbody tr", table).filter(row => !row.hidden);
const column = index => rows().map(row => row.cells[index].textContent.trim());
const click = index => { every("th span", table)[index].click(); return column(index); };
found.written = column(2);
found.up = click(2); found.down = click(2); found.undone = click(2);
found.score = click(4); found.pair = click(6);
every("th span", table)[2].dispatchEvent(
  new KeyboardEvent("keydown", {key: "Enter", bubbles: true}));
found.keyboard = column(2);
const ae = boxes.find(box => box.value === "AE"); ae.click();
found.hidden = column(0);
found.elsewhere = every("#cost tbody tr").map(row => row.hidden);
found.count = document.querySelector(".models output").textContent;
every(".models button")[0].click(); found.all = rows().length;
every(".models button")[1].click(); found.none = rows().length;
every(".models button")[2].click(); found.learnt = [...new Set(column(0))].sort();
const picture = document.querySelector("figure button"); picture.click();
found.opened = dialog.open;
found.wide = dialog.querySelector("img").getBoundingClientRect().width >= dialog.clientWidth;
dialog.click(); found.closed = !dialog.open;
"""
LOOK = """
const found = {}, of = frame.contentWindow, page = of.document;
found.fits = page.documentElement.scrollWidth <= page.documentElement.clientWidth;
found.pictures = [...page.querySelectorAll("img")].every(x => x.complete && x.clientWidth <= 400);
found.paper = of.getComputedStyle(page.body).backgroundColor;
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    root = tmp_path_factory.mktemp("results")
    report_store.write(root)
    return root / "pages" / f"{report_store.NAME}.html"


def browse(path, text: str, script: str, *flags: str) -> dict:
    """What a script finds in a page, once it is loaded."""
    path.write_text(
        f"{text}<pre id=found></pre><script>addEventListener('load', () => {{ {script}\n"
        "document.querySelector('#found').textContent = JSON.stringify(found); })</script>"
    )
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--user-data-dir={path.parent / 'profile'}", "--virtual-time-budget=5000"]
    command += ["--allow-file-access-from-files", "--window-size=1280,900", *flags]
    shown = subprocess.run(
        [*command, path.as_uri()], capture_output=True, text=True, timeout=120
    ).stdout
    return json.loads(html.unescape(re.findall('<pre id="found">(.*?)</pre>', shown)[-1]))


def test_tables_sort_models_hide_and_pictures_open(page, tmp_path):
    found = browse(tmp_path / "page.html", page.read_text("utf-8"), USE)

    def numbers(name: str) -> list[float]:
        return [float(text.split()[0]) for text in found[name]]

    assert numbers("up") == sorted(numbers("written")) != numbers("written")
    assert numbers("down") == numbers("up")[::-1]
    assert found["undone"] == found["written"]
    assert numbers("score") == sorted(numbers("score"), reverse=True)
    assert len(set(found["pair"])) == 1
    assert found["keyboard"] == found["up"]
    assert set(found["hidden"]) == {"FIF", "VAE"} and found["count"] == "2 of 3"
    assert found["elsewhere"] == [False, True, False]
    assert (found["all"], found["none"], found["learnt"]) == (7, 0, ["FIF", "VAE"])
    assert found["opened"] and found["wide"] and found["closed"]


@pytest.mark.parametrize(
    ("flag", "paper"),
    [("0", "rgb(21, 24, 28)"), ("1", "rgb(255, 255, 255)")],
    ids=["dark", "light"],
)
def test_fits_a_telephone_by_day_and_night(page, tmp_path, flag, paper):
    frame = (
        f"<meta name=color-scheme content='light dark'><iframe id=frame width=400 height=800 "
        f"src='{page.as_uri()}'></iframe>"
    )
    flag = f"--blink-settings=preferredColorScheme={flag}"
    found = browse(tmp_path / "frame.html", frame, LOOK, flag)
    assert found == {"fits": True, "pictures": True, "paper": paper}
