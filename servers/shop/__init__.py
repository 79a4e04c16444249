"""What shop_auth.py, shop_buyer.py and shop_seller.py share; not a server.

From the top: `tools` (what a script needs), then what a shop does (`accounts`, `products`, `carts`,
`checkout`, `cancellation`, `deposits`, `sweep`), `marks` and `settlement` (how money and stock move
exactly once), `store` (the only code that speaks to the database). docs/shop.md explains the whole.
"""
