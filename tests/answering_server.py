"""A tiny chat completions server for tests: `python answering_server.py [--key K]` prints its port, then answers.

An answer says what was asked for: its seed, temperature and length. `refuse` in a question is answered by 400, `busy N`
by 503 for the first N requests, `stray` by something that is no completion, `quiet` without log-probabilities.
"""

from __future__ import annotations

import argparse
import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar


class Handler(BaseHTTPRequestHandler):
    """Answers POST /v1/chat/completions; GET /seen tells how many requests came, and how many at once."""

    key: str | None = None
    seen: ClassVar[Counter[str]] = Counter()
    lock: ClassVar[Any] = threading.Lock()

    def do_GET(self) -> None:
        """Counts so far."""
        self._send(200, dict(self.seen))

    def do_POST(self) -> None:
        """One completion."""
        with self.lock:
            self.seen["requests"] += 1
            self.seen["now"] += 1
            self.seen["most"] = max(self.seen["most"], self.seen["now"])
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        try:
            self._send(*self._answer(asked))
        finally:
            with self.lock:
                self.seen["now"] -= 1

    def _answer(self, asked: dict[str, Any]) -> tuple[int, Any]:
        said = asked["messages"][-1]["content"]
        if self.path != "/v1/chat/completions":
            return 404, {"error": "there is nothing here"}
        if self.key and self.headers.get("Authorization") != f"Bearer {self.key}":
            return 401, {"error": "wrong key"}
        if asked["model"] != "canned":
            return 404, {"error": f"the model {asked['model']} does not exist"}
        if "refuse" in said:
            return 400, {"error": "the prompt is too long"}
        if "stray" in said:
            return 200, {"object": "list"}
        if said.startswith("busy"):
            with self.lock:
                self.seen[said] += 1
                if self.seen[said] <= int(said.split()[1]):
                    return 503, {"error": "overloaded"}
        text = f"seed {asked['seed']} heat {asked['temperature']:g} top {asked['top_p']:g} most {asked['max_tokens']}"
        choice: dict[str, Any] = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        if asked.get("logprobs") and "quiet" not in said:
            choice["logprobs"] = {"content": [{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": -1.5}]}
        return 200, {"choices": [choice], "usage": {"completion_tokens": 7}}

    def _send(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Nothing."""


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--key")
    Handler.key = parser.parse_args().key
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()
