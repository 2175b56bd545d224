"""Configuration classes that pydantic checks, with errors of one line that name the nearest key."""

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

MAX_INTEGER = 10**15
MAX_SECONDS = 366 * 24 * 3600
MAX_VALUE_LENGTH = 200
"""Characters of a wrong value in an error line."""

UNKNOWN_KEY_ERRORS = ("extra_forbidden", "unexpected_keyword_argument", "invalid_key")
"""Types of pydantic's errors for an unknown key."""


class StrictModel(BaseModel):
    """Base class of configurations that are read from YAML files and flags.

    Instances are immutable, and unknown keys are errors. Types are strict: a text is not converted
    to a number, nor a boolean to an integer. :func:`read_checked` reads values that a user wrote.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=()
    )


@dataclass(frozen=True)
class Flag:
    """Annotation of a field that the command line can set by a flag with the field's name.

    Attributes:
        help: The help text, one line.
        metavar: Placeholder of the value in the help text.
        parse: Converts the word on the command line to a value; None for the field's type.
    """

    help: str
    metavar: str | None = None
    parse: Callable[[str], Any] | None = None


def flag_fields(cls: type[BaseModel]) -> dict[str, Flag]:
    """Returns the flags of a class, by the names of their fields."""
    flags = {}
    for name, field in cls.model_fields.items():
        for annotation in field.metadata:
            if isinstance(annotation, Flag):
                flags[name] = annotation
    return flags


def flag_name(field: str) -> str:
    """Returns the flag of a field, such as `--latent-dim`."""
    return "--" + field.replace("_", "-")


def _integral_float_to_int(value: Any) -> Any:
    """Returns 10 for 10.0, and any other value unchanged."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _check_unique(values: list[T]) -> list[T]:
    """Returns the list unchanged; raises a ValueError if it is empty or has a value twice."""
    has_duplicates = any(value in values[:index] for index, value in enumerate(values))
    if not values or has_duplicates:
        raise ValueError("give at least one value, and none twice")
    return values


Integer = Annotated[
    int, Field(ge=-MAX_INTEGER, le=MAX_INTEGER), BeforeValidator(_integral_float_to_int)
]
"""An integer, which YAML may write as 10.0."""

AtLeastOne = Annotated[int, Field(ge=1, le=MAX_INTEGER), BeforeValidator(_integral_float_to_int)]
"""An integer of at least 1, which YAML may write as 10.0."""

AbsolutePath = Annotated[str, AfterValidator(lambda p: os.path.abspath(os.path.expanduser(p)))]
"""A path, made absolute, so that it means the same in every working directory."""

UniqueList = Annotated[list[T], Field(max_length=1000), AfterValidator(_check_unique)]
"""A list with at least one value and no duplicates."""


def one_of(valid: Callable[[], Collection[str]]) -> AfterValidator:
    """Returns a validator that rejects a name which is not in `valid()`.

    `valid` is called for every check, so that it may depend on files.
    """

    def check(name: str) -> str:
        if name not in valid():
            raise ValueError(did_you_mean(name, valid()))
        return name

    return AfterValidator(check)


def read_checked(
    cls: type[M], values: Mapping[str, Any], source: str, flags: Collection[str] = ()
) -> M:
    """Builds a configuration from keys and values.

    Args:
        cls: The class of the configuration.
        values: Its keys and values.
        source: Where the values come from, such as a file's name; it begins an error line.
        flags: Keys that were set by flags; their error lines begin with the flag instead.

    Raises:
        ConfigError: A key is unknown, a required key is missing, or a value is not valid.
    """
    try:
        return cls.model_validate(dict(values))
    except ValidationError as error:
        raise as_config_error(error, source, cls, flags) from error


@dataclass_transform(kw_only_default=False)
def config_dataclass(cls: C) -> C:
    """Makes a class a pydantic dataclass. Its constructor raises a ConfigError for wrong arguments.

    It serves configurations in Pythae's style, which derive from Pythae's pydantic dataclasses.
    """
    config_class: Any = pydantic.dataclasses.dataclass(config=ConfigDict(extra="forbid"))(cls)
    pydantic_init = config_class.__init__

    @functools.wraps(pydantic_init)
    def construct(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            pydantic_init(self, *args, **kwargs)
        except ValidationError as error:
            raise as_config_error(error, cls.__name__, config_class) from error

    config_class.__init__ = construct
    return config_class


def as_config_error(
    validation_error: ValidationError, source: str, cls: Any, flags: Collection[str] = ()
) -> ConfigError:
    """Converts the first of pydantic's errors to one line; unknown keys come before all others.

    Args:
        validation_error: The errors of a configuration.
        source: Where the values come from, such as a file's name; it begins the line.
        cls: The class of the configuration.
        flags: Keys that were set by flags; their error lines begin with the flag instead.

    Returns:
        The error to raise. It says where the wrong value is and what would be right.
    """
    errors = validation_error.errors()
    unknown_keys = [error for error in errors if error["type"] in UNKNOWN_KEY_ERRORS]
    if unknown_keys:
        return _unknown_key_error(unknown_keys[0], source, cls)

    error = errors[0]
    path = _readable_path(error["loc"])
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, ConfigError) and not path:
        return cause  # a check of several keys, with a complete message

    is_flag = bool(path) and path[-1] in flags
    place = flag_name(path[-1]) if is_flag else ": ".join([source, *path])
    # The value of several keys would make the line too long.
    if path and not isinstance(error["input"], Mapping | BaseModel):
        value = repr(error["input"])[:MAX_VALUE_LENGTH]
        place += f" {value}" if is_flag else f"={value}"

    requirement = _describe_requirement(error)
    for other in errors[1:]:  # of a union, such as `float | Literal["auto"]`
        if other["type"] == "literal_error" and _readable_path(other["loc"]) == path:
            requirement += f", or {other['ctx']['expected']}"
    return ConfigError(f"{place}: {requirement}")


def _unknown_key_error(error: Mapping[str, Any], source: str, cls: Any) -> ConfigError:
    """Returns the error for an unknown key, with the nearest valid one."""
    *parents, key = _without_union_members(error["loc"])
    place = ": ".join([source, *map(str, parents)])
    hint = did_you_mean(str(key), _keys_at(cls, parents))
    return ConfigError(f"{place}: unknown key {key!r}: {hint}")


def _readable_path(location: tuple[int | str, ...]) -> list[str]:
    """Returns the keys that lead to a wrong value, without indices of lists."""
    path = [part for part in _without_union_members(location) if isinstance(part, str)]
    if path[-1:] == ["[key]"]:  # a wrong key of a mapping is reported as a wrong mapping
        del path[-2:]
    return path


def _without_union_members(location: tuple[int | str, ...]) -> list[int | str]:
    """Drops the parts that name the members of a union, such as `float | Literal[...]`."""
    members = ("constrained-float", "literal[")
    return [part for part in location if not any(member in str(part) for member in members)]


def _describe_requirement(error: Mapping[str, Any]) -> str:
    """Returns what a value should be, as a clause."""
    context = error.get("ctx", {})
    if error["type"] == "literal_error":
        return did_you_mean(str(error["input"]), re.findall("'([^']*)'", context["expected"]))
    if "error" in context:
        return str(context["error"])
    message = error["msg"].removeprefix("Input ")
    return message[0].lower() + message[1:]


def _keys_at(cls: Any, parents: Iterable[int | str]) -> list[str]:
    """Returns the valid keys of the class that is found at the end of a path of keys."""
    for part in parents:
        field = getattr(cls, "model_fields", {}).get(part)
        annotations = [field.annotation] if field else []
        while annotations:  # look inside lists, dictionaries and unions
            annotation = annotations.pop()
            if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                cls = annotation
            annotations += getattr(annotation, "__args__", ())

    if issubclass(cls, BaseModel):
        return list(cls.model_fields)
    return [field.name for field in dataclasses.fields(cls) if field.init]


_DURATION = re.compile(r"(?:(\d*\.?\d+)h)?(?:(\d*\.?\d+)m(?:in)?)?(?:(\d*\.?\d+)s)?")


def parse_duration(text: str) -> float:
    """Returns the seconds of a duration such as 5h, 1h30m, 10min or 90s.

    Raises:
        ConfigError: The text is not a duration above zero.
    """
    match = _DURATION.fullmatch(text.replace(" ", ""))
    hours, minutes, seconds = match.groups(default="0") if match else ("0", "0", "0")
    total = 3600 * float(hours) + 60 * float(minutes) + float(seconds)
    if not 0 < total <= MAX_SECONDS:
        raise ConfigError(
            f"{text!r} is not a duration of up to a year: use a positive number with a unit, such "
            "as 5h, 1h30m, 10min or 90s"
        )
    return total
