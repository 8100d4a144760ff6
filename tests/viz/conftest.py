"""One browser for all tests of pages."""

import pytest

from tests.viz.pages import find_browser, without


@pytest.fixture(scope="session")
def chromium():
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        without("playwright is not installed")
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=find_browser(), args=["--no-sandbox"])
        except Error as error:
            without(f"no Chromium starts: {str(error).splitlines()[0]}")
        yield browser
        browser.close()
