// A client on the TypeScript SDK: connects, asks, prints the answers as one line of JSON.
//
// Its one argument is JSON: `modules` (a node_modules folder), `sdk` (1 or 2), `transport` (http,
// sse, stdio), `url` and `headers`, or `command`, `args` and `env`; for SDK 2 `mode` ("legacy",
// "auto" or {"pin": "2026-07-28"}); `steps`, a list of [method of Client, parameters].

import { join } from "node:path";
import { pathToFileURL } from "node:url";

const options = JSON.parse(process.argv[2]);

async function load() {
  const package_ = (...path) =>
    import(pathToFileURL(join(options.modules, "@modelcontextprotocol", ...path)).href);
  if (options.sdk === 2) {
    return { ...(await package_("client", "dist", "index.mjs")), ...(await package_("client", "dist", "stdio.mjs")) };
  }
  const parts = ["index", "stdio", "sse", "streamableHttp"];
  const loaded = await Promise.all(parts.map((part) => package_("sdk", "dist", "esm", "client", `${part}.js`)));
  return Object.assign({}, ...loaded);
}

function transport(sdk) {
  const { url, headers, command, args, env } = options;
  if (options.transport === "stdio") return new sdk.StdioClientTransport({ command, args, env });
  const Transport = options.transport === "sse" ? sdk.SSEClientTransport : sdk.StreamableHTTPClientTransport;
  return new Transport(new URL(url), { requestInit: { headers } });
}

async function outcome(request) {
  try {
    return await request;
  } catch (error) {
    if (typeof error.code !== "number") throw error;
    return { code: error.code };
  }
}

const sdk = await load();
const negotiation = options.mode ? { versionNegotiation: { mode: options.mode } } : {};
const client = new sdk.Client({ name: "typescript", version: "1" }, { capabilities: {}, ...negotiation });
const way = transport(sdk);
await client.connect(way);
const answers = [];
for (const [method, params] of options.steps) answers.push(await outcome(client[method](params)));
const version = client.getNegotiatedProtocolVersion?.() ?? way.protocolVersion ?? null;
process.stdout.write(JSON.stringify({ server: client.getServerVersion(), version, answers }) + "\n");
await client.close();
