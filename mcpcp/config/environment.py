"""The environment that a tool server starts with: what a program needs, not what we happen to have.

A shell's secrets (API keys, tokens) reach a server only where its entry in the config names them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from mcpcp.config.places import process_environment

_PASSED = re.compile(
    r"""
    PATH | HOME | USER | LOGNAME | SHELL | TERM | LANG | LANGUAGE | LC_\w+ | TZ | TMPDIR
    | TEMP | TMP
    | XDG_\w+                                                      # where programs keep their files
    | (http|https|all|no)_proxy | SSL_CERT_\w+ | REQUESTS_CA_BUNDLE | NODE_EXTRA_CA_CERTS  # network
    | npm_config_\w+ | NVM_DIR | VOLTA_HOME | UV_\w+ | PIP_\w+ | PYENV_ROOT | NODE_PATH    # runners
    | DOCKER_HOST | DOCKER_CONFIG | DOCKER_CERT_PATH | DOCKER_TLS_VERIFY | DOCKER_CONTEXT
    | OTEL_EXPORTER_OTLP_(TRACES_)?(ENDPOINT|PROTOCOL|CERTIFICATE)  # the headers may hold a key
    | OTEL_TRACES_SAMPLER(_ARG)? | OTEL_SDK_DISABLED
    | MCPCP_FLEET | MCPCP_PROCESS           # whose process it is, for who looks for leftovers
    | SYSTEMROOT | SYSTEMDRIVE | WINDIR | COMSPEC | PATHEXT | APPDATA | LOCALAPPDATA | PROGRAMDATA
    | PROGRAMFILES(\(X86\))? | USERPROFILE | USERNAME | HOMEDRIVE | HOMEPATH | NUMBER_OF_PROCESSORS
    """,
    re.VERBOSE | re.IGNORECASE,
)


def child_environment(
    additions: Mapping[str, str], environ: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The whole environment of a server whose entry adds `additions`."""
    env = process_environment() if environ is None else environ
    return {**{k: v for k, v in env.items() if _PASSED.fullmatch(k)}, **additions}
