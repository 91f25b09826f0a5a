"""``zsq cache``: lists and clears the cache: tensors in zsq's own folder, downloads in the folder of the Hub client."""

from __future__ import annotations

import json as json_
import re
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from zsq.errors import FileError, OptionError, ZsqError, nearest
from zsq.files import cache_folder, inside
from zsq_cli import render

#: Characters of a file's name that `zsq cache list` shows.
_SHORT = 12
_HEADER = 1 << 20
_OURS = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Entry:
    """One entry of the cache.

    ``kind`` is the folder it lies in (``pools``, ``sensitivities``) or ``download``; ``name`` is what ``clear`` takes; ``what`` says
    what it is of; ``used`` is a time in seconds since 1970. ``own``: made by zsq, or downloaded from a student of zsq.
    """

    kind: str
    name: str
    what: str
    bytes: int
    used: float
    path: Path
    own: bool = True


def list_cache(*, json: bool = False) -> None:
    """Print every entry and its folder."""
    entries = [*made(), *downloads()]
    places = {"made": str(cache_folder()), "downloads": str(hub_folder())}
    if json:
        rows = [{**asdict(entry), "used": _day(entry.used)} for entry in entries]
        render.print_json({"folders": places, "bytes": sum(entry.bytes for entry in entries), "entries": rows})
        return
    rows_ = [(e.kind, e.name, render.size_text(e.bytes), _day(e.used), e.what if e.own else f"{e.what} (not of zsq)") for e in entries]
    out = render.console()
    out.print(render.table(rows_, "kind", "name", "size", "last used", "what", styles=("dim", "bold")) if entries else "nothing is kept")
    for word, place in places.items():
        total = sum(entry.bytes for entry in entries if (entry.kind == "download") == (word == "downloads"))
        out.print(f"{word}: {render.size_text(total)} in {place}", soft_wrap=True)


def clear_cache(name: str | None, *, pools: bool = False, downloads: bool = False, yes: bool = False, json: bool = False) -> None:
    """Print the chosen entries, ask (without ``yes``), and remove them.

    Raises:
        OptionError: For a name beside a flag.
        ZsqError: If nothing has that name, or nobody is there to be asked.
    """
    chosen = _chosen(name, pools, downloads)
    total = render.size_text(sum(entry.bytes for entry in chosen))
    out = render.console(error=True)
    for entry in chosen:
        foreign = "" if entry.own else ", not of zsq: other programs may use it"
        out.print(f"{entry.kind} {entry.name}: {render.size_text(entry.bytes)}, {entry.what}{foreign}", soft_wrap=True)
    if chosen and not yes:
        if not sys.stdin.isatty():
            raise ZsqError(f"nobody is here to agree to removing {total}", "zsq cache clear", "add --yes")
        out.print(f"remove these {len(chosen)}, {total}? [y/N] ", end="")
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            out.print("nothing was removed")
            return
    _remove(chosen)
    if json:
        render.print_json({"removed": [entry.name for entry in chosen], "bytes": sum(entry.bytes for entry in chosen)})
    else:
        render.console().print(f"removed: {len(chosen)}, {total}" if chosen else "there is nothing to remove")


def made() -> list[Entry]:
    """The files of zsq's own cache, by kind, the latest used first; other files are ignored."""
    folder = cache_folder()
    files = [path for path in folder.glob("*/*.safetensors") if _OURS.fullmatch(path.stem) and path.is_file() and not path.is_symlink()]
    entries = []
    for path in files:
        stat = path.stat()
        name = f"{path.parent.name}/{path.stem[:_SHORT]}"
        entries.append(Entry(path.parent.name, name, _described(path), stat.st_size, max(stat.st_atime, stat.st_mtime), path))
    return sorted(entries, key=lambda entry: (entry.kind, -entry.used))


def downloads() -> list[Entry]:
    """Every model in the cache of the Hub client, students of zsq first."""
    entries = []
    for repo in _repositories():
        own = any(_is_student(revision.snapshot_path) for revision in repo.revisions)
        what = "student of zsq" if own else f"{repo.repo_type}, {len(repo.revisions)} revisions"
        entries.append(Entry("download", repo.repo_id, what, repo.size_on_disk, repo.last_accessed, repo.repo_path, own))
    return sorted(entries, key=lambda entry: (not entry.own, -entry.used))


def hub_folder() -> Path:
    """The cache of the Hub client."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _repositories() -> Iterable[Any]:
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        return sorted(scan_cache_dir(hub_folder()).repos, key=lambda repo: repo.repo_id)
    except CacheNotFound:
        return ()


def _chosen(name: str | None, pools: bool, with_downloads: bool) -> list[Entry]:
    """The entries that the arguments name."""
    if name is None:
        mine = made() if pools or not with_downloads else []
        return [*mine, *(entry for entry in (downloads() if with_downloads else ()) if entry.own)]
    if pools or with_downloads:
        raise OptionError("a name beside --pools or --downloads", "zsq cache clear", "give one of them")
    entries = [*made(), *downloads()]
    if not (found := [entry for entry in entries if name in (entry.name, entry.kind) and name != "download"]):
        hint = nearest(name, [entry.name for entry in entries]) or "`zsq cache list` shows what is kept"
        raise ZsqError(f"nothing in the caches is called '{name}'", "", hint)
    return found


def _remove(entries: Sequence[Entry]) -> None:
    """Remove files, and of downloads the repository's folder: commits do not name it, as copies of a repository share them.

    Raises:
        FileError: If the file system refuses; what was removed before stays removed.
    """
    try:
        for entry in entries:
            if entry.kind == "download":
                shutil.rmtree(inside(hub_folder(), entry.path.name))
            else:
                entry.path.unlink(missing_ok=True)
    except OSError as error:
        raise FileError(
            f"cannot remove it: {error.strerror or error}", str(error.filename or ""), "check the rights of the folder"
        ) from None


def _described(path: Path) -> str:
    """The content of a file of zsq's cache, from the key in its header; tensors are not read."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json_.loads(file.read(size)) if size <= _HEADER else {}
        key = json_.loads(header["__metadata__"]["key"])
        words = [
            f"{name} {value}" for name, value in key.items() if isinstance(value, (str, int)) and len(str(value)) <= 40 and name != "seed"
        ]
        return "".join(c if c.isprintable() else " " for c in ", ".join(words))[:120]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "cannot be read"


def _is_student(snapshot: Path) -> bool:
    """Whether a snapshot is a student of zsq, from its config.json."""
    try:
        config = json_.loads((snapshot / "config.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and {"format", "modules", "graph", "manifest"} <= config.keys()


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()
