"""The annotator of Symbolic-MoE: an LLM names the skills several times, a vote keeps some, the index snaps them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from router_service.errors import ConfigError, RouterError, UnknownNameError
from router_service.types import Ask, CompletionError, Message, Query, Question, Sampling, SkillAnnotation, stable_seed
from skills.base import ANNOTATORS, Embedder
from skills.index import SkillIndex
from skills.vote import SkillVote, parse_skills

__all__ = ["Llm"]

_log = logging.getLogger(__name__)

_PROMPT = """\
Here is a question. Do not answer it.

{question}

Which core knowledge, subjects or skills does somebody need to answer it? List 2 to 5 of them, separated by commas. \
Each is one or a few plain words, for example: psychology, virology, behavioral theory, microbiology, diplomacy, \
political science, property law, finance, business. Write only the keywords, on one line of exactly this form:

Keywords: first keyword, second keyword"""


@ANNOTATORS.register("llm")
@dataclass(kw_only=True)
class Llm:
    """Asks one expert `runs` times per query which skills it needs (Symbolic-MoE, section 3.1 and released code).

    All runs of all queries are asked at once, so that `ask` can coalesce them. A run that fails is left out, with one
    warning in the log for all of a call; a query whose runs all fail has no skills, and the recruiter's own rule for
    that applies.
    """

    expert: str
    """Id of the registered expert that is asked; the same one when fitting and when serving."""
    runs: int = 5
    """How often each query is asked."""
    temperature: float = 0.7
    """Sampling temperature of every run."""
    max_tokens: int = 512
    """Output limit of every run, in tokens; one that thinks aloud first needs more."""
    embedder: Embedder | str = "minilm_onnx"
    """Used to snap names to fitted skills; an `Embedder`, or the name of a registered one."""
    floor: float = 0.0
    """Cosine similarity below which a name snaps to no skill; the released code has no floor (-1)."""
    max_characters: int = 20
    """Longer names are dropped, however often they come."""
    min_votes: int = 2
    """How often a name must come to be kept."""
    count_once_per_run: bool = False
    """False counts repeats within one run, as released; True counts runs."""
    index_: SkillIndex = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.runs < 1 or self.max_tokens < 1 or self.temperature < 0.0 or not -1.0 <= self.floor <= 1.0:
            raise ConfigError(
                f"llm annotator: runs={self.runs}, max_tokens={self.max_tokens}, temperature={self.temperature}, "
                f"floor={self.floor}; needed: runs and max_tokens 1 or more, temperature 0 or more, floor in [-1, 1]"
            )
        if self.min_votes > self.runs:
            raise ConfigError(
                f"llm annotator: min_votes={self.min_votes} is out of reach of runs={self.runs}; "
                "ask more often or ask for fewer votes"
            )
        self._vote = SkillVote(
            max_characters=self.max_characters, min_votes=self.min_votes, count_once_per_run=self.count_once_per_run
        )
        self.index_ = SkillIndex(self.embedder)

    def fit(self, questions: Sequence[Question]) -> Llm:
        """Learn which skills there are: all that the questions name. `ConfigError` where none names any.

        Questions without skills get them from `name_skills`.
        """
        self.index_.fit_questions(questions)
        return self

    async def annotate(self, queries: Sequence[Query], *, ask: Ask) -> list[SkillAnnotation]:
        """One annotation per query, in order; the weight of a skill is how many kept names snapped to it."""
        self.index_.require_fitted()
        names = await self.name_skills(queries, ask=ask)
        found = await asyncio.to_thread(self.index_.weights_of_each, names, self.floor)
        return [
            SkillAnnotation(query_id=query.id, skills=skills, annotator="llm")
            for query, skills in zip(queries, found, strict=True)
        ]

    async def name_skills(self, queries: Sequence[Query], *, ask: Ask) -> list[tuple[str, ...]]:
        """The kept names of each query as the LLM wrote them, not snapped; needs no fit. Raises what only a broken
        set-up raises: `UnknownNameError` where the expert is not registered.
        """
        try:
            async with asyncio.TaskGroup() as group:
                asked = [group.create_task(self._run(query, i, ask)) for query in queries for i in range(self.runs)]
        except BaseExceptionGroup as broken:  # the other calls are cancelled by now
            raise broken.exceptions[0] from None
        runs = [task.result() for task in asked]
        self._warn_of([run for run in runs if isinstance(run, CompletionError)], len(runs))
        named = [() if isinstance(run, CompletionError) else run for run in runs]
        return [self._vote.kept(named[start : start + self.runs]) for start in range(0, len(named), self.runs)]

    def save(self, path: str | Path) -> None:
        """Write the fitted skills to one file."""
        self.index_.save(path)

    def load(self, path: str | Path) -> Llm:
        """Take the state that `save` wrote; returns itself."""
        self.index_.load(path)
        return self

    async def _run(self, query: Query, run: int, ask: Ask) -> tuple[str, ...] | CompletionError:
        """The names of one run, or why it failed."""
        try:
            completion = await ask(self.expert, self._question(query, run))
        except (UnknownNameError, ConfigError):
            raise
        except RouterError as failure:
            return CompletionError(code=failure.code, message=failure.message)
        return parse_skills(completion.text) if completion.error is None else completion.error

    def _warn_of(self, failures: Sequence[CompletionError], asked: int) -> None:
        if failures:
            _log.warning(
                "the llm annotator's expert %r failed in %d of %d runs, which are left out; the first: %s (%s)",
                self.expert,
                len(failures),
                asked,
                failures[0].message,
                failures[0].code,
            )

    def _question(self, query: Query, run: int) -> Query:
        text = _PROMPT.format(question=query.text)
        return Query(
            id=f"{query.id}#skills-{run}",
            messages=(Message(role="user", content=text),),
            sampling=Sampling(temperature=self.temperature, max_tokens=self.max_tokens),
            seed=stable_seed(query.seed, run),
            parent_id=query.id,
        )
