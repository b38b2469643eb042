"""What the embedded engine finds wrong with an expert's files before it loads them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from router_service.backends._transformers_files import base_reference
from router_service.backends.transformers import Transformers
from router_service.errors import ConfigError, ExpertUnavailable
from router_service.types import Expert
from tests.router_service.backends.tiny_models import ask, batch_of, save_adapter, save_model, tiny_expert


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base, a deeper and a wider one, and an adapter for each; copied before a test breaks it."""
    root = tmp_path_factory.mktemp("files")
    save_adapter(root / "adapter", save_model(root / "base"), seed=0)
    save_adapter(root / "deeper_adapter", save_model(root / "deeper", layers=3), seed=0, base_name="org/base")
    save_adapter(root / "wider_adapter", save_model(root / "wider", hidden=96), seed=0, base_name="org/base")
    return root


@pytest.fixture
def files(kept: Path, tmp_path: Path) -> Path:
    shutil.copytree(kept, tmp_path / "files")
    return tmp_path / "files"


def expert_on(files: Path, adapter: str | None = "adapter", **fields: object) -> Expert:
    folder = str(files / adapter) if adapter else None
    return tiny_expert(str(files / "base"), name="smith", adapter=folder, **fields)


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_whole_files_pass(files: Path) -> None:
    backend = Transformers()
    for adapter in ("adapter", None):
        backend.check(expert_on(files, adapter))
    assert backend.load_report.base_loads == ()


@pytest.mark.parametrize("gone", ["adapter", "adapter/adapter_config.json", "adapter/adapter_model.safetensors"])
def test_a_missing_adapter_says_where_and_how_to_train(files: Path, gone: str) -> None:
    path = files / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(ConfigError, match=r"experts_registry.local.train") as caught:
        Transformers().check(expert_on(files))
    assert str(path) in caught.value.message


def test_an_adapter_of_another_base_is_told_by_its_name(files: Path) -> None:
    edit(files / "adapter/adapter_config.json", base_model_name_or_path="org/Other-1B")
    expert = expert_on(files)
    with pytest.raises(ConfigError, match=r"trained on 'org/Other-1B'.*accepts_base: org/Other-1B"):
        Transformers().check(expert)
    Transformers().check(replace(expert, options={"accepts_base": "org/Other-1B"}))
    edit(files / "adapter/adapter_config.json", base_model_name_or_path="Org/BASE")
    Transformers().check(expert)


@pytest.mark.parametrize(
    ("adapter", "found"), [("deeper_adapter", "no such layer"), ("wider_adapter", r"the shape \[")]
)
def test_an_adapter_of_another_shape_is_told_by_its_tensors(files: Path, adapter: str, found: str) -> None:
    with pytest.raises(ConfigError, match=f"does not fit its base.*{found}"):
        Transformers().check(expert_on(files, adapter))


def test_a_rank_that_the_tensors_do_not_have(files: Path) -> None:
    edit(files / "adapter/adapter_config.json", r=16)
    with pytest.raises(ConfigError, match=r"says rank 16, but .* has rank 4"):
        Transformers().check(expert_on(files))
    edit(files / "adapter/adapter_config.json", rank_pattern={".*": 4})
    Transformers().check(expert_on(files))


def test_a_layer_that_the_configuration_does_not_name(files: Path) -> None:
    edit(files / "adapter/adapter_config.json", target_modules=["q_proj"])
    with pytest.raises(ConfigError, match=r"does not name .*_proj in target_modules"):
        Transformers().check(expert_on(files))


async def test_an_adapter_that_cannot_be_attached_leaves_no_trace(files: Path) -> None:
    """A pattern is not compared with the tensors beforehand: attaching fails, and the base is read afresh."""
    edit(files / "adapter/adapter_config.json", target_modules="no_such_layer")
    backend = Transformers(threads=1, device="cpu")
    expert, plain = expert_on(files), expert_on(files, None)
    before = [piece async for piece in backend.complete(plain, batch_of(plain, ask("x")))]
    with pytest.raises(ExpertUnavailable, match="no_such_layer"):
        [piece async for piece in backend.complete(expert, batch_of(expert, ask("x")))]
    after = [piece async for piece in backend.complete(plain, batch_of(plain, ask("x")))]
    assert [piece.text for piece in before] == [piece.text for piece in after]
    assert (len(backend.load_report.base_loads), backend.load_report.adapter_loads) == (2, ())
    await backend.aclose()


def test_an_adapter_that_is_more_than_lora(files: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = files / "adapter/adapter_model.safetensors"
    tensors = load_file(weights)
    save_file({**tensors, "base_model.model.lm_head.weight": next(iter(tensors.values())).clone()}, weights)
    with pytest.raises(ConfigError, match=r"lm_head.weight.*modules_to_save"):
        Transformers().check(expert_on(files))
    edit(files / "adapter/adapter_config.json", peft_type="IA3")
    with pytest.raises(ConfigError, match="IA3"):
        Transformers().check(expert_on(files))


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 64, None])
def test_broken_weights_are_named(files: Path, content: bytes | None) -> None:
    weights = files / "adapter/adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10] if content is None else content)
    with pytest.raises(ConfigError, match="not a whole safetensors file") as caught:
        Transformers().check(expert_on(files))
    assert str(weights) in caught.value.message


def test_a_broken_configuration_is_named(files: Path) -> None:
    for content in ("{", "[]"):
        (files / "adapter/adapter_config.json").write_text(content)
        with pytest.raises(ConfigError, match=r"adapter_config.json"):
            Transformers().check(expert_on(files))


@pytest.mark.parametrize("gone", ["config.json", "model.safetensors", "token*"])
def test_a_model_folder_that_lacks_a_part(files: Path, gone: str) -> None:
    for path in (files / "base").glob(gone):
        path.unlink()
    with pytest.raises(ConfigError, match=r"has no (configuration|weights|tokenizer)"):
        Transformers().check(expert_on(files, None))


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("builtin:smollm", "builtin:smollm2-135m-instruct"),
        ("/no/such/folder", "does not exist"),
        ("nobody-at-all/not-cached-1b", "allows_download: true"),
    ],
)
def test_a_reference_that_leads_nowhere(model: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        Transformers().check(tiny_expert(model))
    assert model in caught.value.message


def test_what_may_be_downloaded_is_not_asked_for_at_check() -> None:
    Transformers().check(tiny_expert("nobody-at-all/not-cached-1b", options={"allows_download": True}))


def test_an_unknown_option_gets_the_nearest(files: Path) -> None:
    with pytest.raises(ConfigError, match=r"'accept_base'.*'accepts_base'"):
        Transformers().check(expert_on(files, options={"accept_base": "x"}))
    with pytest.raises(ConfigError, match="type bool"):
        Transformers().check(expert_on(files, options={"allows_download": "yes"}))


def test_the_base_of_an_adapter_expert() -> None:
    expert = Expert(id="e", model="m", backend="transformers")
    assert base_reference(expert) == "m"
    assert base_reference(replace(expert, lora_base="b")) == "m"
    assert base_reference(replace(expert, adapter="a")) == "m"
    assert base_reference(replace(expert, adapter="a", lora_base="b")) == "b"


async def test_at_work_a_broken_set_up_fails_its_batch_alone(files: Path) -> None:
    """The adapter goes after the check: its batch fails, the base stays and the next expert is served."""
    backend = Transformers(threads=1, device="cpu")
    expert = expert_on(files)
    shutil.rmtree(files / "adapter")
    with pytest.raises(ExpertUnavailable, match=r"adapter_config.json is missing") as caught:
        [piece async for piece in backend.complete(expert, batch_of(expert, ask("x")))]
    assert not caught.value.retryable
    plain = expert_on(files, None)
    assert [piece async for piece in backend.complete(plain, batch_of(plain, ask("x")))]
    assert len(backend.load_report.base_loads) == 1
    await backend.aclose()


async def test_a_tokenizer_without_chat_template_is_said_so(files: Path) -> None:
    (files / "base/chat_template.jinja").unlink()
    backend = Transformers(threads=1, device="cpu")
    expert = expert_on(files, None)
    with pytest.raises(ExpertUnavailable, match="no chat template"):
        [piece async for piece in backend.complete(expert, batch_of(expert, ask("x")))]
    await backend.aclose()
