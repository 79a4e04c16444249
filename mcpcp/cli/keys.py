"""`mcpcp keys`: the keys that sign agents' tokens."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from mcpcp import keyring
from mcpcp.cli.options import config_option, hint, json_option, load_config


@click.group()
def keys() -> None:
    """Make, change and list the keys that sign agents' tokens.

    \b
    mcpcp keys list
    mcpcp keys rotate
    """


@keys.command()
@config_option
def generate(config: str | None) -> None:
    """Make the first key; does nothing where there is one.

    \b
    mcpcp keys generate
    """
    keys_dir = load_config(config).keys_dir
    made = keyring.ensure(keys_dir)
    click.echo(f"made {made} in {keys_dir}" if made else f"{keys_dir} has its keys already")


@keys.command()
@click.option("--retire", is_flag=True, help="Refuse the tokens of all earlier keys at once.")
@config_option
def rotate(retire: bool, config: str | None) -> None:
    """Make a new key that signs from now on.

    \b
    mcpcp keys rotate            tokens of the old key stay good until they expire
    mcpcp keys rotate --retire   and now they are refused

    A running gateway follows within a second. Copies of jwks.json elsewhere have to be renewed.
    """
    keys_dir = load_config(config).keys_dir
    click.echo(f"made {keyring.rotate(keys_dir, retire=retire)} in {keys_dir}")
    if not retire:
        hint("tokens of earlier keys are still accepted; end that with: mcpcp keys retire KID")


@keys.command()
@click.argument("kid")
@config_option
def retire(kid: str, config: str | None) -> None:
    """Refuse every token that the key KID has signed.

    \b
    mcpcp keys list
    mcpcp keys retire 7c00ee7848543375
    """
    keyring.retire(load_config(config).keys_dir, kid)
    click.echo(f"{kid} is out of the ring: its tokens are refused")


@keys.command("list")
@json_option
@config_option
def list_(as_json: bool, config: str | None) -> None:
    """Show the keys that tokens are checked against, the newest first.

    \b
    mcpcp keys list
    mcpcp keys list --json | jq -r '.[] | select(.active) | .kid'
    """
    infos = keyring.list_keys(load_config(config).keys_dir)
    if as_json:
        click.echo(json.dumps([asdict(info) for info in infos], indent=2))
        return
    for info in infos:
        role = "signs" if info.active else "checks only"
        click.echo(f"{info.kid}  RSA {info.bits}  {role}")
