"""Every layout: what is read of the public files, and what is said of those that are broken."""

from __future__ import annotations

import json
import pickle
import zipfile

import pytest

from eval.convert.base import CONVERTERS, TO_SPLIT
from eval.convert.routellm import CONTAMINATED
from router_service.errors import ConfigError
from router_service.types import AnswerKind
from tests.eval.convert import published
from tests.eval.convert.published import LAYOUTS, STRONG, WEAK, N


def read(layout, source):
    return CONVERTERS.create(layout).read(source)


def outcomes_of(recording, model):
    return [outcome for outcome in recording.outcomes if outcome.expert_id == model]


def test_every_layout_is_tested():
    assert set(CONVERTERS.names()) == set(LAYOUTS)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_clean_recording_has_no_problems_and_nothing_dangling(layout, tmp_path):
    recording = read(layout, LAYOUTS[layout](tmp_path / "source"))
    ids = {question.id for question in recording.questions}
    assert recording.problems == ()
    assert len(ids) == len(recording.questions) > 0
    assert {outcome.question_id for outcome in recording.outcomes} == ids
    assert {question_id for question_id, _ in recording.responses} <= ids
    assert all(question.split in (TO_SPLIT, CONTAMINATED) for question in recording.questions)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_empty_folder_and_a_missing_one_are_refused(layout, tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "gone"):
        with pytest.raises(ConfigError, match=folder):
            read(layout, tmp_path / folder)


# --- MMLU-Pro -------------------------------------------------------------------------------------------------------


def test_mmlu_pro_finds_the_models_however_they_are_published(tmp_path):
    recording = read("mmlu_pro", published.write_mmlu_pro(tmp_path / "eval_results"))
    assert sorted(recording.models) == ["Alpha-7B", "beta", "gamma-8b"]
    assert {model: sum(o.correct for o in outcomes_of(recording, model)) for model in recording.models} == {
        "Alpha-7B": N,
        "beta": 0,
        "gamma-8b": N / 2,
    }
    question = next(question for question in recording.questions if question.id == "71")
    assert (question.answer, question.answer_kind, question.category) == ("B", AnswerKind.CHOICE, "physics")
    assert (question.subject, question.options[1]) == ("ori_mmlu-astronomy", "2 moons")
    assert recording.responses["70", "Alpha-7B"] == "Counting moons. The answer is (B)."
    assert recording.responses["70", "beta"] == "I cannot tell."


def test_mmlu_pro_counts_an_unread_answer_as_wrong(tmp_path):
    recording = read("mmlu_pro", published.write_mmlu_pro(tmp_path / "eval_results"))
    outcome = next(o for o in outcomes_of(recording, "beta") if o.question_id == "70")
    assert (outcome.extracted, outcome.correct) == (None, 0.0)


def test_mmlu_pro_reads_the_answer_off_the_text_where_none_is_recorded(tmp_path):
    record = published.mmlu_pro_record(1, "B")
    del record["pred"]
    recording = read("mmlu_pro", published.write_json(tmp_path / "model_outputs_Delta_0shots.json", [record]))
    assert recording.models == ("Delta",)
    assert recording.outcomes[0].extracted == "B"


def test_mmlu_pro_takes_the_fillers_out_of_the_options(tmp_path):
    record = published.mmlu_pro_record(1, "B", options=["1", "2", "N/A", "N/A"])
    recording = read("mmlu_pro", published.write_json(tmp_path / "m.json", [record]))
    assert recording.questions[0].options == ("1", "2")


def test_a_question_told_in_two_ways_is_left_out_for_every_model(tmp_path):
    folder = published.write_mmlu_pro(tmp_path / "eval_results")
    changed = [
        published.mmlu_pro_record(n, "B", **({"answer": "C", "answer_index": 2} if n == 3 else {})) for n in range(N)
    ]
    published.write_json(folder / "zeta" / "physics_result.json", changed)
    recording = read("mmlu_pro", folder)
    assert "73" not in {outcome.question_id for outcome in recording.outcomes}
    assert [str(problem) for problem in recording.problems] == [
        "question 73: left out for every model, since zeta/physics_result.json, row 4 tells it otherwise than "
        "beta/physics_result.json, row 2"
    ]


def test_a_leading_space_does_not_make_another_question(tmp_path):
    folder = published.write_mmlu_pro(tmp_path / "eval_results")
    original = published.mmlu_pro_record(3, "B")
    spaced = original | {"question": f" {original['question']}", "options": [f" {o}" for o in original["options"]]}
    published.write_json(folder / "zeta" / "physics_result.json", [spaced])
    assert read("mmlu_pro", folder).problems == ()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"answer_index": 2}, "they name two options"),
        ({"answer": "E", "answer_index": 4}, "the answer 'E' is none of ABCD"),
        ({"pred": "none"}, "pred is 'none', not the letter of an option"),
        ({"options": "A"}, "options are 'A', not a list of texts"),
        ({"question": ""}, "question is '', not a text"),
        ({"question_id": None}, "question_id is None"),
        ({"model_outputs": ["a"]}, "model_outputs is ['a'], not a text"),
    ],
)
def test_a_malformed_record_is_told_by_its_row(changes, said, tmp_path):
    records = [published.mmlu_pro_record(1, "B"), published.mmlu_pro_record(2, "B") | changes, "text"]
    recording = read("mmlu_pro", published.write_json(tmp_path / "m.json", records))
    assert [problem.place for problem in recording.problems] == ["m.json, row 2", "m.json, row 3"]
    assert said in recording.problems[0].what
    assert len(recording.outcomes) == 1


def test_a_second_record_of_a_question_is_told_and_the_first_counts(tmp_path):
    records = [published.mmlu_pro_record(1, "B"), published.mmlu_pro_record(1, "A")]
    recording = read("mmlu_pro", published.write_json(tmp_path / "m.json", records))
    assert [outcome.extracted for outcome in recording.outcomes] == ["B"]
    assert "question 71 of model m a second time" in recording.problems[0].what


def test_a_category_file_without_a_model_is_told(tmp_path):
    folder = published.write_mmlu_pro(tmp_path / "eval_results")
    published.write_json(folder / "business_result.json", [published.mmlu_pro_record(1, "B")])
    (problem,) = read("mmlu_pro", folder).problems
    assert problem.place == "business_result.json"
    assert "named after the model" in problem.what


@pytest.mark.parametrize("name", ["model.json", "model_outputs_X_5shots.zip"])
def test_a_damaged_file_is_named(name, tmp_path):
    (tmp_path / name).write_bytes(b"[{")
    with pytest.raises(ConfigError, match=f"{name} is not"):
        read("mmlu_pro", tmp_path)


# --- RouteLLM -------------------------------------------------------------------------------------------------------


def test_routellm_reads_correctness_and_names_rows_as_published(tmp_path):
    recording = read("routellm", published.write_routellm(tmp_path / "evals"))
    assert recording.models == (WEAK, STRONG)
    by_id = {question.id: question for question in recording.questions}
    assert len(by_id) == 3 * N
    assert by_id["mmlu:anatomy:0"].category == "anatomy"
    assert by_id["mmlu:anatomy:0"].answer is None
    right = {outcome.question_id: outcome.correct for outcome in outcomes_of(recording, WEAK)}
    assert (right["mmlu:anatomy:0"], right["mmlu:anatomy:1"], right["gsm8k:0"]) == (1.0, 0.0, 0.0)


def test_routellm_reads_answers_off_the_responses_of_gsm8k(tmp_path):
    recording = read("routellm", published.write_routellm(tmp_path / "evals"))
    said = {outcome.question_id: outcome.extracted for outcome in outcomes_of(recording, STRONG)}
    assert (said["gsm8k:5"], said["mmlu:virology:5"]) == ("7", None)
    assert recording.responses["gsm8k:5", STRONG].endswith("#### 7")


def test_routellm_keeps_prompts_that_its_routers_were_trained_on_apart(tmp_path):
    recording = read("routellm", published.write_routellm(tmp_path / "evals"))
    assert [question.id for question in recording.questions if question.split == CONTAMINATED] == ["gsm8k:3"]


@pytest.mark.parametrize(
    ("cell", "said"), [("", "neither True nor False"), ("2", "neither"), ("maybe", "not a number")]
)
def test_routellm_tells_a_grade_that_is_none(cell, said, tmp_path):
    rows = [("Q1?", "True", "False"), ("Q2?", cell, "True")]
    recording = read("routellm", published.write_csv(tmp_path / "mmlu_law.csv", ("prompt", WEAK, STRONG), rows))
    (problem,) = recording.problems
    assert problem.place == "mmlu_law.csv, row 2"
    assert WEAK in problem.what
    assert said in problem.what
    assert {outcome.question_id for outcome in recording.outcomes} == {"mmlu:law:0"}


def test_routellm_tells_a_short_row(tmp_path):
    recording = read(
        "routellm", published.write_csv(tmp_path / "mmlu_law.csv", ("prompt", WEAK, STRONG), [("Q?", "True")])
    )
    assert recording.problems[0].place == "mmlu_law.csv, row 1"
    assert recording.outcomes == ()


# --- RouterBench ----------------------------------------------------------------------------------------------------


def test_routerbench_reads_scores_dollars_and_turns(tmp_path):
    recording = read("routerbench", published.write_routerbench(tmp_path / "data"))
    question = recording.questions[0]
    assert question.text.startswith("Which metal is number 0?\nA) tin")
    assert (question.answer_kind, question.benchmark) == (AnswerKind.CHOICE, "arc-challenge")
    first = next(
        o for o in recording.outcomes if o.expert_id == "meta/llama-2-70b-chat" and o.question_id.endswith(".1")
    )
    assert (first.correct, first.cost_usd, first.extracted) == (1.0, 2e-5, "A")
    assert recording.responses["arc-challenge.test.0", "claude-v1"] == "\nB"


def test_routerbench_reads_parquet_as_it_reads_csv(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [published.routerbench_row(number) for number in range(N)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "routerbench.parquet")
    as_csv = read("routerbench", published.write_routerbench(tmp_path / "data", rows))
    as_parquet = read("routerbench", tmp_path / "routerbench.parquet")
    assert (as_csv.questions, as_csv.outcomes) == (as_parquet.questions, as_parquet.outcomes)


def test_routerbench_joins_the_turns_of_a_prompt_and_keeps_partial_scores(tmp_path):
    row = published.routerbench_row(1, prompt=str(["Say it.", "Again."]), eval_name="mtbench")
    row["claude-v1"] = 0.75
    recording = read("routerbench", published.write_routerbench(tmp_path / "data", [row]))
    assert recording.questions[0].text == "Say it.\n\nAgain."
    assert recording.outcomes[0].correct == 0.75
    assert recording.outcomes[0].extracted is None


def test_an_unknown_cost_stays_unknown(tmp_path):
    row = published.routerbench_row(1) | {"claude-v1|total_cost": "nan", "meta/llama-2-70b-chat|total_cost": ""}
    recording = read("routerbench", published.write_routerbench(tmp_path / "data", [row]))
    assert [outcome.cost_usd for outcome in recording.outcomes] == [None, None]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"claude-v1": ""}, "the grade '' is neither"),
        ({"claude-v1": 1.5}, "the grade '1.5' is neither"),
        ({"claude-v1|total_cost": -1}, "the cost -1.0 is below zero"),
        ({"sample_id": ""}, "sample_id is '', not a text"),
    ],
)
def test_routerbench_tells_a_malformed_row(changes, said, tmp_path):
    rows = [published.routerbench_row(0), published.routerbench_row(1) | changes]
    (problem,) = read("routerbench", published.write_routerbench(tmp_path / "data", rows)).problems
    assert problem.place == "routerbench_0shot.csv, row 2"
    assert said in problem.what


class Trap:
    """Pickled, it would create a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("as_folder", [False, True])
def test_a_pickle_is_never_loaded(as_folder, tmp_path):
    (tmp_path / "data").mkdir()
    pickled = tmp_path / "data" / "routerbench_0shot.pkl"
    pickled.write_bytes(pickle.dumps(Trap(str(tmp_path / "sprung"))))
    with pytest.raises(ConfigError, match=r"is a pickle.*read_pickle\('routerbench_0shot.pkl'\).to_csv"):
        read("routerbench", pickled.parent if as_folder else pickled)
    assert not (tmp_path / "sprung").exists()


def test_a_table_of_another_kind_is_not_routerbench(tmp_path):
    with pytest.raises(ConfigError, match=r"t.csv is not RouterBench: it lacks 'sample_id', 'eval_name'"):
        read("routerbench", published.write_csv(tmp_path / "t.csv", ("prompt", "x"), [("Q?", 1)]))


# --- ZeroEval -------------------------------------------------------------------------------------------------------


def test_zeroeval_reads_and_grades_every_kind_of_task(tmp_path):
    recording = read("zeroeval", published.write_zeroeval(tmp_path / "result_dirs"))
    kinds = {question.benchmark: question.answer_kind for question in recording.questions}
    assert kinds == {
        "crux": AnswerKind.LITERAL,
        "gsm": AnswerKind.NUMBER,
        "math-l5": AnswerKind.NUMBER,
        "mmlu-redux": AnswerKind.CHOICE,
    }
    right = {model: {} for model in ("Careful-70B", "Hasty-7B@host")}
    for outcome in recording.outcomes:
        task = outcome.question_id.split(":")[0]
        right[outcome.expert_id][task] = right[outcome.expert_id].get(task, 0) + outcome.correct
    assert right["Careful-70B"] == {"crux": N, "gsm": N, "math-l5": N, "mmlu-redux": N}
    assert right["Hasty-7B@host"] == {"crux": N, "gsm": 0, "math-l5": N, "mmlu-redux": 0}
    by_id = {question.id: question for question in recording.questions}
    assert by_id["gsm:gsm8k-main-test-#4"].answer == "6"
    assert by_id["math-l5:3"].text == "Square $3$."
    assert (by_id["mmlu-redux:mmlu-redux-anatomy-#0"].answer, by_id["mmlu-redux:mmlu-redux-anatomy-#0"].subject) == (
        "B",
        "anatomy",
    )


def test_zeroeval_leaves_other_ways_of_running_alone_and_says_so(tmp_path):
    notes = read("zeroeval", published.write_zeroeval(tmp_path / "result_dirs")).notes
    assert "left alone, another way of running: crux/sampling/Careful-70B.json" in notes


@pytest.mark.parametrize("part", ["gsm", "gsm/Careful-70B.json"])
def test_zeroeval_reads_one_task_or_one_file_alone(part, tmp_path):
    recording = read("zeroeval", published.write_zeroeval(tmp_path / "result_dirs") / part)
    assert {question.benchmark for question in recording.questions} == {"gsm"}
    assert len(recording.questions) == N


def test_zeroeval_keeps_several_outputs_as_samples(tmp_path):
    outputs = [*published.stated("4"), *published.stated("5")]
    record = published.zeroeval_record("#0", outputs, question="2 + 2?", answer="# 4")
    recording = read("zeroeval", published.write_json(tmp_path / "gsm" / "M.json", [record]))
    assert [(o.sample, o.extracted, o.correct) for o in recording.outcomes] == [(0, "4", 1.0), (1, "5", 0.0)]
    assert recording.responses["gsm:#0", "M"] == outputs[0]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"answer": None}, "there is no reference answer"),
        ({"output": []}, "output is [], not a list of texts"),
        ({"id": None}, "id is None"),
        ({"choices": ["x"], "correct_answer": "y"}, "correct_answer is 'y', none of the choices"),
        ({"question": 3}, "question is 3, not a text"),
    ],
)
def test_zeroeval_tells_a_malformed_record(changes, said, tmp_path):
    good = published.zeroeval_record("#0", published.stated("4"), question="2 + 2?", answer="# 4")
    bad = good | {"id": "#1"} | changes
    recording = read("zeroeval", published.write_json(tmp_path / "gsm" / "M.json", [good, bad]))
    (problem,) = recording.problems
    assert problem.place == "M.json, row 2"
    assert said in problem.what


@pytest.mark.parametrize("layout", ["routellm", "routerbench"])
def test_a_table_in_another_encoding_is_a_clean_error(layout, tmp_path):
    (tmp_path / "mmlu_arts.csv").write_bytes("prompt,model\ncafé?,True\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"mmlu_arts\.csv is not readable as CSV in UTF-8"):
        read(layout, tmp_path)


def test_an_archive_whose_content_is_damaged_is_a_clean_error(tmp_path):
    path = tmp_path / "model_outputs_X_5shots.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m.json", str(list(range(5000))))
    content = bytearray(path.read_bytes())
    content[60:90] = b"\xff" * 30
    path.write_bytes(bytes(content))
    with pytest.raises(ConfigError, match="not a readable zip archive"):
        read("mmlu_pro", tmp_path)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"category": 3}, "category is 3, not a text"),
        ({"src": ["a"]}, "subject is ['a'], not a text"),
        ({"model_outputs": "so \ud83d"}, "the response holds half a character ('\\ud83d') at position 3"),
        ({"question": "\ud83d?"}, "the question holds half a character"),
    ],
)
def test_what_no_file_could_hold_is_a_problem_of_its_record(changed, said, tmp_path):
    rows = [published.mmlu_pro_record(number, "B") for number in range(2)]
    (tmp_path / "model_outputs_X_5shots.json").write_text(json.dumps([rows[0], {**rows[1], **changed}]))
    recording = read("mmlu_pro", tmp_path)
    [problem] = recording.problems
    assert said in str(problem)
    assert (len(recording.questions), len(recording.outcomes)) == (1, 1)


def test_more_choices_than_letters_are_a_problem_of_their_record(tmp_path):
    choices = [str(number) for number in range(30)]
    row = {"id": 1, "question": "?", "choices": choices, "correct_answer": "29", "output": ["A"]}
    (tmp_path / "mmlu").mkdir()
    (tmp_path / "mmlu" / "model.json").write_text(json.dumps([row]))
    [problem] = read("zeroeval", tmp_path).problems
    assert "30 choices" in str(problem)
