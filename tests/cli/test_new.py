"""``zsq plugins new``: for every role a plugin that installs, passes the conformance kit and runs, with no edit."""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from zsq._component import GROUP, Role

NAMES = {role: f"my-{role.value}" for role in Role}


@pytest.mark.parametrize("role", Role)
def test_makes_a_complete_folder_that_compiles(role: Role, zsq: Any, tmp_path: Path) -> None:
    done = zsq("plugins", "new", NAMES[role], "--role", role.value)
    assert done.code == 0 and "pip install" in done.out and f"zsq plugins check {NAMES[role]}" in done.out
    folder, module = tmp_path / f"zsq-{NAMES[role]}", f"zsq_my_{role.value}"
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {"pyproject.toml", "README.md", f"{module}/__init__.py", f"{module}/{role.value}.py", f"tests/test_my_{role.value}.py"}
    for path in folder.rglob("*.py"):
        compile(path.read_text(), str(path), "exec")
        assert "$" not in path.read_text()
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["name"] == f"zsq-{NAMES[role]}" and project["entry-points"] == {GROUP: {NAMES[role]: module}}


@pytest.mark.parametrize(
    ("name", "role"), [("batch", "synth"), ("true", "synth"), ("f", "loss"), ("teacher", "teacher"), ("context", "calib")]
)
def test_a_class_never_takes_a_name_that_its_module_uses(name: str, role: str, zsq: Any, tmp_path: Path) -> None:
    assert zsq("plugins", "new", name, "--role", role).code == 0
    for path in (tmp_path / f"zsq-{name}" / f"zsq_{name}").glob("*.py"):
        tree = ast.parse(path.read_text())
        imported = {a.asname or a.name for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom)) for a in node.names}
        assert not imported & {node.name for node in tree.body if isinstance(node, ast.ClassDef)}


def test_a_full_disk_leaves_no_half_a_plugin(zsq: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Path.write_text

    def refuse(path: Path, *rest: Any, **more: Any) -> int:
        if path.name == "synth.py":
            raise OSError(28, "No space left on device")
        return write(path, *rest, **more)

    monkeypatch.setattr(Path, "write_text", refuse)
    done = zsq("plugins", "new", "mynoise", "--role", "synth")
    assert done.code == 2 and "No space left on device" in done.err and not list(tmp_path.iterdir())


def test_the_folder_can_be_chosen(zsq: Any, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    assert zsq("plugins", "new", "mynoise", "--role", "synth", "--dir", "there").code == 0
    assert (tmp_path / "there" / "zsq-mynoise" / "zsq_mynoise" / "synth.py").is_file()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One plugin of every role, made and installed by pip into a folder of its own."""
    if importlib.util.find_spec("hatchling") is None or importlib.util.find_spec("pip") is None:
        pytest.skip("installing without a network needs pip and hatchling in this environment")
    source, site = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for role, name in NAMES.items():
        command = [sys.executable, "-m", "zsq_cli.app", "plugins", "new", name, "--role", role.value, "--dir", str(source)]
        subprocess.run(command, check=True, capture_output=True)
    folders = [str(source / f"zsq-{name}") for name in NAMES.values()]
    flags = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(site)]
    done = subprocess.run([sys.executable, "-m", "pip", "install", *flags, *folders], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return site


@pytest.mark.slow
def test_scaffolds_pass_the_conformance_kit(installed: Path, zsq_process: Any) -> None:
    done = zsq_process("plugins", "check", *NAMES.values(), "--json", path=installed)
    rows = json.loads(done.out)
    failed = [(row["name"], row["check"], row["reason"]) for row in rows if row["result"] == "failed"]
    assert done.code == 0 and not failed, failed or done.err
    assert {row["name"] for row in rows} == {f"{role.value}/{name}" for role, name in NAMES.items()}


@pytest.mark.slow
def test_scaffolds_run_in_one_chain(installed: Path, zsq_process: Any, tmp_path: Path) -> None:
    roles = {role: NAMES[role] for role in Role if role not in (Role.TEACHER, Role.TASK, Role.READER, Role.STORE)}
    chain = [word for role, name in roles.items() for word in (f"--{role.value}", name)]
    small = ["--set", "tune.steps=2", "--set", "calib.batches=2", "--set", "eval.images=8", "--set", "run.batch_size=4"]
    done = zsq_process("run", "my-teacher:tiny", *chain, *small, "--out", "run", "--json", path=installed)
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert "my_eval" in report["student"]["metrics"] and report["steps"] == 2
    points = json.loads((tmp_path / "run" / "my_export.json").read_text())["points"]
    assert {point["kind"] for point in points.values()} == {"weight", "act"}


@pytest.mark.slow
def test_check_takes_a_folder(zsq_process: Any, tmp_path: Path) -> None:
    tests = tmp_path / "zsq-thing" / "tests"
    tests.mkdir(parents=True)
    (tests / "test_thing.py").write_text("def test_right():\n    pass\n\ndef test_wrong():\n    assert 1 == 2\n")
    done = zsq_process("plugins", "check", "./zsq-thing", "--json")
    results = {row["check"]: row["result"] for row in json.loads(done.out)}
    assert done.code == 1 and results == {"test_right": "passed", "test_wrong": "failed"}
