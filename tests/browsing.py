"""What tests in a browser share: finding one, waiting, and listening to what a player plays."""

import time

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
REASON = "NO BROWSER: the page is not tested. Install Chromium (Debian: apt-get install chromium) and run again."

# What a player sends to the loudspeaker: the frequencies of its peaks in Hz, the loudest first, within 12 dB of it.
HEARD = """async player => {
  const { output } = player, listener = new AnalyserNode(output.context, { fftSize: 16384, smoothingTimeConstant: 0 });
  output.connect(listener);
  await new Promise(done => setTimeout(done, 450));
  const level = new Float32Array(listener.frequencyBinCount);
  listener.getFloatFrequencyData(level);
  output.disconnect(listener);
  const peaks = [...level.keys()].filter(i => i > 1 && level[i] > -70 && level[i] >= Math.max(level[i - 1], level[i + 1] ?? -200, level[i - 2], level[i + 2] ?? -200));
  if (!peaks.length) return [];
  peaks.sort((a, b) => level[b] - level[a]);
  const hz = output.context.sampleRate / 16384;
  return peaks.filter(i => level[i] > level[peaks[0]] - 12).map(i => i * hz);
}"""


def until(page, condition, seconds=10):
    end = time.monotonic() + seconds
    while not page.evaluate(condition):
        assert time.monotonic() < end, f"This did not come true: {condition}"
        page.wait_for_timeout(30)
