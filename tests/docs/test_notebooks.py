"""The notebooks run from top to bottom, in a kernel of their own and an empty folder, and show what they promise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "docs" / "notebooks").glob("*.ipynb"))


def read(path: Path) -> Any:
    return pytest.importorskip("nbformat", reason="nbformat is not installed").read(path, 4)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path: Path) -> None:
    cells = [cell for cell in read(path).cells if cell.cell_type == "code"]
    assert cells and not any(cell.outputs or cell.execution_count for cell in cells)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    for library in ("ipykernel", "zsq_onnx", "zsq_zeroq"):
        pytest.importorskip(library, reason=f"{library} is not installed")
    monkeypatch.setenv("ZSQ_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = read(path)
    nbclient.NotebookClient(notebook, timeout=280, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = "\n".join(text(output) for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs)
    if path.stem == "quantize_your_network":
        for word in ("weights 8, activations 8", "weights 4, activations 4", "teacher top1", "verified:", "ONNX Runtime:", "image/png"):
            assert word in shown, word
        top1 = float(shown.split("ONNX Runtime: ")[1].split(" %")[0])

        assert top1 > 90
        assert (tmp_path / "w8" / "model.onnx").is_file()


def text(output: Any) -> str:
    """What an output shows, as text."""
    data = output.get("data", {})
    return "\n".join(
        [output.get("text", ""), data.get("text/html", ""), data.get("text/plain", ""), *(key for key in data if "image" in key)]
    )
