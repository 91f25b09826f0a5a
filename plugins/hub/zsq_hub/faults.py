"""What the Hub's client raises, said for people: one message each, never with a token in it."""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
from huggingface_hub import constants, errors
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars, logging

from zsq.errors import ZsqError

_TOKEN = re.compile(r"hf_\w+|Bearer \S+")
_LOGIN = "run `hf auth login`, or set HF_TOKEN to a token that may do this"


class HubError(ZsqError):
    """The Hub, the way to it, or the right to use it is missing."""


@contextmanager
def explained(repo: str, doing: str) -> Iterator[None]:
    """Inside, errors of the client come out as :class:`HubError`; its warnings, and bars where nobody watches, stay unsaid.

    Args:
        repo: ``ORG/NAME``, for messages.
        doing: ``"push"`` or ``"load"``.
    """
    level = logging.get_verbosity()
    bars = not (are_progress_bars_disabled() or sys.stderr.isatty())
    logging.set_verbosity_error()
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
    """The message for ``error``, or for the first of its causes that is known; None when nothing of it is."""
    where, link = f"hub:{repo}", error
    after = "nothing was published; the same command sends only what is still missing" if doing == "push" else "try again"
    while link is not None:
        if found := _known(link, repo, doing, after):
            what, hint = found
            return HubError(_TOKEN.sub("***", what), where, hint)
        link = link.__cause__  # type: ignore[assignment]
    if isinstance(error, errors.LocalEntryNotFoundError):
        return HubError(f"the Hub cannot be reached, and '{repo}' is not in the cache", where, after)
    return None


def _known(error: BaseException, repo: str, doing: str, after: str) -> tuple[str, str] | None:
    """What and hint."""
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
    if isinstance(error, httpx2.TransportError):
        broken = "the upload was interrupted" if doing == "push" else "the connection to the Hub was lost"
        lost = "the Hub cannot be reached" if isinstance(error, (httpx2.ConnectError, httpx2.ConnectTimeout)) else broken
        return lost, after
    if isinstance(error, OSError) and error.errno is not None:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        place = f" ({error.filename})" if error.filename else ""
        return (f"the disk is full{place}" if full else f"{error.strerror or error}{place}"), (
            "free some space, or set HF_HOME to another disk" if full else "check the rights of the cache folder, HF_HOME"
        )
    return None


def _answered(error: errors.HfHubHTTPError, repo: str, doing: str, after: str) -> tuple[str, str]:
    code, said = error.response.status_code, (error.server_message or "").strip().rstrip(".")
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
