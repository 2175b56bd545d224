"""`study`: runs an experiment of the paper or of a user, with the flags that the study declares."""

from pathlib import Path
from typing import Annotated

from pythae_fif.benchmark.config import Seed
from pythae_fif.cli.display import Terminal
from pythae_fif.cli.flags import ENGINE_FLAGS, USUAL_FLAGS, CommonFlags, Parser
from pythae_fif.names import DataOptions
from pythae_fif.runs.engines import ENGINES
from pythae_fif.study import (
    NO_STUDIES,
    Study,
    StudyOptions,
    find_study,
    run_study,
    study_descriptions,
)
from pythae_fif.validation import AtLeastOne, Flag, UniqueList


class StudyFlags(CommonFlags, DataOptions):
    """The flags of all studies. Each study declares which of them it takes."""

    profile: Annotated[str, Flag("length: quick (default), paper or medium", "NAME")] = "quick"
    dataset: Annotated[str | None, Flag("data set of the study", "NAME")] = None
    latent_dim: Annotated[AtLeastOne | None, Flag("latent dimension", "D")] = None
    seeds: Annotated[UniqueList[Seed] | None, Flag("random seeds of the models", "SEED")] = None


def study_command(words: list[str]) -> None:
    """Runs the study that the first word names, and prints the paths of the written files.

    Raises:
        ConfigError: The study or a flag is unknown, or a value is not valid.
        FailedRunsError: Runs of the study failed.
    """
    if not words or words[0].startswith("-"):
        _show_studies(words)
    name = words[0]
    options = _read_options(name, find_study(name), words[1:])
    console = Terminal()
    with console.runs() as on_change:
        paths = run_study(name, options, on_change)
    console.say(f"written: {', '.join(map(str, paths))}")


def _show_studies(words: list[str]) -> None:
    """Shows `study --help`; raises a ConfigError if the words do not ask for it."""
    descriptions = study_descriptions()
    width = max(map(len, descriptions), default=0)
    lines = [f"  {name:{width}} {text}" for name, text in descriptions.items()] or [NO_STUDIES]
    description = "\n".join(
        ["Runs an experiment of the paper, or a file of yours in the folder studies.", "", *lines]
    )
    positionals = {"name": "the study; NAME --help shows its flags"}
    Parser("study", words, description, positionals=positionals).parsed_values()


def _read_options(name: str, study: Study, words: list[str]) -> StudyOptions:
    """Parses the words after the name of a study."""
    description = f"Study {name}: {study_descriptions()[name]}"
    description += f"\nprofiles: {', '.join(study.profiles)}"
    if study.datasets:
        description += f"\ndata sets: {', '.join(study.datasets)}"
    option_names = {"profile", "data_root", "offline", *study.options}
    if study.datasets:
        option_names.add("dataset")

    parser = Parser(f"study {name}", words, description, USUAL_FLAGS)
    parser.add_flags(StudyFlags, names={"results", "engine", "seeds"} | option_names)
    parser.add_flags(*ENGINES.values())
    flags = parser.read(StudyFlags)

    data_fields = set(DataOptions.model_fields)
    sets_engine = bool(parser.parsed_values().keys() & {*ENGINE_FLAGS, "engine"})
    return StudyOptions(
        **flags.model_dump(include=option_names - data_fields),
        location=DataOptions(**flags.model_dump(include=data_fields)),
        results=Path(flags.results).expanduser(),
        seeds=flags.seeds or (),
        engine=parser.engine() if sets_engine else None,  # None for the study's own engine
    )
