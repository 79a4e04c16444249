"""docker commands that agents may give: parsed by our own grammar, run through the API, hardened.

words        one line of text -> words, as a shell would split it; nothing a shell would do with it
grammar      words -> a command (of `subcommands`), or why not (`refusals`)   (pure)
hardening    what every container is made with, and whether an inspected one has it   (pure)
engine       the Docker engine, wherever it is and whenever it comes
ownership    whose container is it: labels, and who is still alive to hold it
container    making, inspecting, starting and ending one; the sandbox's are made by it too
looking      the commands that only look
making       what `run` asks for, as a container, and what that came to
commands     a parsed command -> calls of the engine -> text, in the way of the CLI
"""
