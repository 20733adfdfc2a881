"""Windows of a real browser. What no page may ever do is noted, and fails the test that opened the window."""

import os
import shutil
from contextlib import contextmanager

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect, sync_playwright

PATHS = ("chromium", "chromium-browser", "google-chrome")
WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]
SECONDS = 60
NARROW, WIDE = {"width": 360, "height": 740}, {"width": 1280, "height": 900}
NETWORK = "Failed to load resource"
"""What Chromium writes to the console for an answer of 400 or more."""

expect.set_options(timeout=SECONDS * 1000)

WATCH = """
addEventListener("securitypolicyviolation", (event) => console.error(`policy: ${event.blockedURI}`));
"""

TOO_WIDE = """() => {
    if (document.scrollingElement.scrollWidth <= innerWidth) return [];
    const is_outside = (element) => element.getBoundingClientRect().right > innerWidth + 1;
    const far = [...document.querySelectorAll("body *")].filter(is_outside);
    return ["the page", ...far.slice(-5).map((element) => element.outerHTML.slice(0, 200))];
}"""


def find_chromium():
    """The path of this machine's Chromium; None if it has none."""
    return next(filter(None, map(shutil.which, PATHS)), None)


@contextmanager
def running_chromium(path):
    """A browser without a screen."""
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


class Window:
    """A browser window with a separate profile; `state` has its cookies, if it starts with any."""

    def __init__(self, browser, base_url, *, state=None, is_scripted=True, **options):
        self.context = browser.new_context(
            base_url=base_url, storage_state=state, java_script_enabled=is_scripted, viewport=WIDE,
            reduced_motion="reduce", **options,
        )  # fmt: skip
        self.context.set_default_timeout(SECONDS * 1000)
        self.context.add_init_script(WATCH)
        self.is_scripted = is_scripted
        self.problems = []
        """What pages wrote to the console, raised, or asked."""
        self.expected = [NETWORK]
        """Parts of messages that do not count as problems."""
        self.page = self.new_page()

    def new_page(self):
        page = self.context.new_page()
        page.on("console", lambda said: said.type in ("error", "warning") and self._note(said.text))
        page.on("pageerror", lambda error: self._note(f"raised {error}"))
        page.on("dialog", self._dismiss)
        return page

    def _dismiss(self, dialog):
        self._note(f"dialog {dialog.message}")
        dialog.dismiss()

    def _note(self, text):
        if not any(words in text for words in self.expected):
            self.problems.append(text)

    def open(self, address):
        """Go to an address; return the status of the answer."""
        return self.page.goto(address).status

    def is_live(self):
        """Wait until the page follows the queue."""
        self.says("Live")

    def says(self, text):
        """Wait until the page says this about its connection."""
        expect(self.page.locator("#connection")).to_have_text(text)

    def faults(self):
        """What WCAG 2.1 AA forbids on this page, in light and in dark, as lines."""
        if not self.is_scripted:
            return []  # axe waits for its own scripts
        self.page.wait_for_load_state()
        self.page.evaluate(Axe().axe_script)
        found = []
        for scheme, rules in (
            ("light", {"type": "tag", "values": WCAG}),
            ("dark", ["color-contrast"]),
        ):
            self.page.emulate_media(color_scheme=scheme)
            options = {"runOnly": rules, "resultTypes": ["violations"]}
            answer = self.page.evaluate("options => axe.run(options)", options)
            found += [
                f"{scheme}: {fault['id']}: {node['html'][:200]}: {node['failureSummary']}"
                for fault in answer["violations"]
                for node in fault["nodes"][:3]
            ]
        self.page.emulate_media(color_scheme="light")
        return found

    def too_wide(self):
        """What is wider than a window of 360 pixels; empty: the page is not."""
        self.page.wait_for_load_state()
        self.page.set_viewport_size(NARROW)
        found = self.page.evaluate(TOO_WIDE)
        self.page.set_viewport_size(WIDE)
        return found

    def close(self):
        self.context.close()
