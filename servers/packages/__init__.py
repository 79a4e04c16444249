"""Packages for sandboxed code: judged by name, resolved and unpacked apart, mounted read-only.

packages     the door: what an agent has installed, what a call needs, and where that lies
names        names, versions and pins as they are written
judgement    may a package be had: blocklist, imitations, a person's approval
imitation    which well-known name another name may be mistaken for
approvals    what a person approved (`mcpcp packages approve`), and what waits for it
lock         a resolution: each wheel by address and hash
uv           the resolver, as one program in a sandbox whose network is `proxy`
source       the index, and what an installation may use
proxy        the only way out of that sandbox: to the index and nowhere else
box          that sandbox
store        unpacked environments on disk, one for each lock, shared and evicted
"""
