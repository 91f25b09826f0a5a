"""Checks for readers. None of them needs a network."""

from __future__ import annotations

from zsq.protocols import Reader
from zsq.testing import _exercise as exercise
from zsq.testing._kit import Case


def check_it_is_a_reader(case: Case) -> None:
    """It implements the protocol."""
    assert isinstance(case.build(case.context()), Reader), "it has no read(repository)"


def check_nonsense_is_an_error_for_people(case: Case) -> None:
    """A repository with an invalid ``config.json``, or without other files, is refused with a ``ZsqError``."""
    said = [exercise.refusal(case, config) for config in exercise.INVALID_CONFIGS]
    assert all(said), "an error says nothing"
