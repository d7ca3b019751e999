"""An upstream for clients.sh: it calls the first tool that it is offered, then says the result.

It prints its base URL and serves until it is stopped.
"""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
SHARED = {"id": "chatcmpl-up", "created": 1, "model": "large"}


def message(request: dict) -> dict:
    last = request["messages"][-1]
    if not request.get("tools"):
        return {"role": "assistant", "content": "Paris."}
    if last["role"] == "tool":
        return {"role": "assistant", "content": f"It says: {last['content']}"}
    function = {"name": request["tools"][0]["function"]["name"], "arguments": '{"city": "Paris"}'}
    call = {"id": "call_1", "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def deltas(said: dict) -> list[dict]:
    """The message in pieces, the arguments of its calls too."""
    if said["content"] is not None:
        return [{"role": "assistant", "content": ""}, *({"content": c} for c in said["content"])]
    pieces = [{"role": "assistant", "content": None}]
    for i, call in enumerate(said["tool_calls"]):
        function = call["function"]
        head = {"index": i, **call, "function": {**function, "arguments": ""}}
        pieces.append({"tool_calls": [head]})
        for part in function["arguments"].split():
            pieces.append({"tool_calls": [{"index": i, "function": {"arguments": part}}]})
    return pieces


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        said = message(request)
        end = "stop" if said["content"] is not None else "tool_calls"
        if request.get("stream"):
            self._send("text/event-stream", self._events(said, end))
        else:
            choice = {"index": 0, "message": said, "finish_reason": end}
            body = {**SHARED, "object": "chat.completion", "choices": [choice], "usage": USAGE}
            self._send("application/json", json.dumps(body).encode())

    def _events(self, said: dict, end: str) -> bytes:
        choices = [{"index": 0, "delta": d, "finish_reason": None} for d in deltas(said)]
        choices.append({"index": 0, "delta": {}, "finish_reason": end})
        chunks = [{"choices": [choice]} for choice in choices] + [{"choices": [], "usage": USAGE}]
        whole = [{**SHARED, "object": "chat.completion.chunk", **chunk} for chunk in chunks]
        return b"".join(b"data: %s\n\n" % json.dumps(c).encode() for c in whole) + (
            b"data: [DONE]\n\n"
        )

    def _send(self, kind: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(f"http://127.0.0.1:{server.server_port}/v1", flush=True)
    server.serve_forever()
