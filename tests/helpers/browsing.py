"""What tests share that wait or use a browser: a limit, waiting for an event, opening a page, and listening to what a player plays."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

# s that a test waits for what must come. Only what never comes takes so long: no test may depend on how fast a machine is.
LIMIT = 600.0

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
REASON = "NO BROWSER: the page is not tested. Install Chromium (Debian: apt-get install chromium) and run again."

# What a player sends to the loudspeaker: the frequencies of its peaks in Hz, the loudest first, within 12 dB of it. The clock is that of
# the sound, which a busy machine slows down.
HEARD = """async player => {
  const { output } = player, { context } = output, listener = new AnalyserNode(context, { fftSize: 16384, smoothingTimeConstant: 0 });
  output.connect(listener);
  const begun = context.currentTime;
  while (context.state === "running" && context.currentTime < begun + 0.45) await new Promise(done => setTimeout(done, 20));
  const level = new Float32Array(listener.frequencyBinCount);
  listener.getFloatFrequencyData(level);
  output.disconnect(listener);
  const peaks = [...level.keys()].filter(i => i > 1 && level[i] > -70 && level[i] >= Math.max(level[i - 1], level[i + 1] ?? -200, level[i - 2], level[i + 2] ?? -200));
  if (!peaks.length) return [];
  peaks.sort((a, b) => level[b] - level[a]);
  const hz = context.sampleRate / 16384;
  return peaks.filter(i => level[i] > level[peaks[0]] - 12).map(i => i * hz);
}"""


def until(page: Any, condition: str | Callable[[], Any]) -> None:
    """Wait until a condition is true, in JavaScript or as a function. Playwright's own way needs eval, which the pages' policy forbids."""
    end = time.monotonic() + LIMIT
    while not (page.evaluate(condition) if isinstance(condition, str) else condition()):
        assert time.monotonic() < end, f"This did not come true: {condition}"
        page.wait_for_timeout(30)


def near(found: list[float], *wanted: float) -> bool:
    """Whether these tones are heard, in Hz, and no others."""
    return len(found) == len(wanted) and all(min(abs(f - w) for w in wanted) < 8 for f in found)


def heard(page: Any, player: str) -> list[float]:
    """The tones in Hz that a player, as JavaScript, plays; none where it does not play."""
    return page.evaluate(f"(player => player?.playing ? ({HEARD})(player) : [])({player})")


def hears(page: Any, player: str, *wanted: float) -> None:
    """Wait until a player plays these tones and no others."""
    end = time.monotonic() + LIMIT
    while not near(found := heard(page, player), *wanted):
        assert time.monotonic() < end, f"{player} plays {found} Hz, not {wanted}"
        page.wait_for_timeout(30)


def settle(page: Any) -> None:
    """Give what a page does of its own accord time to happen, in its own time: for tests that something does not happen."""
    page.evaluate("""async () => {
      for (let i = 0; i < 12; i++) await new Promise(done => requestAnimationFrame(() => setTimeout(done)));
    }""")


def new_context(browser: Any, **options: Any) -> Any:
    """A context of a browser that waits as long as tests do."""
    context = browser.new_context(**options)
    context.set_default_timeout(1000 * LIMIT)
    return context
