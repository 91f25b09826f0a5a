"""Turns errors of the Hub client into readable messages. A message never contains a token."""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from logging import ERROR

from huggingface_hub import constants, errors
from huggingface_hub.utils import logging
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from zsq.errors import ZsqError

#: The HTTP package of the client: httpx, later httpx2.
_http = import_module(next(kind.__module__.partition(".")[0] for kind in errors.HfHubHTTPError.__mro__ if "httpx" in kind.__module__))
_TOKEN = re.compile(r"hf_\w+|Bearer \S+")
#: The Xet store's client raises Python's own errors; only their text tells them apart.
_XET = re.compile(r"CAS Client Error|Request (middleware )?error|^(Network|Server|Task|IO) error", re.IGNORECASE)
_STATUS = re.compile(r"HTTP status \w+ error \((?P<code>\d{3}) ?(?P<words>[\w ]*)\)")
_FULL = re.compile(r"No space left|os error (28|122)|quota", re.IGNORECASE)
_BROKEN = {"push": "the upload was interrupted", "load": "the connection to the Hub was lost"}
_SPACE = "free some space, or set HF_HOME to another disk"
_LOGIN = "run `hf auth login`, or set HF_TOKEN to a token that may do this"


class HubError(ZsqError):
    """The Hub does not answer, or does not allow the access."""


@contextmanager
def explained(repo: str, doing: str) -> Iterator[None]:
    """Inside, errors of the client become :class:`HubError`. Its warnings are hidden, and its progress bars unless on a terminal.

    Args:
        repo: ``ORG/NAME``, for messages.
        doing: ``"push"`` or ``"load"``.
    """
    level = logging.get_verbosity()
    bars = not (are_progress_bars_disabled() or sys.stderr.isatty())
    logging.set_verbosity(ERROR)
    if bars:
        disable_progress_bars()
    try:
        yield
    except ZsqError:
        raise
    except Exception as error:
        raise explain(error, repo, doing) or error from error
    finally:
        logging.set_verbosity(level)
        if bars:
            enable_progress_bars()


def explain(error: BaseException, repo: str, doing: str) -> HubError | None:
    """The message for ``error``, or for the first of its causes that is known; None if the error is not from the client or the Hub."""
    where = f"hub:{repo}"
    link: BaseException | None = error
    after = "nothing was published; pushing again sends only what is still missing" if doing == "push" else "try again"
    found = None
    while link is not None and found is None:
        found, link = _known(link, repo, doing, after) or _stored(link, repo, doing, after), link.__cause__
    if found is None and isinstance(error, errors.LocalEntryNotFoundError):
        found = f"the Hub cannot be reached, and '{repo}' is not in the cache", "try again later"
    if found is None and isinstance(error, (OSError, ValueError, RuntimeError)):
        said = next(iter(str(error).splitlines()), "") or type(error).__name__
        found = f"the Hub's client gave up: {said}", after + "; --debug shows it all"
    return HubError(_TOKEN.sub("***", found[0]), where, found[1]) if found else None


def _known(error: BaseException, repo: str, doing: str, after: str) -> tuple[str, str] | None:
    """The message and the hint."""
    if isinstance(error, errors.OfflineModeIsEnabled) or (isinstance(error, errors.LocalEntryNotFoundError) and constants.HF_HUB_OFFLINE):
        lacking = f", and '{repo}' is not in the cache" if doing == "load" else ""
        return f"offline mode is on{lacking}", "unset HF_HUB_OFFLINE and run it again"
    if isinstance(error, errors.LocalTokenNotFoundError):
        return "you are not logged in to the Hub", _LOGIN
    if isinstance(error, errors.HFValidationError):
        return f"'{repo}' is not a name on the Hub", "write ORG/NAME: letters, digits, '-', '_' and '.'"
    if isinstance(error, errors.GatedRepoError):
        return (
            f"'{repo}' is gated, and you have no access yet",
            f"ask for it at {constants.ENDPOINT}/{repo}, and log in with `hf auth login`",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"'{repo}' has no such revision", "name a branch, a tag or a full commit hash"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"there is no '{repo}' on the Hub, or it is private and closed to you", f"check the name; if it is private, {_LOGIN}"
    if isinstance(error, errors.HfHubHTTPError):
        return _answered(error, repo, doing, after)
    if isinstance(error, errors.FileMetadataError):
        return f"what answers at {constants.ENDPOINT} is not the Hub", "check HF_ENDPOINT and the proxy"
    if isinstance(error, _http.TransportError):
        return ("the Hub cannot be reached" if isinstance(error, (_http.ConnectError, _http.ConnectTimeout)) else _BROKEN[doing]), after
    if isinstance(error, OSError) and error.errno is not None:
        place = f" ({error.filename})" if error.filename else ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return f"the disk is full{place}", _SPACE
        return f"{error.strerror or error}{place}", "check the rights of the cache folder, HF_HOME"
    return None


def _stored(error: BaseException, repo: str, doing: str, after: str) -> tuple[str, str] | None:
    """The message and the hint for an error of the Xet client."""
    text = str(error)
    if not isinstance(error, (OSError, RuntimeError)) or getattr(error, "errno", None) is not None or not _XET.search(text):
        return None
    if _FULL.search(text):
        return "the disk is full", _SPACE
    if status := _STATUS.search(text):
        return _code(int(status["code"]), status["words"].strip(), repo, doing, after)
    return _BROKEN[doing], after


def _answered(error: errors.HfHubHTTPError, repo: str, doing: str, after: str) -> tuple[str, str]:
    return _code(error.response.status_code, (error.server_message or "").strip().rstrip("."), repo, doing, after)


def _code(code: int, said: str, repo: str, doing: str, after: str) -> tuple[str, str]:
    """The meaning of an HTTP status, with the text of the server."""
    words = f": {said}" if said else ""
    if code == 401:
        return "the Hub does not accept your token", _LOGIN
    if code == 403:
        verb = "write to" if doing == "push" else "read"
        return f"your token may not {verb} '{repo}'{words}", _LOGIN
    if code in (409, 412):
        return f"'{repo}' was changed by somebody else meanwhile", "look at it, and push again"
    if code == 429:
        return "the Hub wants fewer requests from you", "wait some minutes; " + after
    if code >= 500:
        return f"the Hub fails with {code}{words}", "that is its own fault: later, " + after if doing == "push" else "try again later"
    return f"the Hub refuses with {code}{words}", "--debug shows it all"
