"""How Kubernetes is asked about tokens: seldom, never too much at once, and its silence is no answer."""

import asyncio
import json

import pytest

from control.ca import token_review
from control.ca.refusal import BusyError, UnavailableError
from control.ca.token_review import TokenReviewer
from kubeapi.client import APIError

GOOD = {"status": {"authenticated": True, "audiences": ["a"], "user": {"username": "u", "extra": {"k": ["v"]}}}}


class Client:
    """Stands for KubeClient: holds each request until it is let go."""

    def __init__(self, answer: bytes = json.dumps(GOOD).encode()) -> None:
        self.answer = answer
        self.requests: list[str] = []
        self.at_once = 0
        self.most_at_once = 0
        self.open = asyncio.Event()
        self.open.set()

    async def request(self, _method: str, _path: str, *, body, deadline_s: float) -> bytes:
        self.requests.append(body["spec"]["token"])
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await self.open.wait()
        self.at_once -= 1
        if not self.answer:
            raise APIError(0, "TimeoutError", "gone")
        return self.answer


async def test_an_answer_is_remembered_for_moments() -> None:
    client, now = Client(), [0.0]
    reviewer = TokenReviewer(client, lambda: now[0])
    assert (await reviewer.review("t", "a")).extra == {"k": ("v",)}
    now[0] = token_review.KEPT_S - 1
    await reviewer.review("t", "a")
    assert len(client.requests) == 1
    await reviewer.review("t", "b")
    now[0] = token_review.KEPT_S + 1
    await reviewer.review("t", "a")
    assert len(client.requests) == 3


async def test_one_token_shown_a_hundred_times_and_a_flood_of_others() -> None:
    client = Client()
    reviewer = TokenReviewer(client, lambda: 0.0)
    client.open.clear()
    tasks = [asyncio.ensure_future(reviewer.review(f"t{number % 50}", "a")) for number in range(token_review.WAITING)]
    await asyncio.sleep(0)
    with pytest.raises(BusyError):
        await reviewer.review("one more", "a")
    client.open.set()
    await asyncio.gather(*tasks)
    assert client.most_at_once == token_review.AT_ONCE
    assert len(client.requests) < 50 + token_review.AT_ONCE


@pytest.mark.parametrize("answer", [b"", b"{", b"[]", b'{"status": {"authenticated": "yes"}}'])
async def test_no_answer_is_not_a_refusal_and_not_remembered(answer: bytes) -> None:
    client = Client(answer)
    reviewer = TokenReviewer(client, lambda: 0.0)
    for _ in range(2):
        with pytest.raises(UnavailableError):
            await reviewer.review("t", "a")
    assert len(client.requests) == 2
    client.answer = b"{}"
    assert not (await reviewer.review("t", "a")).authenticated


async def test_the_memory_is_bounded() -> None:
    client = Client()
    reviewer = TokenReviewer(client, lambda: 0.0)
    for number in range(token_review.MAX_KEPT + 10):
        await reviewer.review(str(number), "a")
    assert len(reviewer._kept) == token_review.MAX_KEPT
