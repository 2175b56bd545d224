"""Tests that the examples in README and the guides run, and that their numbers are right."""

import configparser
import copy
import functools
import importlib.util
import re
import shlex
import shutil
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from support.reference import REFERENCE, ROOT

import pythae_fif
from pythae_fif.benchmark.config import Experiment, Profile, describe_length
from pythae_fif.benchmark.models import (
    ModelEntry,
    configs_dir,
    list_configs,
    read_entry,
    read_yaml,
)
from pythae_fif.benchmark.results import read_all
from pythae_fif.cli import main
from pythae_fif.models import density_training
from pythae_fif.runs.store import Store

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NUMBER = r"\d[\d,]*\.\d+"  # with a decimal point


# ------------------------------------------------------------------ parts of pages


def page_name(page: Path) -> str:
    return str(page.relative_to(ROOT).with_suffix(""))


def code_blocks(language: str) -> dict[str, list[str]]:
    """Name of a page -> its code blocks in a language; pages without such blocks are left out."""
    blocks = {}
    for page in PAGES:
        texts = re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.S | re.M)
        if texts:
            blocks[page_name(page)] = texts
    return blocks


def yaml_blocks() -> list:
    parameters = []
    for page, texts in code_blocks("yaml").items():
        for number, text in enumerate(texts):
            parameters.append(pytest.param(text, id=f"{page}-{number}"))
    return parameters


def commands() -> list[str]:
    """The arguments of all commands of the program that the pages show, in blocks and in text.

    `test_extend.py` executes those of `docs/extend.md`.
    """
    lines = []
    blocks = code_blocks("bash")
    del blocks["docs/extend"]
    for texts in blocks.values():
        for text in texts:
            lines += text.splitlines()
    for page in PAGES:
        lines += re.findall(r"`([^`\n]+)`", page.read_text())

    arguments = set()
    for line in lines:
        match = re.match(r"(?:python run_benchmark\.py|pythae-fif)\b(?!-)(.*)", line)
        if match:
            arguments.add(match[1].partition("#")[0].strip())
    return sorted(arguments)


def cells(row: str) -> list[str]:
    """The cells of a table's row, without bold and without the targets of links."""
    text = re.sub(r"\]\(\S*\)", "]", row)
    return [cell.strip(" *") for cell in text[1:-1].split("|")]


def table_rows(text: str, pattern: str) -> list[list[str]]:
    """The cells of all lines that match a pattern."""
    return [cells(line) for line in text.splitlines() if re.match(pattern, line)]


def parse_number(text: str) -> float:
    return float(text.replace(",", ""))


@pytest.fixture(autouse=True)
def empty_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# ------------------------------------------------------------------ examples run


def check_visible_density(names: dict[str, Any], output: str) -> None:
    """The sinusoid of getting_started: the printed likelihood reaches the entropy of the data."""
    progress = re.findall(r"epoch \d+: (.*) nats per point, squared error (.*)", output)
    assert len(progress) == 8

    nll = float(progress[-1][0])
    error = float(progress[-1][1])
    entropy = -float(names["held_out"].log_density.mean())
    assert error < 0.02
    assert nll == pytest.approx(entropy, abs=0.15)


def check_custom_networks(names: dict[str, Any]) -> None:
    """The model of networks.md has learnt, is loaded as saved, and its likelihood is right."""
    model = names["model"]
    x = names["held_out"]
    assert (model.reconstruct(x) - x).square().mean() < 0.9 * x.var(0).mean()
    assert torch.equal(names["loaded"].reconstruct(x), model.reconstruct(x))

    point = x[:1].double()
    (z,) = model.double().embed(point)
    jacobian = torch.func.jacrev(lambda z: model.decoder(z[None]).reconstruction.flatten())(z)
    prior_log_prob = torch.distributions.Normal(0, 1).log_prob(z).sum()
    expected = prior_log_prob - 0.5 * (jacobian.T @ jacobian).logdet()
    assert float(model.log_prob(point)) == pytest.approx(float(expected), abs=1e-9)


def check_plain_loop(names: dict[str, Any]) -> None:
    """The loop of plain_pytorch.md has learnt, and its likelihood is exact."""
    test = names["test"]
    assert names["error"].mean() < 0.5 * test.var(0).sum()

    codes = names["codes"][:1].double()
    decoder = copy.deepcopy(names["decoder"]).double()
    jacobian = torch.func.jacrev(decoder)(codes[0])
    log_volume = 0.5 * (jacobian.T @ jacobian).logdet()
    log_prior = torch.distributions.Normal(0, 1).log_prob(codes).sum()
    expected = float(log_prior - log_volume)
    assert float(names["log_p"][0]) == pytest.approx(expected, abs=1e-3)


def check_free_form_flow(names: dict[str, Any]) -> None:
    """The flow is nearly invertible, and its likelihood is near the entropy."""
    assert names["inverse_error"] < 0.2
    assert float(names["nll"]) == pytest.approx(names["entropy"], abs=0.2)
    assert names["samples"].shape == (1000, 2)


def check_written_images(samples: torch.Tensor) -> None:
    """The block of samples.md has written an image for each sample, and a sheet."""
    assert len(list(Path("samples").glob("*.png"))) == len(samples)
    with Image.open("samples/00004.png") as image:
        assert image.size == tuple(samples.shape[2:])
    assert Path("sheet.png").is_file()


CHECKED = ("held_out.log_density", "TimmEncoder", "decoder_log_volume", "inverse_error")
"""Parts of the code blocks after which a function above checks what was learnt."""


def shorten(code: str) -> str:
    """Shortens the trainings of a code block, unless what it learns is checked."""
    if any(part in code for part in CHECKED):
        return code
    return re.sub(r"\b(num_epochs|max_steps|steps)=\d+", r"\1=1", code)


@pytest.mark.parametrize("page", sorted(code_blocks("python").keys() - {"docs/extend"}))
def test_python_blocks_of_a_page_run_in_their_order(page, capsys, request, monkeypatch):
    """`test_extend.py` runs the files of `docs/extend.md`."""
    monkeypatch.setattr(density_training, "MAX_STEPS_PER_RATE", 1)
    names: dict[str, Any] = {"__name__": "__main__"}  # as in a script, for pickled classes
    for code in map(shorten, code_blocks("python")[page]):
        if "hf_hub" in code:
            request.getfixturevalue("hub")
        if "import lightning" in code and importlib.util.find_spec("lightning") is None:
            compile(code, page, "exec")
            continue
        exec(code, names)

        if "held_out.log_density" in code:
            check_visible_density(names, capsys.readouterr().out)
        if "TimmEncoder" in code:
            check_custom_networks(names)
        if "decoder_log_volume" in code:
            check_plain_loop(names)
        if "inverse_error" in code:
            check_free_form_flow(names)
        if "save_image" in code:
            check_written_images(names["samples"])


@pytest.mark.parametrize("text", yaml_blocks())
def test_yaml_block_is_a_valid_model_or_experiment(text, tmp_path):
    file = tmp_path / "block.yaml"
    file.write_text(text)
    values = read_yaml(file)
    if "config" in values:
        assert ModelEntry.model_validate(values).choices()
    else:
        assert values.keys() <= {*Experiment.model_fields, *Profile.model_fields}
        for profile in values["profiles"].values():
            Profile.model_validate(profile)


class CommandParsed(Exception):
    """Raised when a command's arguments have been read and checked, before it does anything."""


@pytest.mark.parametrize("arguments", commands())
def test_command_is_parsed(arguments, monkeypatch):
    for file in re.findall(r"\w+\.yaml", arguments):  # the file of a user's own model
        Path(file).write_text((configs_dir() / "models/ae.yaml").read_text())
    shutil.copytree(ROOT / "studies", "studies")
    for word, file in {"SHAPES": "shapes.py", "STUDY": "studies/circle.py"}.items():
        (code,) = [text for text in code_blocks("python")["docs/extend"] if word in text]
        Path(file).write_text(code)

    def stop(*_):
        raise CommandParsed

    for name in (
        "show.Terminal",
        "benchmark.run_benchmark",
        "saved_models.find_model",
        "saved_models.load_trained",
    ):
        monkeypatch.setattr(f"pythae_fif.cli.{name}", stop)
    monkeypatch.setattr("pythae_fif.cli.study.run_study", stop)
    with pytest.raises(CommandParsed):
        main(shlex.split(arguments))


# ------------------------------------------------------------------ pages are complete


def test_links_lead_to_files():
    local = []
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
            if "://" not in link:
                local.append((page, link))

    assert len(local) > 60
    assert [(page, link) for page, link in local if not (page.parent / link).exists()] == []


@pytest.mark.parametrize(
    ("file", "key"), [("README.md", "note = {Version "), ("CITATION.cff", "\nversion: ")]
)
def test_the_cited_version_is_the_current_one(file, key):
    assert f"{key}{pythae_fif.__version__}" in (ROOT / file).read_text()


def test_install_page_lists_every_extra_and_variable():
    page = (ROOT / "docs/install.md").read_text()
    documented = set(re.findall(r"`([\w-]+)`", page))

    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    code = "".join(path.read_text() for path in (ROOT / "pythae_fif").rglob("*.py"))
    variables = set(re.findall(r"PYTHAE_FIF_[A-Z0-9_]+", code)) - {"PYTHAE_FIF_"}
    assert {*setup["options.extras_require"], *variables} <= documented


def test_page_of_models_agrees_with_their_files():
    text = (ROOT / "docs/models.md").read_text()
    rows = table_rows(text, r"\| `(?!--models)")
    entries = {f"`{name}`": read_entry(name) for name in list_configs("models")}
    assert [row[0] for row in rows] == list(entries)
    assert all(f"`{entry.samplers[0]}`" in text for entry in entries.values())

    for name, label, paper, varied in rows:
        entry = entries[name]
        choices = entry.choices()
        assert label == entry.label
        assert len(choices) == (1 if varied == "–" else 10)

        varied_keys = dict.fromkeys(key for choice in choices for key in choice)
        assert varied == (", ".join(f"`{key}`" for key in varied_keys) or "–")

        first_author = paper.strip("[").split()[0].strip(",")
        assert first_author.casefold() in entry.source.casefold(), name


def configured_profiles() -> dict[tuple[str, str], tuple]:
    """(Data set, profile) -> the cells of its row in docs/benchmark.md, by the YAML files."""
    profiles = {}
    for dataset in list_configs():
        content = read_yaml(configs_dir() / f"{dataset}.yaml")
        for profile, values in content["profiles"].items():
            profiles[dataset, profile] = (
                profile == content["profile"],  # whether it is the default
                values.get("epochs") or describe_length(Profile(**values)),
                values.get("train_size", "all"),
                values.get("max_configurations", "all"),
            )
    return profiles


def test_table_of_profiles_agrees_with_the_configurations():
    text = (ROOT / "docs/benchmark.md").read_text()
    documented = {}
    for names, profile, *numbers in table_rows(text, r"\| `\w+`(, `\w+`)* \| `\w+`"):
        values = []
        for number in numbers:
            is_integer = re.fullmatch("[0-9,]+", number)
            values.append(int(number.replace(",", "")) if is_integer else number)
        for dataset in re.findall(r"\w+", names):
            key = (dataset, profile.split()[0].strip("`"))
            documented[key] = (profile.endswith(" (default)"), *values)

    assert documented == configured_profiles()


# ------------------------------------------------------------------ numbers agree with records


def distances_after_all_epochs(extractor: str) -> dict[tuple[str, str], dict[int, float]]:
    """(Model's label, sampler) -> seed -> test distance, of MNIST's runs of 100 epochs."""
    store = Store(REFERENCE)
    distances: dict[tuple[str, str], dict[int, float]] = {}
    for result in read_all(store, "mnist/resnet"):
        training = result.job.training
        budget = (training.precision, training.epochs)
        if result.job.scorings[0].extractor != extractor or budget != ("bfloat16", 100):
            continue

        label = read_entry(training.model).label
        for sampler, record in result.scores.items():
            by_seed = distances.setdefault((label, sampler), {})
            assert training.seed not in by_seed, "two runs of one model and seed"
            by_seed[training.seed] = record.result.scores.frechet["test"]
    return distances


def test_numbers_of_the_readme_are_means_over_the_seeds_of_the_records():
    samplers = ("normal", "gmm")
    tables = [distances_after_all_epochs(name) for name in ("classifier", "efficientnet-lite0")]
    rows = table_rows((ROOT / "README.md").read_text(), r"\|.*\d\.\d")
    models = {model for model, _ in tables[0]}
    assert {row[0] for row in rows} == models
    assert "FIF" in models

    for model, *numbers in rows:
        means = []
        for distances in tables:
            for sampler in samplers:
                by_seed = distances[model, sampler]
                assert len(by_seed) == (2 if model in ("FIF", "WAE-IMQ") else 1)
                means.append(statistics.fmean(by_seed.values()))
        assert numbers == [f"{mean:.0f}" if mean >= 100 else f"{mean:.1f}" for mean in means], model


@functools.cache
def numbers_for(model_names: frozenset[str], lines: tuple[str, ...]) -> list[float]:
    """All numbers of lines, or of the rows of tables that begin with one of the models' names."""
    if model_names:
        lines = tuple(line for line in lines if model_names & set(cells(line)[:1]))
    return [parse_number(number) for number in re.findall(NUMBER, " ".join(lines))]


def unconfirmed_numbers(section: str, page: Path, models: set[str]) -> tuple[int, list[tuple]]:
    """Checks a section's tables against the tables that it links.

    Returns:
        How many numbers were checked, and the cells of those that no linked table has.
    """
    links = re.findall(r"\]\((\S*/\S+\.(?:md|csv))", section)
    linked_text = "\n".join((page.parent / link).read_text() for link in links)
    linked_lines = tuple(linked_text.splitlines())

    checked = 0
    wrong = []
    header: list[str] = []
    for line in section.splitlines():
        if not line.startswith("|"):
            header = []
            continue
        row = cells(line)
        header = header or row

        for heading, cell in zip(header[1:], row[1:], strict=True):
            confirmed = numbers_for(frozenset(models & {heading, row[0]}), linked_lines)
            for text in re.findall(NUMBER, cell):
                value = parse_number(text)
                tolerance = 0.5001 * 10 ** -len(text.split(".")[1])
                checked += 1
                if not any(abs(value - number) < tolerance for number in confirmed):
                    wrong.append((page.name, row[0], heading, text))
    return checked, wrong


def test_numbers_in_tables_of_the_results_pages_are_in_the_tables_that_they_link():
    """Numbers in a row or column of a model must be in a linked row of that model."""
    models = {read_entry(name).label for name in list_configs("models")}
    total = 0
    wrong = []
    for page in REFERENCE.glob("*.md"):
        for section in re.split("^#+ ", page.read_text(), flags=re.M):
            checked, unconfirmed = unconfirmed_numbers(section, page, models)
            total += checked
            wrong += unconfirmed

    assert not wrong
    assert total > 300
