"""Configuration classes that pydantic checks, with errors of one line that name the nearest key."""

import dataclasses
import functools
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

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

    alternatives = _errors_of_first_value(errors, cls)
    error = alternatives[0]
    path = _Place.find(cls, error["loc"]).keys
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, ConfigError) and not path:
        return cause  # a check of several keys, with a complete message

    is_flag = bool(path) and path[-1] in flags
    place = flag_name(path[-1]) if is_flag else ": ".join([source, *path])
    # The value of several keys would make the line too long.
    if path and not isinstance(error["input"], Mapping | BaseModel):
        value = repr(error["input"])[:MAX_VALUE_LENGTH]
        place += f" {value}" if is_flag else f"={value}"
    return ConfigError(f"{place}: {_describe_requirements(alternatives)}")


def _unknown_key_error(error: Mapping[str, Any], source: str, cls: Any) -> ConfigError:
    """Returns the error for an unknown key, with the nearest valid one."""
    *parents, key = error["loc"]
    parent = _Place.find(cls, parents)
    place = ": ".join([source, *parent.keys])
    hint = did_you_mean(str(key), _keys_of(parent.annotation))
    return ConfigError(f"{place}: unknown key {key!r}: {hint}")


@dataclass(frozen=True)
class _Place:
    """The place of a value in a configuration, found by the types of the configuration's fields.

    Attributes:
        keys: The keys that lead to it, without indices of lists.
        annotation: The type of the value.
        depth: Number of keys and indices that lead to it.
        union: Number of parts of pydantic's location before the value of a union; None without one.
    """

    keys: list[str]
    annotation: Any
    depth: int
    union: int | None

    @classmethod
    def find(cls, annotation: Any, location: Sequence[int | str]) -> "_Place":
        """Follows one of pydantic's locations, which also names the members of unions."""
        keys: list[str] = []
        depth = 0
        union = None

        for index, part in enumerate(location):
            annotation = _without_extras(annotation)
            members = _union_members(annotation)
            if members:  # the part is pydantic's name of a member
                union = index if union is None else union
                next_part = location[index + 1] if index + 1 < len(location) else None
                annotation = next((m for m in members if _has_part(m, next_part)), annotation)
            elif part == "[key]":  # a wrong key of a mapping is reported as a wrong mapping
                keys.pop()
            elif _has_part(annotation, part):
                annotation = _type_of_part(annotation, part)
                keys += [str(part)] if isinstance(part, str) else []
                depth += 1
        return cls(keys, _without_extras(annotation), depth, union)


def _errors_of_first_value(errors: Sequence[Any], cls: Any) -> list[Any]:
    """Returns the first error, or the errors of all members if its value is that of a union.

    Of these, the members that fit best have the errors in the greatest depth.
    """
    first = errors[0]
    union = _Place.find(cls, first["loc"]).union
    if union is None:
        return [first]

    same_value = [error for error in errors if error["loc"][:union] == first["loc"][:union]]
    depths = [_Place.find(cls, error["loc"]).depth for error in same_value]
    return [e for e, depth in zip(same_value, depths, strict=True) if depth == max(depths)]


def _describe_requirements(alternatives: Sequence[Mapping[str, Any]]) -> str:
    """Returns what a value should be, as a clause, from one error or those of a union's members."""
    if len(alternatives) == 1:
        return _describe_requirement(alternatives[0])

    clauses = []
    choices = []
    for error in alternatives:
        if error["type"] == "literal_error":
            choices.append(error["ctx"]["expected"])
        else:
            clauses.append(_describe_requirement(error))
    distinct = [*dict.fromkeys(clauses), *choices]
    return ", or ".join([distinct[0], *(part.removeprefix("should be ") for part in distinct[1:])])


def _describe_requirement(error: Mapping[str, Any]) -> str:
    """Returns what a value should be, as a clause."""
    context = error.get("ctx", {})
    if error["type"] == "literal_error":
        return did_you_mean(str(error["input"]), re.findall("'([^']*)'", context["expected"]))
    if "error" in context:
        return str(context["error"])
    message = error["msg"].removeprefix("Input ")
    return message[0].lower() + message[1:]


def _without_extras(annotation: Any) -> Any:
    """Returns a type without the validators of `Annotated`, and without None in `T | None`."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, UnionType):
        members = [member for member in get_args(annotation) if member is not type(None)]
        if len(members) == 1:
            return _without_extras(members[0])
    return annotation


def _union_members(annotation: Any) -> list[Any]:
    """Returns the members of a union; an empty list for any other type."""
    if get_origin(annotation) not in (Union, UnionType):
        return []
    return [_without_extras(member) for member in get_args(annotation)]


def _has_part(annotation: Any, part: int | str | None) -> bool:
    """Returns whether a type has fields, keys or items, and the part may be one of them."""
    if part is None:
        return False
    if get_origin(annotation) in (list, tuple, set):
        return isinstance(part, int)
    return get_origin(annotation) is dict or part in _keys_of(annotation)


def _type_of_part(annotation: Any, part: int | str) -> Any:
    """Returns the type of a field, or of a container's items."""
    if get_origin(annotation) is dict:
        return get_args(annotation)[1]
    if get_origin(annotation) is not None:
        return get_args(annotation)[0]
    if issubclass(annotation, BaseModel):
        return annotation.model_fields[str(part)].annotation
    return {field.name: field.type for field in dataclasses.fields(annotation)}[str(part)]


def _keys_of(annotation: Any) -> list[str]:
    """Returns the keys of a configuration class, or of those in a union; none for other types."""
    members = _union_members(annotation)
    if members:
        return [key for member in members for key in _keys_of(member)]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return list(annotation.model_fields)
    if dataclasses.is_dataclass(annotation):
        return [field.name for field in dataclasses.fields(annotation) if field.init]
    return []


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
