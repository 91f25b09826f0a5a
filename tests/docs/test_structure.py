"""The size and the shape of the code: lines of the core, lines of each file, import cycles of all packages."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE = ROOT / "core" / "zsq"
#: Public toolkits, built-in components and the conformance kit are counted apart; so is the Python door, as the command line is.
TOOLKITS = ("grids", "graph", "placement", "format", "training", "images", "teachers")
APART = ("_builtin", "testing", "_api", *TOOLKITS)
#: Lines of code of the rest of the core. Lower it when the core gets smaller; never raise it.
LIMIT = 2860
#: Lines of a file of the core, docstrings and comments included.
LONGEST = 400
#: Every package: its name and the folder that it is imported from.
PACKAGES = {
    "zsq": ROOT / "core",
    "zsq_cli": ROOT,
    **{f"zsq_{folder.name}": folder for folder in sorted((ROOT / "plugins").iterdir()) if (folder / f"zsq_{folder.name}").is_dir()},
}


def code_lines(text: str) -> int:
    """Lines with code: without blank lines, comments and docstrings."""
    documented: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and ast.get_docstring(node, clean=False):
            first = node.body[0]
            documented.update(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    skipped = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    tokens = [token for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type not in skipped]
    return len({line for token in tokens for line in range(token.start[0], token.end[0] + 1)} - documented)


def test_code_lines_are_counted_without_blanks_comments_and_docstrings() -> None:
    text = '"""A module."""\n\n# note\nx = """a\nb"""\n\n\ndef f() -> int:\n    """Two\n    lines."""\n    return 1  # one\n'
    assert code_lines(text) == 4


def test_the_core_stays_small(capsys: pytest.CaptureFixture[str]) -> None:
    counts: dict[str, int] = {}
    for path in CORE.rglob("*.py"):
        part = path.relative_to(CORE).parts[0]
        counts[part] = counts.get(part, 0) + code_lines(path.read_text(encoding="utf-8"))
    total = sum(count for part, count in counts.items() if part not in APART)
    with capsys.disabled():
        print(f"\ncode lines: core {total} (limit {LIMIT}), " + ", ".join(f"{part} {counts[part]}" for part in APART))
    assert total <= LIMIT


def test_no_file_of_the_core_is_long() -> None:
    lengths = {str(path.relative_to(CORE)): len(path.read_text(encoding="utf-8").splitlines()) for path in CORE.rglob("*.py")}
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}


def modules() -> dict[str, Path]:
    """Every module of every package, by its dotted name."""
    return {
        ".".join(path.relative_to(folder).with_suffix("").parts).removesuffix(".__init__"): path
        for package, folder in PACKAGES.items()
        for path in (folder / package).rglob("*.py")
    }


def imported(code: str, known: Iterable[str]) -> Iterator[str]:
    """Known modules that ``code`` imports: also inside functions, and for type checkers only."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name if name in known else str(node.module) for name in names if name in known or node.module in known)


def cycles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that reach each other."""

    def reach(name: str) -> set[str]:
        seen: set[str] = set()
        left = [name]
        while left:
            new = edges[left.pop()] - seen
            seen |= new
            left += new
        return seen

    reached = {name: reach(name) for name in edges}
    groups = {frozenset(other for other in reached[name] if name in reached[other]) for name in edges}
    return sorted(sorted(group) for group in groups if group)


def test_no_import_cycles() -> None:
    known = modules()
    edges = {name: set(imported(path.read_text(encoding="utf-8"), known)) - {name} for name, path in known.items()}
    assert len(edges) > 250 and cycles(edges) == []


def test_a_cycle_is_found() -> None:
    code = {"a": "def f():\n    import b", "b": "if TYPE_CHECKING:\n    from c import x", "c": "from a import y", "d": "import a"}
    assert cycles({name: set(imported(text, code)) for name, text in code.items()}) == [["a", "b", "c"]]
