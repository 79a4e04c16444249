"""What runs inside a sandbox: the standard library and the modules here, Python 3.9 or newer.

frames   how the two sides talk; the host's side uses it as well
link     one end of a way that carries them
kernel   the system calls that Python has no name for
usage    how much the sandbox has used
collect  what is brought out of /work
code     the code's own process
init     the first process of a sandbox: starts the code, watches it, says how it ended
maker    forks sandboxes out of one process that has imported everything, in namespaces of their own
porter   the first process of a container with a maker: words between the host and its sandboxes

`program` carries their sources in, so nothing of the host's files has to be shown for them.
"""
