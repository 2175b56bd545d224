"""Checked configurations: pydantic checks, and its errors become one line with the nearest key."""

__all__ = ["Checked", "as_config_error", "config_dataclass", "read_checked"]

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import ErrorDetails
from typing_extensions import dataclass_transform

from pythae_fif.errors import ConfigError, did_you_mean

M = TypeVar("M", bound=BaseModel)
C = TypeVar("C", bound=type)

UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
MISSING = ("missing", "missing_argument")


class Checked(BaseModel):
    """Base of what is read from YAML files and flags: immutable, and no key is unknown."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


def read_checked(cls: type[M], values: Mapping[str, Any], where: str) -> M:
    """A configuration from a mapping.

    Args:
        cls: Its class.
        values: Keys and values.
        where: Where they are from; the begin of the error's line.

    Raises:
        ConfigError: An unknown or missing key, or a value of the wrong type or out of range.
    """
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        raise as_config_error(error, where, cls) from error


@dataclass_transform(kw_only_default=False)
def config_dataclass(cls: C) -> C:
    """A pydantic dataclass whose constructor raises ConfigError, one line, for what is wrong.

    For configurations in Pythae's style, which derive from its pydantic dataclasses.
    """
    made: Any = dataclass(config=ConfigDict(extra="forbid"))(cls)
    checked = made.__init__

    @functools.wraps(checked)
    def construct(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            checked(self, *args, **kwargs)
        except ValidationError as error:
            raise as_config_error(error, cls.__name__, made) from error

    made.__init__ = construct
    return made  # type: ignore[no-any-return]


def as_config_error(error: ValidationError, where: str, cls: Any) -> ConfigError:
    """The first thing that pydantic found, as one line.

    Args:
        error: Of pydantic.
        where: Where the values are from.
        cls: The class that was to be made, whose keys are the valid ones.
    """
    details = error.errors()[0]
    cause = details.get("ctx", {}).get("error")
    if isinstance(cause, ConfigError) and not details["loc"]:
        return cause  # a check of several keys says all itself
    *parents, key = details["loc"] or ("",)
    place = ": ".join([where, *map(str, parents)])
    if details["type"] in UNKNOWN:
        hint = did_you_mean(str(key), _keys_at(cls, parents))
        return ConfigError(f"{place}: unknown key {key!r}: {hint}")
    if details["type"] in MISSING:
        return ConfigError(f"{place}: key {key!r} is missing")
    given = details["input"]
    return ConfigError(f"{place}: {key}={given!r}: {_needed(details, cause)}")


def _needed(details: ErrorDetails, cause: Exception | None) -> str:
    """What would be right, in the words of our checks or of pydantic."""
    if cause is not None:
        return str(cause)
    if details["type"] in ("literal_error", "enum"):
        names = details["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        return did_you_mean(str(details["input"]), names)
    message = details["msg"]
    return message[0].lower() + message[1:]


def _keys_at(cls: Any, parents: Iterable[int | str]) -> list[str]:
    """The valid keys of the class that a path of keys leads to."""
    for part in parents:
        inner = _annotation(cls, part)
        if inner is not None:
            cls = inner
    if isinstance(cls, type) and issubclass(cls, BaseModel):
        return list(cls.model_fields)
    return [field.name for field in dataclasses.fields(cls) if field.init]


def _annotation(cls: Any, part: int | str) -> Any:
    """The configuration class of a key, looked for inside lists, dictionaries and unions."""
    fields = getattr(cls, "model_fields", None) or getattr(cls, "__pydantic_fields__", {})
    waiting = [fields[part].annotation] if part in fields else []
    while waiting:
        found = waiting.pop()
        if isinstance(found, type) and (
            issubclass(found, BaseModel) or dataclasses.is_dataclass(found)
        ):
            return found
        waiting += getattr(found, "__args__", ())
    return None
