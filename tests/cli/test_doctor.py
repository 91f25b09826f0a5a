"""``zsq doctor``: all is well here, and each thing that is not is named with its next step. The token never appears."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import close_session, constants

from zsq_cli import doctor

TOKEN = "hf_" + "s" * 34
FINE = {
    "name": "ann",
    "auth": {
        "accessToken": {
            "role": "fineGrained",
            "fineGrained": {"scoped": [{"entity": {"type": "org", "name": "lab"}, "permissions": ["repo.content.read", "repo.write"]}]},
        }
    },
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A Hub on this machine; what it answers may be changed."""
    says: dict[str, Any] = {"head": 200, "status": 200, "body": FINE, "tokens": []}

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(says["head"])
            self.end_headers()

        def do_GET(self) -> None:
            says["tokens"].append(self.headers["authorization"])
            self.send_response(says["status"])
            self.end_headers()
            self.wfile.write(json.dumps(says["body"]).encode())

        def log_message(self, *words: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    close_session()
    yield says
    server.shutdown()
    server.server_close()
    close_session()


@pytest.fixture
def examined(zsq: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, Any]]:
    """What it says, by topic, with ``code``."""
    monkeypatch.setenv("ZSQ_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(doctor, "_ENOUGH", 1)

    def call() -> dict[str, Any]:
        done = zsq("doctor", "--json")
        assert TOKEN not in done.out + done.err
        found = json.loads(done.out)
        assert found["ok"] == (done.code == 0) == all(finding["ok"] for finding in found["findings"])
        return {"code": done.code, **{finding["topic"]: finding for finding in found["findings"]}}

    return call


def test_all_is_well(hub: dict[str, Any], examined: Any, zsq: Any) -> None:
    found = examined()
    assert found["code"] == 0, found
    for topic in ("python", "versions", "plugins", "instructions", "threads", "GPU", "hub", "token", "working folder", "cache", "kept"):
        assert found[topic]["text"]
    assert found["token"]["text"] == "of ann, role fineGrained; org lab: repo.content.read, repo.write"
    assert hub["tokens"] == [f"Bearer {TOKEN}"]
    assert "all is well" in zsq("doctor").out


@pytest.mark.parametrize(
    ("changes", "topic", "text", "step"),
    [
        ({"status": 401}, "token", "does not accept", "hf auth login"),
        ({"status": 500}, "token", "500", "later"),
        ({"body": TOKEN}, "token", "does not say", "later"),
        ({"head": 503}, "hub", "503", "later"),
    ],
)
def test_a_hub_that_is_not_well(changes: dict[str, Any], topic: str, text: str, step: str, hub: Any, examined: Any) -> None:
    hub.update(changes)
    found = examined()
    assert found["code"] == 1 and text in found[topic]["text"] and step in found[topic]["next"]


def test_a_hub_that_repeats_the_token(hub: dict[str, Any], examined: Any) -> None:
    hub["body"] = {"name": TOKEN, "auth": {"accessToken": {"role": "read"}}}
    assert examined()["token"]["text"] == "of ***, role read; it may load and not publish"


def test_no_token_is_no_fault(hub: dict[str, Any], examined: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    found = examined()
    assert found["code"] == 0 and "hf auth login" in found["token"]["text"] and hub["tokens"] == []


def test_offline_asks_nobody(hub: dict[str, Any], examined: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    found = examined()
    assert found["code"] == 0 and "offline" in found["hub"]["text"] and hub["tokens"] == []


def test_a_hub_that_cannot_be_reached(hub: dict[str, Any], examined: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    found = examined()
    assert found["code"] == 1 and "cannot be reached" in found["hub"]["text"] and "HF_HUB_OFFLINE=1" in found["hub"]["next"]


def test_a_broken_plugin_is_named(hub: Any, examined: Any, fake_dist: Callable[..., Any]) -> None:
    fake_dist("zsq-sick", "import no_such_module_at_all\n")
    found = examined()
    (sick,) = [finding for topic, finding in found.items() if topic != "code" and "zsq-sick" in finding["text"]]
    assert found["code"] == 1 and "no_such_module_at_all" in sick["text"] and sick["next"].startswith("zsq plugins why ")


def test_a_full_disk_is_named(hub: Any, examined: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_ENOUGH", 1e18)
    found = examined()
    assert found["code"] == 1 and "zsq cache clear" in found["cache"]["next"] and "ZSQ_CACHE" in found["cache"]["next"]


def test_what_cannot_be_looked_at_is_a_finding(hub: Any, examined: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zsq_cli.cache.downloads", lambda: 1 / 0)
    found = examined()
    assert found["code"] == 1 and "ZeroDivisionError" in found["caches"]["text"]


@pytest.mark.parametrize(
    ("line", "known"),
    [
        ("flags\t\t: fpu avx2 avx512f avx512_vnni amx_int8", {"AVX2", "AVX-512", "VNNI", "AMX int8"}),
        ("flags\t\t: fpu avx2 avx_vnni", {"AVX2", "VNNI"}),
        ("Features\t: fp asimd asimddp i8mm", {"NEON", "NEON dot product", "NEON int8 matrix"}),
    ],
)
def test_instructions_come_from_the_system(line: str, known: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda path, **_: f"processor\t: 0\n{line}\n")
    assert {word for word, names in doctor._INSTRUCTIONS.items() if doctor._flags() & names} == known
