"""Real but tiny models for the embedded engine: random Llamas, a byte tokenizer, random LoRA adapters, on disk."""

from __future__ import annotations

from pathlib import Path

from router_service.types import Assignment, Expert, ExpertBatch, Sampling, user_query

TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
    "{{ '<|' + message['role'][0] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|a|>' }}{% endif %}"
)
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def save_tokenizer(folder: Path) -> int:
    """A tokenizer of single bytes and four marks, trained on nothing; returns its number of tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    marks = ["<|end|>", "<|s|>", "<|u|>", "<|a|>"]
    core.add_special_tokens(marks)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|end|>", pad_token="<|end|>")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return len(letters) + len(marks)


def save_model(
    folder: Path, *, seed: int = 0, hidden: int = 64, layers: int = 2, window: int = 256, vocabulary: int | None = None
) -> str:
    """A random Llama with weights large enough that its choices are clear; returns the folder as a reference."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokens = save_tokenizer(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary or tokens,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=window,
        initializer_range=0.3,
        eos_token_id=256,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


def save_adapter(folder: Path, base: str, *, seed: int, rank: int = 4, base_name: str | None = None) -> str:
    """A random LoRA on the model in folder `base`, strong enough to change what it says; returns its folder."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=PROJECTIONS, task_type="CAUSAL_LM")
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.peft_config["default"].base_model_name_or_path = base_name or base
    model.save_pretrained(folder, save_embedding_layers=False)
    return str(folder)


def tiny_expert(model: str, *, name: str = "tiny", adapter: str | None = None, **fields: object) -> Expert:
    """An expert of the embedded engine on a tiny model; 12 tokens at most unless told otherwise."""
    given: dict[str, object] = {"sampling": Sampling(max_tokens=12), **fields}
    return Expert(
        id=name, model=model, backend="transformers", adapter=adapter, lora_base=model if adapter else None, **given
    )


def ask(text: str, *, name: str | None = None, sampling: Sampling | None = None, **fields: object) -> Assignment:
    """An assignment of one user message, called by its own text unless `name` is given."""
    from dataclasses import replace

    query = replace(user_query(name or text, text), sampling=sampling or Sampling())
    return Assignment(query=query, **fields)


def batch_of(expert: Expert, *assignments: Assignment) -> ExpertBatch:
    """The assignments as one batch for `expert`."""
    return ExpertBatch(expert_id=expert.id, assignments=assignments)
