"""One base model in memory with the LoRA adapters attached to it, at most one of them active."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from router_service.backends._text_requests import turns_of
from router_service.errors import ConfigError
from router_service.types import Message

if TYPE_CHECKING:
    import torch

__all__ = ["ResidentBase", "pick_device"]


def pick_device(device: str) -> str:
    """`device`, with "auto" turned into "cuda" where there is one and "cpu" where not."""
    import torch

    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


class ResidentBase:
    """A causal LM of transformers and its tokenizer, loaded once; adapters come and go on it through peft.

    In float32 the active adapter is added into the weights, which costs nothing per token (kept apart, the two thin
    products of rank 8 cost about a quarter more time on a CPU), and the untouched weights are kept beside and copied
    back, so that switching any number of times leaves no trace. In a narrower type adding would round the adapter
    away, so there it stays apart.
    """

    def __init__(self, model: Any, tokenizer: Any, *, device: str, merges_adapters: bool) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.device = device
        self.active: str | None = None
        self._merges_adapters = merges_adapters
        self._peft: Any = None
        self._names: dict[str, str] = {}
        self._untouched: dict[Any, list[torch.Tensor]] = {}
        self.window_tokens: int | None = getattr(model.config, "max_position_embeddings", None)
        self.end_ids = _end_ids(model, tokenizer)

    @classmethod
    def load(cls, folder: Path, *, dtype: str, device: str) -> ResidentBase:
        """Read model and tokenizer from `folder`; raises `ConfigError` where the tokenizer has no chat template."""
        from transformers import AutoModelForCausalLM, AutoTokenizer

        _be_quiet()
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        if not tokenizer.chat_template:
            raise ConfigError(
                f"the tokenizer in {folder} has no chat template; put one into chat_template.jinja there "
                "(a model trained on conversations comes with one)"
            )
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation="sdpa", local_files_only=True
        )
        model = model.eval().requires_grad_(False).to(device)
        return cls(model, tokenizer, device=device, merges_adapters=dtype == "float32")

    def encode(self, messages: Sequence[Message], *, persona: str | None) -> tuple[int, ...]:
        """Token ids of the conversation, ready for the assistant's turn; the persona is put first, as system text."""
        turns = turns_of(messages, persona=persona)
        text = self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        return self.encode_text(text)

    def encode_text(self, text: str) -> tuple[int, ...]:
        """Token ids of a text as it goes on after the assistant's turn was opened; no marks around it."""
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def has_attached(self, adapter: str) -> bool:
        """True where the adapter of this folder was read already."""
        return adapter in self._names

    def attach(self, adapter: str) -> None:
        """Read the adapter in this folder onto the base, once; it is not active yet."""
        from peft import PeftModel
        from peft.tuners.lora import LoraLayer

        self._deactivate()  # peft would subtract a merged adapter again, and leave its rounding in the weights
        name = f"adapter_{len(self._names)}"
        if self._peft is None:
            self._peft = PeftModel.from_pretrained(self.model, adapter, adapter_name=name)
        else:
            self._peft.load_adapter(adapter, adapter_name=name, torch_device=self.device)
        self._peft.eval()
        self._peft.base_model.disable_adapter_layers()
        self._names[adapter] = name
        if self._merges_adapters:
            for layer in self._peft.modules():
                if isinstance(layer, LoraLayer) and layer not in self._untouched:
                    self._untouched[layer] = [p.detach().clone() for p in layer.get_base_layer().parameters()]

    def activate(self, adapter: str | None) -> bool:
        """Make this attached adapter the active one, or none; True where another adapter became active."""
        if adapter == self.active:
            return False
        self._deactivate()
        if adapter is not None:
            self._peft.base_model.enable_adapter_layers()
            self._peft.base_model.set_adapter(self._names[adapter], inference_mode=True)
            if self._merges_adapters:
                self._peft.base_model.merge_adapter([self._names[adapter]])
            self.active = adapter
        return adapter is not None

    def _deactivate(self) -> None:
        self.active = None
        if self._peft is None:
            return
        for layer, untouched in self._untouched.items():
            if layer.merged:
                for parameter, values in zip(layer.get_base_layer().parameters(), untouched, strict=True):
                    parameter.data.copy_(values)
                layer.merged_adapters.clear()
        self._peft.base_model.disable_adapter_layers()


def _be_quiet() -> None:
    """Keep bars and notices out of the terminal that are about the libraries' own affairs."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    # peft asks for a property that transformers has renamed
    warnings.filterwarnings("ignore", message=r"`is_gradient_checkpointing`", category=FutureWarning)


def _end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Every token that ends a turn, by the model's generation settings and by the tokenizer."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    several = configured if isinstance(configured, list) else [configured]
    return frozenset(token for token in (*several, tokenizer.eos_token_id) if token is not None)
