"""The live page on a real server: lanes that grow side by side and join."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from typing import Any

import pytest

from sglang_multiverse.view.live import PATH, live

from .client import Client

pytestmark = pytest.mark.weights("tiny")

#: Tokens of each path of the answer in parallel, by its name.
LANES = """Object.fromEntries([...document.querySelectorAll('#parallel [data-path]')]
  .map((lane) => [lane.dataset.path, Number(lane.dataset.tokens)]))"""

#: Hands the page one event of a stream for each picture it draws, however late a busy machine lets
#: it read, and keeps what the lanes were after each change.
PACED = """
const fetched = window.fetch;
window.fetch = async (...asked) => {
  const answer = await fetched(...asked);
  let rest = "";
  const paced = new TransformStream({
    async transform(text, out) {
      const events = (rest + text).split(/(?<=\\n\\n)/);
      rest = events.at(-1).endsWith("\\n\\n") ? "" : events.pop();
      for (const event of events) {
        await new Promise(requestAnimationFrame);
        out.enqueue(event);
      }
    },
    flush: (out) => out.enqueue(rest),
  });
  const body = answer.body
    .pipeThrough(new TextDecoderStream()).pipeThrough(paced).pipeThrough(new TextEncoderStream());
  return new Response(body, answer);
};
window.seen = [];
new MutationObserver(() => window.seen.push(LANES)).observe(
  document, { subtree: true, attributeFilter: ["data-tokens"] });
""".replace("LANES", LANES)


def test_the_page_is_served(overlap: Client) -> None:
    with urllib.request.urlopen(overlap.server.url + PATH, timeout=10) as answer:
        assert answer.headers["Content-Type"].startswith("text/html")
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Content-Security-Policy"] == "frame-ancestors 'none'"
        assert answer.read().decode() == live()


def test_watch_names_the_page(overlap: Client, stock: Client) -> None:
    command = [sys.executable, "-m", "sglang_multiverse.cli", "watch", "--url"]
    done = subprocess.run(
        [*command, overlap.server.url + "/"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, overlap.server.url + PATH + "\n")
    done = subprocess.run([*command, stock.server.url], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "--multiverse-no-view" in done.stderr


@pytest.mark.browser
def test_lanes_grow_side_by_side_and_join(overlap: Client, tab: Any) -> None:
    """At several moments two paths and more are between their first token and their last."""
    from playwright.sync_api import expect

    tab.add_init_script(PACED)
    tab.goto(overlap.server.url + PATH)
    tab.check("#beside")
    tab.click("#go")
    expect(tab.locator("#state")).to_have_text("done", timeout=60_000)
    seen: list[dict[str, int]] = tab.evaluate("window.seen")
    last = tab.evaluate(LANES)
    paths = [path for path in last if path]
    assert len(paths) >= 2
    growing = [sum(0 < now.get(path, 0) < last[path] for path in paths) >= 2 for now in seen]
    assert sum(growing) >= 2
    assert all(now.get(path, 0) <= last[path] for now in seen for path in last)
    assert tab.locator("#parallel .error, #sequential .error").evaluate_all(
        "all => all.every((one) => one.hidden)"
    )
    figures = tab.inner_text("#parallel [data-part=figures]")
    assert "forward steps" in figures
    joined = tab.locator("#parallel .links path").evaluate_all(
        "all => all.filter((one) => one.getAttribute('d').includes('H')).length"
    )
    assert joined == len(paths)
    assert tab.locator("#sequential [data-path]").count() == 1
    overlap.assert_sound()
