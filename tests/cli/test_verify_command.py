"""`verify` as a person calls it: its table, its verdict, its exit codes."""

import json
import shutil
from pathlib import Path

import pytest

from pythae_fif import cli
from pythae_fif.errors import printable

RESULTS = Path(__file__).resolve().parents[2] / "results"
RUN = next((RESULTS / "runs" / "digits" / "convnet" / "ae").glob("*/result.json")).parent


@pytest.fixture
def store(tmp_path):
    """A store of one committed run."""
    shutil.copytree(RUN, tmp_path / RUN.relative_to(RESULTS))
    return tmp_path


def test_committed_results_are_in_order(capsys):
    assert cli.main(["verify", str(RESULTS)]) == 0
    assert "nothing is wrong" in capsys.readouterr().out


@pytest.mark.parametrize("place", ["{}", "file://{}"])
def test_what_is_wrong_is_named_and_makes_the_exit_code(store, capsys, place):
    record = store / RUN.relative_to(RESULTS) / "result.json"
    record.write_bytes(record.read_bytes()[:-40])
    assert cli.main(["verify", place.format(store)]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "corrupt 1" in out and RUN.name in out and "1 of them wrong" in out


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["nowhere"], "nowhere holds no runs"),
        ([], "RESULTS"),
        (["results", "more"], "'more'"),
        (["results", "--result"], "unknown flag '--result'"),
    ],
)
def test_bad_input_is_one_line(words, part, capsys):
    assert cli.main(["verify", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and part in line


def test_control_characters_of_a_store_do_not_reach_the_terminal(store, capsys):
    """A folder's name and a status that clear the screen, set its title and turn the text round."""
    hostile = "x\x1b[2J\x1b]0;mine\x07\x9b31m\u202e"
    run_dir = store / RUN.relative_to(RESULTS)
    (run_dir / "result.json").unlink()
    status = {"state": "failed", "error": hostile, "updated": "", "attempt": 1}
    (run_dir / "status.json").write_text(json.dumps(status))
    run_dir.rename(run_dir.with_name(hostile))
    cli.main(["verify", str(store)])
    out = capsys.readouterr().out
    assert "x[2J]0;mine31m" in "".join(out.split())
    assert printable(out) == out

    assert cli.main(["run", "--dataset", hostile]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and printable(err) == err
