"""The response model of adaptive profiling: how likely a new expert is right on each question, and how sure that is."""

from __future__ import annotations

import numpy as np

from eval.adaptive_bank import Floats, Ints, QuestionBank

__all__ = ["ResponseModel", "sigmoid"]

_SLOPE_SD = 0.3
_STRATUM_SD = 0.5
"""Prior spreads, in logits: of the weight that known difficulty has for the new expert, around 1, and of how far its
ability in a stratum lies from its ability overall. Chosen by leaving one expert out on MMLU-Pro's fit questions, where
0.3 to 0.6 do nearly as well."""

_NEWTON_STEPS = 25
_CONVERGED = 1e-6


def sigmoid(logits: Floats) -> Floats:
    """The logistic function."""
    return np.asarray(1.0 / (1.0 + np.exp(-logits)), dtype=np.float64)


class ResponseModel:
    """`P(right on i) = σ(ability + slope·easiness_i + stratum effect)`: a Rasch model with a random effect per stratum.

    The known experts' answers give the easiness; Gaussian priors hold the rest (Lord and Novick 1968, ch. 17, for the
    model); the posterior is its Laplace approximation: Newton's method and the inverse Hessian.
    """

    def __init__(self, bank: QuestionBank) -> None:
        n_strata = len(bank.strata)
        self.bank = bank
        self.features: Floats = np.column_stack([np.ones(len(bank)), bank.easiness, np.eye(n_strata)[bank.stratum_of]])
        self._prior_mean: Floats = np.concatenate([[bank.ability_mean, 1.0], np.zeros(n_strata)])
        spreads = np.concatenate([[bank.ability_sd, _SLOPE_SD], np.full(n_strata, _STRATUM_SD)])
        self._prior_precision: Floats = spreads**-2.0
        self.weights: Floats = self._prior_mean
        self.covariance: Floats = np.diag(spreads**2)

    def learn(self, asked: Ints, grades: Floats) -> None:
        """Take in all answers so far: positions of the questions and their grades (0..1)."""
        rows = self.features[asked]
        weights: Floats = self.weights
        for _ in range(_NEWTON_STEPS):
            chances = sigmoid(rows @ weights)
            gradient = rows.T @ (grades - chances) - self._prior_precision * (weights - self._prior_mean)
            step = np.linalg.solve(self._hessian(rows, chances), gradient)
            weights = np.asarray(weights + step, dtype=np.float64)
            if np.abs(step).max() < _CONVERGED:
                break
        self.weights = weights
        hessian = self._hessian(rows, sigmoid(rows @ weights))
        self.covariance = np.asarray(np.linalg.inv(hessian), dtype=np.float64)

    def _hessian(self, rows: Floats, chances: Floats) -> Floats:
        information = (rows * (chances * (1 - chances))[:, None]).T @ rows
        return np.asarray(information + np.diag(self._prior_precision), dtype=np.float64)

    def chances(self) -> Floats:
        """P(right) per question, averaged over what is not known of the expert (MacKay's approximation, 1992)."""
        variance = np.einsum("ij,jk,ik->i", self.features, self.covariance, self.features)
        return sigmoid(self.features @ self.weights / np.sqrt(1 + np.pi * variance / 8))

    def gradients(self) -> Floats:
        """How each question's chance moves with the weights: shape (questions, weights)."""
        chances = sigmoid(self.features @ self.weights)
        return np.asarray((chances * (1 - chances))[:, None] * self.features, dtype=np.float64)

    def mean_and_sd(self, members: Ints, asked: Ints, grades: Floats) -> tuple[float, float]:
        """The accuracy over the questions `members`, and the standard deviation of what is not known of it.

        Answers that are known count as they are; of the others both the chance and the luck are uncertain.
        """
        chances = self.chances()
        chances[asked] = grades
        is_open = np.ones(len(self.bank), dtype=bool)
        is_open[asked] = False
        rest = members[is_open[members]]
        gradient = self.gradients()[rest].sum(axis=0)
        luck = float((chances[rest] * (1 - chances[rest])).sum())
        variance = (float(gradient @ self.covariance @ gradient) + luck) / len(members) ** 2
        return float(chances[members].mean()), float(np.sqrt(variance))
