"""The folder of a profiling run: what is known already, a file that new outcomes are added to, then the artefact."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from eval.adaptive import ExpertEstimate
from eval.adaptive_record import forget_estimates, read_estimated_profiles, write_estimates
from experts_registry.artefact import Artefact
from experts_registry.records import append_outcomes, read_outcomes, read_questions, write_outcomes, write_questions
from router_service.errors import ConfigError
from router_service.files import write_atomically
from router_service.types import Completion, Expert, Outcome, Question

__all__ = ["ADAPTIVE_FILE", "TEXTS_FILE", "OutcomeKey", "ProfilingFolder", "recorded_completions"]

_log = logging.getLogger(__name__)

OutcomeKey = tuple[str, str, int]
"""Expert id, question id, sample: what is asked once and never again."""

TEXTS_FILE = "completions.jsonl"
"""What was said, word for word, beside the artefact; it may be deleted where no aggregator is going to be selected."""

ADAPTIVE_FILE = "adaptive.json"
"""Whose profile is an estimate from chosen questions, with its error bars, beside the artefact."""

_JOURNAL = "profiling.jsonl"
_QUESTIONS = "profiling.questions.jsonl"
_EXPERTS = "experts.json"
_LOCK = ".profiling.lock"


class ProfilingFolder:
    """One folder, one writer at a time (a second one is a `ConfigError`); used as a context manager.

    It remembers what each expert was when it was profiled: one whose model, adapter, persona or sampling changed since
    starts anew, and nobody else does.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self._lock: BinaryIO | None = None
        self._known: dict[OutcomeKey, Outcome] = {}

    def __enter__(self) -> ProfilingFolder:
        self.path.mkdir(parents=True, exist_ok=True)
        place = self.path.parent / f".{self.path.name}{_LOCK}"
        lock = place.open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_held = place.exists() and place.stat().st_ino == os.fstat(lock.fileno()).st_ino
        except OSError:
            is_held = False
        if not is_held:
            lock.close()
            raise ConfigError(
                f"{self.path} is in use: another process profiles into it; wait for it, or name another --out"
            )
        self._lock = lock
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._lock is not None:
            Path(self._lock.name).unlink(missing_ok=True)
            self._lock.close()

    def remembered(self, questions: Sequence[Question]) -> list[Question]:
        """The questions with the skills that an earlier run gave them; `ConfigError` where an id asks another thing."""
        earlier = {question.id: question for question in self._earlier_questions()}
        result = []
        for question in questions:
            old = earlier.get(question.id, question)
            same = replace(question, skills=old.skills) if not question.skills else question
            if same != old:
                raise ConfigError(
                    f"question {question.id!r} is not what {self.path} was made with (its text, answer, options or "
                    "labels differ); use the same questions, give it another id, or name another --out"
                )
            result.append(same)
        return result

    def begin(self, questions: Sequence[Question], experts: Sequence[Expert], *, pool_name: str) -> set[OutcomeKey]:
        """Note what is run on, forget what changed experts said, and return what need not be asked again."""
        artefact = self._artefact()
        stored = self._stored_experts()
        now = {expert.id: _fingerprint(expert) for expert in experts}
        changed = {name for name, print_ in now.items() if stored.get(name, print_) != print_}
        if changed:
            self._forget(changed, artefact, pool_name)
            artefact = self._artefact()
        merged = {question.id: question for question in (*self._earlier_questions(), *questions)}
        write_questions(self.path / _QUESTIONS, merged.values())
        _end_last_line(self.path / TEXTS_FILE)
        write_atomically(self.path / _EXPERTS, json.dumps({**stored, **now}, indent=1, sort_keys=True) + "\n")
        outcomes = (*(artefact.outcomes if artefact else ()), *self._journal())
        self._known = {_key(outcome): outcome for outcome in outcomes}
        return set(self._known)

    def add(self, outcome: Outcome, text: str) -> None:
        """Keep an outcome, on disk when this returns, and what was said for `enlist aggregator select`."""
        record = {"key": _key(outcome), "text": text}
        with (self.path / TEXTS_FILE).open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
        append_outcomes(self.path / _JOURNAL, [outcome])
        self._known[_key(outcome)] = outcome

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """Everything known since `begin`, in the order it became known."""
        return tuple(self._known.values())

    @property
    def questions(self) -> tuple[Question, ...]:
        """The questions of the artefact and of a run that was cut short."""
        return tuple({question.id: question for question in self._earlier_questions()}.values())

    def finish(
        self, questions: Sequence[Question], *, pool_name: str, estimates: Sequence[ExpertEstimate] = ()
    ) -> Artefact:
        """Fit profiles on everything known and save the artefact; the new outcomes' file is then no longer needed.

        Questions that only an earlier, killed run was given are part of it as far as they were answered. The profiles
        of `estimates`, and of earlier ones whose expert was asked nothing since, are kept as they were estimated: the
        questions behind them were chosen, so that counting wins would mislead.
        """
        if estimates:
            counts = Counter(outcome.expert_id for outcome in self.outcomes)
            write_estimates(self.path / ADAPTIVE_FILE, estimates, n_outcomes=counts)
        artefact = self._artefact()
        answered = {outcome.question_id for outcome in self._known.values()}
        earlier = [question for question in self._earlier_questions() if question.id in answered]
        known = (*(artefact.questions if artefact else ()), *earlier, *questions)
        merged = {question.id: question for question in known}
        fitted = self._fit(self._known.values(), list(merged.values()), pool_name)
        fitted.save(self.path)
        for name in (_JOURNAL, _QUESTIONS):
            (self.path / name).unlink(missing_ok=True)
        return fitted

    def _artefact(self) -> Artefact | None:
        return Artefact.load(self.path) if (self.path / "meta.json").exists() else None

    def _earlier_questions(self) -> list[Question]:
        artefact = self._artefact()
        path = self.path / _QUESTIONS
        return [*(artefact.questions if artefact else ()), *(read_questions(path) if path.exists() else ())]

    def _journal(self) -> list[Outcome]:
        path = self.path / _JOURNAL
        return read_outcomes(path) if path.exists() else []

    def _stored_experts(self) -> dict[str, str]:
        try:
            stored = json.loads((self.path / _EXPERTS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return {str(name): str(value) for name, value in stored.items()} if isinstance(stored, Mapping) else {}

    def _forget(self, expert_ids: set[str], artefact: Artefact | None, pool_name: str) -> None:
        kept = [outcome for outcome in self._journal() if outcome.expert_id not in expert_ids]
        write_outcomes(self.path / _JOURNAL, kept)
        forget_estimates(self.path / ADAPTIVE_FILE, expert_ids)
        if artefact is not None:
            outcomes = [outcome for outcome in artefact.outcomes if outcome.expert_id not in expert_ids]
            self._fit(outcomes, artefact.questions, pool_name).save(self.path)

    def _fit(self, outcomes: Iterable[Outcome], questions: Sequence[Question], pool_name: str) -> Artefact:
        ordered = sorted(outcomes, key=lambda o: (o.expert_id, o.question_id, o.sample))
        artefact = Artefact.fit(ordered, questions, pool_name=pool_name)
        counts = Counter(outcome.expert_id for outcome in ordered)
        estimated = read_estimated_profiles(self.path / ADAPTIVE_FILE, n_outcomes=counts)
        return replace(artefact, profiles={**artefact.profiles, **estimated})


def recorded_completions(path: Path, outcomes: Iterable[Outcome]) -> dict[str, list[Completion]]:
    """The completions behind an artefact's outcomes, by question id; the extracted answer where no text was kept."""
    texts = _texts(path / TEXTS_FILE)
    completions: dict[str, list[Completion]] = {}
    for outcome in outcomes:
        completion = Completion(
            query_id=outcome.question_id,
            expert_id=outcome.expert_id,
            sample=outcome.sample,
            text=texts.get(_key(outcome)) or outcome.extracted or "",
            extracted=outcome.extracted,
        )
        completions.setdefault(outcome.question_id, []).append(completion)
    return completions


def _end_last_line(path: Path) -> None:
    """Let the next text start a line of its own: half a line of a killed writer goes, for its outcome went too."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        data = file.read()
        last = data.rsplit(b"\n", 1)[-1]
        if last and _text_in(last) is None:
            file.truncate(len(data) - len(last))
        elif last:
            file.write(b"\n")


def _texts(path: Path) -> dict[OutcomeKey, str]:
    """The last text of each key; a line that cannot be read is left out, with a warning if it is not the last one."""
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    read = [_text_in(line) for line in lines]
    lost = sum(1 for line, text in zip(lines[:-1], read, strict=False) if line.strip() and text is None)
    if lost:
        _log.warning("%s: %d lines cannot be read; the extracted answer stands in for each of these texts", path, lost)
    return dict(text for text in read if text is not None)


def _text_in(line: bytes) -> tuple[OutcomeKey, str] | None:
    try:
        record = json.loads(line)
        expert_id, question_id, sample = record["key"]
        return (expert_id, question_id, sample), record["text"]
    except (ValueError, TypeError, KeyError):
        return None


def _key(outcome: Outcome) -> OutcomeKey:
    return outcome.expert_id, outcome.question_id, outcome.sample


def _fingerprint(expert: Expert) -> str:
    """What an expert's answers depend on; where it is reached, and at what price, is not part of it."""
    adapter = Path(expert.adapter).name if expert.adapter else None
    parts = (expert.model, adapter, expert.persona, repr(expert.sampling))
    return hashlib.sha256("\x1f".join(map(str, parts)).encode()).hexdigest()[:16]
