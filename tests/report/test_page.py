"""The report of a real run, opened as a person opens it: a file, without a network."""

import shutil

import pytest


def test_the_report_draws_its_figures_offline_without_an_error(finished_run):
    sync_api = pytest.importorskip("playwright.sync_api")
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    if browser_path is None:
        pytest.skip("no Chromium is installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox", "--disable-gpu"])
        for width in (1400, 400):
            page = browser.new_context(viewport={"width": width, "height": 900}, offline=True).new_page()
            told, asked = [], []
            page.on("console", lambda message, told=told: told.append(message.text))
            page.on("pageerror", lambda error, told=told: told.append(str(error)))
            page.on("request", lambda request, asked=asked: asked.append(request.url))
            page.goto((finished_run / "run" / "report.html").as_uri())
            page.wait_for_selector("#figure-hypervolume .main-svg")
            assert page.locator(".js-plotly-plot .main-svg").count() >= 3
            assert told == []
            assert all(url.startswith("file:") for url in asked)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        browser.close()
