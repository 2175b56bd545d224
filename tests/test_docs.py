"""What README and guides show runs, and shows what it says."""

import configparser
import functools
import re
import shlex
import statistics
from pathlib import Path

import pytest
import torch
from support.reference import REFERENCE, ROOT

import pythae_fif
from pythae_fif.benchmark.config import Experiment, Profile, describe_length
from pythae_fif.benchmark.image_run import ImageSpec
from pythae_fif.benchmark.models import ModelEntry, configs_dir, list_configs, read_entry, read_yaml
from pythae_fif.benchmark.record import ImageResult
from pythae_fif.cli import main
from pythae_fif.names import DATASETS
from pythae_fif.runs.store import Store

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT).with_suffix(""))


def blocks(language: str) -> list:
    """The code blocks of all pages, each once."""
    found = {}
    for page in PAGES:
        texts = re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.S | re.M)
        for number, text in enumerate(texts):
            found.setdefault(text, f"{name_of(page)}-{number}")
    return [pytest.param(text, id=name) for text, name in found.items()]


def cells(line: str) -> list[str]:
    """Those of a row of a table, without bold and without where links lead."""
    return [cell.strip(" *") for cell in re.sub(r"\]\(\S*\)", "]", line)[1:-1].split("|")]


def commands() -> list[str]:
    """The words of all commands of the program that the pages show."""
    lines = [line for block in blocks("bash") for line in block.values[0].splitlines()]
    lines += [code for page in PAGES for code in re.findall(r"`([^`\n]+)`", page.read_text())]
    shown = (re.match(r"(?:python run_benchmark\.py|pythae-fif)\b(?!-)(.*)", s) for s in lines)
    return sorted({match[1].partition("#")[0].strip() for match in shown if match})


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def assert_right(model, loaded, x):
    assert (model.reconstruct(x) - x).square().mean() < 0.9 * x.var(0).mean()
    assert torch.equal(loaded.reconstruct(x), model.reconstruct(x))
    (z,) = model.double().embed(x[:1].double())
    jacobian = torch.func.jacrev(lambda z: model.decoder(z[None]).reconstruction.flatten())(z)
    expected = torch.distributions.Normal(0, 1).log_prob(z).sum()
    expected = expected - 0.5 * (jacobian.T @ jacobian).logdet()
    assert float(model.log_prob(x[:1].double())) == pytest.approx(float(expected), abs=1e-9)


@pytest.mark.parametrize(
    "page", dict.fromkeys(block.id.rpartition("-")[0] for block in blocks("python"))
)
def test_python(page, capsys, request):
    """The blocks of a page run in their order; those of the README run there alone."""
    names: dict = {"__name__": "__main__"}  # as in a script: it says how classes are pickled
    for block in blocks("python"):
        code, home = block.values[0], block.id.rpartition("-")[0]
        if home != page:
            continue
        if "hf_hub" in code:
            request.getfixturevalue("hub")
        exec(code, names)
        if "held_out.log_density" in code:  # the density that one can see
            watched = re.findall(
                r"epoch \d+: (.*) nats a point, squared error (.*)", capsys.readouterr().out
            )
            nll, error = map(float, watched[-1])
            assert len(watched) == 8 and error < 0.02
            assert nll == pytest.approx(-float(names["held_out"].log_density.mean()), abs=0.15)
        if "TimmEncoder" in code:  # a network of one's own learns, and its likelihood is right
            assert_right(names["model"], names["loaded"], names["held_out"])


@pytest.mark.parametrize("text", blocks("yaml"))
def test_yaml(text, tmp_path):
    (tmp_path / "shown.yaml").write_text(text)
    values = read_yaml(tmp_path / "shown.yaml")
    if "config" in values:
        assert ModelEntry.model_validate(values).choices()
    else:
        assert values.keys() <= {*Experiment.model_fields, *Profile.model_fields}
        for profile in values["profiles"].values():
            Profile.model_validate(profile)


class Understood(Exception):
    """The words of a command are read and checked; what it does would begin."""


@pytest.mark.parametrize("words", commands())
def test_command(words, monkeypatch):
    """The program understands it; what it would do is not done."""
    for file in re.findall(r"\w+\.yaml", words):  # a model of one's own
        Path(file).write_text((configs_dir() / "models/ae.yaml").read_text())

    def stop(*_):
        raise Understood

    for name in ("show.Terminal", "benchmark.run_benchmark", "score.default_device"):
        monkeypatch.setattr(f"pythae_fif.cli.{name}", stop)
    monkeypatch.setattr("pythae_fif.cli.study.run_study", stop)
    with pytest.raises(Understood):
        main(shlex.split(words))


def test_links():
    links = [
        (page, link)
        for page in PAGES
        for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    ]
    local = [(page, link) for page, link in links if "://" not in link]
    assert len(local) > 60
    assert [(page, link) for page, link in local if not (page.parent / link).exists()] == []


def test_numbers_of_the_readme_are_those_of_the_records():
    """After 12 epochs of the configuration of lowest validation distance, for each sampler; after
    all means over the seeds of the first configuration."""
    samplers, entry_of = ("normal", "gaussian", "gmm"), functools.cache(read_entry)

    def distances(store: str, epochs: int) -> dict:
        """Validation and test distances of each model, by what codes are drawn from."""
        root, found = Store(REFERENCE / store), {}
        for spec in root.specs(ImageSpec, "mnist/resnet"):
            how = spec.settings.precision, spec.extractor, spec.settings.epochs
            if how == ("bfloat16", "classifier", epochs):
                for sampler, record in ImageResult.read(root, spec).scores.items():
                    of, key = record.result.frechet, (entry_of(spec.model).label, sampler)
                    found.setdefault(key, []).append((of["val"], of["test"]))
        return found

    short, long = distances("best_of_ten", 12), distances("", 100)
    lines = (ROOT / "README.md").read_text().splitlines()
    rows = [cells(line) for line in lines if re.match(r"\|.*\d\.\d", line)]
    assert len(rows) > 4
    for model, *shown in rows:
        best = [min(short[model, of])[1] for of in samplers]
        means = [statistics.fmean(test for _, test in long[model, of]) for of in samplers]
        assert shown == [f"{of:.{0 if of >= 100 else 1}f}" for of in best + means], model


def test_numbers_in_tables_of_the_results_pages_are_those_of_the_tables_they_link():
    """Those with a decimal point, in a table that the section links: under a model's name in a row
    of that model, else anywhere."""
    models, number = {read_entry(name).label for name in list_configs("models")}, r"\d[\d,]*\.\d+"
    checked, wrong = 0, []
    for page in REFERENCE.glob("*.md"):
        for section in re.split("^#+ ", page.read_text(), flags=re.M):
            linked = re.findall(r"\]\((\S*/\S+\.(?:md|csv))", section)
            lines = "\n".join((page.parent / link).read_text() for link in linked).splitlines()
            header: list[str] = []
            for row in (cells(line) if line[:1] == "|" else [] for line in section.splitlines()):
                header = row and (header or row)
                for above, cell in zip(header[1:], row[1:], strict=True):
                    model = models & {above, row[0]}
                    of = [line for line in lines if not model or model & {*cells(line)[:1]}]
                    known = [float(n.replace(",", "")) for n in re.findall(number, " ".join(of))]
                    for shown in re.findall(number, cell):
                        value, digits = float(shown.replace(",", "")), len(shown.split(".")[1])
                        checked += 1
                        if not any(abs(value - n) < 0.5001 * 10**-digits for n in known):
                            wrong.append((page.name, row[0], above, shown))
    assert not wrong and checked > 300


@pytest.mark.parametrize(
    ("file", "key"), [("README.md", "note = {Version "), ("CITATION.cff", "\nversion: ")]
)
def test_the_version_that_is_cited(file, key):
    assert f"{key}{pythae_fif.__version__}" in (ROOT / file).read_text()


def test_the_summary_of_the_results_is_read_in_five_minutes():
    text = (REFERENCE / "README.md").read_text()
    assert len(re.sub(r"\]\([^)]*\)|[|*]", " ", text).split()) < 1300  # at 260 words a minute


def test_every_extra_and_variable_is_told():
    page = (ROOT / "docs/install.md").read_text()
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    code = "".join(path.read_text() for path in (ROOT / "pythae_fif").rglob("*.py"))
    variables = {*re.findall(r"PYTHAE_FIF_[A-Z0-9_]+", code)} - {"PYTHAE_FIF_"}
    told = {*re.findall(r"`([\w-]+)`", page)}
    assert {*setup["options.extras_require"], *variables} <= told


def test_the_page_of_models_is_that_of_their_files():
    text = (ROOT / "docs/models.md").read_text()
    rows = [
        cells(line)
        for line in text.splitlines()
        if line.startswith("| `") and "--models" not in line
    ]
    entries = {f"`{name}`": read_entry(name) for name in list_configs("models")}
    assert [row[0] for row in rows] == list(entries)
    assert all(f"`{entry.samplers[0]}`" in text for entry in entries.values())
    for name, label, paper, varied in rows:
        entry = entries[name]
        keys = dict.fromkeys(key for choice in entry.choices() for key in choice)
        assert (label, len(entry.choices())) == (entry.label, 1 if varied == "–" else 10)
        assert varied == (", ".join(f"`{key}`" for key in keys) or "–")
        author = paper.strip("[").split()[0].strip(",")
        assert author.casefold() in entry.source.casefold(), name


def test_profiles_are_those_of_the_configurations():
    """The table of docs/benchmark.md, row by row; every profile of `run` is in it but table 2's."""
    of_all: dict[tuple[str, str], tuple] = {}
    for name in DATASETS:
        content = read_yaml(configs_dir() / f"{name}.yaml")
        for profile, values in content["profiles"].items():
            default = profile == content["profile"]
            sizes = [values.get(key, "all") for key in ("train_size", "max_configurations")]
            length = values.get("epochs") or describe_length(Profile(**values))
            of_all[name, profile] = (default, length, *sizes)
    shown = {}
    for line in (ROOT / "docs/benchmark.md").read_text().splitlines():
        if not re.match(r"\| `\w+`(, `\w+`)* \| `\w+`", line):
            continue
        names, profile, *numbers = cells(line)
        default = profile.endswith(" (default)")
        values = [int(n.replace(",", "")) if re.fullmatch("[0-9,]+", n) else n for n in numbers]
        for name in re.findall(r"\w+", names):
            shown[name, profile.split()[0].strip("`")] = (default, *values)
    assert shown == of_all
