"""Reading recorded outcomes: what is there, what is missing, and what is said of a folder that is not one."""

from __future__ import annotations

import json

import pytest

from eval.datasets import load_dataset
from router_service.errors import ConfigError, UnknownNameError
from router_service.types import AnswerKind, Prices
from tests.eval.recorded_dataset import recorded_folder, write_dataset


def rewrite(path, change):
    import pyarrow.parquet as pq

    pq.write_table(change(pq.read_table(path)), path)


def test_questions_carry_what_was_recorded(tmp_path):
    dataset = load_dataset(write_dataset(tmp_path / "tiny"))
    choice = next(question for question in dataset.split("fit") if question.answer_kind is AnswerKind.CHOICE)
    assert (choice.options, choice.answer, choice.skills) == (("Paris", "Lima"), "A", ("geography",))
    assert len(dataset.split("test")) == 24
    assert (dataset.name, dataset.has_skills, dataset.has_answers) == ("tiny", True, True)


def test_a_pool_keeps_the_listed_order_and_the_prices(tmp_path):
    pool = load_dataset(write_dataset(tmp_path / "tiny")).pool("duo")
    assert pool.ids == ("traveller", "counter")
    assert {expert.backend for expert in pool.experts} == {"replay"}
    assert pool.expert("counter").prices == Prices(input_usd_per_mtok=1.0, output_usd_per_mtok=2.0)
    assert pool.expert("traveller").prices is None


def test_a_missing_outcome_is_wrong_and_cost_nothing(tmp_path):
    dataset = load_dataset(write_dataset(tmp_path / "tiny"))
    outcomes = dataset.outcomes(dataset.split("test")[:1], ("counter", "guesser"))
    assert [(o.expert_id, o.correct, o.cost_usd) for o in outcomes] == [("counter", 1.0, 0.001), ("guesser", 0.0, 0.0)]


def test_a_grade_that_was_not_recorded_is_wrong(tmp_path):
    import pyarrow as pa

    folder = write_dataset(tmp_path / "tiny")
    rewrite(
        folder / "outcomes.parquet",
        lambda table: table.set_column(
            table.column_names.index("correct"), "correct", pa.array([None] * len(table), pa.float64())
        ),
    )
    assert {outcome.correct for samples in load_dataset(folder).recorded.values() for outcome in samples} == {0.0}


def with_rows(folder, change):
    """The dataset with every row of its outcomes replaced by those that `change(row)` gives."""
    import pyarrow as pa

    def changed(table):
        return pa.Table.from_pylist([new for row in table.to_pylist() for new in change(row)])

    rewrite(folder / "outcomes.parquet", changed)
    return folder


def test_further_samples_are_kept_in_order_and_repeated_in_turn(tmp_path):
    folder = with_rows(
        write_dataset(tmp_path / "tiny"), lambda row: [{**row, "sample": n, "correct": float(n == 1)} for n in (1, 0)]
    )
    dataset = load_dataset(folder)
    question = dataset.split("fit")[0]
    outcomes = dataset.outcomes([question], ["counter"])
    assert [(outcome.sample, outcome.correct) for outcome in outcomes] == [(0, 0.0), (1, 1.0)]
    assert [dataset.outcome(question.id, "counter", sample=n) for n in range(3)] == [*outcomes, outcomes[0]]


def test_a_sample_twice_is_an_error(tmp_path):
    folder = with_rows(write_dataset(tmp_path / "tiny"), lambda row: [row, row])
    with pytest.raises(ConfigError, match=r"holds sample 0 of model 'counter' on question 'fit-number-0' twice"):
        load_dataset(folder)


@pytest.mark.parametrize("grade", [7.0, -0.5, float("nan")])
def test_a_grade_that_is_none_is_named(tmp_path, grade):
    folder = with_rows(write_dataset(tmp_path / "tiny"), lambda row: [{**row, "correct": grade}])
    with pytest.raises(ConfigError, match=r"'counter' on question 'fit-number-0' has correct = .*from 0 .* to 1"):
        load_dataset(folder)


@pytest.mark.parametrize(
    ("card", "said"),
    [
        ({"pools": ["counter"]}, r"dataset\.json is not usable:\s+pools: .*dictionary"),
        ({"pools": {"trio": "counter"}}, r"pools\.trio: .*tuple"),
        ({"pools": {"trio": []}}, r"pools\.trio: .*at least 1 item"),
        ({"prices": {"counter": {"usd_per_mtok_in": 1}}}, r"prices\.counter\.usd_per_mtok_out: Field required"),
        ({"prices": {"counter": {"usd_per_mtok_in": -1, "usd_per_mtok_out": 1}}}, r"usd_per_mtok_in: .*greater than"),
        ({"price": {}}, r"price: unknown key\. Did you mean 'prices'"),
        (["trio"], r"dataset\.json is not usable"),
    ],
)
def test_a_malformed_card_is_named(tmp_path, card, said):
    folder = write_dataset(tmp_path / "tiny")
    (folder / "dataset.json").write_text(json.dumps(card))
    with pytest.raises(ConfigError, match=said):
        load_dataset(folder)


def test_datasets_without_answers_or_skills_say_so(tmp_path):
    dataset = load_dataset(write_dataset(tmp_path / "bare", has_skills=False, has_answers=False))
    assert (dataset.has_skills, dataset.has_answers) == (False, False)
    assert {question.answer_kind for question in dataset.questions} == {AnswerKind.FREE}


def test_unknown_names_suggest_the_nearest(tmp_path):
    dataset = load_dataset(write_dataset(tmp_path / "tiny"))
    with pytest.raises(UnknownNameError, match=r"unknown pool of tiny 'tri'\. Did you mean 'trio'"):
        dataset.pool("tri")
    with pytest.raises(UnknownNameError, match=r"unknown split of tiny 'tests'\. Did you mean 'test'"):
        dataset.split("tests")


def test_a_missing_folder_or_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="no dataset folder at"):
        load_dataset(tmp_path / "gone")
    folder = write_dataset(tmp_path / "tiny")
    (folder / "outcomes.parquet").unlink()
    with pytest.raises(ConfigError, match=r"has no outcomes\.parquet"):
        load_dataset(folder)
    (folder / "dataset.json").write_text("{")
    with pytest.raises(ConfigError, match=r"dataset\.json is not readable as JSON"):
        load_dataset(folder)


def test_a_missing_column_is_named(tmp_path):
    folder = write_dataset(tmp_path / "tiny")
    rewrite(folder / "outcomes.parquet", lambda table: table.drop_columns(["pred"]))
    with pytest.raises(ConfigError, match=r"lacks the column 'pred'; the replay format needs question_id, model"):
        load_dataset(folder)


def test_what_is_no_parquet_is_said_to_be_none(tmp_path):
    folder = write_dataset(tmp_path / "tiny")
    (folder / "questions.parquet").write_text("id,question")
    with pytest.raises(ConfigError, match=r"questions\.parquet is not a readable parquet file"):
        load_dataset(folder)


@pytest.mark.parametrize(
    ("column", "value", "said"), [("answer_kind", "roman", "answer_kind 'roman'; allowed: choice")]
)
def test_a_malformed_value_is_named(tmp_path, column, value, said):
    import pyarrow as pa

    folder = write_dataset(tmp_path / "tiny")
    rewrite(
        folder / "questions.parquet",
        lambda table: table.set_column(table.column_names.index(column), column, pa.array([value] * len(table))),
    )
    with pytest.raises(ConfigError, match=said):
        load_dataset(folder)


def test_an_id_twice_is_an_error(tmp_path):
    import pyarrow as pa

    folder = write_dataset(tmp_path / "tiny")
    rewrite(folder / "questions.parquet", lambda table: pa.concat_tables([table, table.slice(0, 1)]))
    with pytest.raises(ConfigError, match="holds a question_id twice"):
        load_dataset(folder)


@pytest.mark.parametrize(
    ("name", "n_fit", "n_test", "n_models"),
    [
        ("mmlu_pro", 336, 1036, 32),
        ("zeroeval", 836, 837, 29),
        ("routellm", 7692, 7669, 2),
        ("routerbench3", 1546, 672, 11),
    ],
)
def test_the_recorded_datasets_hold_what_their_card_says(name, n_fit, n_test, n_models):
    dataset = load_dataset(recorded_folder(name))
    assert (len(dataset.split("fit")), len(dataset.split("test"))) == (n_fit, n_test)
    assert len({model for _, model in dataset.recorded}) == n_models
    for pool in dataset.pools:
        assert dataset.pool(pool).ids == dataset.pools[pool]
