"""Options: parsing from strings and plain values, bounds, round trips, and what the errors say."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsq.errors import OptionError
from zsq.options import Options, opt, validate_class


@dataclass(frozen=True, kw_only=True)
class Every(Options):
    """One field of every type that options may have."""

    count: int = opt(3, "A count.", ge=1, lt=100)
    rate: float = opt(0.5, "A rate.", gt=0, le=1)
    flag: bool = opt(False, "A flag.")
    name: str = opt("x", "A name.")
    mode: Literal["fast", "slow"] = opt("fast", "A mode.")
    level: Literal[1, 2] = opt(1, "A level.")
    limit: int | None = opt(None, "A limit.", ge=0)
    shape: tuple[int, ...] = opt((), "A shape.", ge=1)
    mean: tuple[float, ...] | None = opt(None, "A mean.")


VALUES = st.fixed_dictionaries(
    {},
    optional={
        "count": st.integers(1, 99),
        "rate": st.floats(0, 1, exclude_min=True),
        "flag": st.booleans(),
        "name": st.text(),
        "mode": st.sampled_from(["fast", "slow"]),
        "level": st.sampled_from([1, 2]),
        "limit": st.none() | st.integers(0),
        "shape": st.lists(st.integers(1, 9)).map(tuple),
        "mean": st.none() | st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1).map(tuple),
    },
)


@given(VALUES)
def test_to_dict_is_read_back(values: dict[str, Any]) -> None:
    options = Every(**values)
    assert Every.parse(options.to_dict()) == options


@given(VALUES)
def test_text_as_on_the_command_line_is_read_back(values: dict[str, Any]) -> None:
    text = {k: ",".join(map(repr, v)) if isinstance(v, tuple) else str(v) for k, v in values.items()}
    assert Every.parse(text) == Every(**values)


@given(st.integers())
def test_bounds_hold_for_every_integer(value: int) -> None:
    if 1 <= value < 100:
        assert Every.parse({"count": value}).count == value
    else:
        with pytest.raises(OptionError, match=r"must be (at least 1|less than 100)"):
            Every.parse({"count": value})


@pytest.mark.parametrize(("rate", "words"), [(0, "greater than 0"), (1.5, "at most 1"), (float("nan"), "must be float")])
def test_a_rate_out_of_bounds_is_named(rate: float, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        Every.parse({"rate": rate})
    with pytest.raises(OptionError, match=words):
        Every(rate=rate)


def test_every_element_of_a_list_is_within_bounds() -> None:
    with pytest.raises(OptionError, match="'shape' is 0, but must be at least 1"):
        Every.parse({"shape": [3, 0, 8]})


@pytest.mark.parametrize("text", ["3,8,8", "[3, 8, 8]", "(3,8,8)", "3, 8, 8,"])
def test_spellings_of_a_list(text: str) -> None:
    assert Every.parse({"shape": text}).shape == (3, 8, 8)


@pytest.mark.parametrize(("text", "value"), [("yes", True), ("on", True), ("1", True), ("False", False), ("no", False), ("0", False)])
def test_spellings_of_a_flag(text: str, value: bool) -> None:
    assert Every.parse({"flag": text}).flag is value


@pytest.mark.parametrize("text", ["none", "None", "null"])
def test_spellings_of_nothing(text: str) -> None:
    assert Every.parse({"limit": text}).limit is None


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("count", "many", "int"),
        ("count", 1.5, "int"),
        ("count", True, "int"),
        ("count", None, "int"),
        ("rate", "half", "float"),
        ("rate", False, "float"),
        ("flag", "maybe", "bool"),
        ("name", ["x"], "str"),
        ("mode", "slower", "fast | slow"),
        ("level", 3, "1 | 2"),
        ("limit", "few", "int | none"),
        ("shape", "3,x", "list of int"),
        ("mean", {"r": 1}, "list of float | none"),
    ],
)
def test_a_wrong_type_says_what_was_given_what_is_expected_and_what_it_is_for(name: str, value: Any, expected: str) -> None:
    with pytest.raises(OptionError) as caught:
        Every.parse({name: value}, "quantizer 'every'")
    assert caught.value.what == f"option '{name}' is {value!r}, but must be {expected}"
    assert (caught.value.where, caught.value.hint) == ("quantizer 'every'", f"A {name}.")


def test_an_unknown_option_gets_the_nearest() -> None:
    with pytest.raises(OptionError) as caught:
        Every.parse({"cuont": 1}, "here")
    assert str(caught.value) == "unknown option 'cuont'\nin here\ndid you mean 'count'?"


def test_an_unknown_option_of_nothing_like_it_gets_the_list() -> None:
    with pytest.raises(OptionError, match="options: count, rate"):
        Every.parse({"zzz": 1})
    with pytest.raises(OptionError, match="it has no options"):
        Options.parse({"zzz": 1})


def test_describe_has_a_row_per_option() -> None:
    rows = {row.name: row for row in Every.describe()}
    assert list(rows) == [field.name for field in dataclasses.fields(Every)]
    assert (rows["count"].type, rows["count"].default, rows["count"].bounds, rows["count"].help) == (
        "int",
        3,
        "at least 1, less than 100",
        "A count.",
    )
    assert (rows["mode"].type, rows["shape"].type, rows["limit"].type) == ("fast | slow", "list of int", "int | none")


def test_options_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Every().count = 4  # type: ignore[misc]


def test_a_class_that_is_not_fit_for_options_is_refused() -> None:
    @dataclass
    class Thawed:
        x: int = opt(1, "A number.")

    @dataclass(frozen=True, kw_only=True)
    class Helpless(Options):
        x: int = 1

    for bad, words in ((Thawed, "frozen dataclass"), (Helpless, "needs a default and a help text")):
        with pytest.raises(TypeError, match=words):
            validate_class(bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="help"):
        opt(1, " ")
