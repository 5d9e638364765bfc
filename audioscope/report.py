"""The atlas as a web page that anyone can open and listen to: one HTML file beside its clips, nothing from the network."""

from __future__ import annotations

import json
import shutil
from difflib import SequenceMatcher
from functools import cache
from pathlib import Path, PurePosixPath
from urllib.parse import quote

import altair as alt
import jinja2
import pandas as pd
import vl_convert
from markupsafe import Markup

from audioscope import charts
from audioscope.paths import write_whole

PATCHES = {"text": "text swap", "output": "output patch"}
PATCHED = {
    ("text", "sufficient"): "corrupted, but this layer reads the clean prompt",
    ("output", "sufficient"): "corrupted, but this layer speaks as in the clean run",
    ("text", "necessary"): "clean, but this layer reads the corrupted prompt",
    ("output", "necessary"): "clean, but this layer speaks as in the corrupted run",
}
QUESTION = {
    "sufficient": (
        "if one layer alone is patched from the prompt that names the concept, does the music get it?",
        "corrupted",
        "clean",
    ),
    "necessary": (
        "if one layer alone is patched from the prompt without the concept, does the music lose it?",
        "clean",
        "corrupted",
    ),
}
REACH = 6.0  # log-odds at either end of a score's little scale

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f7f5f2; --card: #fff; --ink: #23211e; --quiet: #6b665e; --line: #e2ddd5; --accent: #a84a08; --tint: #fbe7d3;
}
@media (prefers-color-scheme: dark) {
  :root { --page: #141312; --card: #1d1c1a; --ink: #f0ece6; --quiet: #a9a49c; --line: #35332f; --accent: #f0a05a; --tint: #4a2e12; }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "Liberation Sans", sans-serif; -webkit-text-size-adjust: 100%;
}
main { max-width: 1120px; margin: 0 auto; padding: clamp(20px, 4vw, 56px) clamp(14px, 3vw, 32px) 72px; }
h1 { font-size: clamp(28px, 5vw, 42px); line-height: 1.12; letter-spacing: -0.02em; margin: 0 0 14px; overflow-wrap: anywhere; }
h2 { font-size: 23px; line-height: 1.25; letter-spacing: -0.01em; margin: 56px 0 10px; }
h3 { font-size: 19px; line-height: 1.3; margin: 0; overflow-wrap: anywhere; }
p { margin: 0 0 12px; max-width: 68ch; }
.wide { max-width: none; }
.quiet { color: var(--quiet); font-size: 14px; }
.settings { color: var(--quiet); font-size: 14px; margin: 18px 0 0; padding: 0; list-style: none; display: flex; flex-wrap: wrap; gap: 2px 20px; }
.settings b { color: var(--ink); font-weight: 600; }
code { font: 13px/1.45 ui-monospace, SFMono-Regular, Menlo, "Liberation Mono", monospace; overflow-wrap: anywhere; }
mark { background: var(--tint); color: inherit; border-radius: 3px; padding: 0 3px; box-shadow: inset 0 -1.5px 0 var(--accent); }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 3px; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: clamp(16px, 2.4vw, 28px); }
.chart { margin: 20px 0 0; }
.scroll { overflow-x: auto; }
#atlas { min-height: 320px; width: max-content; margin: 0 auto; }
#atlas.vega-embed { padding: 0; }
details { margin-top: 16px; }
summary { cursor: pointer; color: var(--accent); font-size: 15px; font-weight: 600; padding: 6px 0; width: fit-content; }
table { border-collapse: separate; border-spacing: 0; font-size: 13px; font-variant-numeric: tabular-nums; margin-top: 8px; }
th, td { padding: 5px 10px; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
caption { text-align: left; }
thead th:first-child { text-align: left; }
thead th { color: var(--quiet); font-weight: 600; }
th[scope=row] { text-align: left; font-weight: 500; position: sticky; left: 0; background: var(--card); }
td small { display: block; color: var(--quiet); font-size: 11px; }
td.none, .none { color: var(--quiet); }
.examples { display: grid; gap: 18px; margin-top: 22px; }
.head { display: flex; flex-wrap: wrap; justify-content: space-between; align-items: baseline; gap: 4px 20px; }
.head .quiet { font-weight: 400; margin-left: 8px; }
.impact { font-variant-numeric: tabular-nums; font-size: 15px; }
.impact b { color: var(--accent); }
.where { margin: 2px 0 0; color: var(--quiet); }
.versions { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 28px; margin-top: 18px; }
.version { display: grid; grid-template-rows: auto auto auto 1fr; gap: 9px; align-content: start; min-width: 0; }
.version h4 { font-size: 14px; line-height: 1.35; margin: 0; font-weight: 600; }
.version h4 span { display: block; color: var(--quiet); font-weight: 400; font-size: 13px; }
.version p { margin: 0; font-size: 14px; line-height: 1.5; overflow-wrap: anywhere; }
audio { width: 100%; height: 40px; display: block; }
.score { display: grid; grid-template-columns: 1fr auto; gap: 12px; align-items: center; font-size: 13px; font-variant-numeric: tabular-nums; }
.scale { position: relative; height: 12px; }
.scale::before { content: ""; position: absolute; inset: 5px 0; background: var(--line); border-radius: 1px; }
.scale::after { content: ""; position: absolute; left: 50%; top: 1px; bottom: 1px; width: 1px; background: var(--quiet); }
.scale i { position: absolute; top: 0; width: 12px; height: 12px; margin-left: -6px; border-radius: 50%; background: var(--accent); z-index: 1; }
.scale i { box-shadow: 0 0 0 2px var(--card); }
.undefined { list-style: none; padding: 0; margin: 12px 0 0; display: flex; flex-wrap: wrap; gap: 8px; }
.undefined li { border: 1px dashed var(--quiet); color: var(--quiet); border-radius: 999px; padding: 2px 12px; font-size: 14px; }
@media (max-width: 760px) {
  .versions { grid-template-columns: minmax(0, 1fr); gap: 22px; }
  h2 { margin-top: 44px; }
}
"""

SCRIPT = """
(() => {
  const read = id => JSON.parse(document.getElementById(id).textContent);
  const themes = read("themes"), dark = matchMedia("(prefers-color-scheme: dark)");
  const draw = () => {
    const spec = {...read("spec"), config: themes[dark.matches ? 1 : 0]};
    // ast: Vega's own expression interpreter, so that the page's policy can forbid eval
    const options = {actions: false, renderer: "svg", ast: true, tooltip: {theme: dark.matches ? "dark" : "light"}};
    vegaEmbed("#atlas", spec, options).catch(error => { document.getElementById("atlas").textContent = String(error); });
  };
  draw();
  dark.addEventListener("change", draw);
  const players = [...document.querySelectorAll("audio")];
  players.forEach(player => player.addEventListener("play", () => players.forEach(other => other !== player && other.pause())));
})();
"""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; media-src 'self' file: blob: data:">
<title>{{ title }}</title>
<style>{{ style }}</style>
</head>
<body>
<main>
<header>
  <h1>{{ title }}</h1>
  <p>Each cell asks: {{ question[0] }} An impact of
  <b>0</b> sounds like the {{ question[1] }} prompt, <b>1</b> like the {{ question[2] }} prompt; below 0 it moves the other way.
  A hatched grey cell is undefined: the clean and corrupted prompts did not differ audibly, so there was nothing to carry.
  The control is how far swaps of <em>other</em> concepts move this one.</p>
  <ul class="settings" aria-label="Settings">
  {% for name, value in settings %}<li>{{ name }} <b>{{ value }}</b></li>
  {% endfor %}</ul>
</header>

<section aria-labelledby="which">
<h2 id="which">{{ chart_title.text }}</h2>
<p class="quiet">{{ chart_title.subtitle|join(" ") }}</p>
<figure class="card chart">
  <div class="scroll" tabindex="0" role="region" aria-label="Heatmap of impact, scrolls sideways">
    <div id="atlas" role="img" aria-label="{{ description }}"></div>
  </div>
  <noscript><p>The chart needs JavaScript; the table below holds the same numbers.</p></noscript>
  <details>
    <summary>The heatmap as a table</summary>
    <div class="scroll" tabindex="0" role="region" aria-label="Table of impact, scrolls sideways">
    <table>
      <caption class="quiet">Impact with its 95 % interval, by concept and layer</caption>
      <thead><tr><th scope="col">concept</th>{% for site, label in columns %}<th scope="col" title="{{ site }}">{{ label }}</th>{% endfor %}</tr></thead>
      <tbody>
      {% for concept, cells in table %}<tr><th scope="row">{{ concept }}</th>{% for value, interval in cells %}{% if value %}<td>{{ value }}<small>{{ interval }}</small></td>{% else %}<td class="none">undefined</td>{% endif %}{% endfor %}</tr>
      {% endfor %}</tbody>
    </table>
    </div>
  </details>
</figure>
</section>

<section aria-labelledby="functional">
  <h2 id="functional">Functional layers</h2>
  <p>{{ functional }}</p>
  {% if functional_sites %}<p class="quiet wide">{% for site in functional_sites %}<code>{{ site }}</code>{{ "" if loop.last else " · " }}{% endfor %}</p>{% endif %}
</section>

<section aria-labelledby="listen">
  <h2 id="listen">Listen</h2>
  <p>One example per concept, at the concept's best layer. The layer was chosen on half of the prompt pairs; the impact shown
  is that of the other half. Scores are log-odds of the concept: above 0 the scorer hears it, below 0 it does not.</p>
  {% if not cards %}<p class="quiet">There is nothing to play: no clips were kept, or no concept is defined.</p>{% endif %}
  <div class="examples">
  {% for card in cards %}
  <article class="card" aria-labelledby="concept-{{ loop.index }}">
    <div class="head">
      <h3 id="concept-{{ loop.index }}">{{ card.concept }}{% if card.group %}<span class="quiet">{{ card.group }}</span>{% endif %}</h3>
      <div class="impact">impact <b>{{ card.impact }}</b> at layer <b>{{ card.layer }}</b></div>
    </div>
    <p class="where"><code>{{ card.site }}</code></p>
    <div class="versions">
    {% for version in card.versions %}
      <div class="version">
        <h4>{{ version.name|capitalize }}<span>{{ version.role }}</span></h4>
        <audio controls preload="none" src="{{ version.clip }}" aria-label="{{ card.concept }}, {{ version.name }}: {{ version.role }}"></audio>
        <div class="score"><span class="scale" aria-hidden="true"><i style="left: {{ version.place }}%"></i></span><span>score {{ version.score }}</span></div>
        {% if version.prompt %}<p>{% for text, swapped in version.prompt %}{% if swapped %}<mark>{{ text }}</mark>{% else %}{{ text }}{% endif %} {% endfor %}</p>{% endif %}
      </div>
    {% endfor %}
    </div>
  </article>
  {% endfor %}
  </div>
</section>

{% if undefined %}
<section aria-labelledby="undefined">
  <h2 id="undefined">Undefined concepts</h2>
  <p>The clean and corrupted prompts of these did not differ audibly (the interval of their difference holds 0), so impact,
  a share of that difference, has no meaning. They are left out of every mean.</p>
  <ul class="undefined">{% for concept in undefined %}<li>{{ concept }}</li>{% endfor %}</ul>
</section>
{% endif %}

<section aria-labelledby="settings">
  <h2 id="settings">How it was made</h2>
  <details>
    <summary>All settings</summary>
    <table><tbody>{% for name, value in all_settings %}<tr><th scope="row">{{ name }}</th><td><code>{{ value }}</code></td></tr>{% endfor %}</tbody></table>
  </details>
</section>
</main>
<script type="application/json" id="spec">{{ spec|tojson }}</script>
<script type="application/json" id="themes">{{ themes|tojson }}</script>
<script>{{ bundle }}</script>
<script>{{ script }}</script>
</body>
</html>
"""


@cache
def _bundle() -> Markup:
    """Vega, Vega-Lite and Vega-Embed as one script (about 0.9 MB), of the version that altair writes for."""
    code = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=alt.SCHEMA_VERSION.rsplit(".", 1)[0])
    return Markup(code.replace("</script", "<\\/script"))


def _signed(value: float) -> str:
    return f"{value:+z.2f}".replace("-", "−")


def _swapped(prompt: str, other: str) -> list[tuple[str, bool]]:
    """The prompt in runs of words, each with whether the other prompt lacks it there."""
    words, others = prompt.split(), other.split()
    steps = SequenceMatcher(None, others, words, autojunk=False).get_opcodes()
    return [(" ".join(words[start:stop]), step != "equal") for step, _, _, start, stop in steps if stop > start]


def _link(clip: str, source: Path, folder: Path) -> str:
    """The clip's address relative to the page, copied into folder/clips first when it lies elsewhere."""
    path = (source / clip).resolve()
    if not path.is_file():
        raise FileNotFoundError(f"The atlas names the clip {path}, but it is not there: run localize() again to make it.")
    if not path.is_relative_to(folder):
        # keep the subfolders, so that equal names stay apart, but never a step out of the folder
        parts = [part for part in PurePosixPath(clip).parts if part not in ("/", "..", "clips")]
        copy = folder.joinpath("clips", *parts)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
        path = copy
    return quote(path.relative_to(folder).as_posix())


def _card(example: pd.Series, group: str, patch: tuple[str, str], source: Path, folder: Path) -> dict:
    prompts = {
        "clean": _swapped(example.clean_prompt, example.corrupted_prompt),
        "corrupted": _swapped(example.corrupted_prompt, example.clean_prompt),
    }
    roles = {
        "clean": "with the concept",
        "corrupted": "without the concept",
        "patched": PATCHED.get(patch, "with one layer patched"),
    }
    versions = []
    for name, role in roles.items():
        score = float(example[f"{name}_score"])
        place = 50 + 50 * max(-1.0, min(1.0, score / REACH))
        versions.append({
            "name": name, "role": role, "clip": _link(example[name], source, folder), "score": _signed(score),
            "place": f"{place:.1f}", "prompt": prompts.get(name),
        })  # fmt: skip
    return {
        "concept": example.concept, "group": group, "site": example.site, "layer": example.layer,
        "impact": charts.reading(example.impact, float("nan"), float("nan")), "versions": versions,
    }  # fmt: skip


def _functional(means: pd.DataFrame) -> str:
    """The sentence that says which layers carry the concepts, with the numbers it rests on."""
    rule = f"the threshold of {means.threshold.iloc[0]:.2f} (2.5 over {len(means)} layers)"
    control = f"The largest mean control of any layer is {means.control.max():.2f}." if means.control.notna().any() else ""
    chosen = means[means.functional]
    if chosen.empty:
        best = means.loc[means.impact.idxmax()] if means.impact.notna().any() else None
        tail = (
            "" if best is None else f"; the highest, layer {best.layer}, has {charts.reading(best.impact, best.low, best.high)}"
        )
        return f"No layer is functional: none reaches {rule} with an interval above the control{tail}. {control}"
    each = [
        f"layer {row.layer} with a mean impact of {charts.reading(row.impact, row.low, row.high)}" for row in chosen.itertuples()
    ]
    named = each[0] if len(each) == 1 else ", ".join(each[:-1]) + " and " + each[-1]
    verb = "One layer reaches" if len(each) == 1 else f"{len(each)} layers reach"
    return f"{verb} {rule} with an interval above the control: {named}. {control}"


def _settings(settings: dict) -> list[tuple[str, str]]:
    """The settings worth reading first, in words; the rest are in the table at the end of the page."""

    def many(value: object) -> object:
        return len(value) if isinstance(value, (list, tuple)) else value

    named = {
        "model": settings.get("model"),
        "patch": PATCHES.get(settings.get("patch", ""), settings.get("patch")),
        "asks": settings.get("direction"),
        "steps": settings.get("steps"),
        "guidance": settings.get("guidance"),
        "seconds": settings.get("seconds"),
        "pairs per concept": many(settings.get("pairs")),
        "seeds per pair": many(settings.get("seeds")),
    }
    return [(name, str(value)) for name, value in named.items() if value is not None]


def _table(impacts: pd.DataFrame) -> list[tuple[str, list[tuple[str, str]]]]:
    """Rows of (concept, cells); a cell is (impact, interval), both empty where undefined."""
    text = [
        charts.reading(*row).partition(" ")[::2] if ok else ("", "")
        for ok, *row in zip(impacts.defined, impacts.impact, impacts.low, impacts.high, strict=True)
    ]
    table = charts.impact_table(impacts.assign(text=text), values="text")
    return [
        (concept, [cell if isinstance(cell, tuple) else ("", "") for cell in row])
        for concept, row in zip(table.index, table.values, strict=True)
    ]


def write_page(atlas, folder: Path) -> Path:
    """Write the atlas as folder/index.html, a page with chart and sound that loads nothing from the network; returns its path.

    atlas: an Atlas; folder: made if missing. Example clips outside the folder are copied to folder/clips.
    Raises FileNotFoundError when a clip of an example is missing, ValueError when the atlas is empty.
    """
    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    impacts, means = atlas.impacts(), atlas.layer_means().sort_values("layer", kind="stable", ignore_index=True)
    direction = atlas.settings.get("direction", "sufficient")
    patch = (atlas.settings.get("patch", ""), direction)
    chart = charts.heatmap(impacts, means, direction=direction).to_dict()
    groups = dict(zip(impacts.concept, impacts.group.fillna(""), strict=True))
    defined = impacts.groupby("concept", sort=False).defined.any()
    labels = dict(zip(impacts.site, impacts.layer, strict=True))
    source = Path(atlas.folder)
    page = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(PAGE).render(
        title=f"Concept atlas of {atlas.settings.get('model', 'a model')}",
        settings=_settings(atlas.settings),
        question=QUESTION[direction],
        all_settings=[(name, value if isinstance(value, str) else json.dumps(value)) for name, value in atlas.settings.items()],
        description=chart["description"],
        columns=[(site, labels[site]) for site in charts.impact_table(impacts).columns],
        table=_table(impacts),
        functional=_functional(means),
        functional_sites=list(atlas.functional),
        cards=[_card(row, groups.get(row.concept, ""), patch, source, folder) for _, row in atlas.examples().iterrows()],
        undefined=list(defined.index[~defined]),
        # the title is HTML on the page, where it can wrap; the colours come from the page's theme
        spec={key: value for key, value in chart.items() if key not in ("config", "title")},
        chart_title=chart["title"],
        themes=[charts.chart_theme(), charts.chart_theme(dark=True)],
        style=Markup(STYLE),
        bundle=_bundle(),
        script=Markup(SCRIPT),
    )  # fmt: skip
    path = folder / "index.html"
    write_whole(path, lambda part: part.write_text(page, encoding="utf-8"))
    return path
