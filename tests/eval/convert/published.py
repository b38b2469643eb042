"""Small recordings written the way the projects publish theirs: same folders, file names, columns and quirks."""

from __future__ import annotations

import csv
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = [
    "LAYOUTS",
    "mmlu_pro_record",
    "routerbench_row",
    "write_csv",
    "write_json",
    "write_mmlu_pro",
    "write_routellm",
    "write_routerbench",
    "write_zeroeval",
    "zeroeval_record",
]

WEAK, STRONG = "mistralai/Mixtral-8x7B-Instruct-v0.1", "gpt-4-1106-preview"
N = 12


def write_json(path: Path, document: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


# --- MMLU-Pro -------------------------------------------------------------------------------------------------------


def mmlu_pro_record(number: int, pred: str | None, **changes: object) -> dict[str, object]:
    options = [f"{number + step} moons" for step in range(4)]
    return {
        "question_id": 70 + number,
        "question": f"How many moons has planet {number} of the system in figure 3?",
        "options": options,
        "answer": "B",
        "answer_index": 1,
        "cot_content": "",
        "category": "physics" if number % 2 else "other",
        "src": "ori_mmlu-astronomy",
        "pred": pred,
        "model_outputs": f"Counting moons. The answer is ({pred})." if pred else "I cannot tell.",
        **changes,
    }


def write_mmlu_pro(folder: Path) -> Path:
    """Three models in the three ways of publishing: a zip archive, category files with a summary, a run's folder."""
    folder.mkdir(parents=True)
    zipped = [mmlu_pro_record(number, "B") for number in range(N)]
    with zipfile.ZipFile(folder / "model_outputs_Alpha-7B_5shots.zip", "w") as archive:
        archive.writestr("model_outputs_Alpha-7B_5shots.json", json.dumps(zipped))
        archive.writestr("__MACOSX/._model_outputs_Alpha-7B_5shots.json", "not json")
    halves: dict[str, list[dict[str, object]]] = {"physics": [], "other": []}
    for number in range(N):
        record = mmlu_pro_record(number, None if number == 0 else "A")
        record["response"] = record.pop("model_outputs")  # as the runs of 2024 have it
        halves[str(record["category"])].append(record)
    for category, records in halves.items():
        write_json(folder / "beta" / f"{category}_result.json", records)
        write_json(folder / "beta" / f"{category}_summary.json", {"total": {"corr": 0.0, "wrong": 6.0, "acc": 0.0}})
    run = [mmlu_pro_record(number, "B" if number % 2 else "C") for number in range(N)]
    write_json(folder / "gamma-8b" / "CoT" / "all" / "physics.json", run)
    return folder


# --- RouteLLM -------------------------------------------------------------------------------------------------------


def write_routellm(folder: Path) -> Path:
    """`routellm/evals`: two subjects of MMLU, GSM8K with responses, prompts the routers were trained on, other csv."""
    for subject in ("anatomy", "virology"):
        rows = [
            (f"Which part is number {n} in {subject}?\nA. one\nB. two\nC. three\nD. four\nAnswer:", n % 2 == 0, True)
            for n in range(N)
        ]
        write_csv(folder / "mmlu" / "responses" / f"mmlu_{subject}.csv", ("prompt", WEAK, STRONG), rows)
    header = ("prompt", WEAK, STRONG, f"{WEAK}_response", f"{STRONG}_response")
    gsm = [
        (f"Ann has {n} pens and buys 2.\nHow many, in all?", False, True, " She has many", f"{n} + 2.\n#### {n + 2}")
        for n in range(N)
    ]
    write_csv(folder / "gsm8k" / "gsm8k_responses.csv", header, gsm)
    trained_on = json.dumps({"eval_prompt": gsm[3][0], "train_prompt": "Ann ...", "similarity": 0.97})
    (folder / "gsm8k" / "contaminated_prompts.jsonl").write_text(trained_on + "\n", encoding="utf-8")
    write_csv(folder / "mmlu" / "data" / "anatomy_test.csv", ("Which part?", "one", "two", "A"), [])
    return folder


# --- RouterBench ----------------------------------------------------------------------------------------------------

_MODELS = ("claude-v1", "meta/llama-2-70b-chat")


def routerbench_row(number: int, **changes: object) -> dict[str, object]:
    row: dict[str, object] = {
        "sample_id": f"arc-challenge.test.{number}",
        "prompt": str(
            [
                f"Which metal is number {number}?\nA) tin\nB) lead\n"
                'Print only a single choice  from "A" or "B" without explanation. Answer:'
            ]
        ),
        "eval_name": "arc-challenge",
    }
    for place, model in enumerate(_MODELS):
        row[model] = float(place == number % 2)
        row[f"{model}|model_response"] = str(["A)" if number % 2 else "\nB"])
        row[f"{model}|total_cost"] = 1e-5 * (place + 1)
    return {**row, "oracle_model_to_route_to": "no_model_correct", **changes}


def write_routerbench(folder: Path, rows: Sequence[Mapping[str, object]] = ()) -> Path:
    rows = rows or [routerbench_row(number) for number in range(N)]
    header = tuple(rows[0])
    write_csv(folder / "routerbench_0shot.csv", header, [[row[key] for key in header] for row in rows])
    return folder


# --- ZeroEval -------------------------------------------------------------------------------------------------------


def zeroeval_record(identity: object, output: object, **fields: object) -> dict[str, object]:
    return {
        "session_id": identity,
        "chat_history": ["## Question: ..."],
        "model_input": "n/a",
        "output": output,
        "generator": "openai/some-model",
        "configs": {"engine": "openai", "temperature": 0.0, "max_tokens": 4096},
        "id": identity,
        **fields,
    }


def stated(answer: object) -> list[str]:
    return ["```json\n" + json.dumps({"reasoning": "Step by step.", "answer": answer}, indent=4) + "\n```"]


def write_zeroeval(folder: Path) -> Path:
    """`result_dirs` with an open, a numeric, a literal and a multiple-choice task, summaries and a sampling run."""
    for model, offset in (("Careful-70B", 0), ("Hasty-7B@host", 1)):
        gsm = [
            zeroeval_record(
                f"gsm8k-main-test-#{n}", stated(f"${n + 2 + offset}"), question=f"{n} + 2?", answer=f"# {n + 2}"
            )
            for n in range(N)
        ]
        math = [zeroeval_record(n, stated(str(n * n)), problem=f"Square ${n}$.", answer=str(n * n)) for n in range(N)]
        crux = [
            zeroeval_record(
                f"crux-test-#{n}", stated("x" * (n + 1)), question=f"'x' * {n + 1}", answer=repr("x" * (n + 1))
            )
            for n in range(N)
        ]
        redux = [
            zeroeval_record(
                f"mmlu-redux-anatomy-#{n}",
                stated("BC"[offset]),
                question=f"Which bone is number {n}?",
                choices=["skull", f"rib {n}", "toe"],
                correct_answer=f"rib {n}",
                config="anatomy",
            )
            for n in range(N)
        ]
        for task, records in (("gsm", gsm), ("math-l5", math), ("crux", crux), ("mmlu-redux", redux)):
            write_json(folder / task / f"{model}.json", records)
    write_json(folder / "gsm.summary.json", [{"Model": "Careful-70B", "Mode": "greedy", "Acc": "100.00"}])
    write_json(folder / "crux" / "sampling" / "Careful-70B.json", [])
    return folder


LAYOUTS: dict[str, Callable[[Path], Any]] = {
    "mmlu_pro": write_mmlu_pro,
    "routellm": write_routellm,
    "routerbench": write_routerbench,
    "zeroeval": write_zeroeval,
}
