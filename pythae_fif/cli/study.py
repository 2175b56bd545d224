"""`study`: an experiment of the paper, with the flags that it declares."""

__all__ = ["study_command"]

import logging
import math
import time
from pathlib import Path
from typing import Annotated, Any

from pythae_fif import studies
from pythae_fif.benchmark.config import Seeds
from pythae_fif.benchmark.display import Display, duration, time_left
from pythae_fif.cli.engine import ENGINE_FLAGS, add_engine_flags, read_engine
from pythae_fif.cli.parsing import CommonFlags, Parser, add_flags
from pythae_fif.cli.terminal import Terminal
from pythae_fif.errors import ConfigError, did_you_mean
from pythae_fif.runs.engines.options import build_engine
from pythae_fif.runs.remote import is_url
from pythae_fif.validation import AtLeastOne, Each, Flag, read_checked

logger = logging.getLogger(__name__)


class StudyFlags(CommonFlags):
    """The flags that studies take; each declares which."""

    profile: Annotated[str, Flag("quick (default), paper, or another that the study has")] = "quick"
    dataset: Annotated[str | None, Flag("a data set of this study")] = None
    data: Annotated[str | None, Flag("your table, with --dataset csv", "PATH")] = None
    models: Annotated[Each[str] | None, Flag("what to compare", "MODEL")] = None
    latent_dim: Annotated[AtLeastOne | None, Flag("latent dimension", "D")] = None
    seeds: Annotated[Seeds | None, Flag("of the study's models", "SEED")] = None


def study_command(words: list[str]) -> int:
    """Runs a study as the words say, and prints how far it is and what was written.

    Args:
        words: Its name, a key of :data:`~pythae_fif.studies.STUDIES`, and its flags.

    Returns:
        The exit code.

    Raises:
        ConfigError: An unknown study, or a flag or value that it does not take.
        StoreError: The folder of results cannot be written.
    """
    if not words or words[0] in ("-h", "--help"):
        names = ", ".join(studies.STUDIES)
        parser = Parser("study", "An experiment of the paper.", f"studies: {names}")
        parser.add_argument("study", metavar="NAME", help="of the study; NAME --help has its flags")
        parser.given(words)
    study = studies.STUDIES.get(words[0])
    if study is None:
        raise ConfigError(
            f"study {words[0]!r} is unknown: {did_you_mean(words[0], studies.STUDIES)}"
        )
    flags, of_engine = _flags(study, words[1:])
    engine = read_engine(of_engine)
    anywhere = not of_engine.keys() - {"run_timeout"}  # the study knows best
    options = studies.StudyOptions(
        **flags.model_dump(exclude={"quiet", "results", "seeds"}),
        results=Path(flags.results).expanduser(),
        seeds=flags.seeds or (),
        engine=None if anywhere else build_engine(engine, flags.results),
        run_timeout=engine.timeout_seconds,
    )
    # Its import costs seconds, which --help shall not wait for.
    from pythae_fif.cli import preflight
    from pythae_fif.runs.engines.local import LocalEngine

    here = options.engine is None or isinstance(options.engine, LocalEngine)
    gpus = options.engine.gpus if isinstance(options.engine, LocalEngine) else None
    if here and (line := preflight.cuda_problem(gpus)):
        raise ConfigError(line)
    console = Terminal(highlight=False)
    if options.engine is not None and not flags.quiet:
        console.print(preflight.machine_line(options.engine), markup=False, soft_wrap=True)
    if here and (warning := preflight.cuda_warning()):
        logger.warning(warning)
    tenths, begun = 0, (time.monotonic(), math.inf)
    with Display(console, quiet=flags.quiet).stage(study.name) as progress:

        def watch(what: str, share: float) -> None:
            nonlocal tenths, begun
            progress(round(100 * share), 100)
            if share < begun[1]:  # what is kept from before took no time
                begun, tenths = (time.monotonic(), share), int(10 * share)
            if int(10 * share) > tenths and not flags.quiet:
                tenths = int(10 * share)
                left = time_left(time.monotonic() - begun[0], share - begun[1], 1 - share)
                end = f", {duration(left)} left" if left else ""
                console.print(f"{share:4.0%} {what}{end}", markup=False)

        paths = studies.run_study(study.name, options, watch)
    console.print(f"written: {', '.join(map(str, paths))}", markup=False)
    return 0


def _flags(study: studies.Study, words: list[str]) -> tuple[StudyFlags, dict[str, Any]]:
    """The study's flags, and those of engines that are given."""
    command = f"study {study.name}"
    choices = {"profiles": study.profiles, "data sets": study.datasets}
    epilog = "; ".join(f"{what}: {', '.join(names)}" for what, names in choices.items() if names)
    parser = Parser(command, study.description, epilog)
    names = {"profile", "seeds", *study.takes, *CommonFlags.model_fields}
    add_flags(parser, StudyFlags, names | ({"dataset"} if study.datasets else set()))
    add_engine_flags(parser)
    words_given = parser.given(words)
    given = {k: v for k, v in words_given.items() if k not in ENGINE_FLAGS}
    of_engine = {k: v for k, v in words_given.items() if k in ENGINE_FLAGS}
    flags = read_checked(StudyFlags, given, command, flags=given)
    if is_url(flags.results):
        raise ConfigError(f"--results {flags.results}: studies write to a folder, not to a URL")
    return flags, of_engine
