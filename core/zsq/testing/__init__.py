"""The conformance kit: tests whether a component fulfils its protocol. Torch is imported only inside checks and chains.

``conformance("name")`` in a plugin's test module is a test with one case per check; ``tiny_run`` runs a whole chain on a
tiny teacher; the fixtures ``tiny_teacher``, ``zsq_manager`` and ``fake_dist`` come with the package.
"""

from __future__ import annotations

from zsq.testing._chains import tiny_recipe, tiny_run, tiny_values
from zsq.testing._fakes import FakeDist, write_fake_dist
from zsq.testing._kit import Case, Outcome, Skip, check_component, checks_for, conformance

__all__ = [
    "Case",
    "FakeDist",
    "Outcome",
    "Skip",
    "check_component",
    "checks_for",
    "conformance",
    "tiny_recipe",
    "tiny_run",
    "tiny_values",
    "write_fake_dist",
]
