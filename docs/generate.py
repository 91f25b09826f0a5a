"""Writes what the documentation says about the API, hooks, options, the command line and the methods from code and registry.yaml.

``python docs/generate.py`` rewrites the files; ``--check`` only says which are stale. tests/docs/ runs the same functions.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from zsq import _hookspecs as hookspecs
from zsq._component import NEEDS, Role
from zsq._manager import Manager

ROOT = Path(__file__).resolve().parent.parent
REGISTRY = yaml.safe_load((ROOT / "registry.yaml").read_text())
_NOTE = "<!-- written by docs/generate.py; edit the code instead -->"
#: Every public module, in the order of docs/api.md. All others are private and have a name with an underscore in it.
PUBLIC = (
    "zsq",
    "zsq.types",
    "zsq.points",
    "zsq.protocols",
    "zsq.events",
    "zsq.options",
    "zsq.errors",
    "zsq.files",
    "zsq.images",
    "zsq.training",
    "zsq.grids",
    "zsq.graph",
    "zsq.placement",
    "zsq.format",
    "zsq.teachers",
    "zsq.testing",
    "zsq.testing.world",
    "zsq.testing.teachers",
)


def hook_names() -> list[str]:
    """Every hook, in the order of the specification."""
    return [name for name in vars(hookspecs) if name.startswith("zsq_")]


def signature(name: str) -> str:
    """The exact signature of a hook, as its page's heading shows it."""
    return f"{name}{inspect.signature(getattr(hookspecs, name))}"


def hooks() -> str:
    """docs/hooks.md: one section per hook, its docstring as text and example."""
    parts = ["# Hooks", _NOTE]
    parts.append(
        "A plugin implements any of these functions in its entry module, marked `@hookimpl`. Collectors take no arguments,\n"
        "yield descriptors and import nothing heavy. Each example is a complete entry module."
    )
    for name in hook_names():
        text, _, code = inspect.getdoc(getattr(hookspecs, name)).partition(".. code-block:: python")  # type: ignore[union-attr]
        example = textwrap.dedent(code).strip().replace("\n\n@hookimpl", "\n\n\n@hookimpl")  # as ruff formats a module
        parts += [f"## `{signature(name)}`", text.strip().replace("``", "`"), f"```python\n{example}\n```"]
    return "\n\n".join(parts) + "\n"


def api() -> str:
    """docs/api.md: three doors, what stays, and every public module with its names."""
    parts = ["# The API", _NOTE, _API.strip(), "## Modules"]
    for module in map(importlib.import_module, PUBLIC):
        parts += [f"### `{module.__name__}`", plain((inspect.getdoc(module) or "").partition("\n\n")[0])]
        rows = [f"| `{_call(module, name)}` | {_cell(first_sentence(described(module.__name__, name)))} |" for name in module.__all__]
        parts.append("\n".join(["| name | what |", "|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def described(module: str, name: str) -> str:
    """The docstring of a public class or function; of a constant, its ``#:`` comment or the text under it, if it has one."""
    value = getattr(importlib.import_module(module), name)
    if inspect.isclass(value) or inspect.isroutine(value):
        return inspect.cleandoc(value.__doc__ or "")
    path = Path(str(importlib.import_module(module).__file__))
    lines, tree = path.read_text().splitlines(), ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and name in [alias.asname or alias.name for alias in node.names]:
            return described(str(node.module), name)
    for node, after in zip(tree.body, [*tree.body[1:], None], strict=True):
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and name in [n.id for n in ast.walk(node) if isinstance(n, ast.Name)]:
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                return str(after.value.value)
            comment, at = [], node.lineno - 2
            while lines[at].startswith("#:"):
                comment.insert(0, lines[at].removeprefix("#:").strip())
                at -= 1
            return " ".join(comment)
    return ""


def first_sentence(text: str) -> str:
    """Of a docstring, as Markdown."""
    return re.split(r"(?<=[.?!])(?<!e\.g\.)\s+(?=[A-Z`\"(])|:\n", plain(text.partition("\n\n")[0]), maxsplit=1)[0].rstrip(":")


def plain(text: str) -> str:
    """A docstring's text as Markdown: references to code become code."""
    text = re.sub(r":(?:class|func|mod|meth|data|attr):`(~?)([\w.]+)`", lambda m: f"`{m[2].rpartition('.')[2] if m[1] else m[2]}`", text)
    return " ".join(text.replace("``", "`").split())


def _call(module: Any, name: str) -> str:
    """A name; of a function with those of its arguments."""
    value = getattr(module, name)
    if not inspect.isfunction(value):
        return name
    given = inspect.signature(value).parameters.values()
    shown = ["*" * (1 + (p.kind is p.VAR_KEYWORD)) + p.name if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) else p.name for p in given]
    return f"{name}({', '.join(shown if len(shown) < 8 else [*shown[:1], '...'])})"


_API = """
## Three doors

- **Python**, for people with a network in memory: `zsq.quantize(network, bits=8)` gives a `Result`, `zsq.SavedRun` is a finished run in a
  folder, `zsq.load` gives its student back as a module of PyTorch.
- **The command line**, for people with a network in a file, a library or a store: [`zsq run` and the others](cli.md).
- **The SDK**, for authors of plugins: the modules below, and the [hooks](hooks.md) by which zsq finds what a plugin brings.

The first two make a recipe of what they are given and hand it to the same engine, so a recipe, an option and the name of a component mean
the same in both, and one gives the bits of the other. Components written with the third are chosen by name in both, or are given to
`zsq.quantize` as objects.

`zsq` itself, `zsq.types`, `zsq.protocols`, `zsq.events`, `zsq.options`, `zsq.errors`, `zsq.files` and `zsq.testing` are light: they
import no torch, and an entry module of a plugin may use them. All others belong into the modules that descriptors name.

## What stays

Public are the modules below with the names in their tables, the members of their protocols and classes, the signatures of
[hooks](hooks.md), the names of [options](options.md), of [commands and flags](cli.md), and the files that a run leaves
([student](format.md), [report](report.md), recipe). Everything else is private: a module or a name that begins with an underscore may
change at any time, unannounced.

A minor release (0.1 to 0.2) **may**

- add modules, names, hooks, roles, events, options and arguments that have a default;
- add what a component may have, as a protocol of its own: the core asks with `isinstance`, and a component without it goes on as before;
- add keys to reports, logs and configurations, unless their page says that no other key is allowed;
- change the bits of a student, a default, or the words of a message; the changelog says so. A recipe that a run left holds every
  option, so that a changed default does not touch it.

It **may not**

- take away or rename a public name, an argument, an option or a flag, or let it mean something else;
- ask for more members than a protocol has, or call them with other arguments;
- change the signature of a hook;
- change a file format under its number. A reader refuses numbers that it does not know, and reads those of the minor release before.

What is to go is **deprecated** first: for one minor release at least it works as before, warns with a `DeprecationWarning` that names
what takes its place, and stands in the changelog with it.

The entry-point group carries the version of the API: `zsq.v1`. Whatever a plugin cannot bear makes it `zsq.v2`; a plugin of another version
is then listed with that reason and not imported, so that nothing fails half-way.
"""


def options() -> str:
    """docs/options.md: every component of this repository with its options."""
    parts = ["# Components and their options", _NOTE]
    parts.append(
        "Set one with `--set ROLE.OPTION=VALUE`, or `--set ROLE.NAME.OPTION=VALUE` where a chain has several components of a role."
    )
    ours = {"zsq", *(entry["package"] for entry in REGISTRY["plugins"].values() if "path" in entry)}
    found = [f for f in Manager.discover().components() if f.preset is None and f.provider.split()[0] in ours]
    for role in Role:
        members = sorted((f for f in found if f.role is role), key=lambda f: (f.provider.split()[0] != "zsq", f.component.name))
        if members:
            parts.append(f"## {role.plural.capitalize()} (`{role}`)")
        parts += [_component(f) for f in members]
    parts += ["## Needs and provides", "\n".join(f"- `{name}`: {words}" for name, words in NEEDS.items())]
    return "\n\n".join(parts) + "\n"


def _component(found: Any) -> str:
    component = found.component
    facts = [f"from `{found.provider.split()[0]}`"]
    if component.presets:
        facts.append("presets " + ", ".join(f"`{name}`" for name in component.presets))
    facts += [
        f"{word} " + ", ".join(f"`{n}`" for n in sorted(names))
        for word, names in (("needs", component.needs), ("provides", component.provides))
        if names
    ]
    if component.paper:
        facts.append(component.paper)
    lines = [f"### `{component.name}`", "", f"{component.summary} ({'; '.join(facts)})"]
    if rows := component.options.describe():
        lines += ["", "| option | type | default | bounds | what |", "|---|---|---|---|---|"]
        lines += [f"| `{r.name}` | {_cell(r.type)} | `{_value(r.default)}` | {r.bounds} | {_cell(r.help)} |" for r in rows]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _value(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value) if value != "" else '""'


def cli() -> str:
    """docs/cli.md: every command with its arguments and flags."""
    parts = ["# Command line", _NOTE]
    for path, command in commands():
        usage = " ".join(["zsq", *path])
        parts.append(f"## `{usage}`\n\n{inspect.cleandoc(command.help or '').splitlines()[0]}")
        rows = []
        for parameter in command.params:
            if getattr(parameter, "hidden", False):
                continue
            flags = [*parameter.opts, *parameter.secondary_opts]
            word = parameter.metavar or ""
            named = [f"`{f'{flag} {word}'.strip()}`" for flag in flags]
            name = ", ".join(named) if flags[0].startswith("-") else f"`{word or flags[0].upper()}`"
            rows.append(f"| {name} | {_cell(' '.join((getattr(parameter, 'help', None) or '').split()))} |")
        if rows:
            parts.append("\n".join(["| argument or flag | what |", "|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def commands() -> list[tuple[tuple[str, ...], Any]]:
    """Path and command object of ``zsq`` and everything below it."""
    from typer.main import get_command

    from zsq_cli.app import app

    def walk(path: tuple[str, ...], command: Any) -> list[tuple[tuple[str, ...], Any]]:
        below = [row for name, child in getattr(command, "commands", {}).items() for row in walk((*path, name), child)]
        return [(path, command), *below]

    return walk((), get_command(app))


def methods() -> str:
    """The README's table of methods, from registry.yaml."""
    lines = ["| plugin | what it brings | paper | status |", "|---|---|---|---|"]
    for name, entry in REGISTRY["plugins"].items():
        names = ", ".join(dict.fromkeys(f"`{item}`" for items in entry["provides"].values() for item in items))
        where = f"[{name}]({entry.get('path') or entry['source']})"
        paper = entry.get("paper", {})
        cite = f"[{paper['venue']}](https://arxiv.org/abs/{paper['arxiv']})" if "arxiv" in paper else paper.get("venue", "")
        roles = ", ".join(roles_ for roles_ in entry["provides"])
        brings = f"{roles} {names}: " if names else ""
        lines.append(f"| {where} | {brings}{entry['summary']} | {cite} | {_status(entry)} |")
    return "\n".join(lines)


def _status(entry: dict[str, Any]) -> str:
    measured = entry.get("verified")
    return f"verified: {measured['metric']} {measured['value']}" if measured else str(entry["status"])


def readme() -> str:
    """README.md with the table of methods between its markers."""
    text = (ROOT / "README.md").read_text()
    table = f"<!-- methods:begin -->\n{methods()}\n<!-- methods:end -->"
    return re.sub(r"<!-- methods:begin -->.*?<!-- methods:end -->", lambda _: table, text, flags=re.DOTALL)


def reliability() -> str:
    """docs/reliability.md: what the tests marked ``fault`` do to a run, and what becomes of it."""
    parts = ["# What a run survives", _NOTE]
    parts.append(
        "Every row is a test, and the tests are what this page is made from. Where a process is killed it is a real one, by SIGKILL.\n"
        "The same bytes are those of `model.safetensors`, `config.json`, `recipe.yaml` and `images.png` of the run left alone, on\n"
        "the same machine with the same number of threads. What is lost is time: that since the last checkpoint, a minute by default\n"
        "(`--set run.checkpoint=SECONDS`), or, in a component that keeps no state, since its phase began."
    )
    lines = ["| what goes wrong | what becomes of it | lost of the result | tests |", "|---|---|---|---|"]
    for path in sorted([*ROOT.glob("tests/**/test_*.py"), *ROOT.glob("plugins/*/tests/test_*.py")]):
        for name, (what, outcome) in _faults(path):
            lines.append(f"| {_cell(what)} | {_cell(outcome)} | nothing | [{name}](../{path.relative_to(ROOT).as_posix()}) |")
    return "\n\n".join([*parts, "\n".join(lines)]) + "\n"


def _faults(path: Path) -> list[tuple[str, list[str]]]:
    """The tests of a file that are marked ``fault``, with the two texts of the mark."""
    text = path.read_text()
    if "mark.fault" not in text:
        return []
    functions = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    marks = [(f.name, d) for f in functions for d in f.decorator_list if ast.unparse(d).startswith("pytest.mark.fault(")]
    return [(name.removeprefix("test_").replace("_", " "), [ast.literal_eval(arg) for arg in d.args]) for name, d in marks]  # type: ignore[attr-defined]


FILES: dict[str, Callable[[], str]] = {
    "docs/api.md": api,
    "docs/hooks.md": hooks,
    "docs/options.md": options,
    "docs/cli.md": cli,
    "docs/reliability.md": reliability,
    "README.md": readme,
}


def main() -> int:
    """Write every file, or with ``--check`` name the stale ones and return 1."""
    stale = [name for name, write in FILES.items() if not (ROOT / name).exists() or (ROOT / name).read_text() != write()]
    for name in stale:
        if "--check" not in sys.argv:
            (ROOT / name).write_text(FILES[name]())
        print(f"{'stale' if '--check' in sys.argv else 'written'}: {name}")
    return int("--check" in sys.argv and bool(stale))


if __name__ == "__main__":
    raise SystemExit(main())
