"""What several tests look at."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from loopback import TOKEN, Loopback

from zsq_cli.app import main

INPUTS = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(7))


def answers(student: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return student(INPUTS)


def files(hub: Loopback, name: str = "org/tiny") -> set[str]:
    repo = hub.repos[name]
    return set(repo.commits[repo.refs["main"]]) - {".gitattributes"}


def content(hub: Loopback, file: str, name: str = "org/tiny") -> bytes:
    repo = hub.repos[name]
    return repo.commits[repo.refs["main"]][file]


def card_of(hub: Loopback) -> tuple[str, dict[str, Any]]:
    """Text and metadata of the card that was pushed, as the client reads it with errors on."""
    card = ModelCard(content(hub, "README.md").decode(), ignore_metadata_errors=False)
    return card.text, card.data.to_dict()


def report_of(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "report.json").read_text())
    return found


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """What a command says that ends with code 2: three lines at most, and no token."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == 2
    said = capsys.readouterr().err
    assert said.startswith("zsq: ") and 1 <= len(said.splitlines()) <= 3 and "Traceback" not in said
    assert TOKEN not in said and not re.search(r"hf_\w{8}", said)
    return said
