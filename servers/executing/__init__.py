"""What code_executor.py consists of: `route` finds the sandbox server, `forwarding` calls it."""
