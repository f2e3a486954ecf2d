"""The report as people see it: in a browser, at the width of a desk and of a phone."""

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, sync_playwright
from tests.helpers.command import semigrid_process
from tests.helpers.experiments import SMALL
from tests.helpers.finished import FinishedGrid
from tests.helpers.nasty import bomb
from tests.helpers.scheduling import start_next
from tests.helpers.scores import alike
from tests.helpers.shop import SETTINGS, shop

from semigrid.data.builder.ingest import build_dataset
from semigrid.data.sources.files import folder_items
from semigrid.grid.analysis.answer import answer
from semigrid.grid.analysis.statistics import Interval
from semigrid.grid.report import accuracy, charts, training
from semigrid.grid.report.mistakes import confident_mistakes
from semigrid.grid.report.page import report
from semigrid.grid.study.ledger import start_record

CHROMIUM = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "chrome"])), None)
# no browser of a test may look for updates
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
EVIL = "<script>alert(1)</script>"
LONG = "猫\x1b[2J" + "L" * 200


@pytest.fixture
def finished(tmp_path: Path) -> FinishedGrid:
    """Classes with names that are markup, formulas or long, two slices; everything finished."""
    items = [
        replace(
            item,
            label=(EVIL, "a $x_1$ & b", LONG)[number % 3],
            slices={"market<b>": LONG if number % 3 else f"{EVIL} & co", "season": "w"},
        )
        for number, item in enumerate(folder_items(str(shop(tmp_path / "images", 120))))
    ]
    build_dataset(str(tmp_path / "shop"), items, SETTINGS)
    grid = FinishedGrid(
        tmp_path,
        seeds=2,
        datasets={"shop": str(tmp_path / "shop")},
        models=SMALL["models"],
        grid=[{"model": "vit", "labels": ["50%", "100%"]}],
    )
    images = len(grid.ids)
    grid.finish("shop/vit/50%", images // 2, images // 2 + 1)
    grid.finish("shop/vit/100%", images // 2 + 2, images - 3)
    return grid


class Page(HTMLParser):
    """Ids, and what may not be in a page that stands alone."""

    def __init__(self, html: str):
        super().__init__()
        self.ids: list[str] = []
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.without_alt = 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.add(tag)
        self.ids += [found["id"] or ""] if "id" in found else []
        self.links += [found[name] or "" for name in ("src", "href", "xlink:href") if name in found]
        self.without_alt += tag == "img" and not found.get("alt")
        self.without_alt += found.get("role") == "img" and not found.get("aria-label")


def test_text_from_data_stays_text(finished: FinishedGrid) -> None:
    html = report(finished.results())
    assert EVIL not in html and "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    page = Page(html)
    assert "script" not in page.tags
    assert "a $x_1$ &amp; b" in html  # in charts, too, it is no formula
    assert "market&lt;b&gt;" in html and "market<b>" not in html


def test_the_file_stands_alone(finished: FinishedGrid) -> None:
    html = report(finished.results())
    page = Page(html)
    assert len(page.ids) == len(set(page.ids)) > 20
    assert all(link.startswith(("#", "data:")) for link in page.links)
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert page.without_alt == 0
    assert "url(" not in re.sub(r"url\(#", "", html) and "@import" not in html
    assert len(html) < 2e6


def test_a_grid_that_has_not_begun_has_a_report(tmp_path: Path) -> None:
    html = report(FinishedGrid(tmp_path).results())
    assert "0 of 8 cells finished" in html and "No answer yet" in html
    assert html.count("not shown") >= 5 and "<svg" not in html


def test_the_surest_mistakes_have_their_images(finished: FinishedGrid) -> None:
    results = finished.results()
    (row,) = results.best
    mistakes, problem = confident_mistakes(results, row)
    assert problem is None and mistakes
    right = finished.first(len(finished.ids) // 2 + 2)
    wrong = {
        image_id for image_id, is_right in zip(finished.ids, right, strict=True) if not is_right
    }
    assert {mistake.image_id for mistake in mistakes} <= wrong
    assert all((each.image or "").startswith("data:image/") for each in mistakes)
    # an image that was whole when it was measured, and is a bomb by now
    broken = mistakes[1].image_id
    with pytest.MonkeyPatch.context() as patch:
        shop_images = type(results.plan.experiment.datasets[row.cell.dataset]).images
        patch.setattr(
            "semigrid.data.schema.Dataset.images",
            lambda self, split, ids: shop_images(self, split, ids) | {broken: bomb()},
        )
        damaged, said = confident_mistakes(results, row)
    assert [m.image_id for m in damaged if m.image is None] == [broken]
    many = "1 of these images cannot be shown any more"
    assert said is not None and said.startswith(f"{many}: image {broken} cannot be decoded: ")
    sure = [mistake.confidence for mistake in mistakes]
    assert sure == sorted(sure, reverse=True)
    for shard in Path(results.plan.experiment.dataset_uri("shop")).glob("*test*"):
        shard.unlink()
    without, problem = confident_mistakes(results, row)
    assert (
        len(without) == len(mistakes) and problem is not None and "shop cannot be read" in problem
    )
    assert all(mistake.image is None for mistake in without)
    assert "no image" in report(results)


def test_what_mattered_is_what_the_score_depends_on(tmp_path: Path) -> None:
    grid = FinishedGrid(tmp_path, grid=[{"model": "vit", "labels": ["100%"]}])
    few = training.importance(grid.results(), "vit")
    assert not few.svg and "it takes 8 trials" in few.note

    many = FinishedGrid(
        tmp_path,
        name="many",
        grid=[{"model": "vit", "labels": ["100%"]}],
        search={"trials": 24, "wave": 24, "sampler": "random"},
    )
    scheduler = many.scheduler()
    while job := start_next(scheduler):
        record = start_record(job.spec, job.search.name)
        record.status = "finished"
        # the learning rate decides, nothing else matters
        record.val = alike({"acc1": 80 - abs(np.log(job.spec.recipe.base_lr / 0.02)), "ce": 1.0})
        record.history = [
            alike({"step": 6.0, "student_acc1": 1, "student_ce": 1, "ema_acc1": 1, "ema_ce": 1})
        ]
        if job.kind == "evaluate":
            record.test = alike({"acc1": 1.0, "acc5": 1.0, "ce": 1.0})
        many.ledger.write(record)
        many.storage.write(f"weights/{job.spec.id}.safetensors", b"")
        scheduler.complete(job, record)
    figure = training.importance(many.results(), "vit")
    assert figure.svg and figure.rows[0][0] == "base_lr"
    assert float(figure.rows[0][1]) > 0.5 and "PED-ANOVA" in figure.note
    search = training.search_history(many.results(), "vit")
    assert search.svg and search.rows[0][1] == "24"


def test_an_interval_that_misses_its_mean_by_a_rounding_is_drawn() -> None:
    intervals = [Interval(0.5 + 1e-12, 0.7), Interval(0.4, 0.6 - 1e-12)]
    line = charts.Series("a", [1, 2], [50, 60], intervals)
    assert "<svg" in charts.lines([line], "x", "y")


@dataclass
class Seen:
    """What a browser met on its way."""

    said: list[str]
    requests: list[str]
    page: Any


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here: install the system's package chromium")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


def look(browser: Browser, file: Path, width: int) -> Seen:
    page = browser.new_page(viewport={"width": width, "height": 900})
    seen = Seen([], [], page)
    page.on("console", lambda message: seen.said.append(message.text))
    page.on("pageerror", lambda error: seen.said.append(str(error)))
    page.on("dialog", lambda dialog: seen.said.append(dialog.message))
    page.on("request", lambda request: seen.requests.append(request.url))
    page.goto(file.as_uri())
    return seen


@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser(finished: FinishedGrid, browser: Browser, tmp_path: Path, width: int) -> None:
    done = semigrid_process("report", str(finished.file))
    file = tmp_path / "results" / "small" / "report.html"
    assert done.returncode == 0 and f"written: {file}" in done.stderr, done.stderr
    seen = look(browser, file, width)
    assert seen.said == [] and seen.requests == [file.as_uri()]
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
    assert seen.page.locator("h1").inner_text() == "small"
    # a long name does not push the numbers beside it out of sight
    seen.page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    table = seen.page.get_by_role("region", name="Classes, the weakest first")
    assert "\\x1b[2JLLL" in table.inner_text()
    assert width < 1000 or table.evaluate("each => each.scrollWidth <= each.clientWidth")
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
    titles = seen.page.locator("figure figcaption").all_inner_texts()
    for title in ("Accuracy by labels", "Calibration", "Confusions", "By class", "By market<b>"):
        assert any(text.startswith(title) for text in titles), (title, titles)
    # its two first charts share the width, and a single dataset's name is said once, in the table
    assert not any("shop" in title for title in titles if title.startswith("Accuracy"))
    first, second = (seen.page.locator("figure").nth(n).bounding_box() for n in (0, 1))
    if width > 1000:
        assert first["y"] == second["y"] and second["x"] + second["width"] > 0.95 * width
    boxes = [svg.bounding_box() for svg in seen.page.locator("figure svg").all()]
    assert len(boxes) == len(titles) >= 6
    for box in boxes:
        assert box is not None and box["width"] > 250 and box["height"] > 60
        assert box["x"] >= 0 and box["x"] + box["width"] <= width
    images = seen.page.locator(".mistakes img")
    assert images.count() > 0
    assert images.evaluate_all("all => all.every(image => image.naturalWidth > 0)")
    # the letters of a chart can be read
    heights = seen.page.locator("figure svg text").evaluate_all(
        "all => all.map(text => text.getBoundingClientRect().height)"
    )
    assert np.median([height for height in heights if height > 0]) >= 9
    seen.page.close()


def test_on_paper(finished: FinishedGrid, browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(report(finished.results()))
    seen = look(browser, file, 1280)
    seen.page.emulate_media(media="print")
    pdf = seen.page.pdf(format="A4")
    assert pdf.startswith(b"%PDF") and pdf.count(b"/Type /Page\n") + pdf.count(b"/Type /Page ") >= 2
    assert not seen.page.locator("nav").is_visible()
    seen.page.close()


def test_figures_have_numbers_and_words(finished: FinishedGrid) -> None:
    results = finished.results()
    figure = accuracy.accuracy_by_labels(results, "shop")
    assert figure.svg
    assert [row[0] for row in figure.rows] == ["shop/vit/50%", "shop/vit/100%"]
    assert "The highest is shop/vit/100%" in figure.alt


def test_controls_are_drawn_beside_their_models_and_what_the_pool_adds(tmp_path: Path) -> None:
    controls = ["compute", "labeled-pool"]
    grid = FinishedGrid(tmp_path, controls=controls, grid=SMALL["grid"], models=SMALL["models"])
    for fraction in ("50%", "100%"):
        grid.finish(f"digits/vit/{fraction}", 100)
        grid.finish(f"digits/semi-vit/{fraction}/100%", 140)
        for control in controls:
            grid.finish(f"digits/semi-vit/{fraction}/100%/{control}", 120)
    results = grid.results()
    by_labels = accuracy.accuracy_by_labels(results, "digits")
    assert "for vit, semi-vit." in by_labels.alt
    assert "dashed: the model's control" in by_labels.note and "dotted: with its" in by_labels.note
    assert by_labels.svg.count(">semi-vit</text>") == 1  # one colour, one line in the legend
    worth = accuracy.pool_worth_chart(results, answer(results), "digits")
    # 140 against 120 of 200 at both fractions
    assert [row[:3] for row in worth.rows] == [
        ["semi-vit", "vit trained for longer", name] for name in ("mean", "50%", "100%")
    ]
    assert all(row[3].startswith("+10.00 points (") for row in worth.rows)
    assert worth.alt == "semi-vit: held." and ">50% of train labels</text>" in worth.svg


def test_accuracy_over_what_it_took(finished: FinishedGrid) -> None:
    results = finished.results()
    figure = accuracy.accuracy_by_cost(results, answer(results), "shop")
    assert figure.title == "Accuracy by device time"
    # each was trained twice for 120 seconds
    assert [row[2] for row in figure.rows] == ["4.0 min of CPU cores"] * 2
    # with half the labels it is not certainly above chance, so nothing is said of these
    fewer, whole = (row.labeled_images for row in results.rows)
    assert f">{whole} labels</text>" in figure.svg and f">{fewer} labels<" not in figure.svg
