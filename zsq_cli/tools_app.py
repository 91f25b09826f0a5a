"""``zsq compare``, ``doctor`` and ``cache``: their flags. Imports nothing heavy, because every command imports it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from zsq_cli.flags import JsonFlag, leave

cache_app = typer.Typer(
    name="cache", help="See and clear what is kept for later runs.", rich_markup_mode=None, add_completion=False, no_args_is_help=True
)


class Order(StrEnum):
    """Values of ``--by``."""

    accuracy = "accuracy"
    size = "size"
    time = "time"


def compare(
    runs: Annotated[
        list[str], typer.Argument(help="Folders that `zsq run` wrote, folders that hold such, or hub:ORG/NAME.", metavar="RUN...")
    ],
    by: Annotated[Order, typer.Option("--by", help="Order of the rows.")] = Order.accuracy,
    html: Annotated[Path | None, typer.Option("--html", help="Also write a web page: one file that loads nothing.", metavar="FILE")] = None,
    json: JsonFlag = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV on standard output, a line per method and bits.")] = False,
) -> None:
    """Compare runs: accuracy against size and time.

    By method and bits, over seeds; runs of other teachers, schemes or images are ranked apart. Exit code 1 when a folder is left out.
    """
    from zsq_cli.compare import compare_runs

    leave(compare_runs(runs, by.value, html=html, json=json, csv=csv))


def doctor(json: JsonFlag = False) -> None:
    """Check the environment.

    Environment, plugins, processor, Hub, disk and caches; exit code 1 when something needs doing.
    """
    from zsq_cli.doctor import examine

    leave(examine(json=json))


@cache_app.command("list")
def list_(json: JsonFlag = False) -> None:
    """List the cache: pools, sensitivities, downloads.

    With size, age and what it is of.
    """
    from zsq_cli.cache import list_cache

    list_cache(json=json)


@cache_app.command()
def clear(
    name: Annotated[str | None, typer.Argument(help="One entry, as `zsq cache list` names it.", metavar="NAME")] = None,
    pools: Annotated[bool, typer.Option("--pools", help="Everything that zsq made: pools, sensitivities.")] = False,
    downloads: Annotated[bool, typer.Option("--downloads", help="Students of zsq from the Hub; nobody else's downloads.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: JsonFlag = False,
) -> None:
    """Remove entries of the cache.

    Without a choice: all that zsq made, and no download. Says what goes, and asks first.
    """
    from zsq_cli.cache import clear_cache

    clear_cache(name, pools=pools, downloads=downloads, yes=yes, json=json)
