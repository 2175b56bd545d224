"""What the parsers of all subcommands share: flags made of typed fields, and one-line errors."""

__all__ = ["CommonFlags", "Parser", "add_flags", "flags_in"]

import argparse
import re
from collections.abc import Container
from typing import Annotated, Any, Literal, NoReturn, get_args, get_origin

from pydantic import BaseModel

from pythae_fif.errors import ConfigError, did_you_mean
from pythae_fif.validation import Checked, Flag, flag_of


class CommonFlags(Checked):
    """The flags of all commands that make results."""

    data_root: Annotated[str | None, Flag("where data sets are (PYTHAE_FIF_DATA)", "DIR")] = None
    results: Annotated[str, Flag("folder of the results (default: results)", "DIR")] = "results"
    offline: Annotated[bool, Flag("never download")] = False
    quiet: Annotated[bool, Flag("no display while it runs")] = False


class Parser(argparse.ArgumentParser):
    """The parser of one subcommand: of flags that are not given its namespace has nothing.

    Args:
        command: Its name, such as `study linear`.
        description: One line.
        epilog: What comes after the flags.
    """

    def __init__(self, command: str, description: str, epilog: str = "") -> None:
        super().__init__(
            prog=f"pythae-fif {command}",
            description=description,
            epilog=epilog,
            argument_default=argparse.SUPPRESS,
            allow_abbrev=False,
        )
        self.command = command

    def given(self, words: list[str]) -> dict[str, Any]:
        """What the words give: field -> value.

        Raises:
            ConfigError: An unknown flag, or one without a value that it can take.
        """
        known, unknown = self.parse_known_args(self._split_at_commas(words))
        if unknown:
            flag = unknown[0].partition("=")[0]
            if not flag.startswith("-"):
                raise ConfigError(f"{self.command} does not take {flag!r}: see its --help")
            hint = did_you_mean(flag, self._option_string_actions)
            of = f" (data set {known.dataset})" if "dataset" in known else ""
            raise ConfigError(f"unknown flag {flag!r} of {self.command}{of}: {hint}")
        return vars(known)

    def _split_at_commas(self, words: list[str]) -> list[str]:
        """The words, with `a,b` of a flag that takes several values as two.

        `a=b,c=d` are two as well; in `a=b,c` the comma is the value's own.
        """
        found: list[str] = []
        several = False
        for word in words:
            flag, equals, value = word.partition("=")
            if flag.startswith("--"):
                action = self._option_string_actions.get(flag)
                several = action is not None and action.nargs == "+"
                if not (several and equals):
                    found.append(word)
                    continue
                found.append(flag)
                word = value
            comma = r",(?=[\w-]+=)" if "=" in word else ","
            found += [part for part in re.split(comma, word) if part] if several else [word]
        return found

    def error(self, message: str) -> NoReturn:
        """Raises ConfigError in place of printing the usage."""
        raise ConfigError(message)


def flags_in(cls: type[BaseModel]) -> dict[str, Flag]:
    """The fields of a class that have a flag."""
    return {
        name: flag
        for name, field in cls.model_fields.items()
        for flag in field.metadata
        if isinstance(flag, Flag)
    }


def add_flags(
    parser: argparse._ActionsContainer,
    cls: type[BaseModel],
    names: Container[str] | None = None,
    prefix: str = "",
) -> None:
    """Adds the flags of a class's fields.

    Args:
        parser: A parser, or a group of one.
        cls: The class that their values are read into.
        names: Those to add; all if None.
        prefix: Comes before the line of help.
    """
    for name, flag in flags_in(cls).items():
        if names is None or name in names:
            form = _form(cls.model_fields[name].annotation, flag)
            help = f"{prefix}{flag.help}".replace("%", "%%")  # argparse formats it
            parser.add_argument(flag_of(name), help=help, **form)


def _form(annotation: Any, flag: Flag) -> dict[str, Any]:
    """How many words a flag takes, and what becomes of each."""
    kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
    if type(None) in get_args(annotation) or get_origin(annotation) is Annotated:
        return _form(kinds[0], flag)
    if annotation is bool:
        return {"action": "store_true"}
    several = get_origin(annotation) in (list, dict)
    form: dict[str, Any] = {"metavar": flag.metavar} if flag.metavar else {}
    if flag.parse is not None:
        form["type"] = flag.parse
        several = get_origin(annotation) is dict
    elif several:
        form["type"] = _form(kinds[0], Flag("")).get("type", str)
    else:
        form["type"] = str if get_origin(annotation) is Literal else annotation
    return {**form, "nargs": "+"} if several else form
