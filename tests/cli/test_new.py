"""``zsq plugins new``: for every role a plugin in two short files that installs, passes the conformance kit and runs, with no edit."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import zsq as zsq_package
from zsq._component import GROUP, Role
from zsq.types import Teacher
from zsq_cli.plugins import next_commands, template_values, write_plugin

ROOT = Path(__file__).resolve().parents[2]
NAMES = {role: f"my-{role.value}" for role in Role}
#: Roles that have a place in the chain of a run.
CHAIN = [role for role in Role if role not in (Role.TEACHER, Role.TASK, Role.READER, Role.STORE)]
#: Lines of Python and TOML together that a first plugin may have.
MOST_LINES = 25
TINY = ["--set", "run.batch_size=4", "--set", "calib.batches=2", "--set", "eval.images=8"]


def counted(folder: Path) -> int:
    """Lines of all files that hold something: comments and docstrings count, empty lines do not."""
    return sum(bool(line.strip()) for path in folder.rglob("*") if path.is_file() for line in path.read_text().splitlines())


def made(role: Role, parent: Path) -> Path:
    """The module of a new plugin of that role."""
    folder = parent / f"zsq-{NAMES[role]}"
    write_plugin(folder, template_values(NAMES[role], role))
    return folder / f"zsq_my_{role.value}.py"


@pytest.mark.parametrize("role", Role)
def test_makes_two_short_files(role: Role, zsq: Any, tmp_path: Path) -> None:
    done = zsq("plugins", "new", NAMES[role], "--role", role.value)
    assert done.code == 0, done.err
    folder, module = tmp_path / f"zsq-{NAMES[role]}", f"zsq_my_{role.value}"
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*")} == {"pyproject.toml", f"{module}.py"}
    assert counted(folder) <= MOST_LINES
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["name"] == f"zsq-{NAMES[role]}" and project["entry-points"] == {GROUP: {NAMES[role]: module}}
    assert not any("$" in path.read_text() for path in folder.iterdir())


@pytest.mark.parametrize("role", Role)
def test_says_what_comes_next(role: Role, zsq: Any) -> None:
    """Install, check, run: one command a line, as they are to be typed."""
    done = zsq("plugins", "new", NAMES[role], "--role", role.value)
    lines = [line.strip() for line in done.out.splitlines()]
    assert lines[1:3] == [f"zsq plugins install ./zsq-{NAMES[role]}", f"zsq plugins check {NAMES[role]}"]
    assert len(lines) == 4 and lines[3].startswith("zsq run ")


@pytest.mark.parametrize("role", Role)
def test_imports_only_what_is_public_and_nothing_heavy_at_the_top(role: Role, tmp_path: Path) -> None:
    tree = ast.parse(made(role, tmp_path).read_text())
    assert not [name for name in imports(tree) if any(part.startswith("_") for part in name.split("."))]
    assert not {name.split(".")[0] for node in tree.body for name in imports(node, deep=False)} & {"torch", "numpy", "PIL"}


def imports(tree: ast.AST, *, deep: bool = True) -> Iterator[str]:
    """Full names of what is imported in a tree, or by a statement itself."""
    for node in ast.walk(tree) if deep else [tree]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("tool", ["ruff check --select E,F,W,I,UP,B,C4,SIM,RUF,PTH,TID", "ruff format --check"])
def test_linters_have_nothing_to_say(tool: str, tmp_path: Path) -> None:
    pytest.importorskip("ruff", reason="ruff is not installed (make setup)")
    for role in Role:
        made(role, tmp_path)
    command = [sys.executable, "-m", *tool.split(), "--isolated", "--line-length", "140", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_types_fit(tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="mypy is not installed (make setup)")
    files = [str(made(role, tmp_path)) for role in Role]
    config = tmp_path / "mypy.ini"  # torch takes a minute to read, and what it gives is not what is looked at
    config.write_text("[mypy]\nstrict = true\nexplicit_package_bases = true\n[mypy-torch.*]\nfollow_imports = skip\n")
    flags = [f"--config-file={config}", "--follow-imports=silent", f"--cache-dir={tmp_path / 'cache'}"]
    env = {**os.environ, "MYPYPATH": str(ROOT / "core")}
    done = subprocess.run([sys.executable, "-m", "mypy", *flags, *files], capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "role"), [("batch", "synth"), ("true", "synth"), ("adam", "tune"), ("component", "teacher"), ("context", "calib")]
)
def test_a_class_never_takes_a_name_that_its_module_uses(name: str, role: str, zsq: Any, tmp_path: Path) -> None:
    assert zsq("plugins", "new", name, "--role", role).code == 0
    tree = ast.parse((tmp_path / f"zsq-{name}" / f"zsq_{name}.py").read_text())
    imported = {a.asname or a.name for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom)) for a in node.names}
    assert not imported & {node.name for node in tree.body if isinstance(node, ast.ClassDef)}


def test_a_full_disk_leaves_no_half_a_plugin(zsq: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Path.write_text

    def refuse(path: Path, *rest: Any, **more: Any) -> int:
        if path.suffix == ".py":
            raise OSError(28, "No space left on device")
        return write(path, *rest, **more)

    monkeypatch.setattr(Path, "write_text", refuse)
    done = zsq("plugins", "new", "mynoise", "--role", "synth")
    assert done.code == 2 and "No space left on device" in done.err and not list(tmp_path.iterdir())


def test_the_folder_can_be_chosen(zsq: Any, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    done = zsq("plugins", "new", "mynoise", "--role", "synth", "--dir", "there")
    assert done.code == 0 and "zsq plugins install ./there/zsq-mynoise\n" in done.out
    assert (tmp_path / "there" / "zsq-mynoise" / "zsq_mynoise.py").is_file()


def test_contributing_shows_what_is_written(tmp_path: Path) -> None:
    """Both files and the commands in CONTRIBUTING.md are those of the scaffold."""
    folder = tmp_path / "zsq-mynoise"
    write_plugin(folder, template_values("mynoise", Role.SYNTH))
    section = (ROOT / "CONTRIBUTING.md").read_text().split("## ")[1]
    blocks = dict(re.findall(r"```(\w+)\n(.*?)```", section, flags=re.DOTALL))
    assert blocks["toml"] == (folder / "pyproject.toml").read_text()
    assert blocks["python"] == (folder / "zsq_mynoise.py").read_text()
    lines = [line.split("  #")[0].strip() for line in blocks["bash"].splitlines()]
    assert lines == ["zsq plugins new mynoise --role synth", *next_commands(Path("zsq-mynoise"), "mynoise", Role.SYNTH)]


# -- used as a file ----------------------------------------------------------------------------------------------------


@pytest.fixture
def forgotten() -> Iterator[None]:
    """Modules of scaffolds are imported again by the next test."""
    yield
    for name in [name for name in sys.modules if name.startswith("zsq_my_")]:
        del sys.modules[name]


@pytest.mark.usefixtures("forgotten")
@pytest.mark.parametrize("role", CHAIN)
@pytest.mark.parametrize(("task", "network"), [("classify", "classes"), ("segment", "pixels"), ("detect", "boxes")])
def test_runs_with_teachers_of_every_task(task: str, network: str, role: Role, zsq: Any, tmp_path: Path) -> None:
    file = made(role, tmp_path)
    teacher = [f"py:{ROOT / 'tests' / 'chains' / 'tasks.py'}:{network}", "--set", f"teacher.task={task}"]
    spec = ["--set", "teacher.shape=3,16,16", "--set", "teacher.mean=0,0,0", "--set", "teacher.std=1,1,1"]
    tune = [] if role is Role.TUNE else ["--tune", "finetune" if role is Role.LOSS else "none"]
    steps = ["--set", "tune.steps=2"] if role in (Role.TUNE, Role.LOSS) else []
    mine = ["--plugin-file", file, f"--{role.value}", NAMES[role]]
    done = zsq("run", *teacher, *spec, *TINY, *mine, *tune, *steps, "--out", "run", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["teacher"]["task"] == task


def load_module(file: Path) -> Any:
    """The module in a file."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = sys.modules[file.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Published:
    """A repository with the network of the reader's scaffold."""

    tensors: Mapping[str, Any]
    config: Mapping[str, Any] = field(
        default_factory=lambda: {"width": 4, "classes": 3, "shape": (3, 8, 8), "mean": (0.0,) * 3, "std": (1.0,) * 3}
    )
    name: str = "lab/net"
    commit: str = "0" * 40
    ref: str = f"hub:lab/net@{'0' * 40}"

    def folder(self, *patterns: str) -> Path:
        raise AssertionError(patterns)

    def license(self) -> str:
        return "mit"

    def weights(self, trust_code: bool) -> Mapping[str, Any]:
        return self.tensors


@pytest.mark.usefixtures("forgotten")
def test_the_reader_makes_a_teacher_of_what_was_published(tmp_path: Path) -> None:
    import torch

    from zsq.testing.world import make_context

    module = load_module(made(Role.READER, tmp_path))
    (component,) = module.zsq_components()
    reader = component.implementation()(component.options(), make_context(tmp_path))
    shapes = {"0.weight": (4, 3, 3, 3), "0.bias": (4,), "4.weight": (3, 4), "4.bias": (3,)}
    teacher: Teacher = reader.read(Published({name: torch.ones(shape) for name, shape in shapes.items()}))
    assert teacher.task.classes == 3 and teacher.license == "mit" and teacher.ref.startswith("hub:lab/net@")
    assert all(bool((value == 1).all()) for value in teacher.module.state_dict().values())


@pytest.mark.usefixtures("forgotten")
def test_the_store_gives_back_what_was_put_there(zsq: Any, tmp_path: Path) -> None:
    module = load_module(made(Role.STORE, tmp_path))
    assert zsq("run", "py:zsq.testing.teachers:tiny32", "--tune", "none", *TINY, "--out", "run").code == 0
    store = module.MyStore(None, None)
    store.ready("there")
    dry = store.push(tmp_path / "run", "there", dry_run=tmp_path / "dry")
    assert Path(dry.url) == tmp_path / "dry" and not (tmp_path / "there").exists()
    for _ in range(2):  # the second time over the first
        published = store.push(tmp_path / "run", "there", private=True, license="mit")
    assert published.commit is None and {"config.json", "model.safetensors"} <= set(published.files)
    assert zsq_package.load(store.fetch("there")) is not None
    (tmp_path / "file").touch()
    with pytest.raises(zsq_package.ZsqError, match="names no folder"):
        store.ready("file")


# -- installed ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one plugin of every role."""
    folder = tmp_path_factory.mktemp("source")
    for role in Role:
        made(role, folder)
    return folder


@pytest.fixture(scope="module")
def installed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, installed by pip into a folder of its own."""
    if importlib.util.find_spec("hatchling") is None or importlib.util.find_spec("pip") is None:
        pytest.skip("installing without a network needs pip and hatchling in this environment")
    site = tmp_path_factory.mktemp("site")
    folders = [str(folder) for folder in source.iterdir()]
    flags = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(site)]
    done = subprocess.run([sys.executable, "-m", "pip", "install", *flags, *folders], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return site


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_what_is_built_holds_the_module(kind: str, source: Path, tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="hatchling is not installed (make setup)")
    code = f"from hatchling.build import build_{kind}; print(build_{kind}({str(tmp_path)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=source / "zsq-my-synth", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    listed = subprocess.run([sys.executable, "-m", "zipfile", "-l", done.stdout.split()[-1]], cwd=tmp_path, capture_output=True, text=True)
    assert ("zsq_my_synth.py " if kind == "wheel" else "zsq_my_synth.pth ") in listed.stdout
    assert "entry_points.txt" in listed.stdout


@pytest.mark.slow
def test_scaffolds_pass_the_conformance_kit(installed: Path, zsq_process: Any) -> None:
    done = zsq_process("plugins", "check", *NAMES.values(), "--json", path=installed)
    rows = json.loads(done.out)
    failed = [(row["name"], row["check"], row["reason"]) for row in rows if row["result"] == "failed"]
    assert done.code == 0 and not failed, failed or done.err
    assert {row["name"] for row in rows} == {f"{role.value}/{name}" for role, name in NAMES.items()}
    light = [row["result"] for row in rows if row["check"] == "entry_module_is_light"]
    assert light == ["passed"] * len(NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("role", [role for role in Role if role not in (Role.READER, Role.STORE)])
def test_the_command_that_is_printed_is_a_chain(role: Role, installed: Path, zsq_process: Any) -> None:
    *_, command = next_commands(Path(f"zsq-{NAMES[role]}"), NAMES[role], role)
    words = shlex.split(command)[2:]
    del words[words.index("--out") :]
    done = zsq_process("plan", *words, "--json", path=installed)
    assert done.code == 0 and NAMES[role] in done.out, done.err


@pytest.mark.slow
def test_scaffolds_run_in_one_chain(installed: Path, zsq_process: Any, tmp_path: Path) -> None:
    chain = [word for role in CHAIN for word in (f"--{role.value}", NAMES[role])]
    done = zsq_process("run", "my-teacher:tiny", *chain, *TINY, "--set", "tune.steps=2", "--out", "run", "--json", path=installed)
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert "my_eval" in report["student"]["metrics"] and report["steps"] == 2
    assert json.loads((tmp_path / "run" / "my_export.json").read_text())["points"]
    assert "tune:my-tune is done" in done.err


@pytest.mark.slow
def test_the_task_runs_as_is_printed(installed: Path, zsq_process: Any) -> None:
    *_, command = next_commands(Path("zsq-my-task"), NAMES[Role.TASK], Role.TASK)
    done = zsq_process(*shlex.split(command)[1:], "--json", path=installed)
    assert done.code == 0 and json.loads(done.out)["teacher"]["task"] == "my-task", done.err


# -- checking a folder -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_check_takes_a_folder(zsq_process: Any, tmp_path: Path) -> None:
    tests = tmp_path / "zsq-thing" / "tests"
    tests.mkdir(parents=True)
    (tests / "test_thing.py").write_text("def test_right():\n    pass\n\ndef test_wrong():\n    assert 1 == 2\n")
    done = zsq_process("plugins", "check", "./zsq-thing", "--json")
    results = {row["check"]: row["result"] for row in json.loads(done.out)}
    assert done.code == 1 and results == {"test_right": "passed", "test_wrong": "failed"}


def test_check_of_a_folder_without_tests_is_of_what_is_installed(zsq: Any, fake_dist: Any, tmp_path: Path) -> None:
    file = made(Role.LOG, tmp_path)
    fake_dist("zsq-my-log", file.read_text(), entry_points={"my-log": "zsq_my_log"})
    done = zsq("plugins", "check", "./zsq-my-log", "--json")
    assert done.code == 0 and "holds no tests: checking what zsq-my-log provides" in done.err
    rows = json.loads(done.out)
    assert {row["name"] for row in rows} == {"log/my-log"} and {row["result"] for row in rows} == {"passed"}


def test_check_of_a_folder_without_tests_that_is_not_installed(zsq: Any, tmp_path: Path) -> None:
    made(Role.LOG, tmp_path)
    done = zsq("plugins", "check", "./zsq-my-log")
    assert done.code == 2 and "zsq-my-log is not installed" in done.err and "zsq plugins install ./zsq-my-log" in done.err


@pytest.mark.parametrize(
    ("text", "said"), [(None, "no pyproject.toml"), ("[project", "names no project"), ("[tool]\n", "names no project")]
)
def test_check_of_a_folder_that_is_no_plugin(text: str | None, said: str, zsq: Any, tmp_path: Path) -> None:
    (tmp_path / "thing").mkdir()
    if text is not None:
        (tmp_path / "thing" / "pyproject.toml").write_text(text)
    done = zsq("plugins", "check", "./thing")
    assert done.code == 2 and said in done.err and "Traceback" not in done.err
