"""A language model that knows one thing: whoever asks is told what a clock says. It stands in for
Ollama, which can't be pulled here; the standard library alone, since it runs in a container.
"""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CALL = {
    "index": 0,
    "id": "call-1",
    "type": "function",
    "function": {"name": "time_get_current_time", "arguments": '{"timezone": "Europe/Paris"}'},
}


def reply(messages: list[Any]) -> dict[str, Any]:
    """A call of the clock, or what it said."""
    if messages[-1]["role"] == "tool":
        return {"role": "assistant", "content": f"It is {messages[-1]['content'][:100]}"}
    return {"role": "assistant", "content": None, "tool_calls": [CALL]}


class Model(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.answer({"object": "list", "data": [{"id": "llama3.1:latest", "object": "model"}]})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        message = reply(asked["messages"])
        reason = "tool_calls" if "tool_calls" in message else "stop"
        choice: dict[str, Any] = {"index": 0, "finish_reason": reason}
        whole = {"id": "1", "created": 0, "model": asked["model"], "choices": [choice]}
        if not asked.get("stream"):
            choice["message"] = message
            self.answer({**whole, "object": "chat.completion"})
            return
        choice["delta"] = message
        chunk = json.dumps({**whole, "object": "chat.completion.chunk"})
        self.send(f"data: {chunk}\n\ndata: [DONE]\n\n", "text/event-stream")

    def answer(self, body: Any) -> None:
        self.send(json.dumps(body), "application/json")

    def send(self, text: str, content_type: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())


ThreadingHTTPServer(("0.0.0.0", 11434), Model).serve_forever()
