"""Every error that mcpcp raises on purpose; `str(e)` is one sentence, safe to show to anyone.

McpcpError                what a person or an agent can act on
├── ConfigError           the config file or the environment is not usable; names file and key
├── KeyRingError          signing keys are missing, unreadable or too weak
├── TokenError            a token is not accepted; `reason` is for the audit, not for the agent
├── Refused               policy says no to this call
│   └── Limited           a limit of the token does; `retry_after` says when to try again
├── Unavailable           a tool server, the fleet or something it needs is away for now
│   └── Interrupted       it went away after the call had been sent: whether it ran is not known
├── DeadlineExceeded      no answer in the time that was allowed
├── ProtocolError         a peer broke the protocol
├── ModelError            the language model did not answer; says where it was looked for
├── RequestError          a request to the chat service is not what its documents say
├── DataError             a database can't be saved or put back
└── FleetError            the launcher can't do what was asked (port in use, already running, ...)
"""


class McpcpError(Exception):
    """The root: its message can be shown as it stands; `exit_code` is the command line's."""

    exit_code = 1


class ConfigError(McpcpError):
    """The config file or the environment is not usable; the message names file, key and way out."""

    exit_code = 2


class KeyRingError(McpcpError):
    """Signing keys are missing, unreadable or too weak."""


class TokenError(McpcpError):
    """A token is not accepted; `reason` is a short word for audit and metrics."""

    def __init__(self, reason: str, message: str = "the token is not accepted") -> None:
        super().__init__(message)
        self.reason = reason


class Refused(McpcpError):
    """Policy or a limit says no to this call."""


class Limited(Refused):
    """A limit of the token says no; `rule` names it.

    `retry_after` is the seconds after which the same call may pass, None where it never will.
    """

    def __init__(self, rule: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.rule = rule
        self.retry_after = retry_after


class Unavailable(McpcpError):
    """A tool server, the fleet or something it needs is away for now."""


class Interrupted(Unavailable):
    """The server went away after the call had been sent: whether it ran is not known."""


class DeadlineExceeded(McpcpError):
    """No answer came in the time that was allowed."""


class ProtocolError(McpcpError):
    """A peer broke the protocol."""


class ModelError(McpcpError):
    """The language model is not there, refused or broke off; `kind` is a short word for metrics.

    `retry_after` is the seconds after which the same may pass, None where nothing says that it may.
    """

    def __init__(self, kind: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.retry_after = retry_after


class RequestError(McpcpError):
    """A request is not what its documents say; `status` is HTTP's."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class DataError(McpcpError):
    """A database can't be saved or put back; the message says what became of it."""


class FleetError(McpcpError):
    """The launcher can't do what was asked."""
