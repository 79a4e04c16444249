"""Running code that nobody vouches for: `sandbox.Sandbox` is the door, the rest is behind it.

What tool servers build on:

    sandbox = Sandbox(settings("my-server"))         # from SANDBOX_* variables; no work is done yet
    serve(server, background=sandbox.ready)                       # self-test, pool, sweeps
    outcome = await sandbox.run(Call(code, timeout, session, packages, listener))
    sandbox.missing                                  # why code can't be run now, None when it can
    sandbox.sessions                                 # Sessions: of(agent), use(key), delete(key)
    answers.answer(outcome)                          # the tool's answer (RunResult), with images

`run` never raises for what the code or the machine does: it answers an Outcome, `refused` with the
reason where nothing was run (no backend, no place free in time, a session that is busy or one too
many, a package folder that is not there). Cancelling it ends the sandbox at once, and the session
stays as it was before the call.

Packages: `Settings.packages` is the folder that holds one folder for each installation, there
before the start; `Call.packages` names some of them. Each is shown at /opt/packages/NAME and put on
`sys.path`; a call sees no other. A folder may be added while the sandbox runs, is readable for all,
and must not change once a call has named it.

Sessions: `sessions.use(SessionKey(agent, name))` gives a Workspace (`entries`, `read`, `change`)
to one user at a time and makes it where it is missing; `existing` does not make one. Both raise
SessionRefused, whose text is for the agent. `of(agent)` lists, `delete(key)` deletes, idle ones
expire by themselves.
"""
