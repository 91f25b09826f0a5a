"""``zsq doctor``: checks Python, plugins, processor, Hub and disks, with a next step for each problem. Never prints the token."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.text import Text

from zsq._manager import Manager
from zsq.files import cache_folder
from zsq_cli import render

#: Distributions that zsq cannot do without, and some that plugins use.
_NEEDED = ("zsq", "torch", "numpy", "pluggy", "typer", "rich", "pyyaml", "safetensors", "huggingface-hub", "pillow")
_USED = ("onnx", "onnxruntime", "openvino", "timm", "torchvision", "transformers", "tensorboardX")
#: What integer networks profit from, and the names that the system has for it.
_INSTRUCTIONS = {
    "AVX2": {"avx2"},
    "AVX-512": {"avx512f"},
    "VNNI": {"avx512_vnni", "avx_vnni"},
    "AMX int8": {"amx_int8"},
    "NEON": {"asimd", "neon"},
    "NEON dot product": {"asimddp"},
    "NEON int8 matrix": {"i8mm"},
    "SVE": {"sve"},
}
#: A disk with fewer free bytes counts as full: checkpoints, pools and downloads need space.
_ENOUGH = 2e9
#: Seconds that the Hub has for an answer.
_PATIENCE = 5.0


@dataclass(frozen=True)
class Finding:
    """The result of one check; ``next`` is the next step, empty if there is no problem."""

    topic: str
    text: str
    next: str = ""

    @property
    def ok(self) -> bool:
        return not self.next


def examine(*, json: bool = False) -> int:
    """Run all checks and print them; returns 1 if there is a problem."""
    found = [finding for look in (environment, plugins, processor, hub, disks, caches) for finding in _safely(look)]
    wrong = [finding for finding in found if not finding.ok]
    if json:
        render.print_json({"ok": not wrong, "findings": [{"ok": finding.ok, **asdict(finding)} for finding in found]})
        return 1 if wrong else 0
    rows = [(finding.topic, Text("ok", "green") if finding.ok else Text("look", "red"), _cell(finding)) for finding in found]
    out = render.console()
    out.print(render.table(rows, "", "", "", styles=("bold",)))
    out.print(f"{len(wrong)} to look at" if wrong else "all is well", style="bold red" if wrong else "bold green")
    return 1 if wrong else 0


def environment() -> Iterator[Finding]:
    """Python, the system, and versions."""
    venv = f", environment {sys.prefix}" if sys.prefix != sys.base_prefix else ""
    yield Finding("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}{venv}")
    versions = {name: _version(name) for name in (*_NEEDED, *_USED)}
    yield Finding("versions", ", ".join(f"{name} {version}" for name, version in versions.items() if version))
    for name in _NEEDED:
        if versions[name] is None:
            yield Finding(name, "is not installed", f"pip install {name}")


def plugins() -> Iterator[Finding]:
    """The installed plugins, and why some do not work."""
    every = Manager.discover().plugins()
    working = [plugin.name for plugin in every if plugin.status == "ok"]
    yield Finding("plugins", f"{len(working)}: {', '.join(working)}" if working else "none; `zsq plugins install NAME` brings one")
    for plugin in every:
        if plugin.status == "blocked":
            yield Finding(f"plugin {plugin.name}", f"blocked: {plugin.reason}")
        elif plugin.status == "broken":
            yield Finding(f"plugin {plugin.name}", f"{plugin.provider} is broken: {plugin.reason}", f"zsq plugins why {plugin.name}")


def processor() -> Iterator[Finding]:
    """Instruction set, cores, threads, and a GPU if torch finds one."""
    flags = _flags()
    known = [word for word, names in _INSTRUCTIONS.items() if flags & names]
    yield Finding(
        "instructions", ", ".join(known) if known else "none known that integer networks profit from" if flags else "not told by the system"
    )
    try:
        import torch
    except Exception as error:  # a broken installation raises whatever it likes
        yield Finding("torch", f"cannot be imported: {_line(error)}", "install it again, as pytorch.org says for this machine")
        return
    cores, threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, torch.get_num_threads()
    text = f"{threads} of torch on {cores} cores; torch computes with {torch.backends.cpu.get_cpu_capability()}"
    yield Finding(
        "threads", text, f"export OMP_NUM_THREADS={cores}: more threads than cores wait for each other" if threads > cores else ""
    )
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    yield Finding("GPU", ", ".join(names) or "none that torch sees; zsq needs none")


def hub() -> Iterator[Finding]:
    """Whether the Hub answers, and the rights of the token."""
    from huggingface_hub import constants, get_session, get_token

    token = get_token()
    if constants.HF_HUB_OFFLINE:
        yield Finding("hub", f"offline mode is on (HF_HUB_OFFLINE); nothing was asked, {'a' if token else 'no'} token is set")
        return
    where = constants.ENDPOINT
    try:
        status = get_session().request("HEAD", where, timeout=_PATIENCE).status_code
    except Exception as error:  # the client's own kinds change from version to version
        hint = "look at the network, the proxy and HF_ENDPOINT; or export HF_HUB_OFFLINE=1 to work with what the cache holds"
        yield Finding("hub", f"{where} cannot be reached: {_line(error, token)}", hint)
        return
    yield Finding("hub", f"{where} answers" if status < 500 else f"{where} fails with {status}", "try again later" if status >= 500 else "")
    if token is None:
        yield Finding("token", "none: public networks can be loaded; to publish, run `hf auth login`")
        return
    try:
        answer = get_session().request("GET", f"{where}/api/whoami-v2", headers={"authorization": f"Bearer {token}"}, timeout=_PATIENCE)
        said = answer.json() if answer.status_code == 200 else {}
    except Exception as error:  # as above, or an answer that is not JSON
        yield Finding("token", f"the Hub does not say what it may do: {_line(error, token)}", "try again later")
        return
    if answer.status_code in (401, 403):
        yield Finding("token", "the Hub does not accept it", "run `hf auth login`, or set HF_TOKEN to a token that is valid")
    elif not isinstance(said, dict) or not said:
        yield Finding("token", f"the Hub does not say what it may do: it answers {answer.status_code}", "try again later")
    else:
        yield Finding("token", scope(said).replace(token, "***"))


def scope(said: Mapping[str, Any]) -> str:
    """The owner and the rights of the token, from the Hub's answer to whoami."""
    access = _mapping(_mapping(said.get("auth")).get("accessToken"))
    role = str(access.get("role", "unknown"))
    parts = [f"of {said.get('name', 'unknown')}, role {role}"]
    for scoped in _mapping(access.get("fineGrained")).get("scoped") or ():
        entity = _mapping(_mapping(scoped).get("entity"))
        rights = [str(right) for right in _mapping(scoped).get("permissions") or ()]
        parts.append(f"{entity.get('type', '')} {entity.get('name', '')}: {', '.join(rights) or 'nothing'}".strip())
    if role == "read":
        parts.append("it may load and not publish")
    return "".join(c if c.isprintable() else " " for c in "; ".join(parts))[:600]


def disks() -> Iterator[Finding]:
    """Free space and write permission of the folders that zsq writes to."""
    from zsq_cli.cache import hub_folder

    places = {"working folder": (Path.cwd(), "--out"), "cache": (cache_folder(), "ZSQ_CACHE"), "downloads": (hub_folder(), "HF_HOME")}
    for word, (folder, name) in places.items():
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        free = shutil.disk_usage(there).free
        text = f"{render.size_text(free)} free in {folder}"
        if not os.access(there, os.W_OK | os.X_OK):
            yield Finding(word, f"{folder} may not be written to", f"choose another place: {name}")
        else:
            yield Finding(word, text, f"free some space (`zsq cache clear`), or choose another disk: {name}" if free < _ENOUGH else "")


def caches() -> Iterator[Finding]:
    """The cache."""
    from zsq_cli.cache import downloads, made

    own, loaded = made(), downloads()
    kinds = dict.fromkeys(entry.kind for entry in own)
    sizes = [f"{kind} {render.size_text(sum(e.bytes for e in own if e.kind == kind))}" for kind in kinds]
    sizes.append(f"downloads {render.size_text(sum(entry.bytes for entry in loaded))}")
    yield Finding("kept", f"{', '.join(sizes)}; `zsq cache list` shows them")


def _safely(look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """The results of one check; if the check fails, that is a result too."""
    try:
        yield from look()
    except Exception as error:  # whatever it is, the other looks go on
        yield Finding(look.__name__, f"cannot be looked at: {_line(error)}", "a fault of zsq, or of a library that it uses")


def _flags() -> set[str]:
    """The instruction sets of the processor, as the system names them; empty if the system does not list them."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return _flags_of_macos()
    line = next((line for line in text.splitlines() if line.partition(":")[0].strip() in ("flags", "Features")), "")
    return set(line.partition(":")[2].split())


def _flags_of_macos() -> set[str]:
    import subprocess

    if platform.system() != "Darwin":
        return set()
    words = ["sysctl", "-n", "machdep.cpu.features", "machdep.cpu.leaf7_features"]
    said = subprocess.run(words, capture_output=True, text=True, check=False, timeout=5).stdout.lower().split()
    return set(said) | ({"neon", "asimd", "asimddp"} if platform.machine() == "arm64" else set())


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except (metadata.PackageNotFoundError, ValueError):
        return None


def _line(error: BaseException, token: str | None = None) -> str:
    """An error in one line, without the token."""
    text = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return text.replace(token, "***") if token else text


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _cell(finding: Finding) -> Text:
    return Text(finding.text) if finding.ok else Text.assemble(finding.text, ("\n" + finding.next, "yellow"))
