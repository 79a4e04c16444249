"""What code_executor.py consists of: `route` to the sandbox server, `line` open, `forwarding`."""
