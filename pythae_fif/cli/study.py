"""`study`: an experiment of the paper, with the flags that it declares."""

from pathlib import Path
from typing import Annotated

from pythae_fif.benchmark.config import Seed
from pythae_fif.cli.display import Terminal
from pythae_fif.cli.flags import ENGINE_FLAGS, ENGINES, USUAL_FLAGS, CommonFlags, Parser
from pythae_fif.errors import ConfigError, did_you_mean
from pythae_fif.names import DataOptions
from pythae_fif.studies.study import STUDIES, StudyOptions, run_study
from pythae_fif.validation import AtLeastOne, Flag, UniqueList


class StudyFlags(CommonFlags, DataOptions):
    """The flags that studies take; each declares which."""

    profile: Annotated[str, Flag("quick (default), paper, or another that the study has")] = "quick"
    dataset: Annotated[str | None, Flag("a data set of this study")] = None
    models: Annotated[UniqueList[str] | None, Flag("what to compare", "MODEL")] = None
    latent_dim: Annotated[AtLeastOne | None, Flag("latent dimension", "D")] = None
    seeds: Annotated[UniqueList[Seed] | None, Flag("of the study's models", "SEED")] = None


def study_command(words: list[str]) -> bool:
    """Runs the study that the words name first, and prints what was written; True."""
    if not words or words[0].startswith("-"):
        lines = [f"  {name:10} {of.description}" for name, of in STUDIES.items()]
        parser = Parser("study", words, "\n".join(["An experiment of the paper.", "", *lines]))
        parser.add_argument("study", metavar="NAME", help="of the study; NAME --help has its flags")
        parser.parsed_values()
    study = STUDIES.get(words[0])
    if study is None:
        raise ConfigError(f"study {words[0]!r} is unknown: {did_you_mean(words[0], STUDIES)}")
    datasets = f"data sets: {', '.join(study.datasets)}" if study.datasets else ""
    description = f"{study.description}\n{datasets}"
    parser = Parser(f"study {words[0]}", words[1:], description, USUAL_FLAGS)
    taken = {"profile", "data_root", "offline"} | study.extra_options
    parser.add_flags(StudyFlags, only={"results", "engine", "seeds"} | taken)
    parser.add_flags(*ENGINES.values())
    flags, asked = (
        parser.read(StudyFlags),
        parser.parsed_values().keys() & {*ENGINE_FLAGS, "engine"},
    )
    options = StudyOptions(
        **flags.model_dump(include=taken - DataOptions.model_fields.keys()),
        location=DataOptions(**flags.model_dump(include={*DataOptions.model_fields})),
        results=Path(flags.results).expanduser(),
        seeds=flags.seeds or (),
        engine=parser.engine() if asked else None,  # the study's own
    )
    console = Terminal()
    with console.runs() as on_change:
        paths = run_study(words[0], options, on_change)
    console.say(f"written: {', '.join(map(str, paths))}")
    return True
