"""The shop's accounts: register, sign in and out, change one's details.

Environment: MONGODB_URI and MONGODB_DATABASE say where the shop's data is (docs/shop.md).
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":  # run as a file: use the package that this very file belongs to
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from typing import Annotated, Any

from mcp.server.mcpserver import Context, MCPServer
from pydantic import Field

from servers.serving import serve
from servers.shop import accounts, clock, metrics
from servers.shop.accounts import Registration, Role
from servers.shop.arguments import Address, Email, Password, PersonName, Phone, Session
from servers.shop.results import Account, Done, Known, SignedIn, account
from servers.shop.tools import ADDS, READS, SETS, Shop, caller


def auth_server(shop: Shop) -> MCPServer[Any]:
    """The server and its tools over one shop."""
    server: MCPServer[Any] = MCPServer(
        "shop_auth",
        title="Shop: accounts",
        description="Registers the shop's buyers and sellers and signs them in.",
        instructions=(
            "register_user once, then login_user; give the session that it returns to the tools "
            "of shop_buyer or shop_seller. Never show a session or a password to anybody."
        ),
    )

    @server.tool(title="Register", annotations=ADDS)
    async def register_user(
        name: PersonName,
        email: Email,
        password: Password,
        role: Annotated[Role, Field(description="buyer or seller")],
        phone: Phone | None = None,
        address: Address | None = None,
    ) -> Account:
        """Make an account; one e-mail address has one."""
        new = Registration(name, email, password, role, phone, address)
        async with shop.open() as store:
            return account(await accounts.register(store, new))

    @server.tool(title="Sign in", annotations=ADDS)
    async def login_user(
        ctx: Context[Any, Any],
        email: Annotated[str, Field(max_length=254)],
        password: Annotated[str, Field(max_length=256)],
    ) -> SignedIn:
        """Sign in, for 12 hours."""
        async with shop.open() as store:
            known = accounts.as_known(email, password)
            with metrics.sign_in():
                session = await accounts.login(store, *known, caller(ctx))
        return SignedIn(
            session=session.token,
            name=session.name,
            role=session.role,
            expires_at=clock.to_text(session.expires),
        )

    @server.tool(title="Sign out", annotations=SETS)
    async def logout_user(session: Session) -> Done:
        """End a session at once."""
        async with shop.open() as store:
            await accounts.logout(store, session)
        return Done(message="signed out")

    @server.tool(title="Look for a user", annotations=READS)
    async def check_user(name: PersonName) -> Known:
        """Say whether a user of exactly that name is registered, and nothing more."""
        async with shop.open() as store:
            return Known(name=name, registered=await accounts.is_known(store, name))

    @server.tool(title="Change details", annotations=SETS)
    async def update_details(
        session: Session,
        name: PersonName | None = None,
        phone: Phone | None = None,
        address: Address | None = None,
        password: Password | None = None,
    ) -> Account:
        """Change what is given; a new password ends all other sessions."""
        given = {"name": name, "phone": phone, "address": address, "password": password}
        changes = {field: value for field, value in given.items() if value is not None}
        async with shop.open() as store:
            who = await accounts.signed_in(store, session)
            user = await accounts.update(store, who, changes)
            if password is not None:
                await accounts.end_other_sessions(store, who, session)
        return account(user)

    return server


def main() -> None:
    """Serve accounts as the command line and the environment say."""
    shop = Shop.from_settings("shop_auth")
    serve(auth_server(shop), port=9007, health=shop.health, background=shop.running)


if __name__ == "__main__":
    main()
