"""Every key that the config file may have: parser, JSON Schema and documentation follow it."""

from __future__ import annotations

from typing import Any

from mcpcp import limits
from mcpcp.config.kinds import (
    Choice,
    Constraint,
    Flag,
    Key,
    ListOf,
    MapOf,
    Nullable,
    Section,
    Shorthand,
    Text,
    Url,
    Whole,
    duration,
    memory,
)

TRANSPORTS = Choice(
    ("stdio", "sse", "http", "service"),
    aliases={"streamable-http": "http", "streamableHttp": "http", "streamable_http": "http"},
)
PORT = Whole(1, 65535)
PATTERNS = ListOf(Text(r"[^\0]+", "a pattern"))
SERVER_NAME = r"[A-Za-z0-9_][A-Za-z0-9_-]{0,31}"
SERVER_RULE = "1 to 32 letters, digits, _ or -"
AGENT_NAME = r"[A-Za-z0-9_.@:+/-]{1,128}"

RESTART = Section(
    (
        Key(
            "when",
            Choice(("always", "on-failure", "never"), {"unless-stopped": "always", "no": "never"}),
            "After which ends the server is started again.",
            "always",
        ),
        Key("backoff", duration(low=0.001), "The first wait before a restart.", "50ms"),
        Key("max_backoff", duration(low=0.001), "The longest wait before a restart.", "30s"),
        Key("burst", Whole(1, 1000), "Failed starts in a row after which it is FATAL.", 5),
        Key("slow_retry", duration(low=0.1), "How often a FATAL server is tried again.", "60s"),
        Key("stable_after", duration(), "Running this long makes a start a success.", "5s"),
        Key("start_timeout", duration(low=0.1), "How long it may take to be ready.", "60s"),
        Key("stop_timeout", duration(), "How long it may take to end before it is killed.", "5s"),
    )
)

HEALTH = Section(
    (
        Key(
            "path",
            Nullable(Text(r"/[^\0\s]*", "a path that starts with /")),
            "Where the server answers GET when it is well; null: an open port is enough. The"
            " default is /health for the project's own servers/, null for everything else.",
        ),
        Key("interval", duration(low=0.05), "Between two probes.", "5s"),
        Key("timeout", duration(low=0.05), "How long a probe may take.", "5s"),
        Key("failures", Whole(1, 1000), "Failed probes in a row after which it is restarted.", 3),
    )
)

LIMITS = Section(
    (
        Key(
            "memory",
            Nullable(memory()),
            "Memory of all its processes together over which it is restarted; none by default.",
        ),
    )
)

TOOLS = Section(
    (
        Key("allow", PATTERNS, "Patterns of the tools that are offered at all.", ["*"]),
        Key("deny", PATTERNS, "Patterns of tools that are not, whoever asks.", []),
        Key(
            "rename",
            MapOf(Text(r"[A-Za-z0-9_.-]{1,64}", "1 to 64 letters, digits, _ . or -")),
            "New names of tools, by the server's own name for each.",
            {},
        ),
        Key(
            "describe",
            MapOf(Text()),
            "New descriptions of tools, by the server's own name for each.",
            {},
        ),
    )
)

AGENT_LIMITS = Section(
    (
        Key(
            "calls_per_minute",
            Whole(1, limits.MOST_CALLS),
            "How many calls may begin in any minute.",
        ),
        Key("in_flight", Whole(1, limits.MOST_CALLS), "How many calls may run at once."),
        Key(
            "arguments",
            MapOf(Constraint(), r"[^\0:]+:[^\0]+", "SERVER:TOOL, patterns"),
            "JSON Schemas that the arguments of calls must meet, by SERVER:TOOL pattern.",
        ),
    )
)

APPROVALS = "who may call what is said by `agents`, and asking is the client's part"
METADATA = "it describes the server to people"
SIGN_IN = "signing in by OAuth is not supported; put a token into `headers`"

SERVER = Section(
    (
        Key(
            "type",
            TRANSPORTS,
            "How to talk to it. Without it: a command is stdio, with a port sse; a url is http,"
            " one that ends in /sse is sse. A service speaks no MCP: others depend on it.",
            aliases=("transport", "transportType"),
        ),
        Key(
            "command",
            Text(r"[^\0]+", "a command"),
            "The program to start, found on PATH; python means the interpreter that runs mcpcp.",
        ),
        Key("args", ListOf(Text()), "Its arguments, each by itself; {port} is replaced.", []),
        Key(
            "env",
            MapOf(Text(), r"[^=\0]+", "a variable's name"),
            "Variables for its process, beside the usual PATH, HOME, ...; {port} is replaced.",
            {},
        ),
        Key(
            "envFile",
            Text(r"[^\0]+", "a file's path"),
            "A file of NAME=value lines for its process, against the config's folder; env wins.",
        ),
        Key(
            "cwd",
            Text(r"[^\0]+", "a folder's path"),
            "The folder it is started in, against the config's, which is also the default.",
        ),
        Key(
            "url",
            Url(),
            "Where a server runs that is not ours to start.",
            aliases=("serverUrl", "httpUrl"),
        ),
        Key(
            "headers",
            MapOf(
                Text(r"[^\0\r\n]*", "a single line"),
                r"[A-Za-z0-9!#$%&'*+.^_`|~-]+",
                "a header's name",
            ),
            "HTTP headers that the gateway sends to a url.",
            {},
        ),
        Key(
            "port",
            PORT,
            "The port of a command of type sse, http or service; an sse or http one is told by"
            " `--transport TYPE --host 127.0.0.1 --port PORT`, or by {port} in args or env.",
        ),
        Key(
            "replicas",
            Whole(1, 100),
            "How many processes of a command of type http are started, each on a port of its own,"
            " from `port` on; calls are spread over those that run.",
            1,
        ),
        Key(
            "depends_on",
            ListOf(Text()),
            "Servers that must be running before it is started.",
            [],
        ),
        Key(
            "calls",
            ListOf(Text()),
            "Servers that it may call itself, for the agent that calls it: it is told their"
            " addresses and credentials. They must be started here and have a port.",
            [],
        ),
        Key("restart", Shorthand(RESTART, "when"), "When and how fast it is started again."),
        Key("health", HEALTH, "How it is probed."),
        Key(
            "metrics",
            Nullable(Text(r"/[^\0\s]*", "a path that starts with /")),
            "Where Prometheus finds the server's metrics; null: it has none. The default is"
            " /metrics for the project's own servers/, null for everything else.",
        ),
        Key("limits", LIMITS, "What it may use before it is restarted."),
        Key(
            "prefix",
            Text(r"[A-Za-z0-9_-]{0,32}", 'up to 32 letters, digits, _ or -, or ""'),
            'What stands before its tools\' names, and a "_"; its own name by default.',
        ),
        Key("tools", Shorthand(TOOLS, "allow"), "Which tools are offered, and under which names."),
        Key("timeout", duration(low=0.1), "How long a call may take.", "60s"),
        Key(
            "sessions",
            Choice(("shared", "per_client")),
            "Whether a stdio server's process is shared, or each client gets its own.",
            "shared",
        ),
        Key(
            "max_sessions",
            Whole(1, 10_000),
            "How many processes clients have of their own with `sessions: per_client`; for one more"
            " the one that is idle longest is ended, and started again when its client calls.",
            32,
        ),
        Key(
            "session_idle",
            Nullable(duration(low=0.1)),
            "After how long without a call a client's own process is ended, and started again when"
            " it calls; null: never.",
            "10m",
        ),
        Key(
            "concurrency",
            Nullable(Whole(1, 100_000)),
            "How many calls it is given at once; more wait their turn, as long as a call may take.",
        ),
        Key(
            "pin",
            Choice(("quarantine", "report", "off")),
            "What is done with a tool whose definition changed: it is withheld until it is"
            " approved, or only reported. The default is report for scripts in the config's own"
            " folder, quarantine for everything else.",
        ),
        Key("disabled", Flag(), "Leave the server out.", False),
        Key("enabled", Flag(), "The reverse of disabled.", True),
        Key(
            "unless",
            Text(),
            "Leaves the server out where this is not empty, as ${VAR:-} is where VAR is set."
            " What depends on it is started without it.",
            "",
        ),
        Key(
            "disabledTools",
            PATTERNS,
            "Tools not to offer: more of tools.deny.",
            aliases=("disabled_tools", "excludeTools"),
        ),
        Key(
            "enabledTools",
            PATTERNS,
            "The only tools to offer: the same as tools.allow.",
            aliases=("enabled_tools", "includeTools"),
        ),
    ),
    ignored={
        **dict.fromkeys(("autoApprove", "alwaysAllow", "autoAllow", "trust"), APPROVALS),
        **dict.fromkeys(
            ("name", "title", "description", "icon", "iconUrl", "homepage", "repository"), METADATA
        ),
        **dict.fromkeys(("category", "tags", "version", "gallery", "note", "notes"), METADATA),
        **dict.fromkeys(("auth", "oauth", "authProviderType"), SIGN_IN),
        **dict.fromkeys(("dev", "watchPaths"), "a changed script needs `mcpcp restart NAME`"),
        **dict.fromkeys(("initTimeout", "startupTimeout"), "say it as restart.start_timeout"),
    },
)

GATEWAY = Section(
    (
        Key("host", Text(r"[^\0\s]+", "an address"), "Where the gateway listens.", "127.0.0.1"),
        Key("port", PORT, "The gateway's port.", 9003),
        Key(
            "anonymous",
            Nullable(Text()),
            "The agent that a call without a token acts as; only while host is a loopback address.",
        ),
        Key(
            "allowed_hosts",
            ListOf(Text(r"[^\0\s]+", "a host name")),
            "Host headers to accept beside the loopback ones; `:*` at the end: any port.",
            [],
        ),
        Key(
            "allowed_origins",
            ListOf(Text(r"[^\0\s]+", "an origin")),
            "Origins of web pages that may call.",
            [],
        ),
        Key(
            "first_list_wait",
            duration(),
            "How long a first list waits for servers that were never seen before, and how long"
            " /ready does, after the gateway's start, for a url where nobody answers yet.",
            "10s",
        ),
        Key(
            "search",
            Flag(),
            "Show agents find_tools and call_tool instead of every tool.",
            False,
        ),
        Key("drain", duration(), "How long calls in flight may take when stopping.", "10s"),
        Key(
            "idle_exit",
            duration("minutes"),
            "When a background fleet without clients stops; a bare number counts minutes.",
            10,
        ),
        Key(
            "audit",
            Section(
                (
                    Key("required", Flag(), "Refuse calls that can't be recorded.", True),
                    Key("max_size", memory(), "Size at which a new file is begun.", "64MiB"),
                )
            ),
            "The record of every call.",
        ),
    )
)

MONITORING = Section(
    (
        Key(
            "port",
            Nullable(PORT),
            "Where the supervisor serves /metrics; null: it does not.",
        ),
        Key(
            "host",
            Text(r"[^\0\s]+", "an address"),
            "The address that it does so at.",
            "127.0.0.1",
        ),
        Key(
            "token_file",
            Text(r"[^\0]+", "a file's path"),
            "The file of what whoever reads /metrics must show, against the config's folder; made"
            " where it is missing. The default is scrape.token in data_dir.",
        ),
    )
)

LOGS = Section(
    (
        Key(
            "format",
            Choice(("text", "json")),
            "How the lines of supervisor, gateway and the project's own servers/ are written.",
            "text",
        ),
        Key(
            "level",
            Choice(("debug", "info", "warning", "error")),
            "What is less important is left out.",
            "info",
        ),
    )
)

AGENT = Section(
    (
        Key(
            "allow",
            MapOf(PATTERNS),
            "What the agent may use: patterns of servers, and patterns of tools for each.",
            required=True,
        ),
        Key("limits", AGENT_LIMITS, "What its calls are held to, beside names."),
        Key(
            "search",
            Flag(),
            "As gateway.search, for this agent alone; the gateway's word by default.",
        ),
    ),
    ignored={"description": METADATA, "name": METADATA},
)

CHAT = Section(
    (
        Key(
            "agent",
            Text(AGENT_NAME, "an agent's name"),
            "The agent that the chat service itself is; callers without a token act as it.",
            "chat",
        ),
        Key(
            "anonymous",
            Flag(),
            "Whether callers without a token are served; only while it listens on loopback.",
            False,
        ),
        Key(
            "allowed_hosts",
            ListOf(Text(r"[^\0\s]+", "a host name")),
            "Host headers to accept beside the loopback ones.",
            [],
        ),
        Key(
            "allowed_origins",
            ListOf(Text(r"[^\0\s]+", "an origin")),
            "Origins of other web pages that may use the service (CORS).",
            [],
        ),
        Key("instructions", Text(), "What every conversation tells the model first.", ""),
        Key(
            "max_turns",
            Whole(1, 100),
            "How often the model may call tools before it has to answer; a request may ask for"
            " less.",
            8,
        ),
        Key("parallel", Whole(1, 100), "How many tools of one request run at once.", 8),
        Key("call_timeout", duration(low=0.1), "How long one tool call may take.", "60s"),
        Key("timeout", duration(low=0.1), "How long a whole request may take.", "5m"),
        Key("stall", duration(low=0.1), "How long the model may be silent.", "2m"),
        Key(
            "result_size",
            Whole(200, 10_000_000),
            "Characters of a tool's result that the model is given; the middle of more is left"
            " out.",
            20_000,
        ),
    )
)

FILE = Section(
    (
        Key("$schema", Text(), "The JSON Schema of this file, for editors."),
        Key(
            "mcpServers",
            MapOf(SERVER, SERVER_NAME, SERVER_RULE),
            "The tool servers by name, as other clients write them too.",
            required=True,
        ),
        Key("gateway", GATEWAY, "The one address that clients use."),
        Key("monitoring", MONITORING, "What Prometheus reads, and how it proves who it is."),
        Key("logs", LOGS, "What is logged, and how."),
        Key(
            "agents",
            MapOf(AGENT, AGENT_NAME, "1 to 128 letters, digits or any of _.@:+/-"),
            "Who may use what, by the name in the agent's token.",
        ),
        Key("chat", CHAT, "What the chat service allows."),
        Key("keys_dir", Text(r"[^\0]+", "a path"), "The folder of the signing keys.", "keys"),
        Key(
            "data_dir",
            Text(r"[^\0]+", "a path"),
            "The folder of everything that mcpcp keeps: logs, audit, revoked tokens.",
            "data",
        ),
    )
)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the config file."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "mcpcp.json",
        **FILE.schema(),
    }
