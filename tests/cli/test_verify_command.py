"""`verify` as a person calls it: its table, its verdict, its exit codes."""

import json

import pytest
from support.reference import REFERENCE, lines, unpack

from pythae_fif import cli
from pythae_fif.errors import printable
from pythae_fif.runs.verify import Finding

RUN = next(  # one from before records listed their files, and so whole without its pictures
    run
    for run, line in lines().items()
    if run.startswith("mnist/resnet/ae/") and "files" not in line.files["result.json"]
)


@pytest.fixture
def store(tmp_path):
    """A store of one committed run."""
    unpack(RUN, tmp_path)
    return tmp_path


def test_committed_results_are_in_order(capsys):
    assert cli.main(["verify", str(REFERENCE)]) == 0
    assert "nothing is wrong" in capsys.readouterr().out


def test_models_at_a_url_are_not_read(store, monkeypatch, capsys):
    found = [Finding("fine", "a"), Finding("no model", "a")]
    monkeypatch.setattr("pythae_fif.cli.verify.verify", lambda *_: found)
    for place, told in ((str(store), False), (f"file://{store}", True)):
        assert cli.main(["verify", place]) == 0
        out = capsys.readouterr().out
        assert ("trained models at a URL are not read" in out) is told
        assert ("no model" in out) is not told


@pytest.mark.parametrize("place", ["{}", "file://{}"])
def test_what_is_wrong_is_named_and_makes_the_exit_code(store, capsys, place):
    record = store / "runs" / RUN / "result.json"
    record.write_bytes(record.read_bytes()[:-40])
    assert cli.main(["verify", place.format(store)]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "corrupt 1" in out and RUN.split("/")[-1] in out and "1 of them wrong" in out


def test_how_far_runs_are_from_those_of_a_reference(store, capsys):
    assert cli.main(["verify", str(store), "--against", str(REFERENCE)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "1 run read, " in out and "1 run in both" in out and "none 1 run" in out
    path = store / "runs" / RUN / "result.json"
    content = json.loads(path.read_text())
    content["scores"]["gmm"]["frechet"]["test"] *= 1.25
    content.pop("checksum", None)
    path.write_text(json.dumps(content))
    assert cli.main(["verify", str(store), "--against", str(REFERENCE)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "none 0 runs 20.00% scores.gmm.frechet.test" in out and RUN in out.replace(" ", "")


def test_neither_store_is_written_to(store, tmp_path_factory, capsys):
    reference = tmp_path_factory.mktemp("reference")
    unpack(RUN, reference)
    roots = (store, reference)

    def found():
        return {
            path: (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
            for root in roots
            for path in (root, *root.rglob("*"))
        }

    for root in roots:
        root.chmod(0o555)
    before = found()
    assert cli.main(["verify", str(store), "--against", str(reference)]) == 0
    assert "1 run in both" in capsys.readouterr().out
    assert found() == before


def test_a_reference_is_verified_too_and_not_made(store, tmp_path, capsys):
    assert cli.main(["verify", str(store), "--against", str(tmp_path / "typo")]) == 2
    assert "typo holds no runs" in capsys.readouterr().err and not (tmp_path / "typo").exists()
    damaged = tmp_path / "damaged"
    unpack(RUN, damaged)
    record = damaged / "runs" / RUN / "result.json"
    record.write_bytes(record.read_bytes()[:-40])
    assert cli.main(["verify", str(store), "--against", str(damaged)]) == 1
    assert "1 of them wrong" in capsys.readouterr().out and record.exists()


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["nowhere"], "nowhere holds no runs"),
        ([__file__], "test_verify_command.py holds no runs"),
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
    run_dir = store / "runs" / RUN
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
