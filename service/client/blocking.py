"""The client for code that does not await."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from concurrent.futures import CancelledError
from contextlib import ExitStack
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, cast

from anyio.from_thread import start_blocking_portal

from service.client.asynchronous import AsyncClient
from service.client.leases import LeasedBatch

P = ParamSpec("P")
T = TypeVar("T")

END = object()


def _blocking(
    method: Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate["Client", P], T]:
    """The method, waited for."""

    @wraps(method)
    def call(self: "Client", *args: P.args, **kwargs: P.kwargs) -> T:
        return self._result_of(  # pyright: ignore[reportPrivateUsage]
            lambda: method(self.awaited, *args, **kwargs)
        )

    return call


def _iterating(
    method: Callable[Concatenate[AsyncClient, P], AsyncGenerator[T]],
) -> Callable[Concatenate["Client", P], Iterator[T]]:
    """What the method yields, each waited for."""

    @wraps(method)
    def call(self: "Client", *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        items = method(self.awaited, *args, **kwargs)

        async def following() -> T | object:
            return await anext(items, END)

        try:
            while True:
                item = self._result_of(following)  # pyright: ignore[reportPrivateUsage]
                if item is END:
                    return
                yield item  # pyright: ignore[reportReturnType]
        finally:
            self.portal.call(items.aclose)

    return call


class Client:
    """`AsyncClient` for code that does not await: the same calls, with the same arguments. Its
    event loop runs in a thread of its own, so that leases are renewed while the caller trains."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        namespace: str | None = None,
        retry_for_s: float = 60.0,
    ) -> None:
        """As of `AsyncClient`."""
        with ExitStack() as stack:
            self.portal = stack.enter_context(start_blocking_portal())

            async def build() -> AsyncClient:
                return AsyncClient(
                    url, api_key=api_key, namespace=namespace, retry_for_s=retry_for_s
                )

            self.awaited = self.portal.call(build)
            self._calls: set[asyncio.Task[Any]] = set()
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """As of `AsyncClient`; then its thread ends. Calls that are under way in other threads
        raise RuntimeError."""

        async def close() -> None:
            calls = self._calls.copy()
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            await self.awaited.close()

        with self._stack:
            self.portal.call(close)

    def _result_of(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What the call returns. Who is interrupted meanwhile (Ctrl-C) leaves nothing running."""

        async def run() -> T:
            task = cast(asyncio.Task[Any], asyncio.current_task())
            self._calls.add(task)
            try:
                return await call()
            finally:
                self._calls.discard(task)

        future = self.portal.start_task_soon(run)
        try:
            return future.result()
        except CancelledError:
            raise RuntimeError("The client was closed while this call was under way.") from None
        except BaseException:
            future.cancel()
            raise

    sample = _blocking(AsyncClient.sample)
    bdhs = _blocking(AsyncClient.bdhs)
    logprobs = _blocking(AsyncClient.logprobs)
    map = _iterating(AsyncClient.map)
    job = _blocking(AsyncClient.job)
    wait = _blocking(AsyncClient.wait)
    cancel = _blocking(AsyncClient.cancel)
    jobs = _blocking(AsyncClient.jobs)
    retry_dead_letter = _blocking(AsyncClient.retry_dead_letter)
    purge_dead_letters = _blocking(AsyncClient.purge_dead_letters)
    runs = _blocking(AsyncClient.runs)
    put_run = _blocking(AsyncClient.put_run)
    run = _blocking(AsyncClient.run)
    delete_run = _blocking(AsyncClient.delete_run)
    delete_group = _blocking(AsyncClient.delete_group)
    pairs_page = _blocking(AsyncClient.pairs_page)
    pairs = _iterating(AsyncClient.pairs)
    filtered_page = _blocking(AsyncClient.filtered_page)
    append = _blocking(AsyncClient.append)
    ack = _blocking(AsyncClient.ack)
    announce = _blocking(AsyncClient.announce)
    withdraw = _blocking(AsyncClient.withdraw)
    weights = _blocking(AsyncClient.weights)
    image = _blocking(AsyncClient.image)
    store_image = _blocking(AsyncClient.store_image)
    settings = _blocking(AsyncClient.settings)
    change_settings = _blocking(AsyncClient.change_settings)
    health = _blocking(AsyncClient.health)

    def lease(
        self,
        run: str,
        *,
        group: str = "trainer",
        size: int = 8,
        min_size: int | None = None,
        lease_s: float = 60.0,
        wait_s: float = 0,
    ) -> LeasedBatch | None:
        """As of `AsyncClient`."""
        leased = self._result_of(
            lambda: self.awaited.lease(
                run, group=group, size=size, min_size=min_size, lease_s=lease_s, wait_s=wait_s
            ),
        )
        return None if leased is None else LeasedBatch(leased, self._result_of)

    def batches(
        self,
        run: str,
        *,
        group: str = "trainer",
        size: int = 8,
        min_size: int | None = None,
        lease_s: float = 60.0,
        idle_s: float = float("inf"),
    ) -> Iterator[LeasedBatch]:
        """As of `AsyncClient`."""
        while leased := self.lease(
            run, group=group, size=size, min_size=min_size, lease_s=lease_s, wait_s=idle_s
        ):
            yield leased
