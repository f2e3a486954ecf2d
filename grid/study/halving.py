"""Successive halving: what a trial must have reached at its rungs to be worth its other steps.

As in Jamieson and Talwalkar (2016, arXiv 1502.07943) and ASHA (Li et al. 2018, arXiv 1810.05934),
a trial goes on from a rung if it is among the best there. It is compared with the trials of its
cell's earlier waves alone, so the decision is a function of the trial and of those, whatever runs
beside it, and in whichever order. Pure.
"""

from collections.abc import Sequence

from semigrid.trainers.choose import Cutoffs, rank
from semigrid.trainers.recipe import Recipe

# A trial's (step, Acc@1, cross-entropy) at its evaluations, ``trainers.choose.course``.
Course = Sequence[tuple[int, float, float]]


def rungs(recipe: Recipe) -> list[int]:
    """The numbers (from 0) of the evaluations that decide: at 1/2, 1/4, 1/8 … of the steps.

    Those nearest to it, and none within the warm-up, where a learning rate says nothing yet.
    """
    steps = recipe.evaluation_steps
    found: set[int] = set()
    share = len(steps) / 2
    while round(share) >= 1:
        number = round(share) - 1
        if number < len(steps) - 1 and steps[number] > (recipe.warmup_steps or 0):
            found.add(number)
        share /= 2
    return sorted(found)


def cutoffs(recipe: Recipe, earlier: Sequence[tuple[Recipe, Course]], factor: int) -> Cutoffs:
    """What a trial must reach at each of its rungs: to be among the best 1/``factor`` there.

    Args:
        recipe: the trial's own, resolved.
        earlier: recipe and course of the trials of earlier waves. One that was stopped has no
            say at the rungs it did not reach. The number of steps may be searched too: trials
            are compared at the same share of their own steps.
    """
    steps = recipe.evaluation_steps
    found: Cutoffs = {}
    for number in rungs(recipe):
        there = []
        for other, course in earlier:
            wanted = other.evaluation_steps
            if len(wanted) == len(steps):  # else its evaluations are not at the same shares
                there += [(a, c) for step, a, c in course if step == wanted[number]]
        if there:
            there.sort(key=lambda pair: rank(*pair), reverse=True)
            found[steps[number]] = there[max(1, len(there) // factor) - 1]
    return found
