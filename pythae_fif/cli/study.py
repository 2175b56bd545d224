"""`study`: an experiment of the paper, with the flags that it declares."""

import logging
from pathlib import Path
from typing import Annotated

from pythae_fif.benchmark.settings import Seed
from pythae_fif.cli.display import Display, Terminal
from pythae_fif.cli.flags import ENGINE_FLAGS, ENGINES, USUAL, CommonFlags, Parser, read_engine
from pythae_fif.errors import ConfigError, did_you_mean
from pythae_fif.runs.local import LocalEngine
from pythae_fif.studies.study import STUDIES, StudyOptions, run_study
from pythae_fif.validation import AtLeastOne, Each, Flag, read_checked

logger = logging.getLogger(__name__)


class StudyFlags(CommonFlags):
    """The flags that studies take; each declares which."""

    data_root: Annotated[str | None, Flag("where data sets are (PYTHAE_FIF_DATA)", "DIR")] = None
    offline: Annotated[bool, Flag("never download")] = False
    profile: Annotated[str, Flag("quick (default), paper, or another that the study has")] = "quick"
    dataset: Annotated[str | None, Flag("a data set of this study")] = None
    data: Annotated[str | None, Flag("your table, with --dataset csv", "PATH")] = None
    models: Annotated[Each[str] | None, Flag("what to compare", "MODEL")] = None
    latent_dim: Annotated[AtLeastOne | None, Flag("latent dimension", "D")] = None
    seeds: Annotated[Each[Seed] | None, Flag("of the study's models", "SEED")] = None


def study_command(words: list[str]) -> bool:
    """Runs the study that the words name first, and prints what was written; True.

    Raises:
        ConfigError: An unknown study, or a flag or value that it does not take.
        RunsLeftError: Runs failed, or go on elsewhere.
    """
    if not words or words[0].startswith("-"):
        lines = [f"  {name:10} {of.description}" for name, of in STUDIES.items()]
        parser = Parser("study", "\n".join(["An experiment of the paper.", "", *lines]))
        parser.add_argument("study", metavar="NAME", help="of the study; NAME --help has its flags")
        parser.given(words)
    study = STUDIES.get(words[0])
    if study is None:
        raise ConfigError(f"study {words[0]!r} is unknown: {did_you_mean(words[0], STUDIES)}")
    datasets = f"data sets: {', '.join(study.datasets)}" if study.datasets else ""
    parser = Parser(f"study {words[0]}", f"{study.description}\n{datasets}", USUAL)
    usual = {"profile", "seeds", "data_root", "offline"} | CommonFlags.model_fields.keys()
    parser.add_flags(StudyFlags, only=usual | study.takes)
    parser.add_flags(*ENGINES.values())
    given = parser.given(words[1:])
    own = {name: value for name, value in given.items() if name not in ENGINE_FLAGS}
    flags = read_checked(StudyFlags, own, f"study {words[0]}", flags=own)
    engine = read_engine(flags, given)
    options = StudyOptions(
        **flags.model_dump(exclude={"quiet", "results", "seeds", "engine"}),
        results=Path(flags.results).expanduser(),
        seeds=flags.seeds or (),
        engine=engine if given.keys() & {*ENGINE_FLAGS, "engine"} else None,  # the study's own
    )
    from pythae_fif.cli.check import idle_gpu  # which imports torch

    engine.check(options.results)
    if isinstance(engine, LocalEngine) and (line := idle_gpu()):
        logger.warning(line)
    console = Terminal()
    with Display(console, quiet=flags.quiet).runs() as on_change:
        paths = run_study(words[0], options, on_change)
    console.say(f"written: {', '.join(map(str, paths))}")
    return True
