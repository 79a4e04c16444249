// The chat page. Everything that a model or a tool wrote is put in as text, never as markup.

const at = (id) => document.getElementById(id);
const conversation = [];
const SIGNED_IN_AS = "mcpcp-token";
let running = null;

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

// Who is asking: a token from the link's fragment, which never reaches a server's log, or pasted.

function takeTokenFromLink() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!given) return;
  sessionStorage.setItem(SIGNED_IN_AS, given);
  history.replaceState(null, "", location.pathname);
}

function headers(more = {}) {
  const token = sessionStorage.getItem(SIGNED_IN_AS);
  return token ? { ...more, authorization: `Bearer ${token}` } : more;
}

function showWhoIsIn() {
  const signedIn = Boolean(sessionStorage.getItem(SIGNED_IN_AS));
  const served = signedIn || document.body.dataset.anonymous === "yes";
  at("sign-in").hidden = served;
  at("composer").hidden = !served;
  at("show-tools").hidden = !served;
  at("sign-out").hidden = !signedIn;
  at(served ? "text" : "token").focus();
}

function signOut(reason) {
  sessionStorage.removeItem(SIGNED_IN_AS);
  at("tools").hidden = true;
  notice(reason);
  showWhoIsIn();
}

function notice(text) {
  at("notice").textContent = text || "";
  at("notice").hidden = !text;
}

async function explain(answer) {
  const body = await answer.json().catch(() => ({}));
  return body.error?.message || `The chat service answered HTTP ${answer.status}.`;
}

async function lookAtDependencies() {
  const answer = await fetch("/ready").catch(() => null);
  const body = await answer?.json().catch(() => null);
  const wrong = Object.values(body?.dependencies || {}).filter((d) => d.state !== "ready");
  notice(wrong.map((d) => d.detail).join("\n"));
}

// Tools

async function toggleTools() {
  const panel = at("tools");
  panel.hidden = !panel.hidden;
  at("show-tools").setAttribute("aria-expanded", String(!panel.hidden));
  if (panel.hidden) return;
  panel.textContent = "…";
  const answer = await fetch("/tools", { headers: headers() }).catch(() => null);
  if (!answer?.ok) {
    panel.textContent = answer ? await explain(answer) : "The chat service does not answer.";
    return;
  }
  const { tools } = await answer.json();
  const list = make("dl");
  for (const tool of tools) {
    list.append(make("dt", "", tool.name));
    list.append(make("dd", "", (tool.description || tool.title || "").split("\n")[0]));
  }
  panel.replaceChildren(tools.length ? list : make("p", "", "This token allows no tools."));
  panel.focus();
}

// Messages

function atTheEnd() {
  const main = document.querySelector("main");
  return main.scrollHeight - main.scrollTop - main.clientHeight < 80;
}

function keepAtTheEnd(change) {
  const follow = atTheEnd();
  change();
  const main = document.querySelector("main");
  if (follow) main.scrollTop = main.scrollHeight;
}

// Text with ``` blocks and `code`; the rest as it is.
function render(element, text) {
  element.replaceChildren();
  text.split(/```[^\n`]*\n?/).forEach((part, index) => {
    if (index % 2) {
      element.append(make("pre", "", part.replace(/\n$/, "")));
      return;
    }
    part.split(/`([^`\n]+)`/).forEach((piece, inner) => {
      if (piece) element.append(inner % 2 ? make("code", "", piece) : piece);
    });
  });
}

class Answer {
  constructor() {
    this.item = make("li", "assistant waiting");
    this.calls = new Map();
    this.current = null;
    this.written = "";
    at("messages").append(this.item);
  }

  token({ text }) {
    if (!this.current) {
      this.current = make("div", "text");
      this.written = "";
      this.item.append(this.current);
    }
    this.written += text;
    render(this.current, this.written);
  }

  tool_started({ id, name, arguments: given }) {
    this.current = null;
    const details = make("details", "running");
    const summary = make("summary");
    summary.append(make("span", "name", name), make("span", "state", "running…"));
    details.append(summary);
    if (Object.keys(given).length) {
      details.append(make("h3", "", "Arguments"), make("pre", "", pretty(given)));
    }
    this.item.append(details);
    this.calls.set(id, details);
  }

  tool_progress({ id, progress, total, message }) {
    const details = this.calls.get(id);
    if (!details) return;
    let bar = details.querySelector("progress");
    if (!bar) {
      bar = make("progress");
      details.append(bar);
      details.open = true;
    }
    if (total) {
      bar.max = total;
      bar.value = progress;
    }
    details.querySelector(".state").textContent = message || `${progress}${total ? ` of ${total}` : ""}`;
  }

  tool_finished(record) {
    const details = this.calls.get(record.id);
    if (!details) return;
    details.querySelector("progress")?.remove();
    details.className = record.error === null ? "ended" : "failed";
    const took = record.duration < 1 ? `${Math.round(record.duration * 1000)} ms` : `${record.duration.toFixed(1)} s`;
    details.querySelector(".state").textContent = record.error === null ? took : `failed, ${took}`;
    details.append(make("h3", "", record.error === null ? "Result" : "Error"));
    details.append(make("pre", "", record.error ?? indented(record.result)));
    for (const attachment of record.attachments) this.attach(attachment);
  }

  attach({ type, mimeType, data }) {
    if (type !== "image" || !/^image\/(png|jpeg|gif|webp)$/.test(mimeType || "")) return;
    const image = make("img", "attachment");
    image.alt = "An image that the tool made";
    image.src = `data:${mimeType};base64,${data}`;
    this.item.append(image);
  }

  done({ message, finish_reason: reason }) {
    if (!this.current) this.token({ text: message.content });
    if (reason === "length") this.fail("The answer was cut off: it reached the model's limit.");
    conversation.push(message);
  }

  error({ error }) {
    this.fail(error.message);
  }

  fail(text) {
    const line = make("p", "error", text);
    line.setAttribute("role", "alert");
    this.item.append(line);
  }

  end() {
    this.item.classList.remove("waiting");
    for (const details of this.calls.values()) {
      if (details.className === "running") {
        details.className = "failed";
        details.querySelector(".state").textContent = "stopped";
      }
    }
  }
}

const pretty = (value) => JSON.stringify(value, null, 2);

function indented(text) {
  try {
    const value = JSON.parse(text);
    return typeof value === "object" ? pretty(value) : text;
  } catch {
    return text;
  }
}

// One request and its events

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    buffer += value;
    const blocks = buffer.split("\n\n");
    buffer = blocks.pop();
    for (const block of blocks) {
      const name = /^event: (.*)$/m.exec(block)?.[1];
      const data = /^data: (.*)$/m.exec(block)?.[1];
      if (name && data) yield [name, JSON.parse(data)];
    }
  }
}

async function ask(text) {
  conversation.push({ role: "user", content: text });
  keepAtTheEnd(() => at("messages").append(make("li", "user", text)));
  const answer = new Answer();
  const asked = conversation.length;
  running = new AbortController();
  setRunning(true);
  try {
    const response = await fetch("/chat", {
      method: "POST",
      headers: headers({ "content-type": "application/json" }),
      body: JSON.stringify({ messages: conversation, stream: true }),
      signal: running.signal,
    });
    if (response.status === 401) signOut(await explain(response.clone()));
    if (!response.ok) {
      answer.fail(await explain(response));
    } else {
      let ended = false;
      for await (const [name, data] of events(response.body)) {
        keepAtTheEnd(() => answer[name]?.(data));
        ended ||= name === "done" || name === "error";
      }
      if (!ended) answer.fail("The connection ended before the answer did. Ask again.");
    }
  } catch (error) {
    answer.fail(error.name === "AbortError" ? "Stopped." : "The chat service does not answer. Is it running?");
  }
  answer.end();
  if (conversation.length === asked) conversation.pop(); // without an answer it was not said
  running = null;
  setRunning(false);
}

function setRunning(yes) {
  at("send").hidden = yes;
  at("stop").hidden = !yes;
  if (!yes && !at("composer").hidden) at("text").focus();
}

// What people do

at("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = at("text").value.trim();
  if (!text || running) return;
  at("text").value = "";
  ask(text);
});
at("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    at("composer").requestSubmit();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") running?.abort();
});
at("stop").addEventListener("click", () => running?.abort());
at("new").addEventListener("click", () => {
  running?.abort();
  conversation.length = 0;
  at("messages").replaceChildren();
  lookAtDependencies();
  if (!at("composer").hidden) at("text").focus();
});
at("show-tools").addEventListener("click", toggleTools);
at("sign-out").addEventListener("click", () => signOut(""));
at("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(SIGNED_IN_AS, at("token").value.trim());
  at("token").value = "";
  notice("");
  showWhoIsIn();
});

takeTokenFromLink();
showWhoIsIn();
lookAtDependencies();
