"""Fill the shop with a few products, so that there is something to buy.

    python -m servers.shop.demo

The shop's database must be running: the one that MONGODB_URI and MONGODB_DATABASE name, in the
environment or in `.env` in this folder, which the launcher reads too. Doing it again changes
nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import secrets
import sys
from pathlib import Path

from dotenv import load_dotenv

from servers.serving import fail, setting
from servers.shop import accounts, products
from servers.shop.accounts import Registration
from servers.shop.errors import ShopError
from servers.shop.products import NewProduct
from servers.shop.store import Store, open_store
from servers.shop.tools import DEFAULT_DATABASE, DEFAULT_URI

SELLER = Registration("The Example Shop", "example-shop@example.com", "", "seller")

GOODS = (
    NewProduct("Green tea", 450, 120, "Sencha, 100 g, from last spring"),
    NewProduct("Black tea", 390, 200, "Assam, 100 g, strong enough for milk"),
    NewProduct("Teapot", 3400, 12, "Cast iron, 0.8 l, with a strainer"),
    NewProduct("Porcelain cup", 1200, 48, "Thin white porcelain, 0.2 l, without a handle"),
    NewProduct("Honey", 680, 30, "Linden blossom, 250 g, from the neighbour's bees"),
    NewProduct("Shortbread", 320, 75, "All butter, 200 g"),
    NewProduct("Tea towel", 950, 40, "Linen, 50 x 70 cm"),
    NewProduct("Kettle", 5900, 6, "Stainless steel, 1.7 l, with a thermometer"),
)


async def fill(store: Store) -> int:
    """Add what is missing of the example; how many products that were."""
    # Nobody signs in as the example's seller: its password is told to nobody.
    user = accounts.document(SELLER, await accounts.hash_password(secrets.token_urlsafe(32)))
    user["_id"] = "user_example"
    await store.users.insert(user)
    documents = []
    for new in GOODS:
        document = products.document(user["_id"], new)
        key = f"product_{hashlib.sha256(new.name.encode()).hexdigest()[:20]}"
        documents.append({**document, "_id": key, "shelf": products.shelf(new.name, key)})
    return await store.products.insert_all(documents)


async def _main() -> int:
    uri = setting("MONGODB_URI", DEFAULT_URI)
    async with open_store(uri, setting("MONGODB_DATABASE", DEFAULT_DATABASE)) as store:
        return await fill(store)


def main() -> None:
    """Fill the shop that the settings name, and say so."""
    argparse.ArgumentParser(
        prog="python -m servers.shop.demo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    load_dotenv(Path(".env"), interpolate=False, encoding="utf-8-sig")
    try:
        added = asyncio.run(_main())
    except ShopError as error:
        fail("demo", f"{error} Is it running? `python3 launch_servers.py` starts it.", 1)
    sys.stdout.write(f"added {added} of {len(GOODS)} example products\n")


if __name__ == "__main__":
    main()
