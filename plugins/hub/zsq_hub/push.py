"""Publishes a run: checks all files first, then makes one commit, so that a repository never mixes two students."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError

import zsq
from zsq.errors import FileError
from zsq.files import scratch_folder
from zsq.format import text_of
from zsq.protocols import Published
from zsq_hub import card
from zsq_hub.card_text import Facts
from zsq_hub.errors import HubError, explained
from zsq_hub.fetch import EXPORTED, FILES, IMAGES, split

#: Beside :data:`zsq_hub.fetch.FILES`: what a push writes, and removes from the repository where the new student lacks it.
_CARD, _PROOF = "README.md", "verify.json"
_FOLDERS = re.compile(r"(?<![\w./:\\])(?:[A-Za-z]:[\\/]|/)(?:[^\s/\\:'\"]+[\\/])+|(?<=:)/(?!/)(?:[^\s/\\:'\"]+/)+")


def push(run: Path, repo: str, *, private: bool | None = None, dry_run: Path | None = None, base_model: str | None = None,
         license: str | None = None, dataset: str | None = None, proof: Mapping[str, Any] | None = None) -> Published:  # fmt: skip
    """Publish the run in folder ``run`` as ``repo``.

    Args:
        run: Folder of a finished run.
        repo: ``ORG/NAME``; made when it is not there.
        private: Who may see it; None leaves that to the Hub's default for you.
        dry_run: Write what would be published to this new folder instead; the network is not touched.
        base_model: The teacher on the Hub; by default the one that its reference names.
        license: Default: that of ``base_model``.
        dataset: What the accuracy was measured on.
        proof: What `zsq verify` found of the exported files as they lie there; published, and told in the card.

    Raises:
        FileError: If the run is not finished or damaged, or the card is not valid.
        HubError: If the Hub refuses or the way there fails; nothing is published then.
    """
    repo, _ = split(repo)
    report, config = finished(run)
    base_model = base_model or hub_name(report["teacher"]["ref"])
    api = HfApi(library_name="zsq")
    author, terms = None, {"license": license} if license else {}
    if dry_run is None:
        with explained(repo, "push"):
            author = api.whoami()["name"]
            terms = terms or (_license_of(api, base_model) if base_model else {})
    recipe = cut((run / "recipe.yaml").read_text(encoding="utf-8"))
    report = cut(report)
    files = contents(run, report, config, recipe, proof)
    sizes = {name: item.stat().st_size if isinstance(item, Path) else len(item) for name, item in files.items()}
    facts = Facts(repo=repo, base_model=base_model, license=terms, dataset=dataset, author=author, proof=proof, files=sizes)
    files[_CARD] = card.write(report, config, recipe, facts).encode()
    if dry_run is not None:
        _write(dry_run, files)
        return Published(str(dry_run), None, tuple(sorted(files)))
    with explained(repo, "push"):
        return _publish(api, repo, files, private)


def ready(repo: str) -> None:
    """Check before a long run that a push to ``repo`` is possible.

    Raises:
        FileError, HubError: If the name is none, or nobody is logged in with a token that the Hub knows.
    """
    repo, _ = split(repo)
    with explained(repo, "push"):
        HfApi(library_name="zsq").whoami()


def finished(run: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """``report.json`` and ``config.json`` of a finished run whose student loads.

    Raises:
        FileError: If there is none, or its parts do not belong together.
    """
    hint = "push a folder that `zsq run` finished"
    if (run / "report.json").is_file() and not (run / FILES[1]).exists():
        what = f"the run has no {FILES[1]}: it was saved in other formats only, and nobody could load it from the Hub"
        raise FileError(what, str(run), "run it again with --export safetensors added")
    try:
        report, config = (json.loads((run / name).read_text(encoding="utf-8")) for name in ("report.json", "config.json"))
        size = (run / FILES[1]).stat().st_size
        (run / "recipe.yaml").read_bytes()
        complete = {"teacher", "student", "seed", "versions", "recipe", "images_evaluated"} <= report.keys()
        complete = complete and report["student"]["size_bytes"] == size and isinstance(report["student"]["metrics"], dict)
    except OSError as error:
        name = Path(error.filename).name if error.filename else "a file"
        raise FileError(f"the run is not finished: {name} cannot be read ({error.strerror})", str(run), hint) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise FileError("the run is not finished: its report is damaged", str(run / "report.json"), hint) from None
    if not complete:
        raise FileError("the run is not finished: its report is not about this student", str(run / "report.json"), hint)
    zsq.load(run)
    return report, config


def contents(run: Path, report: Mapping[str, Any], config: Mapping[str, Any], recipe: str,
             proof: Mapping[str, Any] | None) -> dict[str, bytes | Path]:  # fmt: skip
    """What is published but the card, by name; folders of this machine are cut from every path, file names stay."""
    files: dict[str, bytes | Path] = {
        "config.json": text_of({**config, "manifest": cut(config.get("manifest"))}),
        "model.safetensors": run / "model.safetensors",
        "report.json": (json.dumps(report, indent=1) + "\n").encode(),
        "recipe.yaml": recipe.encode(),
    }
    if proof is not None:
        files[_PROOF] = (json.dumps(cut(proof), indent=1) + "\n").encode()
    extra = [path for path in sorted(run.iterdir()) if path.is_file() and path.name in (*IMAGES, *EXPORTED)]
    return files | {path.name: path for path in extra if path.name != "model.bin" or path.with_suffix(".xml").exists()}


def cut(value: Any) -> Any:
    """``value`` with the folders of absolute paths taken out of its texts: ``npz:/home/me/val.npz`` becomes ``npz:val.npz``."""
    if isinstance(value, str):
        return _FOLDERS.sub("", value)
    if isinstance(value, Mapping):
        return {key: cut(item) for key, item in value.items()}
    return [cut(item) for item in value] if isinstance(value, (list, tuple)) else value


def hub_name(ref: str) -> str | None:
    """The repository on the Hub of a teacher's reference, or None: ``hub:ORG/NAME@COMMIT`` and ``timm:NAME`` have one."""
    source, _, name = ref.partition(":")
    name = name.partition("@")[0]
    return {"hub": name, "transformers": name, "timm": f"timm/{name}"}.get(source) if name else None


def _license_of(api: HfApi, repo: str) -> dict[str, str]:
    """The licence that the teacher's card names, with name and link of one that is not on the Hub's list; empty if it names none."""
    try:
        data = api.model_info(repo).card_data
    except HfHubHTTPError:
        return {}
    found = {} if data is None else {key: data.get(key) for key in ("license", "license_name", "license_link")}
    return {key: value for key, value in found.items() if isinstance(value, str)} if isinstance(found.get("license"), str) else {}


def _publish(api: HfApi, repo: str, files: Mapping[str, bytes | Path], private: bool | None) -> Published:
    api.create_repo(repo, private=private, exist_ok=True)
    info = api.model_info(repo)
    if private and not info.private:
        raise HubError(
            f"'{repo}' is public already, so --private cannot hold", f"hub:{repo}", "make it private on its page, or push to another name"
        )
    there = {sibling.rfilename for sibling in info.siblings or ()}
    if there - {".gitattributes", _CARD} and "report.json" not in there:
        raise HubError(
            f"'{repo}' holds something else than a zsq student", f"hub:{repo}", "nobody's files are overwritten: push to another name"
        )
    old = [name for name in there - files.keys() if name in (*FILES, *IMAGES, _PROOF) or name in EXPORTED]
    add = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in sorted(files.items())]
    gone = [CommitOperationDelete(path_in_repo=name) for name in sorted(old)]
    done = api.create_commit(repo, [*add, *gone], commit_message=f"Push {repo.partition('/')[2]} with zsq", parent_commit=info.sha)
    return Published(f"{api.endpoint}/{repo}", done.oid, tuple(sorted(files)))


def _write(folder: Path, files: Mapping[str, bytes | Path]) -> None:
    """Write the files of a dry run, all or none: into a hidden folder that is renamed."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileError(f"'{folder}' is not empty", "--dry-run", "name a new folder")
    scratch = scratch_folder(folder.absolute())
    try:
        for name, content in files.items():
            if isinstance(content, Path):
                shutil.copyfile(content, scratch / name)
            else:
                (scratch / name).write_bytes(content)
        scratch.chmod(0o755)
        scratch.replace(folder)
    except OSError as error:
        what = f"cannot write the folder: {error.strerror or error}"
        raise FileError(what, str(folder), "free some space or name another --dry-run") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
