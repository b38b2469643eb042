"""Training: what an example looks like, what a step changes, what is written; with the real base model where marked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from experts_registry.local import evaluate, train, weights
from experts_registry.local.tasks import TASKS, generate
from experts_registry.local.train import RECIPES
from router_service.types import AnswerKind, Question


def test_recipes_train_on_known_families_and_leave_facts_to_the_generalist() -> None:
    trained = {task for recipe in RECIPES.values() for task in recipe.questions}
    assert trained == set(TASKS) - {"facts"}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_every_recipe_finds_its_questions(recipe: train.Recipe) -> None:
    for task, n in recipe.questions.items():
        assert len(generate(task, "train", n=n)) == n


def test_finished_experts_are_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "roman").mkdir()
    (tmp_path / "roman" / "adapter_model.safetensors").write_bytes(b"")
    train.main(["--expert", "roman", "--out", str(tmp_path)])
    assert "roman: finished already, skipped (--force trains it again)" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [["--steps", "0"], ["--expert", "chess"]])
def test_wrong_options_are_refused(wrong: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        train.main([*wrong, "--out", str(tmp_path)])


def test_no_questions_cannot_be_evaluated(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        evaluate.main(["--n", "0"])
    assert "--n must be at least 1, not 0" in capsys.readouterr().err


@pytest.mark.slow
def test_the_loss_is_on_the_answer_alone() -> None:
    _, tokenizer = evaluate.load_pool([evaluate.GENERALIST])
    question = Question(id="x", text="Write 14 in Roman.", answer="XIV", answer_kind=AnswerKind.LITERAL)
    ids, labels = train.encode(tokenizer, question)
    assert tokenizer.decode(ids) == (
        "<|im_start|>user\nWrite 14 in Roman.<|im_end|>\n<|im_start|>assistant\nXIV<|im_end|>"
    )
    assert tokenizer.decode([label for label in labels if label >= 0]) == "XIV<|im_end|>"


@pytest.mark.slow
def test_two_steps_lower_the_loss_and_move_only_the_adapter() -> None:
    import torch

    torch.manual_seed(0)
    model, tokenizer = train.lora_model()
    batch = [train.encode(tokenizer, question) for question in generate("roman", "train", n=4)]
    learned = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert learned
    assert all("lora_" in name for name in learned)
    before = {name: p.detach().clone() for name, p in learned.items()}
    optimiser = torch.optim.AdamW(learned.values(), lr=1e-3)
    losses = [train.train_step(model, optimiser, batch=batch) for _ in range(3)]
    assert losses[2] < losses[0]
    assert any(not torch.equal(before[name], p) for name, p in learned.items())


@pytest.mark.slow
def test_training_writes_what_peft_loads_again(tmp_path: Path) -> None:
    recipe = replace(RECIPES["roman"], name="tiny", questions={"roman": 8}, steps=1)
    train.train_expert(recipe, out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]
    config = json.loads((tmp_path / "tiny" / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == weights.BASE_MODEL_ID
    assert str(tmp_path) not in json.dumps(config)
    model, tokenizer = evaluate.load_pool(["tiny"], adapters=tmp_path)
    assert len(evaluate.answer(model, tokenizer, expert="tiny", questions=["Write 3 as a Roman numeral."])) == 1


@pytest.mark.slow
def test_experts_on_one_base_differ_and_batches_do_not_matter() -> None:
    model, tokenizer = evaluate.load_pool([evaluate.GENERALIST, "family", "roman"])
    asked = [
        "Give the Roman numeral for 335.",
        "Tom is married to Ann. They have a child called Max. What is Ann to Max?",
    ]
    replies = {
        expert: evaluate.answer(model, tokenizer, expert=expert, questions=asked)
        for expert in ("roman", evaluate.GENERALIST, "family")
    }
    assert replies["roman"][0] == "CCCXXXV"
    assert replies["family"][1] == "mother"
    assert len({replies[expert][0] for expert in replies}) == 3
    alone = [evaluate.answer(model, tokenizer, expert="roman", questions=[text])[0] for text in asked]
    assert alone == replies["roman"]


@pytest.mark.slow
def test_the_cached_base_renders_no_system_message_and_splits_digits() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(weights.base_model_dir())
    rendered = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert rendered == "<|im_start|>user\nhi<|im_end|>\n"
    with_system = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
    assert tokenizer.apply_chat_template(with_system, tokenize=False).startswith("<|im_start|>system\nBe brief.")
    assert tokenizer.convert_ids_to_tokens(tokenizer("1984")["input_ids"]) == ["1", "9", "8", "4"]
