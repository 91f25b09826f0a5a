"""The public surface is what docs/api.md says: who imports what, what is documented, what the core asks of others, who stands on whom."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from generator import GENERATE

ROOT = Path(__file__).resolve().parents[2]
CORE = ROOT / "core"


PUBLIC: tuple[str, ...] = GENERATE.PUBLIC
PYTHON = [path for path in CORE.rglob("*.py") if "__pycache__" not in path.parts]


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


# -- who imports what -----------------------------------------------------------------------------------------------------


def private_imports(code: str) -> list[str]:
    """What ``code`` imports of zsq and is not public, each once."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.partition(".")[0] == "zsq" and alias.name not in PUBLIC]
        elif isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] == "zsq":
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                if whole not in PUBLIC and not (node.module in PUBLIC and _is_public(node.module, alias.name)):
                    found.append(whole)
    return sorted(set(found))


def _is_public(module: str, name: str) -> bool:
    return name in importlib.import_module(module).__all__ or (module, name) == ("zsq", "__version__")


def blocks(path: Path) -> Iterator[str]:
    """The Python in a page, or in a template with its placeholders filled in."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".tmpl":
        yield re.sub(r"\$\{?(\w+)\}?", r"\1", text)
    else:
        yield from re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def test_private_imports_are_found() -> None:
    bad = "import zsq._run\nfrom zsq._run.stream import Stream\nfrom zsq.grids._points import ActPoint\nfrom zsq.types import _detached\n"
    assert len(private_imports(bad + "def f():\n    from zsq.testing.world import random")) == 5
    good = "import zsq\nimport zsq.types\nfrom zsq import grids, Component, __version__\nfrom zsq.testing import world\nimport zsq_cli"
    assert private_imports(good) == []


@pytest.mark.parametrize("path", sorted(ROOT.glob("plugins/*/zsq_*/**/*.py")), ids=named)
def test_plugins_import_what_is_public(path: Path) -> None:
    assert private_imports(path.read_text(encoding="utf-8")) == []


PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("plugins/*/README.md"), *ROOT.glob("zsq_cli/templates/**/*.py.tmpl")]


@pytest.mark.parametrize("path", sorted(PAGES), ids=named)
def test_pages_and_templates_import_what_is_public(path: Path) -> None:
    assert [name for code in blocks(path) for name in private_imports(code)] == []


@pytest.mark.parametrize("path", sorted(ROOT.glob("plugins/*/tests/**/*.py")), ids=named)
def test_tests_of_plugins_import_what_is_public(path: Path) -> None:
    assert set(private_imports(path.read_text(encoding="utf-8"))) == set()


# -- what is public is whole, and documented ------------------------------------------------------------------------------


def test_every_module_is_public_or_has_a_private_name() -> None:
    modules = [".".join(path.relative_to(CORE).with_suffix("").parts).removesuffix(".__init__") for path in PYTHON]
    assert sorted(name for name in modules if "._" not in name) == sorted(PUBLIC)


def order(name: str) -> tuple[int, str]:
    """Constants, classes, functions; each by name."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name


def defined(module: ModuleType) -> set[str]:
    """The public names that a module's own file defines, at its top."""
    names: set[str] = set()
    for node in ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {leaf.id for target in targets for leaf in ast.walk(target) if isinstance(leaf, ast.Name)}
    return {name for name in names if not name.startswith("_")}


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_listed_in_order_and_documented(name: str) -> None:
    module = importlib.import_module(name)
    listed = module.__all__
    assert listed == sorted(set(listed), key=order)
    assert sorted(defined(module) - set(listed)) == [], "public by name, but not in __all__"
    assert not [entry for entry in listed if entry.startswith("_")]
    assert inspect.getdoc(module)
    for entry in listed:
        value = getattr(module, entry)
        assert GENERATE.described(name, entry), f"{name}.{entry} says nothing of itself"
        if inspect.isclass(value):
            own = str(vars(value).get("__doc__") or "")
            assert own and not own.startswith(f"{value.__name__}("), f"{name}.{entry} has no docstring of its own"


def test_what_the_page_calls_light_is_light() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    (sentence,) = re.findall(r"^`zsq` itself, .*? are light", page, flags=re.DOTALL | re.MULTILINE)
    light = re.findall(r"`([\w.]+)`", sentence)
    assert len(light) == 8
    code = f"import sys, {', '.join(light)}; print(*sorted({{'torch', 'numpy', 'PIL'}} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


# -- components are asked with isinstance ---------------------------------------------------------------------------------

#: Who may ask for attributes by name, of what, and why. No component, point, task or plugin's options: those have protocols.
ASKED: dict[tuple[str, str], str] = {
    **dict.fromkeys([("zsq/options/_options.py", "self"), ("zsq/options/_shared.py", "self")], "an options class reads its own fields"),
    ("zsq/options/_options.py", "hint"): "a type in an annotation",
    **dict.fromkeys(
        [("zsq/_recipe.py", "self"), ("zsq/_recipe.py", "recipe"), ("zsq/_compose.py", "recipe"), ("zsq/_compose.py", "fragment")],
        "sections of a recipe, a dataclass",
    ),
    ("zsq/_compose.py", "RunOptions()"): "the core's own options",
    ("zsq/_builtin/jsonl.py", "event"): "fields of an event, a dataclass",
    ("zsq/_builtin/jsonl.py", "value"): "tensors and arrays, without importing their libraries",
    ("zsq/types.py", "value"): "tensors, without importing torch",
    ("zsq/__init__.py", "import_module(_LAZY[name])"): "a module of zsq",
    ("zsq/_component.py", "import_module(module)"): "the class that a descriptor names",
    ("zsq/_builtin/teachers.py", "module"): "the function that py: names",
    ("zsq/_manager.py", "other"): "where a Python module lies",
    ("zsq/_builtin/classify.py", "output"): "the output of somebody's network",
    ("zsq/teachers/_making.py", "module"): "what somebody's network says of itself",
    **dict.fromkeys(
        [
            ("zsq/graph/_lifting.py", "value"),
            ("zsq/graph/_lifting.py", "module"),
            ("zsq/graph/_lifting.py", "self._parent(owner)"),
            ("zsq/graph/_lifting.py", "root.get_submodule(owner)"),
            ("zsq/graph/_lifting.py", "norm"),
            ("zsq/graph/_lifting.py", "original"),
            ("zsq/format/_specs.py", "module"),
            ("zsq/format/_layout.py", "module"),
        ],
        "modules and tensors of a network, by their paths",
    ),
    ("zsq/graph/_lifting.py", "operator"): "Python's operators",
    **dict.fromkeys(
        [
            ("zsq/graph/_lifting.py", "node.target"),
            ("zsq/graph/_sites.py", "node.target"),
            ("zsq/graph/_recording.py", "func"),
            ("zsq/graph/_program.py", "torch.ops.aten"),
            ("zsq/graph/_program.py", "packet"),
            ("zsq/format/_encoding.py", "torch"),
            ("zsq/format/_encoding.py", "torch.ops.aten"),
            ("zsq/format/_encoding.py", "packet"),
            ("zsq/format/_layout.py", "torch"),
        ],
        "operations and types of torch",
    ),
    ("zsq/graph/_tracing.py", "s.arg"): "what torch.export says of a graph",
    ("zsq_cli/run.py", "self"): "flags of a command, a dataclass",
    ("zsq/_api/recipes.py", "recipe"): "sections of a recipe, a dataclass",
    ("zsq_cli/doctor.py", "os"): "what the operating system has",
    ("zsq_cli/app.py", "error"): "typer's errors of usage, whose classes are private",
}


def asked(code: str) -> set[str]:
    """Of what ``code`` asks for an attribute by name: the first arguments of ``hasattr`` and ``getattr``."""
    calls = (node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call))
    return {ast.unparse(c.args[0]) for c in calls if isinstance(c.func, ast.Name) and c.func.id in ("hasattr", "getattr")}


def test_components_are_asked_with_isinstance() -> None:
    files = [path for path in (*PYTHON, *(ROOT / "zsq_cli").rglob("*.py")) if "testing" not in path.parts]
    found = {(named(path).removeprefix("core/"), what) for path in files for what in asked(path.read_text(encoding="utf-8"))}
    assert sorted(found - ASKED.keys()) == [], "use isinstance with a class, or with a protocol of zsq.protocols"
    assert sorted(ASKED.keys() - found) == [], "nobody asks for these any more"


def test_asking_a_component_is_found() -> None:
    engine = (CORE / "zsq" / "_run" / "engine.py").read_text(encoding="utf-8")
    assert ("zsq/_run/engine.py", "synth") not in ASKED and not asked(engine)
    assert asked(engine + '\nif hasattr(synth, "update"):\n    pass\n') == {"synth"}


# -- who stands on whom ---------------------------------------------------------------------------------------------------

#: The core in layers, the lowest first. A module imports from lower layers and from its own.
LAYERS = [
    ["_version", "errors", "options"],
    ["_component", "files", "points", "types", "protocols", "events"],
    ["grids"],
    ["graph"],
    ["training", "images", "teachers"],
    ["placement"],
    ["format"],
    ["_hookspecs", "_recipe", "_plan", "_plugin", "_manager", "_compose"],
    ["_builtin"],
    ["_run"],
    ["_api"],
    [""],
    ["testing"],
]
#: Upwards inside a function, and why.
LATE: dict[tuple[str, str], str] = {
    ("zsq.teachers._making", "zsq._builtin"): "the default task, where a source was not given one",
}
#: Upwards for a type checker only: values name the contracts of what they hold, and contracts the values.
TYPES: set[tuple[str, str]] = {("zsq.points", "zsq.grids")}


def imports(path: Path) -> dict[str, set[str]]:
    """Modules of zsq that a file imports: at once (``now``), inside functions (``late``), for a type checker only (``types``)."""
    found: dict[str, set[str]] = {"now": set(), "late": set(), "types": set()}

    def visit(nodes: Iterable[ast.AST], when: str) -> None:
        for node in nodes:
            if isinstance(node, ast.Import):
                found[when] |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found[when] |= {f"{node.module}.{a.name}" if f"{node.module}.{a.name}" in FILES else str(node.module) for a in node.names}
            elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                visit(node.body, "types")
                visit(node.orelse, when)
            elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                visit(ast.iter_child_nodes(node), "late")
            else:
                visit(ast.iter_child_nodes(node), when)

    visit(ast.parse(path.read_text(encoding="utf-8")).body, "now")
    return {when: {name for name in names if name in FILES} for when, names in found.items()}


FILES = {".".join(path.relative_to(CORE).with_suffix("").parts).removesuffix(".__init__"): path for path in PYTHON}
IMPORTS = {name: imports(path) for name, path in FILES.items()}


def part(module: str) -> str:
    """``zsq.graph`` of ``zsq.graph._sites``."""
    return ".".join(module.split(".")[:2])


def layer(module: str) -> int:
    own = part(module).partition(".")[2]
    return next(number for number, names in enumerate(LAYERS) if own in names)


def upwards(when: str) -> set[tuple[str, str]]:
    return {(name, part(other)) for name, found in IMPORTS.items() for other in found[when] if layer(other) > layer(name)}


def test_every_module_has_its_layer() -> None:
    assert {part(name).partition(".")[2] for name in FILES} == {name for names in LAYERS for name in names}


def test_imports_go_downwards() -> None:
    assert upwards("now") == set()


def test_what_is_imported_late_or_for_types_goes_downwards_but_for_few() -> None:
    assert upwards("late") == LATE.keys()
    lazy_door = {pair for pair in upwards("types") if pair[0] == "zsq"}  # names that zsq gives out on first use
    assert upwards("types") - lazy_door == TYPES
