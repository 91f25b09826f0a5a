"""Reports of real runs satisfy docs/report.schema.json, and the page names every field of it."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path

import jsonschema
import pytest

from zsq._manager import Manager
from zsq.testing import tiny_run

DOCS = Path(__file__).resolve().parents[2] / "docs"
SCHEMA = json.loads((DOCS / "report.schema.json").read_text())


def _report(folder: Path, **sections: object) -> dict[str, object]:
    tiny_run(sections, folder=folder, manager=Manager.discover(third_party=False))
    report: dict[str, object] = json.loads((folder / "report.json").read_text())
    return report


def test_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("sections", [{}, {"tune": "none", "quant": {"name": "uniform8", "scheme": "deploy"}}], ids=["tuned", "calibrated"])
def test_report_satisfies_it(sections: dict[str, object], tmp_path: Path) -> None:
    jsonschema.validate(_report(tmp_path / "run", **sections), SCHEMA)


@pytest.mark.parametrize(
    ("section", "field"),
    [(s, f) for s in ("teacher", "student") for f in SCHEMA["properties"][s]["required"]] + [("", f) for f in SCHEMA["required"]],
)
def test_a_missing_field_is_noticed(section: str, field: str, report: dict[str, object]) -> None:
    damaged = deepcopy(report)
    del (damaged[section] if section else damaged)[field]  # type: ignore[attr-defined]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(damaged, SCHEMA)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    return _report(tmp_path_factory.mktemp("report") / "run")


def test_every_field_is_on_the_page() -> None:
    page = (DOCS / "report.md").read_text()
    fields = [f"{s}.{f}" for s in ("teacher", "student") for f in SCHEMA["properties"][s]["properties"]]
    fields += [f for f in SCHEMA["properties"] if f not in ("teacher", "student")]
    assert [field for field in fields if f"`{field}`" not in page] == []
