"""A stand-in for the Messages and the Responses API, as far as Claude Code and Codex use them.

It answers with scripted turns, in their order. llmock plays both APIs for arf's own clients, but not for
these programs: it refuses the messages with the role `system` that Claude Code sends, tells no cached tokens,
and cannot name the namespace of a function, by which alone Codex calls the tools of MCP servers.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from attrs import define, field, frozen

Event = tuple[str, dict[str, Any]]

FRESH, CACHED, OUTPUT = 1000, 3000, 200
"""Tokens that each answer tells of."""


@frozen
class Turn:
    """One answer: a text, or the call of a tool, or a refusal with an HTTP status."""

    text: str = ""
    tool: str = ""
    arguments: Mapping[str, Any] = field(factory=dict)
    namespace: str = ""
    status: int = 200
    is_held: bool = False
    """Whether it comes only when `release` is set."""


@define
class Service:
    """The turns that are left, and what was asked. A text is told where no turn is left."""

    root: str = ""
    turns: deque[Turn] = field(factory=deque)
    requests: list[dict[str, Any]] = field(factory=list)
    """The bodies of the requests, in the order of their arrival."""
    answered: int = 0
    release: threading.Event = field(factory=threading.Event)
    held: threading.Event = field(factory=threading.Event)
    """Set when an answer is held back."""

    def turn(self, body: dict[str, Any]) -> Turn:
        self.requests.append(body)
        turn = self.turns.popleft() if self.turns else Turn("I have nothing to add.")
        if turn.is_held:
            self.held.set()
            self.release.wait()
        self.answered += turn.status == 200
        return turn


@contextmanager
def serving() -> Iterator[Service]:
    service = Service()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            path = self.path.partition("?")[0]
            if path not in EVENTS:
                self._send(404, "application/json", "{}")
                return
            turn = service.turn(body)
            if turn.status != 200:
                error = {"type": "error", "error": {"type": "some_error", "message": turn.text}}
                self._send(turn.status, "application/json", json.dumps(error))
                return
            events = EVENTS[path](turn, len(service.requests), str(body["model"]))
            lines = (
                f"event: {name}\ndata: {json.dumps({'type': name, **data})}\n\n" for name, data in events
            )
            self._send(200, "text/event-stream", "".join(lines))

        def do_GET(self) -> None:
            self._send(404, "application/json", "{}")

        do_HEAD = do_GET

        def _send(self, status: int, kind: str, text: str) -> None:
            data = text.encode()
            try:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
            except (BrokenPipeError, ConnectionResetError):
                pass  # who asked was ended meanwhile

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    service.root = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield service
    finally:
        service.release.set()
        server.shutdown()
        server.server_close()


def _messages(turn: Turn, number: int, model: str) -> Iterator[Event]:
    usage = {"input_tokens": FRESH, "cache_read_input_tokens": CACHED, "cache_creation_input_tokens": 0}
    block: dict[str, Any] = {"type": "text", "text": ""}
    delta = {"type": "text_delta", "text": turn.text}
    if turn.tool:
        block = {"type": "tool_use", "id": f"toolu_{number}", "name": turn.tool, "input": {}}
        delta = {"type": "input_json_delta", "partial_json": json.dumps(dict(turn.arguments))}
    message = {
        "id": f"msg_{number}", "type": "message", "role": "assistant", "model": model, "content": [],
        "stop_reason": None, "stop_sequence": None, "usage": {**usage, "output_tokens": 1},
    }  # fmt: skip
    end = {"stop_reason": "tool_use" if turn.tool else "end_turn", "stop_sequence": None}
    yield "message_start", {"message": message}
    yield "content_block_start", {"index": 0, "content_block": block}
    yield "content_block_delta", {"index": 0, "delta": delta}
    yield "content_block_stop", {"index": 0}
    yield "message_delta", {"delta": end, "usage": {**usage, "output_tokens": OUTPUT}}
    yield "message_stop", {}


def _responses(turn: Turn, number: int, model: str) -> Iterator[Event]:
    usage = {
        "input_tokens": FRESH + CACHED, "input_tokens_details": {"cached_tokens": CACHED},
        "output_tokens": OUTPUT, "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": FRESH + CACHED + OUTPUT,
    }  # fmt: skip
    name, item = f"resp_{number}", {"id": f"item_{number}"}
    if turn.tool:
        call = {"type": "function_call", "call_id": f"call_{number}", "name": turn.tool}
        item |= {**call, "arguments": json.dumps(dict(turn.arguments))}
        item |= {"namespace": turn.namespace} if turn.namespace else {}
    else:
        part = {"type": "output_text", "text": turn.text, "annotations": []}
        item |= {"type": "message", "role": "assistant", "status": "completed", "content": [part]}
    yield "response.created", {"response": {"id": name, "model": model}}
    yield "response.output_item.done", {"output_index": 0, "item": item}
    yield "response.completed", {"response": {"id": name, "output": [item], "usage": usage}}


EVENTS = {"/v1/messages": _messages, "/v1/responses": _responses}
