"""The shop under fire for long: 8 buyers, servers and database killed at random, then every sum.

python3 -m benchmarks.shop_chaos --minutes 10
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from tests import shop_chaos as chaos
from tests.fleet import make_keys, open_fleet


def main() -> None:
    """Run, and print what happened; an AssertionError says what was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--kills", type=float, default=1.0, help="a second (%(default)s)")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mcpcp-chaos-") as name:
        folder = Path(name)
        keys = make_keys(folder / "keys")
        with open_fleet(folder, keys) as fleet:
            report = chaos.run(fleet, flags.minutes * 60, flags.seed, flags.kills)
    print(f"seed {flags.seed}: {report}")
    for text, count in report.refused.most_common():
        print(f"  {count} x {text}")
    print("stock, balances, ledger and every acknowledged outcome are right")


if __name__ == "__main__":
    main()
