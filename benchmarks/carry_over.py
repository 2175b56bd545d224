"""Carries committed runs over to today's records: run once, then deleted.

    python benchmarks/carry_over.py [STORE ...]

Lines of `runs/*.jsonl` that are of today's form, or of a kind that is not in `KINDS`, stay as they
are, so that it may be run again when a kind is added.
"""

__all__ = ["KINDS", "Old", "provenance_of", "record"]

import dataclasses
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from pythae_fif.benchmark.image_run import ImageSpec
from pythae_fif.benchmark.models import read_entry
from pythae_fif.benchmark.record import SCORES, Evaluation, Training, score_file
from pythae_fif.evaluation.scores import Scores
from pythae_fif.runs.record import Provenance, Record
from pythae_fif.runs.spec import SPEC_FILE, Spec
from pythae_fif.runs.store import PackedRun
from pythae_fif.studies.spec import RESULT
from pythae_fif.studies.spectrum import SAMPLES, Measured, SpectrumModel
from pythae_fif.studies.tabular_models import CONFIGURATIONS
from pythae_fif.studies.tabular_run import RowScores, TabularModels
from pythae_fif.training import EpochRow


class Old(NamedTuple):
    """A line of before.

    Attributes:
        run: Its folder below `runs/`.
        kind: Of the run.
        spec: What defined its result.
        files: Name -> content; JSON is read, other files are texts.
        pictures: Name -> bytes in base64.
    """

    run: str
    kind: str
    spec: dict[str, Any]
    files: dict[str, Any]
    pictures: dict[str, str]

    @classmethod
    def of(cls, line: Mapping[str, Any]) -> "Old":
        """Of a line's JSON."""
        config = yaml.safe_load(line["files"]["config.yaml"])
        kind = config.get("kind", "images")  # the first versions knew no other
        return cls(line["run"], kind, config["spec"], line["files"], line.get("pictures", {}))


def provenance_of(old: Mapping[str, Any], **changed: Any) -> Provenance:
    """That of an old record; a `+` behind a revision said that the code differed from it."""
    values = {**old, **changed}
    revision = values.get("git_revision")
    if revision and revision.endswith("+"):
        values.update(git_revision=revision.rstrip("+"), git_dirty=True)
    return Provenance(**{k: v for k, v in values.items() if k in Provenance.model_fields})


def record(
    spec: Spec, kind: type, result: Any, provenance: Provenance, files: Mapping[str, str] = {}
) -> dict[str, Any]:
    """A sealed record of a result as plain values; it is read back to see that it is whole."""
    made = Record[kind](run_id=spec.run_id, result=result, provenance=provenance, files=dict(files))
    content = made.to_bytes()
    assert Record[kind].parse(content, spec.run_id).to_bytes() == content
    found: dict[str, Any] = json.loads(content)
    return found


GONE = ("note", "configurations", "extractor", "runs_per_gpu", "plateau_patience")


def image_run(old: Old) -> PackedRun:
    """A run of the benchmark."""
    values = {k: v for k, v in old.spec.items() if k != "settings"}
    settings = {k: v for k, v in old.spec["settings"].items() if k not in GONE}
    assert old.spec["settings"]["plateau_patience"] == 10
    classes = read_entry(old.spec["model"]).classes
    spec = ImageSpec.model_validate(values | {"settings": settings, "classes": classes})
    files: dict[str, Any] = {SPEC_FILE: spec.to_dict()}
    if "result.json" in old.files:
        files |= image_records(old, spec)
    else:
        state = old.files["status.json"]
        files["status.json"] = {key: state[key] for key in ("state", "error") if key in state}
    return PackedRun(run=f"{spec.folder}/{spec.run_id}", files=files, pictures=old.pictures)


def image_records(old: Old, spec: ImageSpec) -> Iterator[tuple[str, Any]]:
    """Names and records of a run that has a result."""
    result, sealed = old.files["result.json"], old.files["result.json"].get("files") or {}
    trained, training = old.files["training.json"], result["training"]
    made = provenance_of(
        trained.get("provenance", result["provenance"]),
        git_revision=training["git_revision"],
        git_dirty=training.get("git_dirty"),
    )
    log = [EpochRow.from_json(json.loads(row)) for row in old.files["train_log.jsonl"].splitlines()]
    numbers = {k: v for k, v in training.items() if k in Training.model_fields}
    surrogate = training["surrogate_mode"]
    of_training = Training(**numbers, surrogate=surrogate, log=log)
    weights = {name: of for name, of in sealed.items() if name.startswith("model/")}
    weights = trained.get("files") or weights
    yield "training.json", record(spec, Training, of_training, made, weights)
    evaluation = Evaluation(**{k: v for k, v in result.items() if k in Evaluation.model_fields})
    sheets = {name: of for name, of in sealed.items() if name.endswith(".png")}
    others = {name: of for name, of in sheets.items() if not name.startswith("samples-")}
    made = provenance_of(result["provenance"])
    yield "evaluation.json", record(spec, Evaluation, evaluation, made, others)
    for sampler, scores in result["scores"].items():
        later = result.get("later_provenance", {}).get(sampler)
        yield (
            score_file(sampler),
            record(
                spec,
                Scores,
                scores,
                made if later is None else provenance_of(later),
                {n: of for n, of in sheets.items() if n == f"samples-{sampler}.png"},
            ),
        )


def image_again(line: PackedRun) -> PackedRun:
    """A run that was carried over, with its model's classes as its file names them today."""
    values = line.files[SPEC_FILE]["spec"]
    classes = read_entry(values["model"]).classes
    spec = ImageSpec.model_validate(values | {"classes": classes})
    files = {SPEC_FILE: spec.to_dict()}
    for name, content in line.files.items():
        if name == "training.json":
            log = content["result"]["log"]
            shares = [row["epoch"] / len(log) for row in log]
            for row, share in zip(log, shares, strict=True):
                row["share_done"] = row["share_done"] or share
            del content["checksum"]
            sealed = Record[Any].model_validate(content)
            content = json.loads(sealed.to_bytes())
        if name.startswith(SCORES) or name in ("training.json", "evaluation.json"):
            found = Record[Any].parse(json.dumps(content).encode(), content["run_id"])
            made = found.model_copy(update={"run_id": spec.run_id})
            content = json.loads(made.to_bytes())
        files.setdefault(name, content)
    return line.model_copy(update={"run": f"{spec.folder}/{spec.run_id}", "files": files})


AGAIN: dict[str, Callable[[PackedRun], PackedRun]] = {"images": image_again}
"""Kind of today's runs -> what makes the same of it after import paths have changed."""


def tabular_run(old: Old) -> PackedRun:
    """A run of the tabular studies; the processor time of all its models is shared out."""
    values = {k: v for k, v in old.spec.items() if k != "configuration"}
    configuration = CONFIGURATIONS[old.spec["configuration"]]
    spec = TabularModels.model_validate(values | {"configuration": configuration})
    result = old.files["result.json"]
    count, made = len(spec.seeds), provenance_of(result["provenance"])
    alike = {key: result[key] for key in ("steps", "cg_iterations", "parameters")}
    files: dict[str, Any] = {SPEC_FILE: spec.to_dict()}
    for number, name in enumerate(spec.members):
        of_member = {k: of[number] for k, of in result.items() if isinstance(of, list)}
        scores = {k: math.nan if of is None else of for k, of in of_member.items()}
        scores |= alike | {"seconds": result["seconds"] / count}
        files[name] = record(spec, RowScores, scores, made)
    return PackedRun(run=f"{spec.folder}/{spec.run_id}", files=files)


def spectrum_run(old: Old) -> PackedRun:
    """A run of figures 8 and 9."""
    spec, result = SpectrumModel.model_validate(old.spec), old.files["result.json"]
    log = [EpochRow.from_json(json.loads(of)) for of in old.files["train_log.jsonl"].splitlines()]
    names = {field.name for field in dataclasses.fields(Measured)} - {"log"}
    found = Measured(**{name: result[name] for name in names}, log=log)
    sealed = {n: of for n, of in result["files"].items() if n == SAMPLES or "model/" in n}
    made = provenance_of(result["provenance"])
    files = {SPEC_FILE: spec.to_dict(), RESULT: record(spec, Measured, found, made, sealed)}
    return PackedRun(run=f"{spec.folder}/{spec.run_id}", files=files, pictures=old.pictures)


KINDS: dict[str, Callable[[Old], PackedRun]] = {
    "images": image_run,
    "tabular": tabular_run,
    "spectrum": spectrum_run,
}
"""Kind of the runs of before -> what makes one of today's of it."""


def numbers_of(content: Any) -> list[float]:
    """All numbers of a result, in the order of their keys."""
    if isinstance(content, dict):
        return [n for key in sorted(content) for n in numbers_of(content[key])]
    if isinstance(content, list):
        return [n for value in content for n in numbers_of(value)]
    known = isinstance(content, int | float) and not isinstance(content, bool)
    return [content] if known else []


def require_same(old: Old, new: PackedRun) -> int:
    """Compares the scores, errors and codes of a run; how many numbers there are."""
    if "result.json" not in old.files:
        return 0
    result = old.files["result.json"]
    if old.kind == "tabular":
        members = [file["result"] for name, file in new.files.items() if name != SPEC_FILE]
        scores = {key: of for key, of in result.items() if isinstance(of, list)}
        shared = {key: result[key] for key in ("steps", "cg_iterations", "parameters")}
        found = {key: [member[key] for member in members] for key in scores}
        assert repr(found) == repr(scores).replace("None", "nan"), old.run
        assert all(shared.items() <= member.items() for member in members)
        return len(numbers_of(scores)) + len(numbers_of(shared))
    if old.kind == "spectrum":
        kept = {k: v for k, v in new.files[RESULT]["result"].items() if k != "log"}
        assert kept.items() <= result.items(), old.run
        return len(numbers_of(kept))
    scores = {
        name.removeprefix("scores/").removesuffix(".json"): file["result"]
        for name, file in new.files.items()
        if name.startswith("scores/")
    }
    evaluation = new.files["evaluation.json"]["result"]
    kept = {key: evaluation[key] for key in evaluation if result.get(key) is not None}
    before = numbers_of([result["scores"], {key: result[key] for key in kept}])
    assert before == numbers_of([scores, kept]), old.run
    log = old.files["train_log.jsonl"].splitlines()
    rows = new.files["training.json"]["result"]["log"]
    assert all(
        json.loads(row).items() <= EpochRow(**now).to_json().items()
        for row, now in zip(log, rows, strict=True)
    )
    return len(before) + len(numbers_of(rows))


def carry_over(root: Path) -> None:
    """Carries the runs of a store over."""
    before, carried, numbers = 0, 0, 0
    runs: dict[str, PackedRun] = {}
    for path in sorted((root / "runs").glob("*.jsonl")):
        for text in path.read_text("utf-8").splitlines():
            line = json.loads(text)
            before += 1
            if SPEC_FILE in line["files"]:
                new = PackedRun.model_validate_json(text)
                new = AGAIN.get(new.files[SPEC_FILE]["kind"], lambda same: same)(new)
            elif Old.of(line).kind not in KINDS:
                new = PackedRun.model_validate_json(text)
            else:
                old = Old.of(line)
                new = KINDS[old.kind](old)
                numbers += require_same(old, new)
                carried += 1
            assert new.run not in runs, f"{line['run']}: {new.run} is there already"
            runs[new.run] = new
    for path in (root / "runs").glob("*.jsonl"):
        path.unlink()
    for run in sorted(runs):
        with open(root / "runs" / f"{run.partition('/')[0]}.jsonl", "a", encoding="utf-8") as file:
            file.write(runs[run].model_dump_json() + "\n")
    print(
        f"{root}: {before} runs, then {len(runs)}; {carried} carried over, {numbers} numbers equal"
    )


if __name__ == "__main__":
    for folder in sys.argv[1:] or ("results/reference", "results/reference/beta"):
        carry_over(Path(folder))
