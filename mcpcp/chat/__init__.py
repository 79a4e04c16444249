"""The chat service: a language model that uses the tools behind the gateway, as the caller's agent.

To the gateway it is one more MCP client: `mcpclient` asks it over HTTP with the caller's token, and
nothing else of the gateway is used here. `loop` decides, without doing anything, what follows in a
conversation; `deltas`, `toolset`, `schemas` and `results` are the other pure parts. `runner` does
what the loop decides, with `llm` and `mcpclient`; `app` is the HTTP edge, `service` the process.
"""
