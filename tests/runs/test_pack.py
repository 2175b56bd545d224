"""Packed stores: what is read of them is what was packed, and nobody writes to them."""

import json
import shutil

import pytest
from support.reference import REFERENCE, packer, unpack
from support.tasks import ENVIRONMENT, TASKS, TaskSpec, prepared, task_store

from pythae_fif.errors import StoreError
from pythae_fif.runs import record
from pythae_fif.runs.execute import execute
from pythae_fif.runs.pack import TEXTS, read_packs
from pythae_fif.runs.verify import WRONG, verify

SPECS = [TaskSpec(seed=0, asked=("a", "b")), TaskSpec(seed=1)]


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """A store of two finished runs and one that was never begun, and what is packed of it."""
    root, target = (tmp_path_factory.mktemp(name) for name in ("store", "packed"))
    for run_dir in prepared(task_store(root), *SPECS):
        execute(run_dir, TASKS)
    prepared(task_store(root), TaskSpec(seed=2))
    assert packer().pack(root, target) == 2
    return root, target


@pytest.fixture
def packed(stores, tmp_path):
    shutil.copytree(stores[1], tmp_path, dirs_exist_ok=True)
    return tmp_path


def changed(root, change) -> None:
    """Changes the first line of the pack."""
    path = root / "runs" / "tasks.jsonl"
    first, *rest = path.read_text().splitlines()
    content = json.loads(first)
    change(content)
    path.write_text("\n".join([json.dumps(content), *rest]))


def test_a_packed_run_is_what_it_was(stores):
    root, target = stores
    assert [path.name for path in (target / "runs").iterdir()] == ["tasks.jsonl"]
    whole, small = task_store(root), task_store(target)
    assert {spec.run_id for spec in small.specs()} == {spec.run_id for spec in SPECS}
    for spec in SPECS:
        assert small.is_done(spec) and small.record(spec) == whole.record(spec)
        for path in whole.run_dir(spec).iterdir():
            if path.name.endswith(TEXTS) and path.name != "environment.json":
                assert path.read_bytes() == (small.place(spec) / path.name).read_bytes()
    assert not small.is_done(TaskSpec(seed=2))
    kinds = {(found.kind, found.run) for found in verify(target, [TASKS])}
    assert len([run for kind, run in kinds if kind == "fine"]) == 2
    assert not {kind for kind, _ in kinds} & {*WRONG, "no model"}


def test_packing_again_changes_nothing_and_adds_what_is_new(stores, packed, tmp_path_factory):
    pack = packed / "runs" / "tasks.jsonl"
    before = pack.stat().st_mtime_ns
    assert packer().pack(stores[0], packed) == 2 and pack.stat().st_mtime_ns == before
    other = tmp_path_factory.mktemp("other")
    (run_dir,) = prepared(task_store(other), TaskSpec(seed=3))
    execute(run_dir, TASKS)
    assert packer().pack(other, packed) == 3
    assert {line.run for line in read_packs(packed)} == {
        f"tasks/{spec.run_id}" for spec in (*SPECS, TaskSpec(seed=3))
    }


def test_the_committed_packs_packed_again_are_the_same_bytes(tmp_path):
    """Pictures, and numbers that JSON has not, such as infinity, among them."""
    packer().pack(REFERENCE, tmp_path)
    for path in (REFERENCE / "runs").iterdir():
        assert (tmp_path / "runs" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("change", "kind", "detail"),
    [
        (lambda run: run["files"]["result.json"]["answers"].update(a=9), "corrupt", "changed"),
        (lambda run: run["files"].update({"log.jsonl": "{}"}), "corrupt", "log.jsonl"),
        (lambda run: run["files"].pop("log.jsonl"), "missing", "log.jsonl"),
        (lambda run: run["files"].pop("config.yaml"), "missing", "config.yaml"),
        (lambda run: run.update(run="tasks/0123456789ab"), "misplaced", "config.yaml"),
    ],
)
def test_what_was_changed_in_a_pack_is_found(packed, change, kind, detail):
    changed(packed, change)
    (found,) = [found for found in verify(packed, [TASKS]) if found.kind in WRONG]
    assert found.kind == kind and detail in found.detail


@pytest.mark.parametrize(
    "change",
    [
        lambda run: run.update(run="tasks/../../x"),
        lambda run: run.update(run="/tasks/x"),
        lambda run: run["files"].update({"../x": ""}),
        lambda run: run["files"].update({"a/b": ""}),
        lambda run: run["files"].update({"a\n": ""}),
        lambda run: run.pop("files"),
    ],
)
def test_a_line_that_is_no_run_is_named(packed, change):
    """One that leads out of its folder among them."""
    changed(packed, change)
    for read in (task_store, lambda root: verify(root, [TASKS])):
        with pytest.raises(StoreError, match=r"tasks\.jsonl, line 1 is no run: restore the file"):
            read(packed)


def test_a_folder_without_a_record_hides_no_damaged_line(packed):
    """As a run has it that goes on, and was interrupted."""
    changed(packed, lambda run: run["files"]["result.json"]["answers"].update(a=9))
    line = next(read_packs(packed))
    (packed / "runs" / line.run).mkdir(parents=True)
    (packed / "runs" / line.run / "config.yaml").write_text(line.files["config.yaml"])
    assert "corrupt" in {found.kind for found in verify(packed, [TASKS]) if found.run == line.run}


def test_a_run_that_goes_on_gets_a_folder_which_counts_first(packed):
    pack = (packed / "runs" / "tasks.jsonl").read_bytes()
    store, more = task_store(packed), TaskSpec(seed=0, asked=("a", "b", "c"))
    assert not store.is_done(more)
    run_dir = store.prepare(more, ENVIRONMENT)
    assert store.is_done(SPECS[0]), "until the rest is there, it keeps what it has"
    execute(run_dir, TASKS)
    assert store.is_done(more) and "c" in store.record(more).answers
    assert [spec.asked for spec in store.specs() if spec.seed == 0] == [more.asked]
    assert (packed / "runs" / "tasks.jsonl").read_bytes() == pack
    found = [of for of in verify(packed, [TASKS]) if of.run == f"tasks/{more.run_id}"]
    assert [of.kind for of in found if of.kind in ("fine", "packed")] == ["fine"]


class TestAdding:
    """What a contributor does: `benchmarks/reference.py RESULTS`."""

    RUN = "power/fif_on_detached/7725d2e59519"

    @pytest.fixture
    def store(self, tmp_path):
        unpack(self.RUN, tmp_path / "store")
        (tmp_path / "store" / "tables").mkdir()
        (tmp_path / "store" / "tables" / "power.md").write_text("* Made by `python run.py --x`.")
        return tmp_path / "store"

    def test_runs_are_added_once_and_what_is_there_stays(self, store, tmp_path, capsys):
        target, add = tmp_path / "target", packer().main
        assert add([str(store), str(target)]) == 0
        assert capsys.readouterr().out == f"{target} holds 1 runs, 1 of them new\n"
        pack, table = target / "runs" / "power.jsonl", target / "tables" / "power.md"
        ours = pack.read_text()
        theirs = ours.replace('"attempt":', '"attempt":1')
        assert theirs != ours
        pack.write_text(theirs)
        table.write_text("* Made by `python run.py --y`.")
        assert add([str(store), str(target)]) == 0
        out = capsys.readouterr().out
        assert "0 of them new" in out
        assert f"draw the table of all anew: python run.py --y --results {target}" in out
        assert pack.read_text() == theirs and "--y" in table.read_text()
        assert add([str(store), str(target), "--replace"]) == 0
        assert pack.read_text() == ours and "--x" in table.read_text()

    def test_of_a_table_no_pictures_are_kept(self, tmp_path):
        """They are plots, not sheets of images."""
        for name in ("config.yaml", "samples-normal.png", "reconstructions.csv"):
            (tmp_path / name).write_text("")
        line = packer().packed(tmp_path, "csv/fif/x")
        assert [*line.files] == ["config.yaml"] and not line.pictures

    @staticmethod
    def cut(path):
        path.write_text(path.read_text()[:-40])

    @staticmethod
    def made_by_changed_code(path):
        content = json.loads(path.read_text())
        content["provenance"]["git_dirty"] = True
        path.write_text(json.dumps({**content, "checksum": record._checksum(content)}))

    @staticmethod
    def without_seal(path):
        content = json.loads(path.read_text())
        path.write_text(json.dumps({**content, "checksum": None, "files": None}))

    @pytest.mark.parametrize(
        ("change", "why"),
        [(cut, "corrupt"), (made_by_changed_code, "dirty tree"), (without_seal, "unsealed")],
    )
    def test_a_store_that_others_cannot_trust_is_refused_in_a_line(
        self, store, tmp_path, capsys, change, why
    ):
        change(store / "runs" / self.RUN / "result.json")
        assert packer().main([str(store), str(tmp_path / "target")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: 1 runs of ") and f"the first is {self.RUN}: {why}" in line
        assert not (tmp_path / "target").exists()
