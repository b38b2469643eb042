"""Chooses among candidates of code by what they do: tests are gathered, run in the sandbox, and the passes weighed."""

from __future__ import annotations

import asyncio
import copy
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from aggregators.ballot import answer_of, gather_votes
from aggregators.base import Aggregator, PlannedCall
from aggregators.briefs import planned_call, put
from aggregators.code_tests import CheckedCandidates, check_candidates, defined_names, read_tests, signatures
from aggregators.equivalence import AnswerGroup, held_answer
from aggregators.majority import Majority
from aggregators.pass_matrix import PassMatrix, pass_groups
from aggregators.prompting import Stage, child_query, fill_prompt
from aggregators.standing import kept_without_a_call, needs_no_call, vote_stands
from router_service.errors import ConfigError
from router_service.types import Answer, AnswerKind, Ask, Completion, ExecutingAsk, Panel, Query, Usage

__all__ = ["CodeChoice"]

_PROMPT = "write_tests_v1"
_TEST_TOKENS = 1024

_GIVEN_TESTS = "tests"
"""Key of a query's metadata under which the caller gives tests, as Python text."""

_MAX_GIVEN_TESTS = 64

_MAX_SIGNATURE_CHARS = 200
"""A longer one is not shown to testers: a candidate must not fill their windows."""


class CodeChoice(ABC):
    """The member whose code a rule picks from the pass matrix: its rows the candidates, its columns the tests.

    Every tester is asked once for tests; none is shown a candidate, only how what they define is called, so that tests
    err independently of the code (as in CodeT). Tests that the caller gives (the query's metadata, key `tests`) are
    trusted: candidates that pass fewer of them than others are out before the rule is asked. Candidates that pass the
    very same tests are one group; where the rule finds several groups level, the largest wins, then the one whose first
    member came earliest, and that member's text is the answer.

    The majority's answer stands, with a note, for an answer that is no code, where programs cannot be run, where no
    test is to be had, and where no candidate passes any. Agreement is the share of members in the group that won.
    """

    keeps_text = True
    needs_sandbox: ClassVar[bool] = True
    """An engine that aggregates by this one as its default is not built where there is no sandbox."""

    name: ClassVar[str]

    def __init__(
        self,
        *,
        testers: list[str] | None = None,
        max_testers: int = 4,
        tests: int = 10,
        test_s: float = 2.0,
    ) -> None:
        """`testers` are experts by id; without them the panel's own, the best `max_testers` of them. Each writes
        `tests` tests at most, and each test of a candidate may take `test_s` seconds."""
        if max_testers < 1 or tests < 0 or test_s <= 0:
            raise ConfigError(
                f"{self.name} has max_testers {max_testers}, tests {tests} and test_s {test_s:g}; "
                "allowed are 1 or more, 0 or more, and more than 0"
            )
        self.testers = testers
        self.max_testers = max_testers
        self.tests = tests
        self.test_s = test_s

    @abstractmethod
    def choose(self, matrix: PassMatrix) -> tuple[int, ...]:
        """The candidates that the rule finds best, by position."""

    def plan(self, panel: Panel) -> tuple[PlannedCall, ...]:
        """One call for each tester."""
        if panel.query.task_format.kind is not AnswerKind.CODE or needs_no_call(panel):
            return ()
        return tuple(planned_call(panel, tester, query) for tester, query in self._questions(panel))

    def degraded(self) -> Aggregator:
        """Half the testers; after a single one, the majority."""
        if self.max_testers == 1:
            return Majority()
        cheaper = copy.copy(self)
        cheaper.max_testers = self.max_testers // 2
        return cheaper

    async def aggregate(self, panel: Panel, *, ask: Ask) -> Answer:
        """The text of the member that the rule picks, unchanged."""
        groups = await gather_votes(panel)
        kept = await kept_without_a_call(panel, groups, ask=ask, aggregator=self.name)
        if kept is not None:
            return kept
        if panel.query.task_format.kind is not AnswerKind.CODE:
            return await vote_stands(panel, ask=ask, because="only code can be put to tests")
        if not isinstance(ask, ExecutingAsk):
            return await vote_stands(panel, ask=ask, because="programs cannot be run here")
        tests = await self._gather_tests(panel, ask)
        if not tests.all:
            because = tests.problems[0] if tests.problems else "nobody gave a test that could be read"
            return await vote_stands(panel, ask=ask, because=because, usage=tests.usage)
        return await self._tried(panel, tests, ask)

    async def _tried(self, panel: Panel, tests: _Tests, ask: ExecutingAsk) -> Answer:
        members = [member for member in panel.members if held_answer(member, panel.query.task_format) is not None]
        sources = [member.extracted or "" for member in members]
        try:
            checked = await check_candidates(
                sources, tests.all, ask=ask, query=panel.query, test_s=self.test_s, first_tests=len(tests.given)
            )
        except ConfigError as missing:
            return await vote_stands(panel, ask=ask, because=missing.message, usage=tests.usage)
        if not any(map(any, checked.matrix)):
            because = f"none of {len(sources)} candidates passed any of {len(checked.tests)} tests"
            return await vote_stands(panel, ask=ask, because=because, usage=tests.usage, notes=tests.problems)
        group = _winning_group(members, self._winners(checked), checked)
        return replace(answer_of(panel, group, aggregator=self.name), usage=tests.usage, notes=tests.problems)

    def _winners(self, checked: CheckedCandidates) -> list[int]:
        """The positions that the rule picks among those that pass most of the given tests."""
        passed = [sum(row[: checked.first_tests]) for row in checked.matrix]
        left = [position for position, count in enumerate(passed) if count == max(passed)]
        return [left[place] for place in self.choose([checked.matrix[position] for position in left])]

    async def _gather_tests(self, panel: Panel, ask: Ask) -> _Tests:
        names = frozenset[str]().union(*(defined_names(member.extracted or "") for member in panel.members))
        given = read_tests(panel.query.metadata.get(_GIVEN_TESTS, ""), names, limit=_MAX_GIVEN_TESTS)
        questions = self._questions(panel)
        replies = await asyncio.gather(*(put(query, expert_id=tester, ask=ask) for tester, query in questions))
        found = dict.fromkeys(given)
        problems = []
        for (tester, _), reply in zip(questions, replies, strict=True):
            read = read_tests(reply.text, names, limit=self.tests)
            found |= dict.fromkeys(read)
            if not read:
                problems.append(reply.problem or f"no test could be read out of what {tester} wrote")
        usage = sum((reply.usage for reply in replies), Usage())
        return _Tests(given=given, all=tuple(found), usage=usage, problems=tuple(problems))

    def _questions(self, panel: Panel) -> list[tuple[str, Query]]:
        """Who is asked for tests, and how."""
        if self.tests == 0:
            return []
        parts = {"question": panel.query.text, "count": str(self.tests), "entry": _entry(panel)}
        text = fill_prompt(_PROMPT, **parts)
        testers = list(dict.fromkeys(self.testers or _best_first(panel)))[: self.max_testers]
        stages = [Stage(name=f"{self.name}/{tester}", prompt=_PROMPT, max_tokens=_TEST_TOKENS) for tester in testers]
        return [(tester, child_query(panel, text, stage=s)) for tester, s in zip(testers, stages, strict=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tests:
    """All tests, the caller's first; what asking for the others took, and what went wrong."""

    given: tuple[str, ...]
    all: tuple[str, ...]
    usage: Usage = Usage()
    problems: tuple[str, ...] = field(default=())


def _winning_group(members: Sequence[Completion], winners: Sequence[int], checked: CheckedCandidates) -> AnswerGroup:
    """The largest group among the winners, the earliest of those that are level."""
    groups = pass_groups([checked.matrix[position] for position in winners])
    largest = max(groups, key=lambda group: len(group.members))
    return AnswerGroup(
        key="".join("01"[cell] for cell in largest.row),
        members=tuple(members[winners[place]] for place in largest.members),
    )


def _entry(panel: Panel) -> str:
    """How the candidates say that they are called: what most of them define, for a task that leaves the name open."""
    found = [name for member in panel.members for name in dict.fromkeys(signatures(member.extracted or ""))]
    counted = Counter(name for name in found if len(name) <= _MAX_SIGNATURE_CHARS)
    if not counted:
        return ""
    most = max(counted.values())
    shown = sorted(name for name, count in counted.items() if count == most)[:5]
    return f"\nSolutions define: {', '.join(f'`{name}`' for name in shown)}\n"


def _best_first(panel: Panel) -> list[str]:
    """The panel's experts, those most likely to be right first."""
    experts = dict.fromkeys(member.expert_id for member in panel.members)
    scores = {recruit.expert_id: (recruit.p_correct or 0.0, recruit.score) for recruit in panel.decision.recruits}
    return sorted(experts, key=lambda expert_id: scores.get(expert_id, (0.0, 0.0)), reverse=True)
