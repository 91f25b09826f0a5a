"""Options of a component: a frozen dataclass. Each field has a default, a help text and, for numbers, bounds."""

from __future__ import annotations

import dataclasses
import operator
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, Self, Union, get_args, get_origin, get_type_hints

from zsq.errors import OptionError, nearest

_BOUNDS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "ge": ("at least", operator.ge),
    "gt": ("greater than", operator.gt),
    "le": ("at most", operator.le),
    "lt": ("less than", operator.lt),
}


#: Meanings that the core must know, independent of the option's name; declared with ``opt(..., means=...)``.
MEANINGS: Mapping[str, str] = {
    "batch": "images in one step of the component, if it has its own batch size",
    "bits": "a bit width of a quantizer; the finest one decides whether bf16 will do",
    "lr": "the learning rate; the message after NaN names it",
    "task": "name of the task of a teacher source's network",
}


def opt(default: Any, help: str, *, ge: float | None = None, gt: float | None = None, le: float | None = None,
        lt: float | None = None, means: str = "") -> Any:  # fmt: skip
    """A field of an :class:`Options` class: default, help, and bounds for numbers. Choices have the type ``Literal[...]``.

    ``means`` is one of :data:`MEANINGS`: the core knows no option by its name.
    """
    if not help.strip():
        raise ValueError("an option needs a help text")
    if means and means not in MEANINGS:
        raise ValueError(f"an option cannot mean '{means}': {nearest(means, MEANINGS) or ', '.join(MEANINGS)}")
    bounds = {k: v for k, v in {"ge": ge, "gt": gt, "le": le, "lt": lt}.items() if v is not None}
    return dataclasses.field(default=default, metadata={"help": help, "bounds": bounds, "means": means})


@dataclass(frozen=True, kw_only=True)
class OptionRow:
    """One option as docs and ``zsq show`` print it."""

    name: str
    type: str
    default: Any
    bounds: str
    help: str


@dataclass(frozen=True, kw_only=True)
class Options:
    """Base of every options class. Subclass it as a frozen, keyword-only dataclass with :func:`opt` fields.

    Raises:
        OptionError: On construction, if a value has the wrong type or is out of bounds.
    """

    def __post_init__(self) -> None:
        for name, field in _fields(type(self)).items():
            _check(name, getattr(self, name), _hints(type(self))[name], field.metadata.get("bounds", {}))

    @classmethod
    def parse(cls, values: Mapping[str, Any], where: str = "") -> Self:
        """Build from strings (``--set``) or YAML values; raises :class:`OptionError` for unknown names, wrong types and bounds."""
        fields, hints = _fields(cls), _hints(cls)
        parsed = {}
        for name, value in values.items():
            if name not in fields:
                hint = nearest(name, fields) or (f"options: {', '.join(fields)}" if fields else "it has no options")
                raise OptionError(f"unknown option '{name}'", where, hint)
            try:
                parsed[name] = _convert(value, hints[name])
            except (ValueError, TypeError):
                expected = _type_name(hints[name])
                raise OptionError(f"option '{name}' is {value!r}, but must be {expected}", where, fields[name].metadata["help"]) from None
        try:
            return cls(**parsed)
        except OptionError as error:
            raise OptionError(error.what, where, error.hint) from None

    @classmethod
    def describe(cls) -> list[OptionRow]:
        """One row per option, in the order of the fields."""
        rows = []
        for name, field in _fields(cls).items():
            bounds = ", ".join(f"{_BOUNDS[k][0]} {v:g}" for k, v in field.metadata["bounds"].items())
            rows.append(
                OptionRow(name=name, type=_type_name(_hints(cls)[name]), default=field.default, bounds=bounds, help=field.metadata["help"])
            )
        return rows

    def meaning(self, what: str) -> dict[str, Any]:
        """Name to value of the options that mean ``what``, one of :data:`MEANINGS`."""
        return {name: getattr(self, name) for name, field in _fields(type(self)).items() if field.metadata.get("means") == what}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in a recipe; ``parse`` reads them back."""
        return {name: list(v) if isinstance(v := getattr(self, name), tuple) else v for name in _fields(type(self))}


def validate_class(cls: type[Options]) -> None:
    """Raise ``TypeError`` for an options class that is not frozen, or has a field without help or default."""
    if not (dataclasses.is_dataclass(cls) and issubclass(cls, Options) and cls.__dataclass_params__.frozen):  # type: ignore[attr-defined]
        raise TypeError(f"{cls.__name__} must be a frozen dataclass derived from zsq.Options")
    for field in dataclasses.fields(cls):
        if "help" not in field.metadata or field.default is dataclasses.MISSING:
            raise TypeError(f"option '{field.name}' of {cls.__name__} needs a default and a help text: write it with zsq.opt()")


def _fields(cls: type[Options]) -> dict[str, dataclasses.Field[Any]]:
    return {f.name: f for f in dataclasses.fields(cls)}


#: Types of the options of a class, cached: resolving annotations takes most of the time of ``zsq plugins list``.
_hints: Callable[[Any], dict[str, Any]] = cache(get_type_hints)


def _type_name(hint: Any) -> str:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " | ".join(map(str, args))
    if origin in (Union, types.UnionType):
        return " | ".join("none" if a is type(None) else _type_name(a) for a in args)
    if origin is tuple:
        return f"list of {_type_name(args[0])}"
    return str(getattr(hint, "__name__", hint))


def _convert(value: Any, hint: Any) -> Any:
    """``value`` as ``hint``, or ValueError/TypeError."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        for choice in args:
            if value == choice or str(value) == str(choice):
                return choice
        raise ValueError(value)
    if origin in (Union, types.UnionType):
        if type(None) in args and (value is None or (isinstance(value, str) and value.lower() in ("none", "null"))):
            return None
        for arg in args:
            if arg is not type(None):
                try:
                    return _convert(value, arg)
                except (ValueError, TypeError):
                    continue
        raise ValueError(value)
    if origin is tuple:
        parts: Sequence[Any] = [p for p in value.strip("()[] ").split(",") if p.strip()] if isinstance(value, str) else value
        if isinstance(parts, (int, float)):
            parts = [parts]
        return tuple(_convert(p.strip() if isinstance(p, str) else p, args[0]) for p in parts)
    if hint is bool:
        if isinstance(value, bool):
            return value
        word = str(value).lower()
        if word in ("true", "yes", "on", "1"):
            return True
        if word in ("false", "no", "off", "0"):
            return False
        raise ValueError(value)
    if hint is int:
        if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
            raise ValueError(value)
        return int(value)
    if hint is float:
        if isinstance(value, bool):
            raise ValueError(value)
        return float(value)
    if hint is str:
        if not isinstance(value, (str, int, float)) or isinstance(value, bool):
            raise TypeError(value)
        return str(value)
    raise TypeError(f"options of type {hint!r} are not supported")


def _check(name: str, value: Any, hint: Any, bounds: Mapping[str, float]) -> None:
    try:
        if _convert(value, hint) != value:
            raise ValueError
    except (ValueError, TypeError):
        raise OptionError(f"option '{name}' is {value!r}, but must be {_type_name(hint)}") from None
    if value is None:
        return
    for item in value if isinstance(value, tuple) else (value,):
        for kind, bound in bounds.items():
            words, holds = _BOUNDS[kind]
            if not holds(item, bound):
                raise OptionError(f"option '{name}' is {item:g}, but must be {words} {bound:g}")
