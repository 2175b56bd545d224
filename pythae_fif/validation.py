"""Checked configurations: pydantic checks, and its errors become one line with the nearest key."""

import dataclasses
import functools
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import pydantic.dataclasses
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from typing_extensions import dataclass_transform

from pythae_fif.errors import ConfigError, did_you_mean

M = TypeVar("M", bound=BaseModel)
C = TypeVar("C", bound=type)
T = TypeVar("T")

UNKNOWN_KEY_ERRORS = ("extra_forbidden", "unexpected_keyword_argument", "invalid_key")


class StrictModel(BaseModel):
    """Base of what is read from YAML files and flags: immutable, and no key is unknown.

    A text is no number and a boolean no integer. What others give is read by :func:`read_checked`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=())


@dataclass(frozen=True)
class Flag:
    """Beside a field's type: the command line has a flag for it, named as the field.

    Attributes:
        help, metavar: A line on it, and what stands for its value there.
        parse: Makes a value of a word; the field's type if None.
    """

    help: str
    metavar: str | None = None
    parse: Callable[[str], Any] | None = None


def flag_fields(cls: type[BaseModel]) -> dict[str, Flag]:
    """The fields of a class that have a flag."""
    fields = cls.model_fields.items()
    return {name: f for name, of in fields for f in of.metadata if isinstance(f, Flag)}


def flag_name(field: str) -> str:
    """The flag of a field, such as `--latent-dim`."""
    return "--" + field.replace("_", "-")


def _integral_float_to_int(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _check_unique(values: list[T]) -> list[T]:
    if not values or any(value in values[:i] for i, value in enumerate(values)):
        raise ValueError("give at least one value, and none twice")
    return values


Integer = Annotated[int, BeforeValidator(_integral_float_to_int)]
"""An integer, which YAML may write as 10.0."""

AtLeastOne = Annotated[int, Field(ge=1), BeforeValidator(_integral_float_to_int)]

AbsolutePath = Annotated[str, AfterValidator(lambda of: os.path.abspath(os.path.expanduser(of)))]
"""A path that means the same in every working directory."""

UniqueList = Annotated[list[T], AfterValidator(_check_unique)]
"""A list of at least one value and none twice."""


def one_of(valid: Callable[[], Collection[str]]) -> AfterValidator:
    """Refuses a name that is not valid; `valid` is called anew for each."""

    def check(name: str) -> str:
        if name not in valid():
            raise ValueError(did_you_mean(name, valid()))
        return name

    return AfterValidator(check)


def read_checked(
    cls: type[M], values: Mapping[str, Any], where: str, flags: Collection[str] = ()
) -> M:
    """A configuration from keys and values; a ConfigError begins with their place, or a flag."""
    try:
        return cls.model_validate(dict(values))
    except ValidationError as error:
        raise as_config_error(error, where, cls, flags) from error


@dataclass_transform(kw_only_default=False)
def config_dataclass(cls: C) -> C:
    """A pydantic dataclass whose constructor raises ConfigError, one line, for what is wrong.

    For configurations in Pythae's style, which derive from its pydantic dataclasses.
    """
    made: Any = pydantic.dataclasses.dataclass(config=ConfigDict(extra="forbid"))(cls)
    checked = made.__init__

    @functools.wraps(checked)
    def construct(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            checked(self, *args, **kwargs)
        except ValidationError as error:
            raise as_config_error(error, cls.__name__, made) from error

    made.__init__ = construct
    return made


def as_config_error(
    error: ValidationError, where: str, cls: Any, flags: Collection[str] = ()
) -> ConfigError:
    """The first thing that pydantic found, as one line; unknown keys come before all else.

    Args: See :func:`read_checked`; valid keys are those of the class that was to be made.
    """
    found = error.errors()
    details = next((one for one in found if one["type"] in UNKNOWN_KEY_ERRORS), found[0])
    kind, given, context = details["type"], details["input"], details.get("ctx", {})
    path = [
        part for part in details["loc"] if not isinstance(part, int) or kind in UNKNOWN_KEY_ERRORS
    ]
    path = [part for part in path if "constrained-float" not in str(part)]  # or a word
    if kind in UNKNOWN_KEY_ERRORS:
        *parents, key = path
        hint = did_you_mean(str(key), _keys_at(cls, parents))
        place = ": ".join([where, *map(str, parents)])
        return ConfigError(f"{place}: unknown key {key!r}: {hint}")
    if path[-1:] == ["[key]"]:  # a wrong key of a mapping is a wrong value of the mapping
        del path[-2:]
    cause = context.get("error")
    if isinstance(cause, ConfigError) and not path:
        return cause  # a check of several keys says all itself
    words = details["msg"].removeprefix("Input ")
    needed = cause or words[0].lower() + words[1:]
    if kind == "literal_error":
        needed = did_you_mean(str(given), re.findall("'([^']*)'", context["expected"]))
    is_flag = bool(path) and path[-1] in flags
    place = flag_name(str(path[-1])) if is_flag else ": ".join([where, *map(str, path)])
    several = not path or isinstance(given, Mapping | BaseModel)
    value = "" if several else f" {given!r}" if is_flag else f"={given!r}"
    return ConfigError(f"{place}{value}: {needed}")


def _keys_at(cls: Any, parents: Iterable[int | str]) -> list[str]:
    """The valid keys of the class that a path of keys leads to."""
    for part in parents:
        field = getattr(cls, "model_fields", {}).get(part)
        waiting = [field.annotation] if field else []
        while waiting:  # inside lists, dictionaries and unions
            found = waiting.pop()
            if isinstance(found, type) and issubclass(found, BaseModel):
                cls = found
            waiting += getattr(found, "__args__", ())
    if issubclass(cls, BaseModel):
        return list(cls.model_fields)
    return [field.name for field in dataclasses.fields(cls) if field.init]


_DURATION = re.compile(r"(?:(\d*\.?\d+)h)?(?:(\d*\.?\d+)m(?:in)?)?(?:(\d*\.?\d+)s)?")


def parse_duration(text: str) -> float:
    """Seconds of a duration such as 5h, 1h30m, 10min or 90s.

    Raises:
        ConfigError: The text is no duration above zero.
    """
    match = _DURATION.fullmatch(text.replace(" ", ""))
    hours, minutes, rest = (float(part or 0) for part in match.groups()) if match else (0, 0, 0)
    seconds = 3600 * hours + 60 * minutes + rest
    if seconds <= 0:
        raise ConfigError(
            f"{text!r} is no duration: a number above 0 with a unit is needed, such as 5h, 1h30m, "
            "10min or 90s"
        )
    return seconds
