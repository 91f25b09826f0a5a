"""Start-up is fast and imports nothing heavy.

Processor time, not wall time, of compiled modules, as an installation has them. A limit is for a processor that does the reference work
in ``NOMINAL`` seconds; one that is slower at the moment has that much more. Half as much again is for what neighbours do to caches,
which the reference work does not feel: quiet, the goals are 0.3 s for ``plugins list`` and 0.1 s for ``import zsq``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"torch", "numpy", "PIL", "safetensors", "huggingface_hub"}
CASES = {
    "help": (["--help"], 0.3, HEAVY | {"pluggy", "yaml", "rich"}),
    "run help": (["run", "--help"], 0.5, HEAVY),
    "version": (["--version"], 0.3, HEAVY | {"pluggy", "yaml", "rich"}),
    "plugins list": (["plugins", "list"], 0.45, HEAVY),
    "compare help": (["compare", "--help"], 0.5, HEAVY | {"pluggy", "yaml", "rich"}),
    "cache list": (["cache", "list"], 1.0, {"torch", "numpy", "PIL"}),
    "plan": (["plan", "py:zsq.testing.teachers:tiny"], 0.6, {"torch"}),
}
#: Seconds that the reference work takes on two quiet cores of the kind that these limits were set on.
NOMINAL = 0.057
WORK = """
import sys, time
{command}
spent = time.process_time()
names = sorted({{name.partition(".")[0] for name in sys.modules}})
began = time.process_time()
sum(i * i for i in range(1_000_000))
print(f"\\n{{code}} {{spent}} {{time.process_time() - began}}", *names)
"""
COMMAND = "from zsq_cli.app import main; code = main(sys.argv[1:])"


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where bytecode is kept, whatever the environment says of it."""
    return tmp_path_factory.mktemp("bytecode")


def measure(command: str, words: list[str], compiled: Path) -> tuple[int, float, set[str]]:
    """Exit code, processor seconds since the interpreter's start at nominal speed, and top-level modules of one command."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPYCACHEPREFIX": str(compiled)}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    script = WORK.format(command=command)
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, env=env, check=True)
    code, spent, reference, *modules = done.stdout.splitlines()[-1].split()
    return int(code), float(spent) / max(1.0, float(reference) / NOMINAL), set(modules)


@pytest.mark.parametrize("name", CASES)
def test_light_and_fast(name: str, compiled: Path) -> None:
    words, limit, banned = CASES[name]
    runs = [measure(COMMAND, words, compiled) for _ in range(4)]  # the first one compiles
    code, _, modules = runs[0]
    assert code == 0
    assert not modules & banned
    assert min(spent for _, spent, _ in runs[1:]) <= limit, [spent for _, spent, _ in runs]


def test_import_zsq_is_light_and_fast(compiled: Path) -> None:
    runs = [measure("import zsq; code = 0", [], compiled) for _ in range(4)]
    assert not runs[0][2] & (HEAVY | {"pluggy", "yaml", "rich", "typer"})
    assert min(spent for _, spent, _ in runs[1:]) <= 0.15, [spent for _, spent, _ in runs]


@pytest.mark.parametrize(
    "module",
    [
        "zsq",
        "zsq._builtin",
        "zsq._manager",
        "zsq._recipe",
        "zsq._compose",
        "zsq_cli.run",
        "zsq_cli.plugins",
        "zsq_cli.check",
        "zsq_cli.compare",
    ],
)
def test_a_light_module_imports_no_torch(module: str) -> None:
    subprocess.run([sys.executable, "-c", f"import sys, {module}; assert 'torch' not in sys.modules"], check=True)


def test_quantizing_imports_no_tracer(tmp_path: Path) -> None:
    """torch.export needs torch._dynamo and sympy, more than a second of imports."""
    script = "import sys; from zsq_cli.app import main; code = main(sys.argv[1:]); sys.exit(code or 'torch._dynamo' in sys.modules)"
    settings = ["teacher.shape=3,8,8", "teacher.mean=0,0,0", "teacher.std=1,1,1", "quant.act_bits=none"]
    words = ["run", "py:zsq.testing.teachers:tiny", "--synth", "none", "--quant", "squant4"]
    words += [word for setting in settings for word in ("--set", setting)]
    subprocess.run([sys.executable, "-c", script, *words, "--out", str(tmp_path / "run")], check=True, capture_output=True)
