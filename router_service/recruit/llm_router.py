"""Recruiter `llm_router`: an LLM reads the question and the experts' descriptions, and names who is asked."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np

from router_service.errors import ConfigError, RouterError, UnknownNameError
from router_service.prompt_tokens import estimate_tokens
from router_service.recruit.base import RECRUITERS, ConsultingRecruiter, FitData, RecruitRequest, SequentialRecruiter
from router_service.recruit.choice_prompt import choice_format, choice_prompt, chosen_ids, describe
from router_service.recruit.eligibility import call_cost_usd
from router_service.recruit.ranking import best_of_pool, best_on_fit
from router_service.recruit.roster import Case, Choice, Roster, RosterRecruiter, require_k
from router_service.recruit.saved import Learned
from router_service.recruit.strength import Floats
from router_service.types import Ask, Message, Query, Sampling, stable_seed

__all__ = ["LlmRouter"]

_log = logging.getLogger(__name__)

_ADVICE_KEPT = 10_000
_SEED_BITS = 0xFFFF_FFFF_FFFF_FFFF


@RECRUITERS.register("llm_router")
class LlmRouter(RosterRecruiter):
    """An LLM as the router (LLMoE; Avengers and Tryage measure one as a baseline).

    One call a query, before recruiting: the expert `expert` (the best on fit where none is named) sees the question and
    the experts that may be asked, in an order drawn by the query's seed so that no place in the list is favoured, each
    with its description or what its profile shows; its reply is held to a JSON schema of their ids, and may take
    `max_tokens` and `timeout_s` seconds. The `k` experts that it names are asked; where it names fewer, the best on fit
    are added. What was said to the same question and list is remembered, saved too, and costs nothing the second time.

    The call is paid by the query's budget, and left out where nothing would be left for an expert. Where there is no
    usable reply, recruiter `fallback` decides, and the decision says why. An id outside the pool is never recruited.
    """

    name: ClassVar[str] = "llm_router"

    def __init__(
        self,
        *,
        k: int = 1,
        expert: str | None = None,
        fallback: str = "fixed",
        max_tokens: int = 256,
        timeout_s: float = 20.0,
    ) -> None:
        if max_tokens < 1 or not timeout_s > 0:
            raise ConfigError(
                f"recruiter {self.name!r}: max_tokens is {max_tokens} and timeout_s {timeout_s}; needed are 1 token or "
                "more, and a time above 0"
            )
        self.k = require_k(self.name, k)
        self.expert = expert
        self.fallback = fallback
        self.max_tokens = max_tokens
        self.timeout_s = timeout_s
        self._stand_in = self._made_fallback(fallback)
        self.needs_annotation = self._stand_in.needs_annotation
        self._advice: OrderedDict[str, str] = OrderedDict()

    @property
    def needs_embeddings(self) -> bool:  # type: ignore[override]
        """Where the fallback does."""
        return self._stand_in.needs_embeddings

    @property
    def goes_by_chance(self) -> bool:  # type: ignore[override]
        """Where the fallback does, which alone looks at these scores."""
        return self._stand_in.goes_by_chance

    def completions_for(self, query: Query) -> int:
        """The query's own `k`, else the recruiter's."""
        return self.k if query.controls.k is None else query.controls.k

    def _made_fallback(self, name: str) -> RosterRecruiter:
        made = None if name in (self.name, "named") else RECRUITERS.create(name)
        if not isinstance(made, RosterRecruiter) or isinstance(made, SequentialRecruiter | ConsultingRecruiter):
            raise ConfigError(
                f"recruiter {self.name!r}: fallback is {name!r}, which does not decide at once and by itself; "
                "choose one that does, such as 'fixed' or 'cluster_rank'"
            )
        return made

    # --- fitting ---------------------------------------------------------------------------------------------------

    def _learn(self, data: FitData, roster: Roster) -> None:
        self._stand_in.fit(data)
        self._prepare(roster)

    def _prepare(self, roster: Roster) -> None:
        if self.expert is not None and self.expert not in roster.ids:
            raise UnknownNameError("expert", self.expert, roster.ids)
        strongest = [roster.ids[i] for i in best_of_pool(roster) if roster.experts[i].is_enabled]
        self.expert_ = self.expert or next(iter(strongest), roster.ids[0])
        self._descriptions = [describe(expert, roster.profiles.get(expert.id)) for expert in roster.experts]

    def _learned(self) -> Learned:
        learned = self._stand_in._learned()
        return Learned(values={"fallback": dict(learned.values), "advice": dict(self._advice)}, arrays=learned.arrays)

    def _relearn(self, learned: Learned, roster: Roster) -> None:
        self._stand_in._relearn(Learned(values=learned.values["fallback"], arrays=learned.arrays), roster)
        self._stand_in.roster_ = roster
        self._advice = OrderedDict(learned.values["advice"])
        self._prepare(roster)

    # --- asking the LLM --------------------------------------------------------------------------------------------

    async def consult(self, requests: Sequence[RecruitRequest], *, ask: Ask) -> list[RecruitRequest]:
        """The requests with what the LLM said as `advice`, which stays None where it could not be asked or failed."""
        roster = self._require_fitted()
        queries = [self._question(roster, request) for request in requests]
        groups: dict[str, list[int]] = {}
        for number, query in enumerate(queries):
            if query is not None:
                groups.setdefault(_key(query), []).append(number)
        failures: list[str] = []
        turn = asyncio.Semaphore(roster.experts[roster.ids.index(self.expert_)].limits.max_concurrency)

        async def advise(key: str, numbers: Sequence[int]) -> None:
            for number in numbers:  # who asks the same asks only where the one before got no answer
                query = queries[number]
                if key in self._advice or query is None:
                    break
                async with turn:  # the time limit is for the call, not for standing in line behind the batch
                    reply = await self._reply(query, ask=ask, failures=failures)
                if reply is not None and chosen_ids(reply, roster.ids):
                    self._keep(key, reply)

        try:
            async with asyncio.TaskGroup() as group:
                for key, numbers in groups.items():
                    group.create_task(advise(key, numbers))
        except BaseExceptionGroup as broken:  # the other calls are cancelled by now
            raise broken.exceptions[0] from None
        self._warn_of(failures)
        advice = [None if query is None else self._advice.get(_key(query)) for query in queries]
        return [replace(request, advice=said) for request, said in zip(requests, advice, strict=True)]

    def _question(self, roster: Roster, request: RecruitRequest) -> Query | None:
        """What the LLM is asked for a request; None where there is nothing to choose or it would leave no budget."""
        case = self._case(roster, request)
        positions = list(case.shortlist.positions)
        if len(positions) < 2 or case.allowance.completions < 1:
            return None
        chance = np.random.Generator(np.random.PCG64(request.seed & _SEED_BITS))
        shown = [positions[place] for place in chance.permutation(len(positions)).tolist()]
        ids = [roster.ids[position] for position in shown]
        wanted = min(case.allowance.completions, len(shown))
        described = [(roster.ids[position], self._descriptions[position]) for position in shown]
        query = Query(
            id=f"{request.query.id}#route",
            messages=(Message(role="user", content=choice_prompt(request.query.text, described, wanted=wanted)),),
            task_format=choice_format(ids, wanted=wanted),
            sampling=Sampling(temperature=0.0, max_tokens=self.max_tokens),
            parent_id=request.query.id,
        )
        query = replace(query, seed=stable_seed(_key(query)))
        is_paid = _key(query) in self._advice or self._leaves_enough(roster, request, query)
        return query if is_paid else None

    def _leaves_enough(self, roster: Roster, request: RecruitRequest, query: Query) -> bool:
        """Whether the request's budget covers the LLM's call and at least one expert's after it."""
        budget = request.query.budget
        if budget.max_completions is not None and budget.max_completions < 2:
            return False
        if budget.max_output_tokens is not None and budget.max_output_tokens <= self.max_tokens:
            return False
        if budget.max_cost_usd is None:
            return True
        router = roster.experts[roster.ids.index(self.expert_)]
        own = call_cost_usd(router, query, estimate_tokens(query))
        tokens = estimate_tokens(request.query)
        costs = [
            call_cost_usd(roster.experts[i], request.query, tokens)
            for i in self._case(roster, request).shortlist.positions
        ]
        cheapest = min((cost for cost in costs if cost is not None), default=None)
        return own is not None and cheapest is not None and own + cheapest <= budget.max_cost_usd

    async def _reply(self, query: Query, *, ask: Ask, failures: list[str]) -> str | None:
        """What the LLM said; None, with the reason added to `failures`, where it failed or took too long."""
        try:
            completion = await asyncio.wait_for(ask(self.expert_, query), self.timeout_s)
        except TimeoutError:
            failures.append(f"no reply within {self.timeout_s:g} s")
        except RouterError as failure:
            failures.append(f"{failure.message} ({failure.code})")
        else:
            if completion.error is None:
                return completion.extracted or completion.text
            failures.append(f"{completion.error.message} ({completion.error.code})")
        return None

    def _keep(self, key: str, reply: str) -> None:
        self._advice[key] = reply
        while len(self._advice) > _ADVICE_KEPT:
            self._advice.popitem(last=False)

    def _warn_of(self, failures: Sequence[str]) -> None:
        if failures:
            _log.warning(
                "recruiter 'llm_router': expert %r, which chooses the experts, failed in %d calls; the first: %s",
                self.expert_,
                len(failures),
                failures[0],
            )

    # --- deciding --------------------------------------------------------------------------------------------------

    def _choose(self, roster: Roster, cases: Sequence[Case], scores: Floats) -> Sequence[Choice]:
        advised = [self._advised(roster, case) for case in cases]
        rest = [number for number, choice in enumerate(advised) if choice is None]
        if not rest:
            return [choice for choice in advised if choice is not None]
        others = self._stand_in._choose(roster, [cases[number] for number in rest], scores[rest])
        stand_ins = dict(zip(rest, others, strict=True))
        return [
            choice if choice is not None else self._explained(cases[number], stand_ins[number])
            for number, choice in enumerate(advised)
        ]

    def _advised(self, roster: Roster, case: Case) -> Choice | None:
        """The choice that the advice makes; None without usable advice."""
        may = {roster.ids[position]: position for position in case.shortlist.positions}
        named = [may[expert_id] for expert_id in chosen_ids(case.request.advice or "", may)]
        if not named:
            return None
        scores = [0.0] * len(roster.ids)
        for place, position in enumerate(named):
            scores[position] = 1.0 / (place + 1)
        order = [*named, *(position for position in best_on_fit(roster, case) if position not in named)]
        return Choice(positions=case.allowance.best_first(order), scores=scores)

    def _explained(self, case: Case, choice: Choice) -> Choice:
        """The fallback's choice with the reason for it, unless there was nothing to choose."""
        if len(case.shortlist.positions) < 2 or not choice.positions:
            return choice
        said = (
            f"no advice of {self.expert_!r} was to be had"
            if case.request.advice is None
            else f"{self.expert_!r} named nobody who may be asked"
        )
        own = f" ({choice.fallback_reason})" if choice.fallback_reason else ""
        return replace(choice, fallback_reason=f"{said}, so recruiter {self.fallback!r} decided{own}")


def _key(query: Query) -> str:
    """The same for the same prompt: question, experts, their descriptions and order, and how many are wanted."""
    parts = f"{query.messages[0].text}\x1f{query.task_format.json_schema}"
    return hashlib.blake2b(parts.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
