"""Start-up is fast and imports nothing heavy. Processor time, not wall time, so that a busy machine does not decide."""

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
    "plugins list": (["plugins", "list"], 0.5, HEAVY),
    "compare help": (["compare", "--help"], 0.5, HEAVY | {"pluggy", "yaml", "rich"}),
    "cache list": (["cache", "list"], 1.0, {"torch", "numpy", "PIL"}),
    "plan": (["plan", "py:zsq.testing.teachers:tiny"], 0.6, {"torch"}),
}
MEASURE = """
import sys, time
from zsq_cli.app import main
code = main(sys.argv[1:])
spent = time.process_time()
print(f"\\n{code} {spent}", *sorted({name.partition(".")[0] for name in sys.modules}))
"""


def measure(words: list[str]) -> tuple[int, float, set[str]]:
    """Exit code, processor seconds since the interpreter's start, and top-level modules of one command."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", MEASURE, *words], capture_output=True, text=True, env=env, check=True)
    code, spent, *modules = done.stdout.splitlines()[-1].split()
    return int(code), float(spent), set(modules)


@pytest.mark.parametrize("name", CASES)
def test_light_and_fast(name: str) -> None:
    words, limit, banned = CASES[name]
    runs = [measure(words) for _ in range(3)]
    code, _, modules = runs[0]
    assert code == 0
    assert not modules & banned
    assert min(spent for _, spent, _ in runs) < limit, [spent for _, spent, _ in runs]


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
