"""Running code that nobody vouches for: `sandbox.Sandbox` is the door, the rest is behind it.

sandbox      picks a backend whose self-test passed, refuses where there is none
selftest     the probes that a backend must pass before it runs anything
bubblewrap   namespaces by bubblewrap, memory by `cgroup`, system calls by `seccomp`
containers   the same promises by a Docker engine
inside       the first program in every sandbox: limits itself, forks the code, reports
exchange     what goes in and out of a sandbox, and how much of it is believed
outcome      what a caller is told; text is made safe to show by `text`
"""
