"""A language model that knows two things: whoever asks is told what a clock says, and whoever says
"Execute" what came of a program too. It stands in for Ollama, which can't be pulled here; the
standard library alone, since it runs in a container.
"""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def call(index: int, name: str, arguments: str) -> dict[str, Any]:
    """One of the model's tool calls."""
    function = {"name": name, "arguments": arguments}
    return {"index": index, "id": f"call-{index}", "type": "function", "function": function}


CLOCK = call(0, "time_get_current_time", '{"timezone": "Europe/Paris"}')
PROGRAM = call(1, "code_executor_execute_code", '{"code": "print(\'Hello\')"}')


def reply(messages: list[Any]) -> dict[str, Any]:
    """The calls, or what they brought."""
    heard = [message["content"] for message in messages if message["role"] == "tool"]
    if heard:
        return {"role": "assistant", "content": f"It is {' and '.join(heard)}"}
    calls = [CLOCK, PROGRAM] if "Execute" in messages[-1]["content"] else [CLOCK]
    return {"role": "assistant", "content": None, "tool_calls": calls}


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
