"""The generator of one version, on the event loop: it takes requests, and gives pieces to readers.

The work is done in a thread of its own, see `writer.py`; nothing in here waits for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from copy import copy
from functools import partial
from math import inf
from typing import Final, Protocol

from aiaas_server.core.errors import (
    DeadlineExceeded,
    InvalidInput,
    ModelUnavailable,
    QueueFull,
    ServerError,
)
from aiaas_server.core.events import CALLER, NOBODY, Caller
from aiaas_server.core.generation import (
    Ask,
    Chat,
    Format,
    GenerationLimits,
    Prompt,
    Sampling,
    Served,
)
from aiaas_server.generate.accounts import Accounts, Counts, Course
from aiaas_server.generate.answering import Written
from aiaas_server.generate.checks import check_ask
from aiaas_server.generate.job import Follows, Job, Manner
from aiaas_server.generate.network import Network
from aiaas_server.generate.pace import Pace
from aiaas_server.generate.settings import GenerationSettings
from aiaas_server.generate.vocabulary import Vocabulary
from aiaas_server.generate.writer import FillsMasks, Sent, Writer

_log = logging.getLogger("aiaas_server")

SHORT: Final = 2000
"""Characters that are made tokens on the loop: a hop to a thread would take longer."""
_UNLOADED: Final = "the model was unloaded"


class Formats(Protocol):
    """Compiles formats for one model."""

    def matcher(self, format: Format) -> Follows:
        """What holds one answer to it; blocking. Raises InvalidInput where it cannot be met."""
        ...

    def masks(self) -> FillsMasks:
        """What finds the tokens that matchers permit."""
        ...


WritePrompt = Callable[[Chat], Prompt]
"""Writes a conversation as a model reads it; blocking. Raises InvalidInput."""


class Engine:
    """`core.generation.Generator`.

    Args:
        vocabulary: Its tokens; None where it is given and gives ids only.
        write_prompt: None where it has no template for conversations.
        pace: What is known of the network's times.

    Attributes:
        counts: For the metrics page.
    """

    def __init__(
        self,
        served: Served,
        settings: GenerationSettings,
        network: Network,
        limits: GenerationLimits,
        vocabulary: Vocabulary | None,
        write_prompt: WritePrompt | None,
        formats: Formats | None,
        pace: Pace,
    ) -> None:
        self.context = network.context
        self.vocabulary = network.vocabulary
        self.reads_text = vocabulary is not None
        self.reads_chats = write_prompt is not None
        self.defaults: Sampling = settings.defaults.sampling()
        self.counts = Counts(slots=network.slots, network=network.measures())
        self._name = served.name
        self._begin = settings.begin
        self._constants = settings.constants
        self._texts = vocabulary
        self._write_prompt = write_prompt
        self._formats = formats
        self._manner = Manner(
            network.vocabulary,
            network.context,
            frozenset(settings.end),
            settings.suppress,
            settings.suppress_first,
            vocabulary,
        )
        self._most = network.slots + limits.queue
        self._accounts = Accounts(served, self.counts)
        self._jobs: set[Job] = set()  # whose answers are not over; of the loop
        self._refusal: Exception | None = None
        self._writer = Writer(
            served.name,
            network,
            pace,
            served.statistics,
            self.counts,
            hand_over,
            self._thread_ended,
            formats.masks if formats is not None else _no_masks,
            speculate=limits.speculate,
        )
        self._writer.thread.start()

    # Text

    async def encode(self, text: str) -> tuple[int, ...]:
        """The tokens of a text, behind those that begin every one.

        Raises:
            InvalidInput: The model has no tokenizer, or cannot read the text, or the text is far
                longer than the context.
        """
        if self._texts is None:
            raise InvalidInput(f"model '{self._name}' has no tokenizer: it reads tokens only")
        if len(text) <= SHORT:
            return (*self._begin, *self._texts.encode(text))
        return (*self._begin, *await asyncio.to_thread(self._texts.encode, text, self.context))

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, special ones left out; "" without a tokenizer."""
        return "" if self._texts is None else self._texts.decode(tokens)

    async def prompt(self, chat: Chat) -> Prompt:
        """Write a conversation as the model's template has it.

        Raises:
            InvalidInput: There is no template, or it refuses the conversation.
        """
        if self._write_prompt is None:
            raise InvalidInput(
                f"model '{self._name}' has no template for conversations: it goes on with texts, "
                "by /v1/completions"
            )
        return await asyncio.to_thread(self._write_prompt, chat)

    # Answers

    async def start(self, ask: Ask, deadline: float, caller: Caller = NOBODY) -> Written:
        """Begin an answer; see `core.generation.Generator`."""
        who = CALLER.get() if caller is NOBODY else caller
        try:
            job = await self._job(ask, deadline, who)
            self._jobs.add(job)  # first: should the thread end now, this one is told as well
            if not self._writer.begin(job):
                self._jobs.discard(job)
                raise ModelUnavailable(_UNLOADED, retry_after=1.0)
        except ServerError as error:
            raise self._accounts.refused(error, who) from None
        self._accounts.accepted(job.course)
        if deadline < inf:
            job.timer = job.loop.call_at(deadline, self._expire, job)
        return job.written

    async def _job(self, ask: Ask, deadline: float, caller: Caller) -> Job:
        self._refuse(deadline)
        check_ask(ask, self.context, self.vocabulary, self._constants, reads_text=self.reads_text)
        matcher: Follows | None = None
        if ask.format is not None and self._formats is not None:
            matcher = await asyncio.to_thread(self._formats.matcher, ask.format)
            self._refuse(deadline)
        written = Written(len(ask.tokens))
        course = Course(caller, 0 if ask.is_again else len(ask.tokens))
        loop = asyncio.get_running_loop()
        job = Job(ask, self._manner, _fair_key(caller), loop, written, course, matcher)
        written.ended = partial(self._ended, job)
        return job

    def _refuse(self, deadline: float) -> None:
        """Raise if nothing may begin."""
        if self._refusal is not None:
            raise copy(self._refusal)
        if deadline <= asyncio.get_running_loop().time():
            raise self._late()
        if len(self._jobs) >= self._most:
            raise QueueFull(
                f"model '{self._name}' writes and queues {self._most} answers: no room for more",
                retry_after=1.0,
            )

    def _late(self) -> DeadlineExceeded:
        return DeadlineExceeded(f"the deadline passed before model '{self._name}' had answered")

    def _expire(self, job: Job) -> None:
        job.written.fail(self._late())

    def _ended(self, job: Job, error: Exception | None) -> None:
        """An answer is over, complete or not; the thread may not know it yet."""
        if job.timer is not None:
            job.timer.cancel()
        self._jobs.discard(job)
        if error is not None or job.written.cancelled:
            self._writer.leave(job)
        self._accounts.ended(job.course, error, cancelled=job.written.cancelled)

    # The end

    def refuse(self, error: Exception) -> None:
        """End all answers with `error`, and take no more."""
        self._refusal = self._refusal or error
        for job in list(self._jobs):
            job.written.fail(error)

    def close(self) -> None:
        """Let go of the memory; answers that are still written end as if unloaded."""
        self.refuse(ModelUnavailable(_UNLOADED, retry_after=1.0))
        self._writer.close()

    def wait_closed(self, timeout: float | None = None) -> bool:
        """Block until the thread has ended; False where it has not within `timeout` seconds."""
        self._writer.thread.join(timeout)
        return not self._writer.thread.is_alive()

    def _thread_ended(self, error: Exception | None) -> None:
        """In the thread: tell all readers, so that nobody waits for what never comes."""
        if error is None:
            return  # it was closed, and they know
        self._refusal = self._refusal or ModelUnavailable(
            f"model '{self._name}' cannot write any more: {error}", retry_after=1.0
        )
        for loop in {job.loop for job in list(self._jobs)}:
            try:
                loop.call_soon_threadsafe(self.refuse, error)
            except RuntimeError:  # closed
                continue


def hand_over(sent: Sequence[Sent]) -> None:
    """Give readers what one run wrote; on their loop."""
    for one in sent:
        try:
            _give(one)
        except Exception:  # the others are not to wait for ever
            _log.exception("handing over what was written failed")


def _give(one: Sent) -> None:
    job, written = one.job, one.job.written
    written.cached_tokens, written.probed = job.cached, job.probed or ()
    if one.piece is not None:
        written.take(one.piece, one.tokens)
    elif one.error is not None:
        written.fail(one.error)


def _fair_key(caller: Caller) -> str:
    """Between whom slots are shared: tenants where there are keys, else whoever tells itself."""
    identity = caller.identity
    if identity.key_id or not caller.sticky:
        return identity.tenant
    return f"{identity.tenant} {caller.sticky}"


def _no_masks() -> FillsMasks:
    raise AssertionError("formats are refused where there is no tokenizer")
