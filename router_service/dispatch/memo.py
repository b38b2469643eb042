"""What names a completion across processes: two calls of one key would be one and the same call."""

from __future__ import annotations

import hashlib

from router_service.dispatch.planner import SampleKey, keys_of
from router_service.types import Expert, ExpertBatch

__all__ = ["memo_keys"]


def memo_keys(expert: Expert, batch: ExpertBatch) -> dict[SampleKey, str]:
    """The memo key of every completion the batch asks for: a digest of expert, query and seed, and the sample.

    What does not change what is said does not count: the expert's key, limits and prices, the place of the query in
    its wave, and what is left of its budget.
    """
    about = (expert.id, expert.model, expert.backend, expert.lora_base, expert.adapter, expert.persona)
    settings = (expert.sampling, expert.max_output_tokens, sorted(expert.options.items()))
    keys: dict[SampleKey, str] = {}
    for assignment in batch.assignments:
        query = assignment.query
        said = (query.id, query.parent_id, query.messages, query.task_format, query.sampling)
        call = repr((about, settings, said, query.tools, query.tool_choice, assignment.seed))
        digest = hashlib.sha256(call.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        for key in keys_of(ExpertBatch(expert_id=expert.id, assignments=(assignment,))):
            keys[key] = f"{digest}:{key[2]}"
    return keys
