"""Six broken plugins at once, each a real distribution on the path of a process of its own: everything else goes on."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest

from zsq.testing import write_fake_dist

GOOD = """
from zsq import Component, hookimpl
from zsq._builtin.options import NoiseOptions
@hookimpl
def zsq_synthesizers():
    yield Component("{name}", "zsq._builtin.noise:Noise", NoiseOptions, "Noise.")
"""
BROKEN = {
    "missing": "import a_module_that_nobody_has",
    "leaving": "raise SystemExit(3)",
    "signature": "from zsq import hookimpl\n@hookimpl\ndef zsq_synthesizers(everything):\n    yield\n",
    "misspelt": "from zsq import hookimpl\n@hookimpl\ndef zsq_sinthesizers():\n    yield\n",
}
REASONS = {
    "missing": "a_module_that_nobody_has",
    "leaving": "sys.exit(3)",
    "signature": "everything",
    "misspelt": "did you mean 'zsq_synthesizers'?",
    "future": "API 9",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("site")
    for name, source in BROKEN.items():
        write_fake_dist(path, f"zsq-{name}", source)
    write_fake_dist(path, "zsq-future", GOOD.format(name="future"), group="zsq.v9")
    write_fake_dist(path, "zsq-fine", GOOD.format(name="fine"))
    write_fake_dist(path, "zsq-twin", GOOD.format(name="double"))
    write_fake_dist(path, "zsq-triplet", GOOD.format(name="double"))
    return path


def test_list_names_each_with_its_reason(zsq_process: Any, site: Path) -> None:
    done = zsq_process("plugins", "list", "--json", path=site)
    assert done.code == 0 and not done.err
    rows = {row["name"]: row for row in json.loads(done.out)}
    for name, reason in REASONS.items():
        assert rows[name]["status"] == "broken" and reason in rows[name]["reason"], rows[name]
    assert rows["fine"]["status"] == "ok" and rows["fine"]["provides"] == {"synth": ["fine"]}
    for name, other in (("twin", "zsq-triplet"), ("triplet", "zsq-twin")):
        assert other in rows[name]["reason"] and f"zsq-{name}/double" in rows[name]["reason"]


def test_the_table_shows_the_same(zsq_process: Any, site: Path) -> None:
    done = zsq_process("plugins", "list", path=site)
    text = " ".join(done.out.split())
    assert done.code == 0 and text.count(" broken ") == len(REASONS)
    assert "a_module_that_nobody_has" in text and "sys.exit(3)" in text


def test_commands_that_use_none_of_them_work(zsq_process: Any, site: Path) -> None:
    for words in (("plan", "py:zsq.testing.teachers:tiny", "--synth", "fine"), ("show", "fine"), ("show", "uniform4")):
        done = zsq_process(*words, path=site)
        assert done.code == 0 and not done.err, done.err


def test_a_run_goes_through_with_all_of_them_installed(zsq_process: Any, site: Path, tmp_path: Path) -> None:
    small = [word for pair in ("teacher.shape=3,8,8", "tune.steps=2", "run.batch_size=4") for word in ("--set", pair)]
    norm = ["--set", "teacher.mean=0,0,0", "--set", "teacher.std=1,1,1", "--set", "teacher.classes=4"]
    done = zsq_process("run", "py:zsq.testing.teachers:tiny", "--synth", "fine", *small, *norm, "--out", "r", "--json", path=site)
    assert done.code == 0, done.err
    assert json.loads(done.out)["recipe"]["synth"]["name"] == "fine" and (tmp_path / "r" / "model.safetensors").is_file()


def test_a_name_of_two_providers_is_an_error_with_the_way_out(zsq_process: Any, site: Path) -> None:
    done = zsq_process("plan", "py:zsq.testing.teachers:tiny", "--synth", "double", path=site)
    assert done.code == 2 and "zsq-triplet" in done.err and "zsq-twin/double" in done.err and len(done.err.splitlines()) <= 3
    assert zsq_process("plan", "py:zsq.testing.teachers:tiny", "--synth", "zsq-twin/double", path=site).code == 0


def test_why_shows_file_reason_traceback_and_rivals(zsq_process: Any, site: Path) -> None:
    (row,) = json.loads(zsq_process("plugins", "why", "missing", "--json", path=site).out)
    assert row["status"] == "broken" and "Traceback" in row["trace"] and row["file"] == str(site / "zsq_missing" / "__init__.py")
    assert row["found"] == "entry point of zsq-missing"
    plain = zsq_process("plugins", "why", "leaving", path=site)
    assert plain.code == 0 and "sys.exit(3)" in plain.out and "Traceback" in plain.out
    rows = {row["name"]: row for row in json.loads(zsq_process("plugins", "why", "double", "--json", path=site).out)}
    assert rows["twin"]["rivals"] == ["zsq-triplet/double"] and rows["triplet"]["rivals"] == ["zsq-twin/double"]


def test_check_of_a_broken_plugin_says_why(zsq_process: Any, site: Path) -> None:
    done = zsq_process("plugins", "check", "missing", path=site)
    assert done.code == 2 and "is broken" in done.err and "a_module_that_nobody_has" in done.err


def test_uninstall_maps_the_name_to_its_distribution(zsq_process: Any, site: Path) -> None:
    for name in (*BROKEN, "future"):
        done = zsq_process("plugins", "uninstall", name, "--dry-run", path=site)
        assert done.code == 0 and done.out.split()[-1] == f"zsq-{name}", done.err
        assert (site / f"zsq_{name}").is_dir()


def test_damaged_metadata_stops_neither_uninstall_nor_why(zsq_process: Any, tmp_path: Path) -> None:
    site = tmp_path / "site"
    write_fake_dist(site, "zsq-missing", BROKEN["missing"])
    for folder, points in {
        "zsq_nameless-1.dist-info": "[zsq.v1]\nnameless = zsq_nameless\n",
        "worse-1.dist-info": "[zsq.v1]\nno sense\n",
    }.items():
        (site / folder).mkdir()
        (site / folder / "entry_points.txt").write_text(points)
    done = zsq_process("plugins", "uninstall", "missing", "--dry-run", path=site)
    assert done.code == 0 and done.out.split()[-1] == "zsq-missing", done.err
    assert zsq_process("plugins", "why", "missing", path=site).code == 0
    done = zsq_process("plugins", "uninstall", "nameless", path=site)
    assert done.code == 2 and "no distribution name" in done.err and str(site) in done.err and len(done.err.splitlines()) <= 3
    (row,) = json.loads(zsq_process("plugins", "why", "nameless", "--json", path=site).out)
    assert row["status"] == "broken" and row["found"].startswith("entry point")


def test_uninstall_of_a_broken_plugin_removes_it(tmp_path: Path) -> None:
    if importlib.util.find_spec("pip") is None:
        pytest.skip("no pip in this environment")
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    python = next(tmp_path / "venv" / folder / "python" for folder in ("bin", "Scripts") if (tmp_path / "venv" / folder).is_dir())
    site = Path(subprocess.check_output([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True).strip())
    (site / "outer.pth").write_text("\n".join(path for path in sys.path if path and Path(path).is_dir()))
    write_fake_dist(site, "zsq-leaving", BROKEN["leaving"])
    write_fake_dist(site, "zsq-missing", BROKEN["missing"])
    done = subprocess.run([python, "-m", "zsq_cli.app", "plugins", "uninstall", "leaving"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not (site / "zsq_leaving" / "__init__.py").exists() and (site / "zsq_missing" / "__init__.py").exists()
    rows = json.loads(subprocess.check_output([python, "-m", "zsq_cli.app", "plugins", "list", "--json"], text=True))
    assert "missing" in {row["name"] for row in rows} and "leaving" not in {row["name"] for row in rows}


def test_uninstall_says_when_pip_left_the_plugin_where_it_is(zsq_process: Any, site: Path) -> None:
    done = zsq_process("plugins", "uninstall", "leaving", path=site)
    if "No module named pip" in done.err:
        pytest.skip("no pip in this environment")
    assert done.code == 2 and "is still there" in done.err and str(site) in done.err


def test_install_takes_the_source_beside_the_registry_and_keeps_torch(zsq: Any) -> None:
    root = Path(__file__).resolve().parents[2]
    for name in ("aac", "abn"):
        done = zsq("plugins", "install", name, "--dry-run")
        assert done.code == 0
        words = done.out.split()
        assert words[-1] in (str(root / "plugins" / "aac"), "zsq-aac") and " install " in done.out
        assert f"-c {root / 'constraints.txt'}" in done.out
