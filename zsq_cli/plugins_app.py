"""``zsq plugins``: its commands and their flags. Imports nothing heavy, because every command imports it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zsq_cli.flags import DryRunFlag, JsonFlag, NoPluginsFlag, PluginFileFlag, RoleFlag, RoleName, leave

plugins_app = typer.Typer(
    name="plugins", help="List, install, make and check plugins.", rich_markup_mode=None, add_completion=False, no_args_is_help=True
)


@plugins_app.command("list")
def list_(role: RoleFlag = None, json: JsonFlag = False, plugin_file: PluginFileFlag = None, no_plugins: NoPluginsFlag = False) -> None:
    """List plugins: what each provides.

    Broken and blocked ones with the reason.
    """
    from zsq_cli.plugins import list_plugins

    list_plugins(role, json=json, files=plugin_file or (), third_party=not no_plugins)


@plugins_app.command()
def install(
    name: Annotated[str, typer.Argument(help="Plugin or component from the registry, or a plugin's folder.", metavar="NAME")],
    dry_run: DryRunFlag = False,
) -> None:
    """Install a known plugin."""
    from zsq_cli.plugins import install_plugin

    leave(install_plugin(name, dry_run=dry_run))


@plugins_app.command()
def uninstall(
    name: Annotated[str, typer.Argument(help="Plugin, or its distribution.", metavar="NAME")], dry_run: DryRunFlag = False
) -> None:
    """Uninstall a plugin, broken or not.

    Its code is not loaded.
    """
    from zsq_cli.plugins import uninstall_plugin

    leave(uninstall_plugin(name, dry_run=dry_run))


@plugins_app.command()
def new(
    name: Annotated[str, typer.Argument(help="Name of the component: lower-case letters, digits, dashes.", metavar="NAME")],
    role: Annotated[RoleName, typer.Option("--role", help="What kind of component it is.")],
    folder: Annotated[Path, typer.Option("--dir", help="Where the folder zsq-NAME is made.", metavar="DIR")] = Path(),
) -> None:
    """Create a working plugin."""
    from zsq_cli.plugins import new_plugin

    new_plugin(name, role, folder)


@plugins_app.command()
def check(
    names: Annotated[list[str] | None, typer.Argument(help="Components, plugins, or folders of plugins.", metavar="NAME_OR_PATH")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Everything that is installed.")] = False,
    json: JsonFlag = False,
) -> None:
    """Run the conformance kit.

    Exit code 1 when a check fails.
    """
    from zsq_cli.check import check_plugins

    leave(check_plugins(names or [], everything=all_, json=json))


@plugins_app.command()
def why(
    name: Annotated[str, typer.Argument(help="Plugin or component.", metavar="NAME")],
    json: JsonFlag = False,
    plugin_file: PluginFileFlag = None,
) -> None:
    """Show which plugin provides a name.

    How it was found, from which file, and why it does not work.
    """
    from zsq_cli.plugins import explain

    explain(name, json=json, files=plugin_file or ())
