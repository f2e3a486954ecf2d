"""The answer on grids whose truth is known: labels saved, the pool, and the paper's claims."""

import io
import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from tests.helpers.command import semigrid, semigrid_process
from tests.helpers.experiments import SMALL
from tests.helpers.finished import FinishedGrid

from semigrid.grid.analysis.answer import answer
from semigrid.grid.analysis.claims import (
    Claim,
    as_good_as_teacher,
    beats,
    half_is_enough,
    helps_beyond,
    mean_difference,
    more_helps_then_hurts,
    rare_classes_fail,
)
from semigrid.grid.analysis.pool_curve import pool_curve
from semigrid.grid.analysis.statistics import Comparison, Weighted, plain
from semigrid.grid.status.terminal import Terminal
from semigrid.grid.tables.answer import answer_facts, savings_table
from semigrid.grid.tables.render import show


def share(right: int, images: int = 2000, seeds: int = 1) -> Weighted:
    """Seeds that all put the same images into their class."""
    return plain(np.repeat((np.arange(images) < right)[None, :], seeds, axis=0))


# ---- the pool


def test_a_parabolas_top_is_found() -> None:
    # over log2 of the pool: 80 % less 4 points for each doubling away from 4,000
    cells = {1000 * 2**k: share(1600 - 80 * abs(k - 2) ** 2) for k in range(5)}
    found = pool_curve(cells)
    assert found is not None and found.turn is not None
    assert found.pools == (1000, 2000, 4000, 8000, 16000) and found.best == 4000
    assert found.turn.images == pytest.approx(4000, rel=0.01)
    # left and right of the top the same images are right: the top is known, but for an image or two
    assert found.turn.low == pytest.approx(3992, abs=1)
    assert found.turn.high == pytest.approx(4008, abs=1)
    assert found.doubling.difference == pytest.approx(0, abs=1e-9)
    # the slope at the end: 2 · 4 points · 2 doublings from the top
    assert found.at_end.difference == pytest.approx(-0.16)


def test_a_top_beside_the_middle_is_found() -> None:
    found = pool_curve({1000 * 2**k: share(1600 - 40 * (k - 1) ** 2) for k in range(5)})
    assert found is not None and found.turn is not None
    assert found.turn.images == pytest.approx(2000, rel=0.01)


def test_a_straight_line_does_not_turn_and_one_pool_is_no_curve() -> None:
    line = pool_curve({1000 * 2**k: share(1200 + 40 * k) for k in range(4)})
    assert line is not None and line.turn is None
    assert line.doubling.difference == pytest.approx(0.02) and line.doubling.interval.low > 0
    assert line.at_end.difference == pytest.approx(0.02)
    two = pool_curve({1000: share(1200), 4000: share(1300)})
    assert two is not None and two.doubling.difference == pytest.approx(0.025)
    assert pool_curve({1000: share(1200)}) is None


def test_the_turn_is_within_its_interval() -> None:
    draw = np.random.default_rng(0)
    held = found_at_all = 0
    for _ in range(200):
        difficulty = draw.normal(size=1500)
        cells = {}
        for k in range(5):
            skill = 0.8 - 0.12 * (k - 2.3) ** 2
            cells[1000 * 2**k] = plain(difficulty + draw.normal(size=(3, 1500)) * 0.5 < skill)
        found = pool_curve(cells)
        if found is not None and found.turn is not None:
            low, high = found.turn.low or 1000, found.turn.high or 16000
            # the accuracies of a parabola of skill are one nearly; so is its top
            held += low <= 1000 * 2**2.3 <= high
            found_at_all += 1
    assert found_at_all > 150 and held / found_at_all >= 0.9


# ---- the paper's claims


def by_fraction(**right: int) -> dict[Fraction, Weighted]:
    return {Fraction(int(name[1:]), 100): share(count) for name, count in right.items()}


def verdicts(claim: Claim) -> tuple[str, int]:
    return claim.verdict, len(claim.evidence)


def test_one_model_beats_another() -> None:
    vit = by_fraction(p25=1000, p50=1200, p100=1400)
    names = "d", "semi", "vit"
    above = by_fraction(p25=1200, p50=1300, p100=1450)
    assert verdicts(beats(*names, above, vit)) == ("held", 3)
    once_equal = by_fraction(p25=1200, p50=1200, p100=1450)
    assert verdicts(beats(*names, once_equal, vit)) == ("undecided", 3)
    once_below = by_fraction(p25=1200, p50=1300, p100=1300)
    assert verdicts(beats(*names, once_below, vit)) == ("refuted", 3)
    assert verdicts(beats(*names, by_fraction(p75=1400), vit)) == ("not tested", 1)


def test_half_the_labels_are_enough_within_a_margin() -> None:
    vit = by_fraction(p25=1000, p50=1200, p100=1400)
    names = "d", "semi", "vit"
    equal = by_fraction(p25=1200, p50=1400, p100=1000)
    assert verdicts(half_is_enough(*names, equal, vit, 0.01)) == ("held", 2)
    a_little_below = by_fraction(p25=1195, p50=1395)
    assert verdicts(half_is_enough(*names, a_little_below, vit, 0.01)) == ("held", 2)
    assert verdicts(half_is_enough(*names, a_little_below, vit, 0.001)) == ("undecided", 2)
    below = by_fraction(p25=1200, p50=1300)
    assert verdicts(half_is_enough(*names, below, vit, 0.01)) == ("refuted", 2)
    assert verdicts(half_is_enough(*names, by_fraction(p100=1400), vit, 0.01)) == ("not tested", 1)


def test_a_student_is_as_good_as_its_teacher_within_a_margin() -> None:
    def claim(student: int, teacher: int, margin: float = 0.01) -> Claim:
        pairs = {"50%": (share(student), share(teacher))}
        return as_good_as_teacher("d", "small", ["vit"], pairs, margin)

    assert verdicts(claim(1400, 1400)) == ("held", 1)
    assert claim(1400, 1400).text == "small is as good as its teacher, vit (within 1 point)"
    assert verdicts(claim(1395, 1400)) == ("held", 1)
    assert verdicts(claim(1395, 1400, 0.001)) == ("undecided", 1)
    assert verdicts(claim(1300, 1400)) == ("refuted", 1)
    none = as_good_as_teacher("d", "small", ["vit", "semi-vit"], {}, 0.01)
    assert verdicts(none) == ("not tested", 1)
    assert "the best of its teachers, vit, semi-vit" in none.text


def test_unlabelled_images_help_beyond_a_control() -> None:
    def beyond(*pairs: tuple[int, int], seeds: int = 2) -> Claim:
        """Pairs of right images, of 2,000, of cells and controls at 25, 50, … %."""
        cells = {
            Fraction(number, 4): (share(first, seeds=seeds), share(second, seeds=seeds))
            for number, (first, second) in enumerate(pairs, 1)
        }
        return helps_beyond("d", "semi", "compute", cells, "add controls: [compute]")

    # +5 and +3 points: 4 on average, ± 1.96 · √2 / √2 by how far these are apart
    held = beyond((1300, 1200), (1360, 1300))
    assert held.text == "semi: unlabelled images help beyond compute"
    assert held.verdict == "held" and held.mean.difference == pytest.approx(0.04)
    assert held.evidence[0] == "on average +4.00 points (+2.04 to +5.96)"
    assert [each[:10] for each in held.evidence[1:]] == ["25%: +5.00", "50%: +3.00", "the interv"]
    assert beyond((1200, 1300), (1300, 1360)).verdict == "refuted"
    # −2 points and three times +6: +4 on average, but who has the fewest labels is certainly hurt
    unlike = beyond((1700, 1740), *[(1700, 1580)] * 3)
    assert unlike.mean.difference == pytest.approx(0.04) and unlike.mean.interval.low > 0
    assert unlike.verdict == "undecided" and unlike.is_unlike and not held.is_unlike
    assert unlike.evidence[-1] == "not alike at every fraction"
    assert beyond((1740, 1700), *[(1580, 1700)] * 3).verdict == "undecided"
    # as much up as down: nobody can say, but how much it is at most
    open_ = beyond((1300, 1280), (1300, 1320))
    assert open_.verdict == "undecided" and open_.mean.difference == 0
    most = 100 * open_.mean.interval.high
    assert open_.evidence[-1] == "so at most +1.96 points" and most == pytest.approx(1.96, abs=1e-3)
    none = beyond()
    assert none.verdict == "not tested" and none.evidence == ["add controls: [compute]"]
    assert none.mean is None


def test_one_seed_is_judged_by_how_much_fractions_scatter() -> None:
    def mean(*differences: int) -> Comparison | None:
        pairs = [(share(1000 + each), share(1000)) for each in differences]
        return mean_difference(pairs)

    assert mean(100) is None  # one training of each shows nothing of how much they scatter
    # 5, 4, 6 and 5 points: 5 ± 3.182 · sqrt(0.667 / 4) by Student's t with 3 degrees of freedom,
    # or the images' own, if that is more: 5 ± 1.96 · sqrt(0.05 · 0.95 / 2000) = 0.955
    found = mean(100, 80, 120, 100)
    assert found.difference == pytest.approx(0.05) and found.seeds == 1
    assert found.interval.low == pytest.approx(0.05 - 0.013, abs=0.003)
    # 20, −10, 15 and −5 points: trainings scatter, and 2,000 images do not outvote them:
    # 5 ± 3.182 · sqrt(216.7 / 4) = ± 23.4
    wide = mean(400, -200, 300, -100)
    assert wide.difference == pytest.approx(0.05)
    assert wide.interval.high - 0.05 == pytest.approx(0.234, abs=0.002)
    # two fractions have one degree of freedom: 12.7 standard errors
    assert mean(100, 60).interval.low < 0


@pytest.mark.parametrize(
    ("right", "verdict"),
    [
        ((1000, 1200, 1100), "held"),
        ((1000, 1100, 1200), "refuted"),  # no end to it in sight
        ((1200, 1100, 1000), "refuted"),  # it hurts from the start
        ((1000, 1003, 1000), "undecided"),
        ((1000, 1000, 1001), "undecided"),
        ((1000, 1200), "not tested"),
    ],
)
def test_more_helps_then_hurts(right: tuple[int, ...], verdict: str) -> None:
    cells = {1000 * 2**k: share(count) for k, count in enumerate(right)}
    claim = more_helps_then_hurts("d", "semi", pool_curve(cells), cells)
    assert claim.verdict == verdict and claim.evidence


def test_rare_classes() -> None:
    def verdict(**classes: tuple[int, int]) -> str:
        right = {name: share(count, images).right for name, (count, images) in classes.items()}
        return rare_classes_fail("d", "cell", right, 0.01).verdict

    assert verdict(a=(5, 40), b=(10, 60)) == "held"
    assert verdict(a=(5, 40), b=(55, 60)) == "refuted"
    assert verdict(a=(5, 40), b=(28, 60)) == "undecided"
    assert verdict(a=(1, 1)) == "undecided"  # one image says nothing
    assert verdict() == "not tested"


def test_models_that_are_equal_seldom_beat_each_other() -> None:
    draw = np.random.default_rng(1)
    held = refuted = 0
    for _ in range(300):
        cells = [
            {
                Fraction(n, 4): plain(
                    draw.normal(size=(3, 300)) < 0.8 + draw.normal(size=(3, 1)) * 0.1
                )
                for n in (1, 2, 4)
            }
            for _ in range(2)
        ]
        verdict = beats("d", "semi", "vit", *cells).verdict
        held += verdict == "held"
        refuted += verdict == "refuted"
    assert held / 300 <= 0.05 and refuted / 300 <= 0.05


# ---- the answer of a grid


@pytest.fixture
def finished(tmp_path: Path) -> FinishedGrid:
    """ViT's odds double with its labels; Semi-ViT with 25 % does a little more than with 100 %."""
    grid = FinishedGrid(tmp_path)
    for fraction, vit, semi in (("25%", 100, 163), ("50%", 133, 178), ("100%", 160, 190)):
        grid.finish(f"digits/vit/{fraction}", vit)
        grid.finish(f"digits/semi-vit/{fraction}/100%", semi)
    grid.finish("digits/semi-vit/50%/200%", 188)
    grid.finish("digits/semi-vit/50%/400%", 170)
    return grid


def test_a_quarter_of_the_labels_is_enough(finished: FinishedGrid) -> None:
    found = answer(finished.results())
    (headline,) = found.headlines
    assert headline.saving is not None
    assert headline.saving.row.cell.name == "digits/semi-vit/25%/100%"
    # val has 151 images, which choose at every fraction
    assert headline.text.startswith(
        "25% of the train labels are enough for semi-vit. With 214 labels (63 to train and "
        "151 to choose) and 300 unlabelled images it scores 81.5%; vit, with all 397 labels, "
        "scores 80.0%: +1.50 points (95% interval for 2 fractions together "
    )
    # odds of 4 with 246 labels double with them: 163 of 200 are 246 · 4.405 / 4
    needed = headline.saving.needed
    assert needed is not None and needed.labels - 151 == pytest.approx(271, rel=0.05)
    assert f"vit would need about {needed.labels:,.0f} (95% interval" in headline.text
    assert f"about {needed.labels - 214:,.0f} saved, at least {needed.low - 214:,.0f}." in (
        headline.text
    )
    assert (
        "Some or all of this may be due to longer training: add controls: [compute]."
        in headline.text
    )
    assert len(found.savings) == 5
    (pool,) = found.pools
    assert pool.curve.best == 600 and "then hurt" in pool.text
    named = {claim.text: claim.verdict for claim in found.claims}
    assert named["semi-vit beats vit at every label fraction"] == "held"
    assert named["semi-vit with half the train labels matches vit (within 1 point)"] == "held"
    (pool_verdict,) = (verdict for text, verdict in named.items() if "then hurt" in text)
    assert pool_verdict == "held"


def test_a_model_that_saves_nothing_says_so(tmp_path: Path) -> None:
    grid = FinishedGrid(tmp_path)
    for fraction, vit, semi in (("25%", 100, 90), ("50%", 133, 100), ("100%", 160, 150)):
        grid.finish(f"digits/vit/{fraction}", vit)
        grid.finish(f"digits/semi-vit/{fraction}/100%", semi)
    (headline,) = answer(grid.results()).headlines
    assert headline.verdict == "not enough"
    # programs are told which two cells the difference is between: 100 and 160 of 200
    (facts,) = answer_facts(answer(grid.results()))["headlines"]
    assert facts["cell"] == "digits/semi-vit/50%/100%" and facts["baseline"] == "digits/vit/100%"
    assert facts["difference"] == pytest.approx(-30)
    assert headline.text.startswith(
        "25% and 50% of the train labels are not enough for semi-vit. With 277 labels"
    )


def test_what_is_not_finished_is_said_and_shown_as_a_dash(tmp_path: Path) -> None:
    grid = FinishedGrid(tmp_path)
    (headline,) = answer(grid.results()).headlines
    assert headline.text == "No answer yet: no cell of semi-vit is finished"
    assert "Models by labels" not in semigrid("answer", str(grid.file)).stdout
    grid.finish("digits/vit/25%", 100)
    grid.finish("digits/semi-vit/25%/100%", 120)
    (headline,) = answer(grid.results()).headlines
    assert headline.verdict == "not tested"
    (facts,) = answer_facts(answer(grid.results()))["headlines"]
    assert facts["cell"] == "digits/semi-vit/25%/100%" and facts["baseline"] == "digits/vit/25%"
    assert facts["difference"] == pytest.approx(10)
    assert "No finished cell of semi-vit has fewer labels than vit, 214." in headline.text
    done = semigrid("table", str(grid.file), "--view", "labels", "--format", "markdown")
    assert done.stdout.count("| — | — | — |") == 4, done.stdout
    done = semigrid("table", str(grid.file), "--view", "savings")
    assert done.returncode == 0 and done.stdout.count("—") == 3, done.stdout


def test_the_command_answers(finished: FinishedGrid) -> None:
    done = semigrid_process("answer", str(finished.file))
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert done.stdout.startswith("Use semi-vit with 600 unlabelled images and 277 labels (94.0% ")
    assert "\n25% of the train labels are enough for semi-vit." in done.stdout
    assert "\nModels by labels\n" in done.stdout
    assert "the paper's claims, tested here: semigrid table " in done.stdout
    facts = json.loads(semigrid("answer", str(finished.file), "--json").stdout)
    assert facts["headlines"][0]["cell"] == "digits/semi-vit/25%/100%"
    assert facts["pools"][0]["turn"]["images"] == pytest.approx(600, rel=0.3)
    assert {claim["verdict"] for claim in facts["claims"]} == {"held", "not tested"}


def test_no_number_is_cut_off_on_a_narrow_terminal(finished: FinishedGrid) -> None:
    found = answer(finished.results())
    file = io.StringIO()
    show(savings_table(found), Terminal(file, width=80))
    lines = {line.split()[0]: line for line in file.getvalue().splitlines() if "/" in line}
    for saving in found.savings:
        line = lines[saving.row.cell.name]
        assert f" {saving.row.labeled_images} " in line and f" {100 * saving.acc1:.2f} " in line
        assert saving.needed.range_text in line and len(line) <= 80


def test_an_experiment_without_unlabelled_images_has_no_answer(tmp_path: Path) -> None:
    grid = FinishedGrid(
        tmp_path,
        models={"vit": SMALL["models"]["vit"]},
        grid=[{"model": "vit", "labels": ["100%"]}],
    )
    grid.finish("digits/vit/100%", 150)
    assert answer(grid.results()).headlines == []
    assert "no cell of this experiment has a pool" in semigrid("answer", str(grid.file)).stdout


def test_a_nested_val_counts_less_and_grows_with_what_is_needed(tmp_path: Path) -> None:
    grid = FinishedGrid(tmp_path, validation="nested")
    for fraction, vit, semi in (("25%", 100, 133), ("100%", 160, 178)):
        grid.finish(f"digits/vit/{fraction}", vit)
        grid.finish(f"digits/semi-vit/{fraction}/100%", semi)
    found = {saving.row.cell.name: saving for saving in answer(grid.results()).savings}
    quarter = found["digits/semi-vit/25%/100%"]
    # of 15, 16, 13, 16, 15, 13, 19, 14, 12, 18: 4 + 4 + 3 + 4 + 4 + 3 + 5 + 4 + 3 + 5
    assert (quarter.row.label_count.train, quarter.row.label_count.val) == (63, 39)
    # ViT's odds go from 1 to 4 over 63 to 246 labels of train, and are 1.985 about half way there:
    # 63 · (246 / 63) ** (log 1.985 / log 4) = 124, with half of val, which is 78
    assert quarter.needed is not None
    assert quarter.needed.labels == pytest.approx(124 + 78, rel=0.05)
    assert quarter.saved == quarter.needed.labels - (63 + 39)
