"""Generated documentation is current: hooks, options, the command line, the README's table of methods."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from generator import GENERATE

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", GENERATE.FILES)
def test_is_current(name: str) -> None:
    assert (ROOT / name).read_text() == GENERATE.FILES[name](), f"{name} is stale: run `make docs`"


def test_every_hook_is_documented_with_its_exact_signature() -> None:
    page = (ROOT / "docs" / "hooks.md").read_text()
    assert [hook for hook in GENERATE.hook_names() if f"## `{GENERATE.signature(hook)}`" not in page] == []


def test_every_hook_has_a_test_that_names_it() -> None:
    tests = [path.read_text() for folder in (ROOT / "tests", *ROOT.glob("plugins/*/tests")) for path in folder.rglob("*.py")]
    assert [hook for hook in GENERATE.hook_names() if not any(hook in text for text in tests)] == []


def test_every_flag_is_documented() -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    flags = {
        flag
        for _, command in GENERATE.commands()
        for p in command.params
        if not getattr(p, "hidden", False)
        for flag in p.opts
        if flag[0] == "-"
    }
    assert "--synth" in flags
    assert [flag for flag in sorted(flags) if not re.search(rf"`{flag}[ `]", page)] == []


def _shell_lines(file: str) -> list[str]:
    """The commands in a page's shell blocks, continuation lines joined."""
    blocks = re.findall(r"```(?:bash|sh|console)\n(.*?)```", (ROOT / file).read_text(), flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.removeprefix("$ ").split("  #")[0].strip() for line in lines if line.strip() and not line.startswith("#")]


@pytest.mark.parametrize("file", ["README.md", "CONTRIBUTING.md"])
def test_make_targets_exist(file: str) -> None:
    targets = {line.split(":")[0] for line in (ROOT / "Makefile").read_text().splitlines() if re.match(r"[a-z]+:", line)}
    used = {line.split()[1] for line in _shell_lines(file) if line.startswith("make ")}
    assert used and used <= targets


@pytest.mark.parametrize("line", [line for line in _shell_lines("README.md") if line.startswith("zsq run")])
def test_readme_chains_compose(line: str, tmp_path: Path) -> None:
    words = shlex.split(line.replace("mynoise", "noise"))[2:]  # mynoise is what the reader has just made
    if "--out" in words:  # `zsq plan` composes the same chain and writes nothing
        at = words.index("--out")
        del words[at : at + 2]
    code = "from zsq_cli.app import main; raise SystemExit(main())"
    done = subprocess.run([sys.executable, "-c", code, "plan", *words], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("line", [line for line in _shell_lines("README.md") if line.startswith("zsq ") and not line.startswith("zsq run")])
def test_readme_commands_exist(line: str) -> None:
    known = {path for path, _ in GENERATE.commands()}
    words = tuple(shlex.split(line)[1:])
    assert words[:1] in known
    if words[0] == "plugins":
        assert words[:2] in known
