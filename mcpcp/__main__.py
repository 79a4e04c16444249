"""`python -m mcpcp`, also installed as `mcpcp`."""

import sys


def main() -> None:
    """Run the command line; the relay, which clients start most often, skips most of it."""
    if sys.argv[1:2] == ["stdio"] and not {"-h", "--help"} & set(sys.argv):
        from mcpcp import relay

        sys.exit(relay.main(sys.argv[2:]))
    from mcpcp.cli import run

    run()


if __name__ == "__main__":
    main()
