"""What people see in a browser: their sweep in MLflow, and nothing of it without a password."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Run
from playwright.sync_api import Browser, Error, FrameLocator, Locator, Page, expect, sync_playwright

from stageflow.run_notes import trials_page
from tests.integration.stack.conftest import Cluster, Job

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SECONDS = 150  # for a page to show what it should: two cores, and a stack beside the browser

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH"),
]


@dataclass(frozen=True, slots=True)
class Told:
    """The sweep as MLflow holds it, to be found again on its pages."""

    address: str
    parent: Run
    trials: list[Run]

    @property
    def places(self) -> str:
        """The trials as MLflow's addresses name them."""
        return quote(json.dumps([run.info.run_id for run in self.trials]))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, cluster: Cluster, tmp_path: Path) -> Iterator[Page]:
    """A window of somebody who has logged in to MLflow; how it looked in the end is kept."""
    account = {"username": "stageflow", "password": cluster.stack.keys.mlflow}
    yield from window(browser, tmp_path, account)


@pytest.fixture
def stranger(browser: Browser, tmp_path: Path) -> Iterator[Page]:
    """A window of somebody who knows no password."""
    yield from window(browser, tmp_path, None)


def window(browser: Browser, folder: Path, account: dict[str, str] | None) -> Iterator[Page]:
    expect.set_options(timeout=1000 * SECONDS)
    context = browser.new_context(
        http_credentials=account,  # type: ignore[arg-type]
        viewport={"width": 1500, "height": 1000},
    )
    context.set_default_timeout(1000 * SECONDS)
    page = context.new_page()
    yield page
    for number, each in enumerate(context.pages):
        each.screenshot(path=folder / f"page{number}.png", timeout=60_000)
    context.close()


@pytest.fixture
def told(cluster: Cluster, sweep: tuple[Job, Job]) -> Told:
    """What one of the two jobs has told of, since one of them writes."""
    output = "".join(job.told for job in sweep)
    found = re.search(r"MLflow: (http\S+/experiments/(\w+)/runs/(\w+)\S*)", output)
    assert found is not None, output
    address, experiment, run = found.groups()
    client = MlflowClient(cluster.stack.layout.mlflow_url)
    parent = client.get_run(run)
    trials = client.search_runs(
        [experiment],
        f"tags.`stageflow.trial` LIKE '{parent.info.run_name}/%'",
        order_by=["metrics.miou DESC"],
    )
    assert len(trials) == 3
    return Told(address, parent, list(trials))


def test_from_the_address_to_a_comparison(page: Page, told: Told) -> None:
    """The run of the sweep says what came of it, and leads to its trials, side by side."""
    best, *_ = told.trials
    page.goto(told.address)
    expect(page.get_by_role("heading", name=str(told.parent.info.run_name))).to_be_visible()
    expect(page.get_by_text(f"Best: miou {best.data.metrics['miou']:.4g}")).to_be_visible()
    expect(page.get_by_text("sweeps/recam_threshold.py").first).to_be_visible()
    expect(page.get_by_text(re.compile(r"^masks \(\w+\)")).first).to_be_visible()
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="All trials, best first").click()
    trials = opened.value
    rows = trials.get_by_role("link", name=re.compile(r"^trial \d+$"))
    expect(rows).to_have_text([str(run.info.run_name) for run in told.trials])
    for box in trials.get_by_label("Press Space to toggle row selection").all():
        box.click()
    trials.get_by_role("button", name="Compare", exact=True).click()
    expect(trials.get_by_text("Comparing 3 Runs from 1 Experiment").first).to_be_visible()
    for run in told.trials:
        for name in ("extraction", "loss_weight", "threshold"):
            expect(row_of(trials, name)).to_contain_text(run.data.params[name])
        shown = f"{run.data.metrics['background_share']:.3f}".rstrip("0")
        expect(trials.get_by_text(shown, exact=True).first).to_be_attached()
    expect(trials.get_by_role("link", name="background_share")).to_be_attached()
    pictures(trials, "seed_pictures.overlays.png", 3)


def row_of(page: Page, name: str) -> Locator:
    """A line of a table of the comparison."""
    return page.get_by_role("row").filter(has_text=re.compile(rf"^{name}")).first


def pictures(page: Page, name: str, count: int) -> None:
    """Open an artifact in a list of files; so many pictures are shown of it."""
    page.get_by_text(name, exact=True).first.dispatch_event("click")
    shown = page.get_by_role("img", name=name)
    expect(shown).to_have_count(count)
    for each in shown.all():
        expect(each).to_have_js_property("naturalWidth", 1200)


def test_curves_of_three_trials(page: Page, told: Told, cluster: Cluster) -> None:
    """A line for each, with a point for each epoch."""
    experiment, metric = told.parent.info.experiment_id, "train_recam/loss"
    page.goto(
        f"{cluster.stack.layout.mlflow_url}/#/metric?runs={told.places}"
        f'&experiments=["{experiment}"]&metric="{metric}"&plot_metric_keys=["{metric}"]'
        "&plot_layout={}&workflowType=machine_learning"
    )
    names = {str(run.info.run_name) for run in told.trials}
    client = MlflowClient(cluster.stack.layout.mlflow_url)
    steps = {len({p.step for p in history(client, run, metric)}) for run in told.trials}
    assert min(steps) > 1
    page.wait_for_function(
        """([names, steps]) => [...document.querySelectorAll('.js-plotly-plot')].some(plot =>
            names.every(name => plot.data.some(line =>
                (line.name || '').startsWith(name) && line.mode.includes('lines')
                && new Set(line.x).size >= steps)))""",
        arg=[sorted(names), min(steps)],
    )
    expect(page.locator(".scatterlayer .trace path.js-line")).not_to_have_count(0)


def history(client: MlflowClient, run: Run, metric: str) -> list[Metric]:
    return list(client.get_metric_history(run.info.run_id, metric))


def test_pictures_of_three_trials_in_charts(page: Page, told: Told, cluster: Cluster) -> None:
    """The image grid has the same picture of each, and says which parameters made it."""
    study, experiment = str(told.parent.info.run_name), told.parent.info.experiment_id
    trials = trials_page(experiment, study, "miou")
    page.goto(f"{cluster.stack.layout.mlflow_url}/{trials}&compareRunsMode=CHART")
    page.get_by_placeholder("Search metric charts").fill("seed_pictures")
    grid = page.locator("img[src*='seed_pictures~overlays']")
    expect(grid).to_have_count(3)
    for each in grid.all():
        expect(each).not_to_have_js_property("naturalWidth", 0)
    for run in told.trials:
        setting = f"threshold={run.data.params['threshold']}"
        expect(page.get_by_text(setting).first).to_be_attached()


def test_the_leaderboard_opens(page: Page, told: Told, cluster: Cluster) -> None:
    """With its pictures, in the frame in which MLflow shuts pages of others up."""
    experiment, run = told.parent.info.experiment_id, told.parent.info.run_id
    page.goto(
        f"{cluster.stack.layout.mlflow_url}/#/experiments/{experiment}/runs/{run}/artifacts"
        "?workflowType=machine_learning"
    )
    page.get_by_text("leaderboard.html", exact=True).first.click()
    board = page.frame_locator("iframe")
    expect(board.get_by_role("heading", name="Leaderboard")).to_be_visible()
    expect(board.locator("tbody.ours")).to_have_count(5)
    unfolded(board, "ReCAM")
    images = board.locator("tbody.ours:has(details[open]) img")
    expect(images).to_have_count(5)
    for image in images.all():
        expect(image).not_to_have_js_property("naturalWidth", 0)
    expect(images.first).to_be_visible()


def unfolded(board: FrameLocator, method: str) -> None:
    """Open the line of a method that has pictures."""
    line = board.locator("tbody.ours", has=board.locator("img"))
    expect(line.locator("summary")).to_have_text(method)
    line.locator("summary").click()


def test_mlflow_shows_a_stranger_nothing(stranger: Page, told: Told) -> None:
    answers: list[int] = []
    stranger.on("response", lambda answer: answers.append(answer.status))
    for address in (told.address, told.address.partition("#")[0]):
        with pytest.raises(Error, match="ERR_INVALID_AUTH_CREDENTIALS"):
            stranger.goto(address)
    assert set(answers) <= {401}
    assert "recam" not in stranger.locator("body").inner_text()


def test_ray_shows_jobs_to_who_has_the_token(
    stranger: Page, cluster: Cluster, sweep: tuple[Job, Job]
) -> None:
    stranger.goto(f"{cluster.stack.layout.dashboard_url}/#/jobs")
    token = stranger.get_by_placeholder("Enter your authentication token")
    job = stranger.get_by_role("table").get_by_text("sweeps/recam_threshold.py")
    expect(stranger.get_by_text("Authentication Token Required")).to_be_visible()
    expect(job).to_have_count(0)
    token.fill("0" * 32)
    stranger.get_by_role("button", name="Submit").click()
    refused = stranger.get_by_text(re.compile("invalid|incorrect|not match", re.IGNORECASE))
    expect(refused.first).to_be_visible()
    expect(job).to_have_count(0)
    token.fill(cluster.stack.keys.ray_token)
    stranger.get_by_role("button", name="Submit").click()
    expect(job).not_to_have_count(0)
