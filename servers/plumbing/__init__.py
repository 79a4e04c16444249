"""How serving works inside; scripts use `servers.serving` alone."""
