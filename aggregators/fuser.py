"""Learned vote: what each expert's word is worth, and how far the winner may be trusted, learned on graded outcomes."""

from __future__ import annotations

from pathlib import Path

from aggregators.ballot import answer_of, gather_votes
from aggregators.base import AGGREGATORS
from aggregators.fusion import Fusion, fused_ids, votes_of
from router_service.artefacts import ArtefactKind
from router_service.errors import ConfigError, NotFittedError
from router_service.types import Answer, Ask, FitData, Panel

__all__ = ["Fuser"]

KIND = ArtefactKind("aggregator_fuser", 1)


@AGGREGATORS.register("fuser")
class Fuser:
    """The learned fuser of Fusion of Experts (Wang et al. 2023) for answers: a conditional logit (`Fusion`).

    It knows who said what, how good each is in the query's category, how likely the recruiter thinks each to be right,
    who errs together, and how long an expert's completion was against its usual ones; it is learned on panels of many
    sizes. Several samples of one expert share that expert's weight. An expert that was not there when it was fitted has
    the mean weight of the others. Its confidence is calibrated by cross-validation. A panel of one answer keeps it.
    """

    keeps_text = True
    needs_chances = True

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed
        self.fusion_: Fusion | None = None

    def fit(self, data: FitData) -> Fuser:
        """Learn from the graded outcomes; returns itself. `ConfigError` where there are none."""
        ids, categories = fused_ids(data)
        if not ids:
            raise ConfigError(
                "aggregator 'fuser' learns from graded outcomes, and there are none; make an artefact with "
                "`enlist profile`, or aggregate with `weighted`, which needs only profiles"
            )
        votes = votes_of(data, ids, categories)
        fusion = Fusion([expert.id for expert in data.experts], categories)
        self.fusion_ = fusion.fit(votes, seed=self.seed)
        return self

    def save(self, path: str | Path) -> None:
        """Write what was learned to one file; `NotFittedError` before `fit`."""
        fusion = self._fitted()
        names = {"experts": list(fusion.expert_ids), "categories": list(fusion.categories), "seed": self.seed}
        KIND.save(path, names, fusion.arrays())

    def load(self, path: str | Path) -> Fuser:
        """Take the state that `save` wrote; returns itself. `ConfigError` for another file, format or seed."""
        saved = KIND.load(path)
        if saved.fields["seed"] != self.seed:
            raise ConfigError(f"{path} was fitted with seed {saved.fields['seed']}, and {self.seed} is configured")
        self.fusion_ = Fusion.from_arrays(saved.fields["experts"], saved.fields["categories"], saved.arrays)
        return self

    async def aggregate(self, panel: Panel, *, ask: Ask) -> Answer:
        """The answer that most speaks for; a tie goes to the earliest group. Confidence is calibrated."""
        fusion = self._fitted()
        groups = await gather_votes(panel)
        panel_fusion = fusion.of_members([member.expert_id for member in panel.members])
        chances = [panel.p_correct(member.expert_id) for member in panel.members]
        votes = fusion.votes_of_panel(groups, panel.members, category=panel.annotation.category, chances=chances)
        verdicts = panel_fusion.verdicts(votes)
        confidence = float(panel_fusion.confidence(votes, verdicts)[0])
        return answer_of(panel, groups[int(verdicts.winners[0])], aggregator="fuser", confidence=confidence)

    def _fitted(self) -> Fusion:
        if self.fusion_ is None:
            raise NotFittedError(
                "aggregator 'fuser' is not fitted; it learns from an artefact's outcomes (`enlist profile`)"
            )
        return self.fusion_
