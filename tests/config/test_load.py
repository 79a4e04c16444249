"""The config file: what is read, and what is said about mistakes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from mcpcp import policy
from mcpcp.config import PROJECT, Config, load
from mcpcp.errors import ConfigError
from mcpcp.policy import Allowlist
from mcpcp.supervisor.specs import plan

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(content: Any) -> Path:
        path = tmp_path / "mcpcp.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


def server(**entry: Any) -> dict[str, Any]:
    return {"mcpServers": {"a": {"command": "tool", **entry}}}


def problems(path: Path, environ: Mapping[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(path, environ or {})
    lines = str(caught.value).split("\n")
    assert all(line.startswith(f"{path}: ") for line in lines), lines
    return [line.removeprefix(f"{path}: ") for line in lines]


def loaded(path: Path, **environ: str) -> Config:
    return load(path, environ)


def test_the_projects_own_config_is_good() -> None:
    config = load(PROJECT / "mcpcp.json", {})
    assert config.warnings == ()
    assert list(config.servers) == [
        *("mcp1", "mcp2", "mcp3", "time", "sandbox", "code_executor"),
        *("shop_auth", "shop_buyer", "shop_seller", "shop_db", "chat"),
    ]
    mcp1 = config.servers["mcp1"]
    flags = ("--transport", "sse", "--host", "127.0.0.1", "--port", "9004")
    assert mcp1.argv() == (sys.executable, "servers/battle.py", *flags)
    assert mcp1.endpoint() == "http://127.0.0.1:9004/sse"
    assert (mcp1.managed_by, mcp1.cwd, mcp1.health.path) == ("supervisor", PROJECT, "/health")
    assert config.agents["agent_name1"] == Allowlist.of({"mcp1": ["*"], "mcp3": ["*"]})


def test_an_entry_without_a_port_is_stdio_and_the_gateways(write: Write) -> None:
    a = loaded(write(server(args=["-y", "x"]))).servers["a"]
    assert (a.transport, a.managed_by, a.endpoint()) == ("stdio", "gateway", None)
    assert a.argv() == ("tool", "-y", "x")
    assert a.prefix == "a"


@pytest.mark.parametrize(
    ("entry", "transport"),
    [
        ({"url": "https://x.example/mcp"}, "http"),
        ({"url": "https://x.example/sse"}, "sse"),
        ({"url": "https://x.example/v1/sse/"}, "sse"),
        ({"url": "https://x.example/sse", "type": "http"}, "http"),
        ({"url": "https://x.example/", "type": "streamable-http"}, "http"),
        ({"httpUrl": "https://x.example/", "transport": "streamableHttp"}, "http"),
        ({"serverUrl": "https://x.example/sse"}, "sse"),
    ],
)
def test_a_url_is_somebody_elses_server(
    write: Write, entry: dict[str, str], transport: str
) -> None:
    a = loaded(write({"mcpServers": {"a": entry}})).servers["a"]
    assert a.transport == transport
    assert a.url is not None
    assert a.url.startswith("https://x.example/")
    assert (a.endpoint(), a.managed_by, a.argv()) == (a.url, None, ())


def test_a_port_is_told_by_flags_or_where_the_entry_wants_it(write: Write) -> None:
    config = loaded(
        write(
            {
                "mcpServers": {
                    "flags": {"command": "tool", "type": "http", "port": 5001},
                    "args": {"command": "tool", "args": ["-p={port}"], "port": 5002},
                    "env": {"command": "tool", "args": ["x"], "env": {"P": "{port}"}, "port": 5003},
                }
            }
        )
    )
    flags, args, env = (config.servers[n] for n in ("flags", "args", "env"))
    assert flags.argv()[1:] == ("--transport", "http", "--host", "127.0.0.1", "--port", "5001")
    assert flags.endpoint() == "http://127.0.0.1:5001/mcp"
    assert args.argv() == ("tool", "-p=5002")
    assert args.transport == "sse"
    assert (env.argv(), env.environment()) == (("tool", "x"), {"P": "5003"})
    assert flags.health.path is None  # only the project's own scripts are known to have /health


def test_every_key_of_a_server_arrives(write: Write, tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    (tmp_path / "vars").write_text("A=file\nB=file\n")
    entry = {
        "port": 5001,
        "env": {"A": "entry"},
        "envFile": "vars",
        "cwd": "w",
        "restart": {"when": "on-failure", "backoff": "100ms", "burst": 2},
        "health": {"path": "/up", "interval": 1, "timeout": "2s", "failures": 9},
        "limits": {"memory": "512MiB"},
        "prefix": "",
        "tools": {"allow": ["x*"], "deny": ["xy"], "rename": {"xa": "xb"}, "describe": {"xa": "Ä"}},
        "disabledTools": ["xz"],
        "timeout": "5m",
        "sessions": "per_client",
    }
    a = loaded(write(server(**entry))).servers["a"]
    assert a.env == {"A": "entry", "B": "file"}
    assert (a.cwd, a.prefix, a.timeout, a.sessions) == (tmp_path / "w", "", 300.0, "per_client")
    assert (a.restart.when, a.restart.backoff, a.restart.burst) == ("on-failure", 0.1, 2)
    assert (a.health.path, a.health.interval, a.health.timeout, a.health.failures) == (
        ("/up", 1.0, 2.0, 9)
    )  # fmt: skip
    assert a.limits.memory_bytes == 512 * 2**20
    assert (a.tools.allow, a.tools.deny, a.tools.rename) == (("x*",), ("xy", "xz"), {"xa": "xb"})
    assert a.tools.describe == {"xa": "Ä"}


def test_every_key_of_the_gateway_arrives(write: Write, tmp_path: Path) -> None:
    gateway = {
        "host": "::1",
        "port": 5009,
        "anonymous": "me",
        "allowed_hosts": ["h:*"],
        "allowed_origins": ["https://o"],
        "first_list_wait": 1,
        "drain": "2s",
        "idle_exit": "90s",
        "audit": {"required": False, "max_size": "2MiB"},
    }
    rest = {"agents": {"me": {"allow": {}}}, "keys_dir": "k", "data_dir": "/var/d"}
    config = loaded(write({"mcpServers": {}, "gateway": gateway, **rest}))
    g = config.gateway
    assert (g.host, g.port, g.anonymous, g.first_list_wait, g.drain) == ("::1", 5009, "me", 1, 2)
    assert (g.allowed_hosts, g.allowed_origins, g.idle_exit) == (("h:*",), ("https://o",), 1.5)
    assert (g.audit_required, g.audit_max_bytes) == (False, 2 * 2**20)
    assert (config.keys_dir, config.data_dir) == (tmp_path / "k", Path("/var/d"))


def test_idle_exit_as_a_number_is_minutes(write: Write) -> None:
    assert loaded(write({"mcpServers": {}, "gateway": {"idle_exit": 3}})).gateway.idle_exit == 3


def test_all_problems_are_named_at_once(write: Write) -> None:
    content = {
        "mcpServers": {
            "a": {"command": "python", "prot": 1},
            "b": {"command": "x", "args": [1], "port": "9005"},
            "c": {"command": "x", "port": 9003},
        },
        "agent": {},
    }
    assert problems(write(content)) == [
        'mcpServers.a.prot: unknown key; did you mean "port"?',
        'mcpServers.b.args[0]: must be a string, found the number 1: write "1"',
        'mcpServers.b.port: must be a whole number from 1 to 65535, found "9005"',
        'agent: unknown key; did you mean "agents"?',
        "mcpServers.c.port: 9003 is the port of the gateway already",
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({}, '"mcpServers" is missing'),
        ([], "must hold an object, found a list"),
        ({"mcpServers": []}, "mcpServers: must be an object, found a list"),
        ({"mcpServers": {"a": 1}}, "mcpServers.a: must be an object, found the number 1"),
        ({"mcpServers": {"a": {}}}, 'mcpServers.a: must have either "command" or "url"'),
        ({"mcpServers": {"a b": {"command": "x"}}}, 'mcpServers.a b: a name here must be 1 to 32'),
        ({"mcpServers": {"x" * 33: {"command": "x"}}}, "a name here must be 1 to 32"),
        ({"mcpServers": {"Gateway": {"command": "x"}}}, "take another name"),
        ({"mcpServers": {"a": {"command": "x"}, "A": {"command": "x"}}}, "only in case"),
        (server(url="http://x"), 'must have either "command" or "url"'),
        (server(type="sse"), 'a command of type sse needs a "port"'),
        (server(type="stdio", port=1), "mcpServers.a.port: a server of type stdio has none"),
        (server(type="ssee"), '"ssee" is unknown; did you mean "sse"?'),
        (server(type="websocket"), "it may be one of: http, service, sse, stdio"),
        (server(port=True), "must be a whole number from 1 to 65535, found true"),
        (server(port=0), "from 1 to 65535, found the number 0"),
        (server(port=5001.0), "found the number 5001.0"),
        (server(env={"A": 1}), 'env.A: must be a string, found the number 1: write "1"'),
        (server(env={"A=B": "1"}), "a name here must be a variable's name"),
        (server(args="x"), 'mcpServers.a.args: must be a list, found "x"'),
        (server(args=["a\0b"]), "without NUL"),
        (server(timeout="5 parsecs"), 'such as "30s"'),
        (server(timeout=-1), "found the number -1"),
        (server(limits={"memory": "512"}), 'such as "512MiB"'),
        (server(limits={"memory": 512}), 'such as "512MiB"'),
        (server(restart={"backof": 1}), 'did you mean "backoff"?'),
        (server(port=5001, health={"path": "health"}), "must be a path that starts with /"),
        (server(health={"path": None}), "works for servers with a port only"),
        (server(prefix="a.b"), "mcpServers.a.prefix: must be up to 32 letters"),
        (server(tools={"rename": {"x": "z", "y": "z"}}), 'two tools are renamed to "z"'),
        (server(tools=["x"], enabledTools=["y"]), 'says the same as "tools.allow"'),
        (server(transport="stdio", type="stdio"), 'says the same as "type"'),
        (server(envFile="gone"), "does not exist"),
        (server(port=5001, depends_on=["b"]), 'no server "b"; it may be one of: a'),
        (server(port=5001, calls=["b"]), 'mcpServers.a.calls[0]: no server "b"'),
        (server(calls=["a"]), "mcpServers.a.calls: works for servers with a port only"),
        ({"mcpServers": {"a": {"url": "ftp://x"}}}, "must be an http or https URL"),
        ({"mcpServers": {"a": {"url": "http://x", "port": 1}}}, 'belongs to a "command"'),
        ({"mcpServers": {"a": {"url": "http://x", "type": "stdio"}}}, "stdio needs a command"),
        ({"mcpServers": {"a": {"url": "http://x", "headers": {"A": "b\nC"}}}}, "a single line"),
        ({"mcpServers": {}, "gateway": {"anonymous": "x"}}, 'no agent "x"; there is none'),
        ({"mcpServers": {}, "agents": {"x": {}}}, 'agents.x: "allow" is missing'),
        ({"mcpServers": {}, "agents": {"x": {"allow": {"a": "*"}}}}, "agents.x.allow.a: must be a"),
        ({"mcpServers": {}, "agents": {"x y": {"allow": {}}}}, "agents.x y: a name here must be"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_what_was_found(
    write: Write, content: object, expected: str
) -> None:
    assert any(expected in line for line in problems(write(content)))


def test_ports_are_used_once(write: Write) -> None:
    a = {"command": "x", "port": 5001}
    path = write({"mcpServers": {"a": a, "b": a, "c": {**a, "disabled": True}}})
    assert problems(path) == ["mcpServers.b.port: 5001 is the port of a already"]


def test_dependencies_in_a_circle_are_shown(write: Write) -> None:
    names = {"a": "b", "b": "c", "c": "a"}
    servers = {
        name: {"command": "x", "port": 5001 + i, "depends_on": [needed]}
        for i, (name, needed) in enumerate(names.items())
    }
    path = write({"mcpServers": servers})
    assert problems(path) == ["mcpServers.a.depends_on: goes in a circle: a -> b -> c -> a"]


@pytest.mark.parametrize(
    "called",
    [
        {"url": "http://x"},
        {"command": "x"},
        {"command": "x", "port": 5002, "disabled": True},
        {"command": "x", "port": 5002, "type": "service"},
    ],
)
def test_only_mcp_servers_that_are_started_here_can_be_called(
    write: Write, called: dict[str, object]
) -> None:
    path = write({"mcpServers": {"a": {"command": "x", "port": 5001, "calls": ["b"]}, "b": called}})
    assert problems(path) == [
        "mcpServers.a.calls[0]: b is not an MCP server that is started here with a port"
    ]


def test_one_can_depend_on_a_server_with_problems_of_its_own(write: Write) -> None:
    a = {"command": "x", "port": 5001, "depends_on": ["b"]}
    path = write({"mcpServers": {"a": a, "b": {"command": "x", "prot": 1}}})
    assert problems(path) == ['mcpServers.b.prot: unknown key; did you mean "port"?']


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "example.com", "::"])
def test_nobody_outside_is_anonymous(write: Write, host: str) -> None:
    gateway = {"host": host, "anonymous": "x"}
    path = write({"mcpServers": {}, "gateway": gateway, "agents": {"x": {"allow": {}}}})
    assert problems(path) == [
        f"gateway.anonymous: {host} can be reached from outside: calls there need a token"
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{\n  "mcpServers": {},\n}', ["line 2, column 19", "a comma before a closing", "{},"]),
        ('{"mcpServers": {"a": [1, ]}}', ["line 1, column 24", "a comma before a closing"]),
        ('{"mcpServers": {},', ["line 1, column 19"]),
        ('{\n  // mine\n  "mcpServers": {}}', ["line 2, column 3", "JSON has no comments"]),
        ('{"mcpServers": {}', ["line 1, column 18", '    {"mcpServers": {}']),
        ("", ["is empty"]),
        ('{"mcpServers": NaN}', ["NaN"]),
        ("[" * 100_000, ["is not JSON"]),
    ],
)
def test_malformed_json_is_shown_where_it_is(write: Write, text: str, expected: list[str]) -> None:
    path = write(text)
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    assert str(caught.value).startswith(f"{path}: ")
    assert all(part in str(caught.value) for part in expected)


def test_a_key_that_is_there_twice_is_an_error(write: Write) -> None:
    text = (
        '{"mcpServers": {"a": {"command": "x"}, "b": {"url": "http://x"}, "a": {"command": "y"}}}'
    )
    assert problems(write(text)) == ["mcpServers.a: is there twice: only one can be meant"]


def test_a_file_that_is_no_text_or_not_there_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "mcpcp.json"
    with pytest.raises(ConfigError, match="can't be read"):
        load(path, {})
    path.write_bytes(b'{"mcpServers": "\xff"}')
    with pytest.raises(ConfigError, match="not UTF-8"):
        load(path, {})


def test_a_byte_order_mark_is_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "mcpcp.json"
    path.write_bytes(b'\xef\xbb\xbf{"mcpServers": {}}')
    assert load(path, {}).servers == {}


def test_variables_are_replaced(write: Write) -> None:
    entry = server(
        args=["${A}", "x${A}y${B:-d}", "${B:-}", "${E:-d}", "$${A}"],
        port="${PORT:-5001}",
        disabled="${OFF}",
    )
    a = loaded(write(entry), A="1", E="", OFF="false").servers["a"]
    assert a.args == ("1", "x1yd", "", "d", "${A}")
    assert (a.port, a.disabled) == (5001, False)


def test_an_unset_variable_is_an_error_that_never_shows_others_values(write: Write) -> None:
    path = write(server(env={"T": "${TOKN}"}, port="${TOKEN}"))
    lines = problems(path, {"TOKEN": "s3cret"})
    assert lines[0].startswith(
        'mcpServers.a.env.T: the variable TOKN is not set (did you mean "TOKEN"?)'
    )
    assert "found the value of ${TOKEN}" in lines[1]
    assert not any("s3cret" in line for line in lines)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${vault:x}", "reserved for secrets"),
        ("${env:HOME}", "write ${HOME}"),
        ("${A:-${B}}", "is not a variable"),
        ("${}", "is not a variable"),
        ("${A", "is not a variable"),
        ("${A-x}", "is not a variable"),
    ],
)
def test_other_forms_of_variables_are_errors(write: Write, text: str, expected: str) -> None:
    assert any(expected in line for line in problems(write(server(args=[text])), {"A": "1"}))


def test_dotenv_fills_in_and_the_environment_wins(write: Write, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("A=file\nB=file\n")
    assert loaded(write(server(args=["${A}", "${B}"])), A="shell").servers["a"].args == (
        "shell",
        "file",
    )


def test_a_disabled_server_waits_for_its_variables(write: Write) -> None:
    config = loaded(write(server(env={"T": "${UNSET}"}, disabled=True)))
    assert config.servers["a"].disabled
    assert config.active == {}


def test_entries_from_readmes_are_taken_with_warnings(write: Write) -> None:
    path = write(
        server(
            autoApprove=["x"],
            alwaysAllow=[],
            description="d",
            enabled=False,
            disabledTools=["x"],
            timeout=60000,
        )
    )
    config = loaded(path)
    assert config.servers["a"].disabled
    assert config.servers["a"].tools.deny == ("x",)
    keys = [w.removeprefix(f"{path}: mcpServers.a.").split(":")[0] for w in config.warnings]
    assert keys == ["autoApprove", "alwaysAllow", "description", "timeout"]


def test_comments_are_silent(write: Write) -> None:
    content = {"//": "c", "mcpServers": {"a": {"command": "x", "_comment": "c"}}}
    assert loaded(write(content)).warnings == ()


def test_an_agents_pattern_that_names_no_server_is_a_warning(write: Write) -> None:
    allow = {"mcp1": ["*"], "mpc1": ["*"], "m*": ["*"], "x*": ["*"]}
    servers = {"mcp1": {"command": "x"}}
    path = write({"mcpServers": servers, "agents": {"me": {"allow": allow}}})
    assert loaded(path).warnings == (
        f'{path}: agents.me.allow.mpc1: names no server; did you mean "mcp1"?',
        f"{path}: agents.me.allow.x*: names no server; it may be one of: mcp1",
    )


def test_what_does_nothing_for_a_url_is_a_warning(write: Write) -> None:
    path = write({"mcpServers": {"a": {"url": "http://x", "env": {"A": "1"}, "args": []}}})
    assert loaded(path).warnings == (
        f"{path}: mcpServers.a.env: does nothing here: a url is not ours to start",
    )


@pytest.mark.parametrize(
    ("entry", "pin"),
    [
        ({"url": "https://example.com/mcp"}, "quarantine"),
        ({"command": "npx", "args": ["-y", "x"]}, "quarantine"),
        ({"command": "npx", "args": ["mine.py"]}, "quarantine"),
        ({"command": "/usr/bin/uvx", "args": ["mine.py"]}, "quarantine"),
        ({"command": "npx.cmd", "args": ["mine.py"]}, "quarantine"),
        ({"command": "docker", "args": ["run", "mine.py"]}, "quarantine"),
        ({"command": "python", "args": ["mine.py"]}, "report"),
        ({"command": "python", "args": ["-u", "mine.py", "--flag"]}, "report"),
        ({"command": "uv", "args": ["run", "mine.py"]}, "report"),
        ({"command": "uv", "args": ["run", "--with", "x", "mine.py"]}, "quarantine"),
        ({"command": "./mine.py"}, "report"),
        ({"command": "node", "args": ["sub/tool.js"]}, "report"),
        ({"command": "node", "args": ["tool.js"], "cwd": "sub"}, "report"),
        ({"command": "node", "args": ["tool.js"], "cwd": "/"}, "quarantine"),
        ({"command": "python", "args": ["-m", "package"]}, "report"),
        ({"command": "python", "args": ["-m", "mine"]}, "report"),
        ({"command": "python", "args": ["-m", "mcp_server_git"]}, "quarantine"),
        ({"command": "python", "args": ["-m"]}, "quarantine"),
        ({"command": "python", "args": ["-m", "servers.battle"]}, "report"),
        ({"command": "python", "args": ["-c", "print()"]}, "quarantine"),
        ({"command": "python", "args": ["x" * 5000]}, "quarantine"),
        ({"command": "mine-elsewhere"}, "quarantine"),
        ({"command": "node_modules/.bin/x"}, "quarantine"),
        ({"command": "python", "args": ["link.py"]}, "quarantine"),
        ({"command": "python", "args": ["mine.py"], "pin": "quarantine"}, "quarantine"),
        ({"command": "npx", "args": ["x"], "pin": "off"}, "off"),
    ],
)
def test_tools_are_pinned_by_where_their_server_is_from(
    tmp_path: Path, entry: dict[str, Any], pin: str
) -> None:
    root, elsewhere = tmp_path / "home", tmp_path / "elsewhere.py"
    for name in ("mine.py", "sub/tool.js", "package/__init__.py", "node_modules/.bin/x"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    elsewhere.touch()
    (root / "link.py").symlink_to(elsewhere)
    (root / "mcpcp.json").write_text(json.dumps({"mcpServers": {"a": entry}}))
    assert loaded(root / "mcpcp.json").servers["a"].pin == pin


def test_limits_of_agents_and_concurrency_of_servers(write: Write) -> None:
    content = server(concurrency=4)
    content["agents"] = {
        "free": {"allow": {"a": ["*"]}},
        "empty": {"allow": {"a": ["*"]}, "limits": {}},
        "held": {
            "allow": {"a": ["*"]},
            "limits": {"calls_per_minute": 30, "arguments": {"a:*": {"maxProperties": 1}}},
        },
    }
    config = loaded(write(content))
    assert config.servers["a"].concurrency == 4
    assert config.agents["held"] == Allowlist.of({"a": ["*"]})
    assert config.agent_limits == {
        "empty": policy.NONE,
        "held": policy.Limits(30, None, (("a:*", '{"maxProperties":1}'),)),
    }
    assert config.warnings == ()


@pytest.mark.parametrize(
    ("limits", "problem"),
    [
        ({"calls_per_minute": 0}, "agents.me.limits.calls_per_minute: must be a whole number"),
        ({"calls": 1}, "agents.me.limits.calls: unknown key"),
        ({"arguments": {"echo": {}}}, "agents.me.limits.arguments.echo: a name here must be"),
        ({"arguments": {"a:b": True}}, "agents.me.limits.arguments.a:b: must be a JSON Schema"),
        ({"arguments": {"a:b": {"$ref": "#"}}}, 'agents.me.limits.arguments.a:b: "$ref" is not'),
        ({"arguments": {"a:b": {"format": "\ud800"}}}, 'agents.me.limits.arguments.a:b: "format'),
    ],
)
def test_mistakes_in_limits(write: Write, limits: Any, problem: str) -> None:
    content = {**server(), "agents": {"me": {"allow": {"a": ["*"]}, "limits": limits}}}
    (found,) = problems(write(content))
    assert found.startswith(problem)


def test_a_rule_for_no_server_is_a_warning(write: Write) -> None:
    me = {"allow": {"a": ["*"]}, "limits": {"arguments": {"b:*": {}, "*:x": {}}}}
    (warning,) = loaded(write({**server(), "agents": {"me": me}})).warnings
    assert "agents.me.limits.arguments.b:*: names no server; it may be one of: a" in warning


def test_the_lock_file_is_beside_the_config_and_never_the_config(tmp_path: Path) -> None:
    for name, lock in (("mcpcp.json", "mcpcp.lock"), ("x.lock", "x.lock.lock"), ("x", "x.lock")):
        (tmp_path / name).write_text(json.dumps(server()))
        assert loaded(tmp_path / name).pins_path == tmp_path / lock


def test_search_is_the_gateways_word_unless_an_agent_has_its_own(write: Write) -> None:
    agents: dict[str, Any] = {"a": {"allow": {}}, "b": {"allow": {}, "search": False}}
    config = loaded(write({**server(), "agents": agents, "gateway": {"search": True}}))
    assert [config.searches(name) for name in ("a", "b", "stranger")] == [True, False, True]
    agents["b"]["search"] = True
    config = loaded(write({**server(), "agents": agents}))
    assert [config.searches(name) for name in ("a", "b", "stranger")] == [False, True, False]


def test_a_service_has_a_port_and_speaks_no_mcp(write: Write) -> None:
    entry = {"type": "service", "command": "python", "args": ["servers/x.py", "-p", "{port}"]}
    database = loaded(write({"mcpServers": {"db": {**entry, "port": 5001}}})).servers["db"]
    assert database.argv() == (sys.executable, "servers/x.py", "-p", "5001")
    assert (database.managed_by, database.speaks_mcp) == ("supervisor", False)
    assert (database.endpoint(), database.health.path) == (None, None)
    assert problems(write({"mcpServers": {"db": entry}})) == [
        'mcpServers.db: a command of type service needs a "port"'
    ]
    remote = {"type": "service", "url": "http://localhost/mcp"}
    assert problems(write({"mcpServers": {"db": remote}})) == [
        "mcpServers.db.type: service needs a command, and here is a url"
    ]


def test_a_server_is_left_out_unless_it_is_needed(write: Write) -> None:
    path = write(
        {
            "mcpServers": {
                "db": {"type": "service", "command": "x", "port": 5001, "unless": "${DB_URI:-}"},
                "shop": {"command": "x", "port": 5002, "depends_on": ["db"]},
            }
        }
    )
    assert list(loaded(path).active) == ["db", "shop"]
    without = loaded(path, DB_URI="mongodb://elsewhere")
    assert list(without.active) == ["shop"]
    assert plan(without)["shop"].depends_on == ()
    assert list(plan(without, ["shop"])) == ["gateway", "shop"]
