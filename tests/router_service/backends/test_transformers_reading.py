"""The embedded engine reads texts as transformers itself reads them, whatever else is in the batch."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router_service.backends._transformers_model import ResidentBase
from router_service.backends._transformers_reading import ReadRow, read
from router_service.backends.base import ScoringBackend
from router_service.backends.transformers import Transformers
from router_service.errors import ExpertRefused, ExpertUnavailable
from router_service.types import Completion, ImagePart, Message, Query, TextPart, TextScore, user_query
from tests.router_service.backends.tiny_models import ask, batch_of, save_adapter, save_model, tiny_expert

CASES = (
    ("a", "yes"),
    ("what is 3 + 4?", "it is 7, I think, for 3 and 4 are 7"),
    ("a much longer question about nothing at all", "n"),
    ("a", "no, never"),
    ("what is 3 + 4?", ""),
    ("Größe", "größer"),
)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    """Tiny products gain nothing from threads, and lose much where other work fills the cores."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_model(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture(scope="module")
def adapter(base: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_adapter(tmp_path_factory.mktemp("adapters") / "one", base, seed=1)


@pytest.fixture(scope="module")
def engine() -> Iterator[Transformers]:
    backend = Transformers(threads=1, batch_size=4, device="cpu")
    yield backend
    asyncio.run(backend.aclose())


def asked(cases: Sequence[tuple[str, str]]) -> list[tuple[Query, str]]:
    return [(user_query(f"q{i}", question), said) for i, (question, said) in enumerate(cases)]


def by_hand(base: str, cases: Sequence[tuple[str, str]], *, head: str = "", adapter: str | None = None) -> list[float]:
    """The sum of log-softmax over one unpadded forward pass per text, the adapter beside the weights: the oracle."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base)
    model = peft.PeftModel.from_pretrained(model, adapter) if adapter else model
    sums = []
    for question, said in cases:
        prompt = tokenizer(f"{head}<|u|>{question}<|end|><|a|>", add_special_tokens=False)["input_ids"]
        text = tokenizer(said, add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            logprobs = model(input_ids=torch.tensor([prompt + text])).logits[0].double().log_softmax(-1)
        sums.append(sum(float(logprobs[len(prompt) + i - 1, token]) for i, token in enumerate(text)))
    return sums


def sums(scores: Sequence[TextScore]) -> list[float]:
    return [score.logprob_sum for score in scores]


async def test_scores_are_the_softmax_computed_by_hand(engine: Transformers, base: str) -> None:
    assert isinstance(engine, ScoringBackend)
    scores = await engine.score(tiny_expert(base), asked(CASES))
    assert sums(scores) == pytest.approx(by_hand(base, CASES), abs=1e-3)
    assert [score.tokens for score in scores] == [len(said.encode()) for _, said in CASES]  # a token is a byte there
    assert len({round(value, 3) for value in sums(scores)}) == len(CASES)
    assert scores[4] == TextScore(logprob_sum=0.0, tokens=0)


async def test_the_persona_and_the_adapter_count(engine: Transformers, base: str, adapter: str) -> None:
    wise = tiny_expert(base, persona="Be wise.")
    scores = await engine.score(wise, asked(CASES))
    assert sums(scores) == pytest.approx(by_hand(base, CASES, head="<|s|>Be wise.<|end|>"), abs=1e-3)
    specialist = tiny_expert(base, name="specialist", adapter=adapter)
    with_adapter = await engine.score(specialist, asked(CASES))
    assert sums(with_adapter) == pytest.approx(by_hand(base, CASES, adapter=adapter), abs=2e-3)
    plain = await engine.score(tiny_expert(base), asked(CASES))
    assert sums(plain) == pytest.approx(by_hand(base, CASES), abs=1e-3)
    assert sums(plain) != pytest.approx(sums(with_adapter), abs=0.1)


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cases=st.lists(
        st.tuples(st.sampled_from(["a", "how?", "which of the two? " * 4]), st.text(max_size=12)), max_size=9
    )
)
def test_together_equals_one_by_one(engine: Transformers, base: str, cases: list[tuple[str, str]]) -> None:
    expert = tiny_expert(base)

    async def both() -> tuple[list[TextScore], list[TextScore]]:
        alone = [(await engine.score(expert, [text]))[0] for text in asked(cases)]
        return await engine.score(expert, asked(cases)), alone

    together, alone = asyncio.run(both())
    assert sums(together) == pytest.approx(sums(alone), abs=1e-3)
    assert [score.tokens for score in together] == [score.tokens for score in alone]


@pytest.mark.parametrize("most_logits", [1, 2 * 260 * 5, 1 << 20])
def test_long_texts_are_read_in_pieces(base: str, most_logits: int) -> None:
    resident = ResidentBase.load(Path(base), dtype="float32", device="cpu")
    rows = [
        ReadRow(prompt=resident.encode(query.messages, persona=None), text=resident.encode_text(said))
        for query, said in asked(CASES)
        if said
    ]
    read(resident, rows, is_cancelled=lambda row: False, most_logits=most_logits)
    wanted = by_hand(base, [case for case in CASES if case[1]])
    assert [row.logprob_sum for row in rows] == pytest.approx(wanted, abs=1e-3)


async def test_who_asks_at_the_same_time_gets_the_own_scores(engine: Transformers, base: str) -> None:
    expert = tiny_expert(base)
    one, other = asked(CASES[:3]), asked(CASES[3:])

    async def written() -> list[str]:
        pieces = engine.complete(expert, batch_of(expert, ask("hello")))
        return [piece.text async for piece in pieces if isinstance(piece, Completion)]

    texts, first, second, none = await asyncio.gather(
        written(), engine.score(expert, one), engine.score(expert, other), engine.score(expert, [])
    )
    assert sums(first) + sums(second) == pytest.approx(by_hand(base, CASES), abs=1e-3)
    assert none == []
    assert texts == await written()


async def test_what_cannot_be_read_is_refused_and_leaves_others_alone(engine: Transformers, base: str) -> None:
    expert = tiny_expert(base)
    image = Query(id="i", messages=(Message(role="user", content=(TextPart(text="?"), ImagePart(url="u"))),))
    tool = Query(id="t", messages=(Message(role="tool", content="x"),))
    good = asked(CASES[:1])
    for texts, complaint in (
        ([*good, (image, "x")], "reads text only"),
        ([(tool, "x")], "chat template"),
        ([(user_query("q", "a"), "x" * 255)], r"window of 256 tokens, and the query has 259"),
    ):
        with pytest.raises(ExpertRefused, match=complaint):
            await engine.score(expert, texts)
    with pytest.raises(ExpertRefused, match="window of 20 tokens"):
        await engine.score(tiny_expert(base, context_window=20), asked([("a", "x" * 20)]))
    wrong = asyncio.create_task(engine.score(expert, [(image, "x")]))
    assert len(await engine.score(expert, good)) == 1
    with pytest.raises(ExpertRefused):
        await wrong


async def test_who_goes_away_and_who_is_closed_out(base: str) -> None:
    backend = Transformers(threads=1, batch_size=1, device="cpu")
    expert = tiny_expert(base)
    await backend.score(expert, asked(CASES[:1]))
    long = asked([("which? " * 20, "y" * 90)] * 400)
    gone = asyncio.create_task(backend.score(expert, long))
    await asyncio.sleep(0.05)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    async with asyncio.timeout(20):
        assert len(await backend.score(expert, asked(CASES))) == len(CASES)
    closed = asyncio.create_task(backend.score(expert, long))
    waiting = asyncio.create_task(backend.score(expert, asked(CASES)))
    await asyncio.sleep(0.05)
    await backend.aclose()
    for task in (closed, waiting):
        with pytest.raises(ExpertUnavailable, match="was closed"):
            await task


async def test_an_error_of_torch_is_an_unavailable_expert(tmp_path: Path) -> None:
    """A model whose vocabulary is smaller than its tokenizer's: the tokens it does not know break the forward pass."""
    expert = tiny_expert(save_model(tmp_path / "small", vocabulary=100))
    backend = Transformers(threads=1, device="cpu")
    with pytest.raises(ExpertUnavailable, match="failed in the embedded engine"):
        await backend.score(expert, asked(CASES))
    await backend.aclose()


@pytest.mark.slow
async def test_the_built_in_model_and_its_specialists_read_as_transformers_does() -> None:
    from experts_registry.pool import load_pool

    pool = load_pool("local")
    backend = Transformers(device="cpu")
    cases = [
        ("What is the capital of France?", "The capital of France is Paris."),
        ("What is the capital of France?", "The capital of France is Berlin."),
        ("What is 17 + 25?", "42"),
        ("What is 17 + 25?", ""),
    ]
    for expert_id in ("generalist", "arithmetic", "roman", "generalist"):
        expert = pool.expert(expert_id)
        scores = await backend.score(expert, asked(cases))
        wanted = await asyncio.to_thread(smollm2_by_hand, expert.adapter, cases)
        assert sums(scores) == pytest.approx(wanted, abs=0.01)
    assert scores[0].mean_logprob > scores[1].mean_logprob
    await backend.aclose()


def smollm2_by_hand(adapter: str | None, cases: Sequence[tuple[str, str]]) -> list[float]:
    import peft
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from experts_registry.local.weights import base_model_dir

    tokenizer = AutoTokenizer.from_pretrained(base_model_dir())
    model = AutoModelForCausalLM.from_pretrained(base_model_dir())
    model = peft.PeftModel.from_pretrained(model, adapter) if adapter else model
    found = []
    for question, said in cases:
        turns = [{"role": "user", "content": question}]
        prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)["input_ids"]
        text = tokenizer(said, add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            logprobs = model(input_ids=torch.tensor([[*prompt, *text]])).logits[0].double().log_softmax(-1)
        found.append(sum(float(logprobs[len(prompt) + i - 1, token]) for i, token in enumerate(text)))
    return found
