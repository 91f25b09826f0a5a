"""``zsq show`` and ``zsq plugins list|why|install|uninstall|new``. Installing does not run the plugin's code."""

from __future__ import annotations

import importlib
import importlib.util
import keyword
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from string import Template

from zsq._api.recipes import named_recipes
from zsq._component import GROUP, Role
from zsq._manager import Manager, known_plugins
from zsq._plugin import Found, Plugin
from zsq.errors import ComponentError, FileError, OptionError, ZsqError, nearest
from zsq_cli import render

_GROUPS = re.compile(r"zsq\.v\d+")
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_TEMPLATES = Path(__file__).parent / "templates"


# -- looking ----------------------------------------------------------------------------------------------------------


def list_plugins(role: str | None, *, json: bool, files: Sequence[Path] = (), third_party: bool = True) -> None:
    """Built-ins first, then every plugin with its state."""
    manager = Manager.discover(third_party=third_party, files=files)
    plugins = [_builtin(manager), *manager.plugins()]
    if not json:
        render.console().print(render.plugin_table(plugins, role))
        return
    rows = [render.plugin_dict(plugin) for plugin in plugins]
    if role is not None:
        rows = [{**row, "provides": {r: n for r, n in row["provides"].items() if r == role}} for row in rows]
        rows = [row for row in rows if row["provides"] or row["status"] != "ok"]
    render.print_json(rows)


def list_recipes(plugin: str | None, *, json: bool, third_party: bool = True) -> None:
    """Print every recipe of the plugins, by name, with the comment at the top of its file."""
    found = named_recipes(Manager.discover(third_party=third_party), plugin)
    if json:
        render.print_json([{"name": recipe.name, "summary": recipe.summary, "file": str(recipe.path)} for recipe in found])
    else:
        render.console().print(render.table([(recipe.name, recipe.summary) for recipe in found], "recipe", "what"))


def show_component(name: str, role: str | None, *, json: bool, files: Sequence[Path] = (), third_party: bool = True) -> None:
    """Print everything about the components of this name."""
    found = find(Manager.discover(third_party=third_party, files=files), name, role)
    if json:
        render.print_json(render.component_dict(found))
    else:
        render.console().print(render.component_panel(found))


def find(manager: Manager, name: str, role: str | None = None) -> Found:
    """The one component called ``name``, ``ROLE/NAME``, ``DISTRIBUTION/NAME`` or both before the name.

    Raises:
        ComponentError: If there is none, or several roles have that name.
    """
    first, slash, rest = name.partition("/")
    if slash and first in {r.value for r in Role}:
        role, name = first, rest
    if role is not None:
        return manager.get(role, name)
    plain = name.rpartition("/")[2]
    components = manager.components()
    roles = sorted({found.role for found in components if plain in found.component.names})
    if len(roles) > 1:
        raise ComponentError(
            f"'{name}' is the name of several components", "", f"say which: {' or '.join(f'{r.value}/{name}' for r in roles)}"
        )
    if roles:
        return manager.get(roles[0], name)
    if state := _absent(manager, plain):
        raise ComponentError(*state)
    known = [n for found in components for n in found.component.names]
    raise ComponentError(f"no component is called '{name}'", "", nearest(plain, known) or "`zsq plugins list` shows what there is")


def _absent(manager: Manager, name: str) -> tuple[str, str, str] | None:
    """Why a known component is not available: its plugin is broken, blocked or not installed."""
    registry = known_plugins()
    givers = {key for key, entry in registry.items() if key == name or any(name in names for names in entry["provides"].values())}
    for plugin in manager.plugins():
        if plugin.name in {name, *givers} and plugin.status != "ok":
            return f"'{name}' is not available: plugin '{plugin.name}' is {plugin.status}", plugin.distribution, f"{plugin.reason}"
    if givers:
        return f"'{name}' is known but not installed", "", f"zsq plugins install {min(givers)}"
    return None


def explain(name: str, *, json: bool = False, files: Sequence[Path] = ()) -> None:
    """``zsq plugins why``: every plugin that provides ``name``: file, distribution, state, reason, traceback, conflicts."""
    manager = Manager.discover(files=files)
    everyone = [_builtin(manager), *manager.plugins()]
    plain = name.rpartition("/")[2]
    rows = []
    for plugin in everyone:
        named = [found for found in plugin.components if plain in found.component.names]
        if not named and plain not in (plugin.name, plugin.distribution):
            continue
        rows.append(
            {
                **render.plugin_dict(plugin),
                "found": "with zsq itself"
                if plugin.name == "builtin"
                else "--plugin-file"
                if plugin.one_off
                else f"entry point of {plugin.distribution}",
                "file": _entry_file(plugin),
                "matches": [f"{found.role.value} {plain} -> {found.component.target}" for found in named],
                "rivals": _rivals(plugin, named, everyone),
                "trace": plugin.trace,
            }
        )
    if not rows:
        state = _absent(manager, plain)
        names = [p.name for p in everyone] + [n for p in everyone for f in p.components for n in f.component.names]
        raise ComponentError(
            *(state or (f"nobody provides '{name}'", "", nearest(plain, names) or "`zsq plugins list` shows what there is"))
        )
    if json:
        render.print_json(rows)
        return
    out = render.console()
    for row in rows:
        facts = [
            (key, ", ".join(row[key]) if isinstance(row[key], list) else row[key])
            for key in ("found", "file", "status", "reason", "matches", "rivals")
        ]
        out.print(f"{row['name']}  {row['distribution']} {row['version']}", style="bold")
        out.print(render.indented(render.table([fact for fact in facts if fact[1]], "", "", styles=("dim", ""))))
        if row["trace"]:
            out.print(render.indented(row["trace"].rstrip()))


def _rivals(plugin: Plugin, named: list[Found], everyone: list[Plugin]) -> list[str]:
    """Other providers of the same names and roles, as qualified names."""
    mine = {(found.role, found.component.name) for found in named}
    return sorted(
        f"{other.distribution}/{found.component.name}"
        for other in everyone if other is not plugin
        for found in other.components if (found.role, found.component.name) in mine
    )  # fmt: skip


def _entry_file(plugin: Plugin) -> str:
    """The file of the entry module, found without importing it if the import fails."""
    if plugin.name == "builtin":
        return str(importlib.util.find_spec("zsq._builtin").origin)  # type: ignore[union-attr]
    for owner, point in entry_points():
        if point.name == plugin.name and (owner or "unknown") == plugin.distribution:
            try:
                spec = importlib.util.find_spec(point.module)
            except (Exception, SystemExit):  # finding a submodule imports its parents, which may be what is broken
                spec = None
            return spec.origin if spec is not None and spec.origin else f"{point.module} (no such module)"
    return plugin.distribution


def _builtin(manager: Manager) -> Plugin:
    """The built-ins as a row of the table."""
    from zsq import __version__

    own = [found for found in manager.components() if found.provider.split()[0] == "zsq"]
    return Plugin("builtin", "zsq", __version__, status="ok", components=own)


# -- installing -------------------------------------------------------------------------------------------------------


def entry_points() -> list[tuple[str, metadata.EntryPoint]]:
    """Every entry point of any version of the plugin API, with the name of its distribution; nothing is imported.

    The name is empty if the metadata has none; a distribution whose entry points cannot be read has none here.
    """
    found = []
    for distribution in metadata.distributions():
        try:
            points = [point for point in distribution.entry_points if _GROUPS.fullmatch(point.group)]
        except Exception:  # anything that a damaged file makes the parser raise
            continue
        found += [(_name(distribution), point) for point in points]
    return found


def _name(distribution: metadata.Distribution) -> str:
    """The name of a distribution; empty if its metadata is damaged."""
    try:
        return distribution.metadata["Name"] or ""
    except Exception:  # as above
        return ""


def install_plugin(name: str, *, dry_run: bool = False) -> int:
    """Install a plugin of the registry, or a folder, without changing torch. Returns the exit code of pip."""
    command = [*_installer("install"), *_constraints(), _source(name)]
    code = _call(command, dry_run)
    if code == 0 and not dry_run:
        render.console(error=True).print(f"installed; next: zsq plugins check {name}")
    return code


def uninstall_plugin(name: str, *, dry_run: bool = False) -> int:
    """Uninstall the distribution of an entry point, without importing it. Returns the exit code of pip."""
    if name in ("zsq", "builtin"):
        raise ComponentError("zsq does not uninstall itself", "", "pip uninstall zsq")
    installed = entry_points()
    owners = sorted({owner for owner, point in installed if owner and name in (point.name, owner)})
    nameless = next((point for owner, point in installed if not owner and point.name == name), None)
    if not owners and nameless is not None and nameless.dist is not None:
        what = f"plugin '{name}' has no distribution name in its metadata, so pip cannot remove it"
        raise ComponentError(what, str(nameless.dist.locate_file("")), "remove its package and its .dist-info folder there yourself")
    if not owners:
        known = {n for owner, point in installed for n in (point.name, owner)}
        raise ComponentError(f"no plugin '{name}' is installed", "", nearest(name, known) or "`zsq plugins list` shows what is")
    if len(owners) > 1 and name not in owners:
        raise ComponentError(f"plugin '{name}' comes from {' and '.join(owners)}", "", f"say which: zsq plugins uninstall {owners[0]}")
    owner = name if name in owners else owners[0]
    code = _call([*_installer("uninstall"), owner], dry_run)
    importlib.invalidate_caches()
    left = [d for d in metadata.distributions() if _name(d) == owner]
    if code == 0 and left and not dry_run:  # pip does not touch what lies outside its environment, and calls that a success
        raise ZsqError(
            f"{owner} is still there", str(left[0].locate_file("")), "it was not installed into this environment: remove it there"
        )
    return code


def _source(name: str) -> str:
    """The argument for pip: a folder, the source in this repository, or the name of the package."""
    path = Path(name)
    if path.is_dir() and ("/" in name or name.startswith(".")):
        if not (path / "pyproject.toml").is_file():
            raise FileError(f"'{name}' is not a plugin's folder", "", "it has no pyproject.toml")
        return str(path)
    registry = known_plugins()
    key = name if name in registry else next((k for k, e in registry.items() if any(name in n for n in e["provides"].values())), None)
    if key is None:
        hint = nearest(name, registry) or f"known: {', '.join(registry) or 'none'}; anything else: pip install PACKAGE"
        raise ComponentError(f"plugin '{name}' is not in the registry", "", hint)
    entry = registry[key]
    folder = _root() / str(entry.get("path", ""))
    if entry.get("path") and (folder / "pyproject.toml").is_file():
        return str(folder)
    return str(entry.get("source") or entry["package"])


def _root() -> Path:
    """The checkout that zsq runs from, or site-packages."""
    import zsq

    return Path(zsq.__file__).resolve().parents[2]


def _constraints() -> list[str]:
    """Constraints so that pip does not replace torch: the file of the checkout, else the installed versions."""
    file = _root() / "constraints.txt"
    return ["-c", str(file)] if file.is_file() else [f"torch=={metadata.version('torch')}"]


def _installer(verb: str) -> list[str]:
    """``pip VERB`` of this environment, or ``uv pip VERB`` if pip is missing."""
    if importlib.util.find_spec("pip") is not None:
        extra = ["--yes"] if verb == "uninstall" else []
        return [sys.executable, "-m", "pip", verb, "--disable-pip-version-check", *extra]
    if uv := shutil.which("uv"):
        return [uv, "pip", verb, "--python", sys.executable]
    raise ZsqError("neither pip nor uv is here to change this environment", sys.prefix, "python -m ensurepip")


def _call(command: list[str], dry_run: bool) -> int:
    if dry_run:
        print(shlex.join(command))
        return 0
    import subprocess

    return subprocess.call(command, stdout=sys.stderr)


# -- making -----------------------------------------------------------------------------------------------------------


#: What uses a new plugin of a role, as it is.
_USAGE = {
    Role.TEACHER: "zsq run $name:tiny --tune none --out $out",
    Role.TASK: "zsq run py:zsq.testing.teachers:tiny32 --set teacher.task=$name --tune none --out $out",
    Role.SYNTH: "zsq run --synth $name --quant uniform8 --tune none --out $out",
    Role.LOSS: "zsq run --loss $name --set tune.steps=20 --out $out",
    Role.TUNE: "zsq run --tune $name --set tune.steps=20 --out $out",
    Role.EXPORT: "zsq run --export safetensors --export $name --tune none --out $out",
    Role.READER: "zsq run hub:OWNER/NAME --tune none --out $out",
    Role.STORE: "zsq run --tune none --out $out --push $name:published/$name",
}


def new_plugin(name: str, role: str, parent: Path) -> None:
    """Write the folder ``zsq-NAME`` from the templates: a working plugin in two files."""
    values = template_values(name, Role(role))
    target = parent / f"zsq-{name}"
    if target.exists():
        raise FileError(f"'{target}' exists", "--dir", "choose another name or folder, or remove it yourself")
    if not parent.is_dir():
        raise FileError(f"there is no folder '{parent}'", "--dir", "make it first")
    try:
        write_plugin(target, values)
    except OSError as error:
        shutil.rmtree(target, ignore_errors=True)
        raise FileError(f"cannot write the plugin: {error.strerror or error}", str(target), "choose another --dir") from error
    out = render.console()
    module = target / f"zsq_{values['module']}.py"
    out.print(f"made {module} and its pyproject.toml; next, with no edit:", style="bold", soft_wrap=True)
    for command in next_commands(target, name, Role(role)):
        out.print(f"  {command}", soft_wrap=True)


def next_commands(target: Path, name: str, role: Role) -> list[str]:
    """The commands that install, check and use the new plugin in ``target``."""
    usage = Template(_USAGE.get(role, f"zsq run --{role} $name --tune none --out $out"))
    folder = target if target.is_absolute() else f"./{target}"
    return [f"zsq plugins install {shlex.quote(str(folder))}", f"zsq plugins check {name}", usage.substitute(name=name, out=f"runs/{name}")]


def template_values(name: str, role: Role) -> dict[str, str]:
    """The values for the templates.

    Raises:
        OptionError: If the name is not one, or is taken.
    """
    if not _NAME.fullmatch(name) or name.endswith("zsq"):
        raise OptionError(f"'{name}' is not a name for a plugin", "NAME", "lower-case letters, digits and single dashes, e.g. my-noise")
    module = name.replace("-", "_")
    if keyword.iskeyword(module):
        raise OptionError(f"'{name}' is a word of Python", "NAME", f"e.g. my-{name}")
    spec = importlib.util.find_spec(f"zsq_{module}")
    if spec is not None and spec.origin:  # installing it would write over that package: zsq_cli is one of them
        raise OptionError(f"the name '{name}' is taken by the package zsq_{module}", "NAME", f"e.g. my-{name}")
    taken = [found for found in Manager.discover().components() if name in found.component.names]
    if taken or any(name == key for key in known_plugins()):
        owner = taken[0].provider if taken else "the registry"
        raise OptionError(f"the name '{name}' is taken by {owner}", "NAME", f"e.g. my-{name}")
    return {"name": name, "module": module, "role": role.value, "group": GROUP, "Class": _class_name(name, role)}


def _class_name(name: str, role: Role) -> str:
    """``my-noise`` as ``MyNoise``; with the role added if the template or Python already uses that name (Batch, F)."""
    plain = "".join(part.capitalize() for part in name.split("-"))
    words = set(re.findall(r"(?<![$\w])\w+", _template(f"{role}.py")))
    return plain + role.value.capitalize() if keyword.iskeyword(plain) or {plain, f"{plain}Options"} & words else plain


def _template(stem: str) -> str:
    return (_TEMPLATES / f"{stem}.tmpl").read_text(encoding="utf-8")


def write_plugin(target: Path, values: dict[str, str]) -> None:
    """The project file and the one module."""
    files = {"pyproject.toml": "pyproject.toml", f"zsq_{values['module']}.py": f"{values['role']}.py"}
    texts = {name: Template(_template(source)).substitute(values) for name, source in files.items()}
    target.mkdir(parents=True)
    for name, text in texts.items():
        (target / name).write_text(text, encoding="utf-8")
