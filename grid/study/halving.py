"""Successive halving: what a trial must reach at its rungs to be trained further.

As in Jamieson and Talwalkar (2016, arXiv 1502.07943) and ASHA (Li et al. 2018, arXiv 1810.05934),
a trial goes on from a rung if it is among the best there. It is compared only with trials of
earlier waves of its cell, so the decision does not depend on what runs at the same time.
"""

from collections.abc import Sequence

from semigrid.trainers.evaluation.choose import Cutoffs, rank
from semigrid.trainers.recipe import SteppedRecipe

# a trial's (step, Acc@1, cross-entropy) at its evaluations, see ``choose.course``
Course = Sequence[tuple[int, float, float]]


def rungs(recipe: SteppedRecipe) -> list[int]:
    """Indices of the evaluations nearest to 1/2, 1/4, 1/8 … of the steps, in ascending order.

    Evaluations during the warm-up are left out: they do not yet tell good learning rates from bad.
    """
    steps = recipe.evaluation_steps
    indices: set[int] = set()
    share = len(steps) / 2
    while round(share) >= 1:
        index = round(share) - 1
        if index < len(steps) - 1 and steps[index] > (recipe.warmup_steps or 0):
            indices.add(index)
        share /= 2
    return sorted(indices)


def cutoffs(
    recipe: SteppedRecipe, earlier: Sequence[tuple[SteppedRecipe, Course]], factor: int
) -> Cutoffs:
    """The scores of the best 1/``factor`` of earlier trials at each rung.

    Args:
        recipe: the trial's, resolved.
        earlier: recipe and course of each trial of earlier waves. A stopped trial counts only at
            the rungs that it reached. Trials with another number of steps are compared at the same
            share of their steps, which takes the same number of evaluations.
    """
    steps = recipe.evaluation_steps
    alike = [(r.evaluation_steps, c) for r, c in earlier if len(r.evaluation_steps) == len(steps)]
    limits: Cutoffs = {}
    for index in rungs(recipe):
        scores = [
            (acc1, ce) for own, course in alike for step, acc1, ce in course if step == own[index]
        ]
        if scores:
            scores.sort(key=lambda pair: rank(*pair), reverse=True)
            limits[steps[index]] = scores[max(1, len(scores) // factor) - 1]
    return limits
