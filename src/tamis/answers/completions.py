"""Answers from a server that speaks OpenAI's chat completions: bounded, retried, every failure said in one sentence."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tamis.answers.sampling import CUT_OFF, FINISHED, OTHER, Sample, asked
from tamis.errors import ModelError

if TYPE_CHECKING:
    import httpx

    from tamis.answers.sampling import Sampling, Server, Wanted
    from tamis.values import Row

log = logging.getLogger(__name__)
PATH = "/chat/completions"
PAUSE_SECONDS, LONGEST_PAUSE = 0.5, 30.0
BUSY = (408, 409, 425, 429, 500, 502, 503, 504)  # worth another try
ROW = (400, 413, 422)  # about this request, not about the server
SHOWN = 300  # characters of a server's own words
_ENDS = {"stop": FINISHED, "length": CUT_OFF}


@dataclass(frozen=True)
class Client:
    """One server, asked for one sample a request, so that each has a seed of its own."""

    server: Server
    sampling: Sampling

    def complete(self, asks: Sequence[tuple[Row, Wanted]]) -> list[Sample | None]:
        """A sample for every request, in order; None where the server refuses a row (the log says why).

        Raises ModelError where it cannot be reached, wants another key, does not answer as it should, or refuses all.
        """
        from concurrent.futures import ThreadPoolExecutor

        import httpx

        if not asks:
            return []
        limits = httpx.Limits(max_connections=self.server.concurrency)
        with (
            httpx.Client(headers=self._headers(), timeout=self.server.timeout_seconds, limits=limits) as client,
            ThreadPoolExecutor(self.server.concurrency, thread_name_prefix="completions") as threads,
        ):
            futures = [threads.submit(self._one, client, row, wanted) for row, wanted in asks]
            try:
                found = [future.result() for future in futures]
            finally:  # after a failure, or when stopped by hand, what still waits is not asked
                threads.shutdown(wait=False, cancel_futures=True)
        refused = [one for one in found if isinstance(one, str)]
        if len(refused) == len(found):
            raise ModelError(f"{self._name} refuses all {len(found)} requests; it says: {refused[0]}")
        for text in sorted(set(refused))[:3]:
            log.warning("%s refuses a row: %s", self._name, text)
        return [one if isinstance(one, Sample) else None for one in found]

    @property
    def _name(self) -> str:
        return f"the server at {self.server.url}"

    def _headers(self) -> dict[str, str]:
        if self.server.key is None:
            return {}
        key = os.environ.get(self.server.key)
        if not key:
            raise ModelError(
                f"{self._name} is given its key by the environment variable {self.server.key!r}, which is not set"
            )
        return {"Authorization": f"Bearer {key}"}

    def _one(self, client: httpx.Client, row: Row, wanted: Wanted) -> Sample | str:
        """The sample, or the server's words where it refuses this row."""
        url = self.server.url.rstrip("/") + PATH
        body = self._body(row, wanted)
        for left in reversed(range(self.server.retries + 1)):
            answer, failure = _post(client, url, body)
            if answer is not None and answer.status_code not in BUSY:
                return self._read(answer)
            if answer is not None:
                failure = f"answers {answer.status_code}: {answer.text[:SHOWN]}"
            if left:
                time.sleep(_pause(self.server.retries - left, answer))
        raise ModelError(
            f"{self._name} {failure}; tried {self.server.retries + 1} times. Check its url (up to /v1) and whether it "
            "runs, or raise `timeout_seconds` or `retries`, or lower `concurrency`"
        )

    def _body(self, row: Row, wanted: Wanted) -> dict[str, Any]:
        greedy = wanted.number < 0
        messages = [{key: value for key, value in message.items() if value is not None} for message in asked(row)]
        body: dict[str, Any] = {
            "model": self.server.model,
            "messages": messages,
            "max_tokens": self.sampling.max_tokens,
            "temperature": 0.0 if greedy else self.sampling.temperature,
            "top_p": 1.0 if greedy else self.sampling.top_p,
            "seed": wanted.bits & 0x7FFFFFFF,
            "n": 1,
        }
        if self.server.logprobs:
            body["logprobs"] = True
        return body | ({"tools": json.loads(row.tools)} if row.tools else {})

    def _read(self, answer: httpx.Response) -> Sample | str:
        if answer.status_code in ROW:
            return f"{answer.status_code}: {answer.text[:SHOWN]}"
        if answer.status_code != 200:
            hint = "; name the variable that holds its key by `key`" if answer.status_code in (401, 403) else ""
            raise ModelError(f"{self._name} answers {answer.status_code}: {answer.text[:SHOWN]}{hint}")
        try:
            return sample_of(answer.json())
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise ModelError(
                f"{self._name} does not answer as chat completions do ({type(error).__name__}: {error}); its url "
                f"ends where {PATH} follows. It says: {answer.text[:SHOWN]}"
            ) from error


def sample_of(answer: Mapping[str, Any]) -> Sample:
    """The first choice of an answer as a sample; its likelihood is NaN where the server gives no log-probabilities."""
    choice = answer["choices"][0]
    said = choice["message"].get("content") or ""
    tokens = (choice.get("logprobs") or {}).get("content") or []
    nll = -sum(float(token["logprob"]) for token in tokens) if tokens else float("nan")
    count = len(tokens) or int((answer.get("usage") or {}).get("completion_tokens") or 0)
    return Sample(str(said), count, nll, _ENDS.get(choice.get("finish_reason"), OTHER))


def _post(client: httpx.Client, url: str, body: Mapping[str, Any]) -> tuple[httpx.Response | None, str]:
    """The answer, or what kept the server from giving one."""
    import httpx

    try:
        return client.post(url, json=body), ""
    except httpx.TimeoutException:
        return None, "did not answer in time"
    except httpx.TransportError as error:
        return None, f"cannot be reached ({error or type(error).__name__})"


def _pause(tried: int, answer: httpx.Response | None) -> float:
    """Seconds until the next try: what the server asks for, or twice as long each time."""
    asked_for = answer.headers.get("retry-after", "") if answer is not None else ""
    seconds = float(asked_for) if asked_for.isdigit() else PAUSE_SECONDS * 2.0**tried
    return min(seconds, LONGEST_PAUSE)
