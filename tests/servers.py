"""Servers made for the tests: a model of this package behind the requests of vLLM, SGLang and OpenAI, with faults."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch

from fsgen.backends import Model, load

Fault = Callable[[int, str], tuple[str, Any] | None]
"""Of the number of a request and its path: what goes wrong, or None."""


class Answers:
    """What a model answers, in the shape of a kind of server.

    Attributes:
        kind: vllm, sglang, openai, or chat (a server that knows nothing else).
        most: log-probabilities that it gives at most.
        version: of vLLM's names, `ids` whether it tells token ids.
    """

    def __init__(self, model: Model, kind: str, name: str = "big", most: int = 20, context: int = 2048) -> None:
        self.model, self.kind, self.name, self.most, self.context = model, kind, name, most, context
        self.tokenizer = model.tokenizer
        self.lock = threading.Lock()
        self._session = model.session(1)
        self.tokens_read = 0
        self.skew: Callable[[torch.Tensor], torch.Tensor] = lambda logits: logits

    def logprobs(self, ids: Sequence[int], last: int) -> torch.Tensor:
        with self.lock, torch.inference_mode():
            self._session.begin(0, len(ids), self.context)
            self.tokens_read += len(ids)
            return self.skew(self._session.score([list(ids)], last)[0]).log_softmax(-1)

    def get(self, path: str) -> Any:
        if path == "/v1/models":
            return {"object": "list", "data": [{"id": self.name, "object": "model", "max_model_len": self.context}]}
        return None

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if self.kind == "sglang" and path == "/generate":
            return self._sglang(body)
        if self.kind in ("vllm", "openai") and path == "/v1/completions":
            return self._completions(body)
        return 404, {"detail": "Not Found"}

    # ---- what servers of all kinds do

    def ids(self, prompt: Any) -> list[int]:
        return list(self.tokenizer.encode(prompt)) if isinstance(prompt, str) else [int(i) for i in prompt]

    def written(
        self, ids: Sequence[int], most: int, stop: Sequence[str], ends: Sequence[int]
    ) -> tuple[list[int], list[torch.Tensor], str]:
        """Tokens, the log-probabilities of each, and why it ended."""
        tokens: list[int] = []
        found: list[torch.Tensor] = []
        while len(tokens) < most:
            logprobs = self.logprobs([*ids, *tokens], 1)[-1]
            tokens.append(int(logprobs.argmax()))
            found.append(logprobs)
            text = self.tokenizer.decode(tokens)
            if tokens[-1] in ends or any(each in text for each in stop):
                return tokens, found, "stop"
        return tokens, found, "length"

    def top(self, logprobs: torch.Tensor, count: int) -> list[tuple[int, float]]:
        best = logprobs.topk(min(count, len(logprobs)))
        return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))

    # ---- /v1/completions

    def _completions(self, body: dict[str, Any]) -> tuple[int, Any]:
        vllm = self.kind == "vllm"
        if body["model"] != self.name:
            return 404, {"error": {"message": f"The model `{body['model']}` does not exist."}}
        count, of_prompt = body.get("logprobs") or 0, body.get("prompt_logprobs")
        if count > self.most or (of_prompt or 0) > self.most:
            return 400, {"error": {"message": f"Requested sample logprobs of {count}, greater than {self.most}"}}
        if not vllm and "prompt_logprobs" in body:
            return 400, {"error": {"message": "Unrecognized request argument supplied: prompt_logprobs"}}
        ids = self.ids(body["prompt"])
        ends = body.get("stop_token_ids", []) if vllm else sorted(self.model.eos_ids)
        tokens, found, reason = self.written(ids, body["max_tokens"], body.get("stop", []), ends)
        as_ids = vllm and bool(body.get("return_tokens_as_token_ids"))
        shown = tokens
        if not vllm and reason == "stop" and tokens[-1] in ends:
            shown, found = tokens[:-1], found[:-1]  # the end is no text
        logprobs: dict[str, Any] = {
            "tokens": [self._named(token, as_ids) for token in shown],
            "token_logprobs": [float(each[token]) for token, each in zip(shown, found, strict=True)],
            "top_logprobs": [
                self._named_top(each, count, token, as_ids) for token, each in zip(shown, found, strict=True)
            ],
        }
        if body.get("echo"):
            before = self.logprobs(ids, len(ids))[:-1]
            logprobs["tokens"] = [self._named(token, as_ids) for token in ids] + logprobs["tokens"]
            logprobs["token_logprobs"] = [None, *(float(z[i]) for z, i in zip(before, ids[1:], strict=True))]
            tops = [self._named_top(z, count, i, as_ids) for z, i in zip(before, ids[1:], strict=True)]
            logprobs["top_logprobs"] = [None, *tops, *logprobs["top_logprobs"]]
        choice: dict[str, Any] = {"index": 0, "text": self.tokenizer.decode(shown), "finish_reason": reason}
        choice["logprobs"] = logprobs
        if of_prompt is not None:
            choice["prompt_logprobs"] = self._prompt_logprobs(ids, of_prompt)
        if vllm and body.get("return_token_ids"):
            choice |= {"token_ids": tokens, "prompt_token_ids": ids}
        usage = {"prompt_tokens": len(ids), "completion_tokens": len(tokens), "total_tokens": len(ids) + len(tokens)}
        return 200, {
            "id": "cmpl-1",
            "object": "text_completion",
            "model": self.name,
            "choices": [choice],
            "usage": usage,
        }

    def _named(self, token: int, as_ids: bool) -> str:
        return f"token_id:{token}" if as_ids else str(self.tokenizer.decode([token]))

    def _named_top(self, logprobs: torch.Tensor, count: int, token: int, as_ids: bool) -> dict[str, float]:
        """The written token too, as vLLM has it, and last, so that nobody relies on the order."""
        pairs = self.top(logprobs, count)
        if token not in dict(pairs):
            pairs.append((token, float(logprobs[token])))
        return {self._named(i, as_ids): value for i, value in reversed(pairs)}

    def _prompt_logprobs(self, ids: list[int], count: int) -> list[dict[str, Any] | None]:
        result: list[dict[str, Any] | None] = [None]
        for logprobs, token in zip(self.logprobs(ids, len(ids))[:-1], ids[1:], strict=True):
            pairs = dict(self.top(logprobs, count))
            own = {token: float(logprobs[token])} | pairs  # the prompt's own token comes first
            order = logprobs.argsort(descending=True).tolist()
            result.append(
                {
                    str(i): {"logprob": value, "rank": order.index(i) + 1, "decoded_token": self.tokenizer.decode([i])}
                    for i, value in own.items()
                }
            )
        return result

    # ---- /generate

    def _sglang(self, body: dict[str, Any]) -> tuple[int, Any]:
        sampling = body["sampling_params"]
        ids = self.ids(body["text"] if "text" in body else body["input_ids"])
        count, start = body.get("top_logprobs_num", 0), body.get("logprob_start_len", -1)
        stop, ends = sampling.get("stop", []), sampling.get("stop_token_ids", [])
        tokens, found, reason = self.written(ids, sampling["max_new_tokens"], stop, ends)
        before = self.logprobs(ids, len(ids) - start)[:-1]

        def entry(logprobs: torch.Tensor | None, token: int) -> list[Any]:
            return [None if logprobs is None else float(logprobs[token]), token, None]

        def top(logprobs: torch.Tensor) -> list[list[Any]]:
            return [[value, token, None] for token, value in self.top(logprobs, count)]

        finish: dict[str, Any] = {"type": reason}
        finish |= {"length": len(tokens)} if reason == "length" else {"matched": tokens[-1]}
        about = {
            "id": "1",
            "finish_reason": finish,
            "prompt_tokens": len(ids),
            "completion_tokens": len(tokens),
            "cached_tokens": 0,
            "input_token_logprobs": [
                entry(None, ids[start]),
                *(entry(z, i) for z, i in zip(before, ids[start + 1 :], strict=True)),
            ],
            "input_top_logprobs": [None, *map(top, before)],
            "output_token_logprobs": [entry(z, i) for z, i in zip(found, tokens, strict=True)],
            "output_top_logprobs": [top(z) for z in found],
        }
        return 200, {"text": self.tokenizer.decode(tokens), "output_ids": tokens, "meta_info": about}


class TestServer:
    """A server on this machine, in a thread; `with` it.

    Args:
        answers: what it says.
        fault: what goes wrong. `status`: (code, headers); `reset`: the connection; `half`: half of the answer; `slow`:
            seconds; `other`: another `Answers` answers.
    """

    __test__ = False

    def __init__(self, answers: Answers, fault: Fault | None = None, port: int = 0) -> None:
        self.answers, self.fault, self.asked = answers, fault, 0
        self.under_way = self.most_under_way = 0
        self.bodies: list[tuple[str, dict[str, Any]]] = []
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: Any) -> None: ...

            def do_GET(self) -> None:
                found = server.answers.get(self.path)
                self.answer(200 if found else 404, found or {"detail": "Not Found"})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server._lock:
                    number, server.asked = server.asked, server.asked + 1
                    server.bodies.append((self.path, body))
                    server.under_way += 1
                    server.most_under_way = max(server.most_under_way, server.under_way)
                try:
                    self.handle_fault(number, body)
                finally:
                    with server._lock:
                        server.under_way -= 1

            def handle_fault(self, number: int, body: dict[str, Any]) -> None:
                found = server.fault(number, self.path) if server.fault else None
                kind: str = found[0] if found else ""
                value: Any = found[1] if found else 0.0
                if kind == "status":
                    self.answer(value[0], {"error": {"message": "not now"}}, value[1])
                elif kind == "reset":
                    self.close_connection = True
                    self.connection.close()
                elif kind == "half":
                    code, content = server.answers.post(self.path, body)
                    whole = json.dumps(content).encode()
                    self.send_response(code)
                    self.send_header("Content-Length", str(len(whole)))
                    self.end_headers()
                    self.wfile.write(whole[: len(whole) // 2])
                    self.close_connection = True
                elif kind == "other":
                    self.answer(*value.post(self.path, body))
                else:
                    time.sleep(value)
                    self.answer(*server.answers.post(self.path, body))

            def answer(self, code: int, content: Any, headers: dict[str, str] | None = None) -> None:
                whole = json.dumps(content).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(whole)))
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(whole)

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None: ...

        self._server = Quiet(("127.0.0.1", port), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> TestServer:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def answers(kind: str, model: str, **settings: Any) -> Answers:
    """A model behind a kind of server."""
    target = load(target=model, dtype="float32", device="cpu").target
    assert target is not None
    return Answers(target, kind, **settings)
