"""From a published recording to a dataset that `eval replay` reads: split, prices, what is left out, what is told."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.convert.base import TO_SPLIT
from eval.convert.conversion import ConversionPlan, convert
from eval.convert.splitting import split_questions
from eval.datasets import load_dataset
from eval.question_text import normalised_text
from router_service.errors import ConfigError, RouterError, UnknownNameError
from router_service.types import Prices, Question
from tests.eval.convert import published
from tests.eval.convert.published import LAYOUTS, N


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_written_can_be_replayed(layout, tmp_path):
    conversion = convert(LAYOUTS[layout](tmp_path / "source"), tmp_path / "out", ConversionPlan(layout=layout))
    dataset = load_dataset(tmp_path / "out")
    assert conversion.splits["fit"] == len(dataset.split("fit")) > 0
    assert conversion.splits["test"] == len(dataset.split("test")) > 0
    (pool,) = dataset.pools
    assert set(dataset.pools[pool]) == set(conversion.answered)
    assert set(conversion.answered.values()) == {sum(conversion.splits.values())}
    assert {o.cost_usd is None for samples in dataset.recorded.values() for o in samples} == {layout != "routerbench"}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_recording_converts_to_the_same_bytes(layout, tmp_path):
    source = LAYOUTS[layout](tmp_path / "source")
    for out in ("one", "two"):
        convert(source, tmp_path / out, ConversionPlan(layout=layout, name="same"))
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_problems_refuse_the_recording_and_are_counted(tmp_path):
    records = [published.mmlu_pro_record(n, "B" if n else "?") for n in range(N)] + ["x"] * 11
    source = published.write_json(tmp_path / "m.json", records)
    with pytest.raises(ConfigError, match=r"12 records cannot be used.*--skip-bad") as refused:
        convert(source, tmp_path / "out", ConversionPlan(layout="mmlu_pro"))
    assert "m.json, row 1: pred is '?'" in refused.value.message
    assert "and 2 more" in refused.value.message
    assert not (tmp_path / "out").exists()


def test_problems_that_are_skipped_are_told_and_written_down(tmp_path):
    records = [published.mmlu_pro_record(n, "B" if n else "?") for n in range(N)]
    source = published.write_json(tmp_path / "m.json", records)
    conversion = convert(source, tmp_path / "out", ConversionPlan(layout="mmlu_pro", skips_bad=True))
    assert [problem.place for problem in conversion.problems] == ["m.json, row 1"]
    assert sum(conversion.splits.values()) == N - 1
    notes = json.loads((tmp_path / "out" / "dataset.json").read_text())["notes"]
    assert any(note.startswith("left out: m.json, row 1: pred is '?'") for note in notes)


def test_only_common_questions_are_kept_where_that_is_asked_for(tmp_path):
    folder = published.write_mmlu_pro(tmp_path / "source")
    published.write_json(folder / "late" / "a_result.json", [published.mmlu_pro_record(n, "B") for n in range(N - 2)])
    everything = convert(folder, tmp_path / "all", ConversionPlan(layout="mmlu_pro"))
    assert (everything.answered["late"], everything.answered["beta"], everything.n_left_out) == (N - 2, N, 0)
    common = convert(folder, tmp_path / "common", ConversionPlan(layout="mmlu_pro", keeps_common_only=True))
    assert (set(common.answered.values()), common.n_left_out) == ({N - 2}, 2)


def test_no_common_question_is_an_error(tmp_path):
    for model, numbers in (("a", range(6)), ("b", range(6, 12))):
        records = [published.mmlu_pro_record(n, "B") for n in numbers]
        published.write_json(tmp_path / "source" / model / "x_result.json", records)
    with pytest.raises(ConfigError, match="no question was answered by all of a, b"):
        convert(tmp_path / "source", tmp_path / "out", ConversionPlan(layout="mmlu_pro", keeps_common_only=True))


def test_a_dataset_is_not_overwritten_by_accident(tmp_path):
    source = published.write_routerbench(tmp_path / "source")
    convert(source, tmp_path / "out", ConversionPlan(layout="routerbench"))
    with pytest.raises(ConfigError, match="holds a dataset already"):
        convert(source, tmp_path / "out", ConversionPlan(layout="routerbench"))
    again = convert(source, tmp_path / "out", ConversionPlan(layout="routerbench", overwrites=True, fit_share=0.3))
    assert sum(again.splits.values()) == N


def test_an_unknown_layout_suggests_the_nearest(tmp_path):
    with pytest.raises(UnknownNameError, match="Did you mean 'routerbench'"):
        convert(tmp_path, tmp_path / "out", ConversionPlan(layout="routerbenhc"))


# --- prices ---------------------------------------------------------------------------------------------------------


def priced(tmp_path, text):
    (tmp_path / "prices.yaml").write_text(text)
    plan = ConversionPlan(layout="routerbench", prices=tmp_path / "prices.yaml")
    return convert(published.write_routerbench(tmp_path / "source"), tmp_path / "out", plan)


def test_prices_reach_the_experts(tmp_path):
    priced(tmp_path, "claude-v1: {usd_per_mtok_in: 8, usd_per_mtok_out: 24, basis: list price}")
    experts = {expert.id: expert.prices for expert in load_dataset(tmp_path / "out").pool("all2").experts}
    assert experts["claude-v1"] == Prices(input_usd_per_mtok=8, output_usd_per_mtok=24)
    assert experts["meta/llama-2-70b-chat"] is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("claude-v2: {usd_per_mtok_in: 8, usd_per_mtok_out: 24}", "Did you mean 'claude-v1'"),
        ("claude-v1: {usd_per_mtok_in: -8, usd_per_mtok_out: 24}", "usd_per_mtok_in"),
        ("claude-v1: {usd_per_mtok_inn: 8, usd_per_mtok_out: 24}", "usd_per_mtok_inn"),
        ("[", "not readable"),
    ],
)
def test_a_wrong_price_list_is_refused(text, said, tmp_path):
    with pytest.raises(RouterError, match=said):
        priced(tmp_path, text)


# --- the split ------------------------------------------------------------------------------------------------------

TEXTS = st.lists(st.text(alphabet="abc ?", min_size=1, max_size=6), min_size=1, max_size=30)


def split_of(questions, **options):
    try:
        return {question.id: question.split for question in split_questions(questions, **options)}
    except ConfigError:
        return None


@given(texts=TEXTS, seed=st.integers(0, 99), share=st.floats(0.1, 0.9))
def test_copies_of_a_text_are_on_one_side(texts, seed, share):
    questions = [Question(id=str(n), text=text, split=TO_SPLIT) for n, text in enumerate(texts)]
    split = split_of(questions, fit_share=share, seed=seed)
    if split is not None:
        sides: dict[str, set[str]] = {}
        for question in questions:
            sides.setdefault(normalised_text(question.text), set()).add(split[question.id])
        assert all(len(side) == 1 for side in sides.values())


@given(texts=TEXTS, seed=st.integers(0, 99), dropped=st.integers(0, 29))
def test_a_question_stays_where_it_is_when_others_go(texts, seed, dropped):
    questions = [Question(id=str(n), text=text, split=TO_SPLIT) for n, text in enumerate(texts)]
    whole = split_of(questions, fit_share=0.5, seed=seed)
    fewer = split_of([q for q in reversed(questions) if q.id != str(dropped)], fit_share=0.5, seed=seed)
    if whole is not None and fewer is not None:
        assert fewer == {question_id: side for question_id, side in whole.items() if question_id in fewer}


def test_the_share_is_kept_and_the_seed_matters():
    questions = [Question(id=str(n), text=f"question {n}", split=TO_SPLIT) for n in range(2000)]
    by_seed = [split_of(questions, fit_share=0.25, seed=seed) for seed in (0, 1)]
    for split in by_seed:
        assert list(split.values()).count("fit") == pytest.approx(500, abs=80)
    assert by_seed[0] != by_seed[1]


def test_a_named_split_stays():
    questions = [Question(id=str(n), text=str(n), split="kept" if n < 5 else TO_SPLIT) for n in range(40)]
    split = split_of(questions, fit_share=0.5, seed=0)
    assert [question_id for question_id, side in split.items() if side == "kept"] == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("share", [0, 1, -0.5])
def test_a_share_without_two_sides_is_refused(share):
    with pytest.raises(ConfigError, match="between 0 and 1"):
        split_questions([], fit_share=share, seed=0)


def test_an_empty_side_is_an_error():
    with pytest.raises(ConfigError, match="no question fell to"):
        split_questions([Question(id="1", text="alone", split=TO_SPLIT)], fit_share=0.5, seed=0)


# --- what counts as one text ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "is_same"),
    [
        ("What is  the\ncapital?", "what is the capital", True),
        ("“It’s” 3–4", '"It\'s" 3-4', True),
        ("ﬁve", "FIVE", True),
        ("2 + 2?", "2 - 2?", False),
        ("Which of 1.5 and 2?", "Which of 15 and 2?", False),
    ],
)
def test_normalised_text(first, second, is_same):
    assert (normalised_text(first) == normalised_text(second)) is is_same


@given(st.text())
def test_normalising_twice_changes_nothing(text):
    once = normalised_text(text)
    assert normalised_text(once) == once
