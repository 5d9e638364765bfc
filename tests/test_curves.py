"""The arithmetic of steering curves: the paper's area, budgets, smoothness and intervals; and the chart and page of them."""

import json
import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import audioscope
from audioscope import Clip
from audioscope.cli.main import main
from audioscope.pages.slider import slider_page
from audioscope.stats import interval, pseudo_values
from audioscope.steer import curves
from audioscope.steer.charts import steering_chart
from audioscope.steer.curves import smoothness, within
from audioscope.steer.results import Track
from audioscope.steer.tables import axes


def steering_auc(table):
    """With the paper's reference cells."""
    return curves.steering_auc(table, ("pci_all", "pci_loc"))


def curve(points, cell="pci_all", concept="c"):
    return pd.DataFrame([{"concept": concept, "cell": cell, "strength": a, "distance": x, "score": y} for a, x, y in points])


@pytest.mark.parametrize("score", ["muqt", "clap"])
def test_the_published_areas_to_three_decimals(root, score):
    table = pd.read_csv(root / "data/published/tada_steering_tempo.csv").rename(
        columns={score: "score", "alpha": "strength", "lpaps": "distance"}
    )
    truth = json.loads((root / "data/published/tada_auc_tempo.json").read_text())
    found = steering_auc(table).set_index("cell")
    assert {cell: round(value, 3) for cell, value in found["auc"].items()} == {
        c: v[score] for c, v in truth["auc"]["tempo"].items()
    }
    cutoffs = truth["cutoff_lpaps"]["tempo"]
    assert found["cutoff_positive"].unique() == pytest.approx([cutoffs["pos"]], abs=6e-4)
    assert found["cutoff_negative"].unique() == pytest.approx([cutoffs["neg"]], abs=6e-4)


def test_a_line_has_the_area_of_its_triangle():
    line = curve([(-2, 2, -6), (-1, 1, -3), (0, 0, 0), (1, 1, 3), (2, 2, 6)])
    found = steering_auc(line).iloc[0]
    assert found["auc"] == found["positive"] == found["negative"] == pytest.approx(6.0)
    assert steering_auc(line.assign(score=-line["score"])).iloc[0]["auc"] == pytest.approx(-6.0), (
        "the wrong way counts as negative"
    )
    assert steering_auc(line.assign(score=line["score"] + 7)).iloc[0]["auc"] == pytest.approx(6.0), "only gains count"
    shuffled = line.sample(frac=1, random_state=0)
    assert steering_auc(shuffled).iloc[0]["auc"] == pytest.approx(6.0)


def test_one_budget_for_all_and_the_border_is_interpolated():
    pci = curve([(0, 0, 0), (1, 1.5, 1)])
    far = curve([(0, 0, 0), (1, 1, 3), (2, 3, 9)], "caa")
    found = steering_auc(pd.concat([pci, far])).set_index("cell")
    assert found.loc["caa", "cutoff_positive"] == 1.5
    assert found.loc["caa", "positive"] == pytest.approx(4.5 * 1.5 / 2)
    assert (
        found.loc["caa", "reached"] == 1
        and np.isnan(found.loc["caa", "negative"])
        and found.loc["caa", "auc"] == found.loc["caa", "positive"]
    ), "a side not run is left out"
    border = within(far, 1, 1.5)
    assert (
        border["distance"].tolist() == [0, 1, 1.5]
        and border["score"].tolist() == [0, 3, 4.5]
        and border["strength"].tolist() == [0, 1, 2]
    )
    away = pd.concat([pci, curve([(-1, 1, -3), (0, 0, 0), (1, 1, 3)], "both")])
    assert steering_auc(away).set_index("cell").loc["both", "auc"] == pytest.approx(1.5), "a side without a budget is left out"
    broken = pd.concat([far, curve([(3, np.nan, np.nan)], "caa"), pci])
    assert steering_auc(broken).set_index("cell").loc["caa", "auc"] == found.loc["caa", "auc"], "failed clips are left out"
    short = curve([(0, 0, 0), (1, 1, 3)], "short")
    assert steering_auc(pd.concat([pci, short])).set_index("cell").loc["short", "reached"] == pytest.approx(1 / 1.5)
    assert steering_auc(pd.concat([pci, short])).set_index("cell").loc["short", "auc"] == pytest.approx(1.5), "no extrapolation"
    back = curve([(0, 0, 0), (1, 1, 2), (2, 0.5, 2)], "back")
    assert steering_auc(pd.concat([pci, back])).set_index("cell").loc["back", "auc"] == pytest.approx(1 - 1), (
        "a step back subtracts"
    )


def test_the_budget_is_the_smaller_of_two_references():
    both = pd.concat([curve([(0, 0, 0), (1, 2, 1)]), curve([(0, 0, 0), (1, 1, 1)], "pci_loc")])
    assert (steering_auc(both)["cutoff_positive"] == 1).all()
    with pytest.raises(ValueError, match="none of the reference cells"):
        steering_auc(curve([(0, 0, 0), (1, 1, 1)], "caa"))
    with pytest.raises(ValueError, match="no row with strength 0"):
        steering_auc(curve([(1, 1, 1), (2, 2, 1)]))
    with pytest.raises(ValueError, match="no column .distance"):
        steering_auc(curve([(0, 0, 0)]).drop(columns="distance"))


def test_smoothness():
    strength = np.array([0.0, 1, 2, 3])
    assert smoothness(strength, 2 * strength) == pytest.approx(0)
    assert smoothness(strength, np.array([0.0, 0, 0, 6])) == pytest.approx(np.std([0] * 6 + [0.1, *[0.3] * 3]), abs=0.02)
    assert np.isnan(smoothness(strength, -strength))
    both = np.array([-2.0, -1, 0, 1, 2])
    assert smoothness(both, both) == pytest.approx(0) and smoothness(both, np.array([-4.0, -4, 0, 1, 2])) > 0.04
    assert smoothness(np.array([0.0, 0.1, 0.5, 3]), np.array([0.0, 0.2, 1, 6])) == pytest.approx(0), "uneven strengths on a line"


def test_the_jackknife_of_a_mean_is_students_interval():
    values = np.random.default_rng(0).normal(size=9)
    table = pd.DataFrame({"prompt": range(9), "score": values})
    pseudo = pseudo_values(table, lambda t: pd.Series({"mean": t["score"].mean(), "twice": 2 * t["score"].mean()}))
    assert pseudo["mean"].to_numpy() == pytest.approx(values)
    low, high = interval(pseudo["mean"].to_numpy())
    assert (low, high) == pytest.approx(stats.t.interval(0.95, 8, values.mean(), stats.sem(values)))
    assert interval(pseudo["mean"].to_numpy(), 5.0) == pytest.approx((5 - (high - low) / 2, 5 + (high - low) / 2))
    assert interval(np.array([1.0])) == (-np.inf, np.inf)


@pytest.mark.slow
def test_jackknife_intervals_hold_what_they_promise():
    """Of the areas of noisy lines, about 95 % of the intervals hold the true one: 8 prompts, as the sweep has."""
    rng, held = np.random.default_rng(1), 0
    for _ in range(150):
        slope = 3 + rng.normal(size=8)
        rows = [
            (p, a, abs(a) * (1 + 0.1 * rng.normal()), s * a + 0.3 * rng.normal())
            for p, s in enumerate(slope)
            for a in (0.0, 0.5, 1.0)
        ]
        table = pd.DataFrame(rows, columns=["prompt", "strength", "distance", "score"]).assign(concept="c", cell="pci_all")
        table.loc[table["strength"] == 0, ["distance", "score"]] = 0.0

        def area(part):
            return steering_auc(part).set_index("cell")["auc"]

        low, high = interval(pseudo_values(table, area)["pci_all"].to_numpy(), float(area(table).iloc[0]))
        held += low <= 1.5 <= high
    assert held / 150 > 0.88


def test_an_axis_goes_by_its_first_end():
    names = axes()
    assert len(names) == 18 and {"female", "fast", "happy"} <= set(names) and not {"male", "slow", "sad"} & set(names)


def test_the_chart_says_itself_in_words():
    curves = pd.concat(
        [curve([(-1, 0.1, -2), (0, 0, 0), (1, 0.1, 2)], cell) for cell in ("caa own", "caa all", "new way", "another")]
    )
    curves = curves.assign(low=curves["score"] - 1, high=curves["score"] + 1)
    spec = steering_chart(curves, "fast", "slow").to_dict()
    assert "Highest score 2.00" in spec["description"] and "slow" in json.dumps(spec["title"])
    data = next(iter(spec["datasets"].values()))
    assert {row["distance"] for row in data if row["strength"] == -1} == {-0.1}, "away from the concept runs to the left"
    for channel in ("color", "shape"):
        layer = next(layer for layer in spec["layer"] if channel in layer["encoding"] and "scale" in layer["encoding"][channel])
        used = layer["encoding"][channel]["scale"]["range"]
        assert len(set(used)) == len(used) == 4
    with pytest.raises(ValueError, match="no curves"):
        steering_chart(curves.iloc[:0], "fast")


def sounds(count):
    time = np.arange(4000) / 8000
    return [Clip(np.sin(2 * np.pi * 220 * (i + 1) * time)[None].astype("float32"), 8000) for i in range(count)]


def test_the_slider_page_is_whole_and_escaped(tmp_path):
    bad = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    tracks = [Track(bad, [-1.0, 0.0, 1.0], sounds(3), [bad, "middle", "up"])]
    page = slider_page(tracks, tmp_path / "deep" / "page.html", bad, bad).read_text()
    assert "<script>alert" not in page and "<img src=x" not in page
    assert page.count("<script") == 2 and page.count("</script>") == 2
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", page) and "http" not in page.split('id="tracks"')[
        0
    ].lower().replace("http-equiv", "")
    data = json.loads(re.search(r'id="tracks">(.*?)</script>', page, re.S)[1])
    assert (
        data[0]["captions"][0] == bad
        and len(data[0]["sounds"]) == 3
        and data[0]["sounds"][0]["sound"].startswith("data:audio/mpeg;base64,")
    )
    assert "default-src 'none'" in page
    for strengths, message in (([0.0, 1.0], "3 clips"), ([1.0, 0.0, -1.0], "strictly increasing")):
        with pytest.raises(ValueError, match=message):
            Track("t", strengths, sounds(3), ["", "", ""])
    with pytest.raises(ValueError, match="at least one track"):
        slider_page([], tmp_path / "none.html", "none")


def test_the_slider_fades_between_neighbours(root):
    """The gains of the player's own script: neighbours share, everything else is silent, and a clip's own place is that clip alone."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("the player's script needs node to be run outside a browser; tests/test_browser.py hears it in one")
    player = (root / "audioscope" / "pages" / "web" / "player.js").as_uri()
    script = f"import {{ between }} from '{player}'; console.log(JSON.stringify([-2, -1, -0.25, 0, 2, 9].map(v => between([-2, -1, 0, 2], v))))"
    run = subprocess.run([node, "--input-type=module", "-e", script], capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0.25, 0.75, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 1]]


@pytest.mark.slow
def test_the_command(tmp_path, capsys):
    out = tmp_path / "steered"
    asked = [
        "steer",
        "--concept",
        "fast",
        "--strengths",
        "-2:2:3",
        "--pairs",
        "3",
        "--steps",
        "2",
        "--prompts",
        "1",
        "--out",
        str(out),
    ]
    assert main(asked) == 0
    said = capsys.readouterr().out
    assert str(out / "index.html") in said and "strength" in said
    table = pd.read_parquet(out / "clips.parquet")
    assert sorted(table["strength"]) == [-2.0, 0.0, 2.0] and all((out / clip).exists() for clip in table["clip"])
    page = (out / "index.html").read_text()
    assert page.count("data:audio/mpeg") == 3 and "slow to fast" in page
    assert audioscope.SteeringVector.load(out / "vector").metadata["pairs"] == 3
    before = {file: file.stat().st_mtime_ns for file in out.glob("units/*")}
    assert main(asked) == 0 and {file: file.stat().st_mtime_ns for file in out.glob("units/*")} == before, "it was done again"
    assert main([*asked[:-4], "--prompts", "1", "--pairs", "4", "--out", str(out)]) == 2
    assert "holds a vector with other settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["--concept", "fast", "--strengths", "0,0"], "at least one must not be 0"),
        (["--concept", "fast", "--strengths", "-2:2"], "--strengths is '-2:2'"),
        (["--concept", "fast", "--strengths=-2:2:1"], "--strengths is"),
        (["--concept", "fest"], "Nearest"),
        (["--concept", "fast", "--sites", "layer3"], "layer3"),
        (["--concept", "fast", "--atlas", "nowhere"], "holds no atlas"),
        (["--concept", "fast", "--prompts", "0"], "--prompts is 0"),
        (["--concept", "fast", "--pairs", "1"], "pairs is 1"),
        (["--concept", "fast", "--pairs-from", "PAIRS"], "No concept 'fast' in the pairs"),
        (["--all", "--sites", "own"], "--all cannot be combined with --sites"),
    ],
)
def test_bad_input_to_the_command(tmp_path, capsys, asked, message):
    pd.DataFrame({"concept": ["piano"], "clean": ["a song with piano"], "corrupted": ["a song with guitar"]}).to_csv(
        tmp_path / "pairs.csv"
    )
    asked = [str(tmp_path / "pairs.csv") if word == "PAIRS" else word for word in asked]
    assert main(["steer", *asked, "--steps", "1", "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_the_command_needs_a_concept_or_all(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["steer", "--out", "x"])
    assert stop.value.code == 2 and "--concept" in capsys.readouterr().err
