# One image for every role: the gateway, each tool server, the chat service. What a container is, its
# command says; deploy/ has examples. Nothing here needs BuildKit.
#
#   docker build -t mcpcp .
#   docker build -t mcpcp --build-arg BASE=registry.example/python:3.12-slim .

ARG BASE=python:3.12-slim

FROM ${BASE} AS build
WORKDIR /src
# An environment of its own, without pip: the image can't install anything into itself.
RUN python -m venv --without-pip /opt/mcpcp
COPY setup.cfg pyproject.toml README.md LICENSE ./
COPY mcpcp ./mcpcp
COPY servers ./servers
RUN python -m pip --python /opt/mcpcp/bin/python install --no-cache-dir --compile .

FROM ${BASE}
COPY --from=build /opt/mcpcp /opt/mcpcp
# Volumes that are mounted here take over the owner.
RUN mkdir -p /app/data /app/keys && chown 10001:10001 /app/data /app/keys && chmod 700 /app/keys
ENV PATH=/opt/mcpcp/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    MCPCP_CONFIG=/app/mcpcp.json \
    HEALTH_URL=http://127.0.0.1:9003/ready
WORKDIR /app
# By number, so that Kubernetes can see that it is not root.
USER 10001:10001
EXPOSE 9003
# Patient: a machine that is slow is no reason to replace what serves on it.
HEALTHCHECK --interval=10s --timeout=30s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.build_opener(u.ProxyHandler({})).open(os.environ['HEALTH_URL'], timeout=29)"]
CMD ["python", "-m", "mcpcp", "serve"]
