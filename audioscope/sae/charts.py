"""Charts of sparse autoencoders: training loss, evaluation, and how well features detect concepts. Altair, with inline data."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from audioscope.errors import of_kind, said_text, with_columns
from audioscope.sae.evaluation import SAEEvaluation
from audioscope.theme import chart_theme, rows

# Colors that can be distinguished under all common forms of color blindness; shapes carry the same information.
METHOD_LOOKS = {
    "feature": ("#a84a08", "circle"), "neuron": ("#0072b2", "square"), "probe": ("#5b5651", "diamond"),
    "random SAE": ("#cc79a7", "triangle-up"),
}  # fmt: skip


TOP = alt.Legend(orient="top")


def _layers(*layers: alt.Chart, width: int = 440, **properties: Any) -> alt.LayerChart:
    return alt.layer(*layers).properties(width=width, **properties).configure(**chart_theme())


def training_chart(log: pd.DataFrame) -> alt.LayerChart:
    """Chart how a training went: the variance unexplained and the share of dead features, over the tokens trained on.

    Args:
        log: The log of a training, `sae.log`, with the columns tokens, fvu and dead.

    Returns:
        An Altair chart with inline data; its description says in words how the training ended.

    Example:
        >>> import pandas as pd
        >>> log = pd.DataFrame({"tokens": [0, 40_000], "fvu": [0.9, 0.1], "dead": [0.0, 0.02]})
        >>> audioscope.sae.training_chart(log).description
        'After 40000 tokens 0.100 of the variance is unexplained, 0.02 of the features dead.'
    """
    with_columns("log", log, ("tokens", "fvu", "dead"), "SAE.log")
    long = log.rename(columns={"fvu": "variance unexplained", "dead": "dead features"}).melt(
        "tokens", ["variance unexplained", "dead features"], "what", "share"
    )
    last = log.iloc[-1]
    lines = alt.Chart(rows(long)).mark_line(aria=False).encode(
        x=alt.X("tokens:Q", title="tokens", axis=alt.Axis(format="~s")), y=alt.Y("share:Q", title="share", scale=alt.Scale(domainMin=0)),
        color=alt.Color("what:N", title=None, scale=alt.Scale(range=["#0072b2", "#a84a08"]), legend=TOP),
        strokeDash=alt.StrokeDash("what:N", title=None, legend=TOP),
    )  # fmt: skip
    unexplained = f"{last['fvu']:.3f} of the variance is unexplained, {last['dead']:.2f} of the features dead."
    return _layers(lines, height=200, description=f"After {last['tokens']:.0f} tokens {unexplained}")


def evaluation_chart(evaluation: SAEEvaluation) -> alt.LayerChart:
    """Chart the variance unexplained at each noise level next to the two baselines; the SAE passes where it is below both.

    Args:
        evaluation: The result of `audioscope.sae.evaluate_sae` or `audioscope.sae.evaluate_tokens`.

    Returns:
        An Altair chart with inline data; its title says where the SAE passes or fails, and how many features are dead.

    Example:
        >>> import torch
        >>> tokens = torch.randn(2, 100, 16, generator=torch.Generator().manual_seed(0))
        >>> evaluation = audioscope.sae.evaluate_tokens(audioscope.SAE(16, 32, 4), tokens, torch.tensor([1.0, 0.5]))
        >>> audioscope.sae.evaluation_chart(evaluation).description  # an untrained SAE
        'Variance unexplained by noise level; the SAE fails at every noise level.'
    """
    of_kind("evaluation", evaluation, SAEEvaluation)
    names = {"fvu": "SAE", "topk_pca_fvu": "PCA, each token's k largest", "tokens_fvu": "random tokens, k of them"}
    methods = list(names.values())
    table = evaluation.levels.reset_index(names="level").assign(
        shown=evaluation.levels["sigma"].map("{:.3f}".format), verdict=np.where(evaluation.levels["passes"], "passes", "fails")
    )
    long = table.rename(columns=names).melt(["level", "shown", "verdict"], methods, "what", "share")
    base = alt.Chart(rows(long)).encode(
        x=alt.X("shown:O", sort=None, title="noise level (sigma), from the first step to the last", axis=alt.Axis(labelAngle=0)),
        y=alt.Y("share:Q", title="variance unexplained", scale=alt.Scale(domainMin=0)),
        color=alt.Color("what:N", title=None, scale=alt.Scale(domain=methods, range=["#a84a08", "#5b5651", "#0072b2"]), legend=TOP),
        shape=alt.Shape("what:N", title=None, scale=alt.Scale(domain=methods, range=["circle", "square", "diamond"]), legend=TOP),
        tooltip=[alt.Tooltip("what:N", title="by"), alt.Tooltip("shown:N", title="sigma"), alt.Tooltip("share:Q", format=".3f"), "verdict:N"],
    )  # fmt: skip
    failed = [row["shown"] for row in table.to_dict("records") if not row["passes"]]
    where = "every noise level" if len(failed) in (0, len(table)) else ", ".join(failed)
    outcome = f"fails at {where}" if failed else f"{'passes' if evaluation.passes else 'is below both baselines'} at {where}"
    dead = f"{evaluation.dead_share:.1%} of {len(evaluation.density)} features are dead."
    return _layers(
        base.mark_line(aria=False), base.mark_point(filled=True, size=60, opacity=1, aria=False), height=220,
        title=alt.TitleParams(f"The SAE {outcome}", subtitle=[dead]),
        description=f"Variance unexplained by noise level; the SAE {outcome}.",
    )  # fmt: skip


def auroc_chart(table: pd.DataFrame, title: str = "How well one unit detects a concept") -> alt.LayerChart:
    """Chart the AUROC of each concept and method at one site, with its interval: how well one unit detects the concept.

    Args:
        table: Rows of one site from `audioscope.sae.auroc_table` or `audioscope.sae.compare_features`.
        title: The title of the chart.

    Returns:
        An Altair chart with inline data, the concepts ordered by the AUROC of their best feature; the dashed line is chance.

    Example:
        >>> site = "transformer.transformer_blocks.6.cross_attn"
        >>> table = audioscope.sae.auroc_table({site: audioscope.datasets.sae(site)})
        >>> audioscope.sae.auroc_chart(table, "Layer 6").description
        'Layer 6: AUROC of feature, neuron, probe, random SAE for 21 concepts.'
    """
    with_columns("table", table, ("concept", "method", "auroc", "low", "high"), "compare_features")
    said_text("title", title)
    notes = ["Dashed: chance. Units were chosen on other prompts."]
    if "negatives" in table:
        against = "all prompts that do not name it" if (table["negatives"] == "all").all() else "its counterfactual alone"
        notes.append(f"A concept is distinguished from {against}.")
    order = table[table["method"] == "feature"].sort_values("auroc", ascending=False)["concept"].tolist()
    methods = [name for name in METHOD_LOOKS if name in set(table["method"])]
    colors, shapes = ([METHOD_LOOKS[name][part] for name in methods] for part in (0, 1))
    base = alt.Chart(rows(table)).encode(
        y=alt.Y("concept:N", sort=order, title=None),
        yOffset=alt.YOffset("method:N", sort=methods),
        color=alt.Color("method:N", sort=methods, title=None, legend=TOP, scale=alt.Scale(domain=methods, range=colors)),
        tooltip=["concept:N", "method:N", alt.Tooltip("auroc:Q", format=".3f"), alt.Tooltip("low:Q", format=".3f"), alt.Tooltip("high:Q", format=".3f"), "unit:N"],
    )  # fmt: skip
    scale = alt.Scale(domain=[0.3, 1.0], zero=False, nice=False, clamp=True)
    bars = base.mark_rule(aria=False).encode(
        x=alt.X("low:Q", title="AUROC on held-out prompts, 95 % interval", scale=scale), x2="high:Q"
    )
    marks = base.mark_point(filled=True, size=50, opacity=1, aria=False).encode(
        x=alt.X("auroc:Q", scale=scale),
        shape=alt.Shape("method:N", sort=methods, title=None, legend=TOP, scale=alt.Scale(domain=methods, range=shapes)),
    )
    rule = alt.Chart(table.head(1)).mark_rule(style="threshold", aria=False)
    chance = rule.encode(x=alt.X(datum=0.5, type="quantitative", scale=scale))
    said = f"{title}: AUROC of {', '.join(methods)} for {len(order)} concepts."
    return _layers(
        chance, bars, marks, width=420, height={"step": 11}, title=alt.TitleParams(title, subtitle=notes), description=said
    )


def features_chart(table: pd.DataFrame) -> alt.LayerChart:
    """Chart every feature by how often it is active and how well it detects the concept that it detects best.

    A click selects a feature (the selection "picked"), and the parameter chosen_feature draws a ring around one.

    Args:
        table: One row per feature, with the columns feature, concept (the one that it detects best), auroc (for this concept)
            and density (the share of tokens at which it is active). Features with density 0 are not drawn.

    Returns:
        An Altair chart with inline data.

    Example:
        >>> import pandas as pd
        >>> rows = [(3, "fast", 0.98, 0.05), (5, "violin", 0.91, 0.01), (8, "jazz", 0.5, 0.0)]
        >>> table = pd.DataFrame(rows, columns=["feature", "concept", "auroc", "density"])
        >>> audioscope.sae.features_chart(table).description
        '2 features: share of tokens at which each is active, and AUROC for the concept it detects best.'
    """
    with_columns("table", table, ("feature", "concept", "auroc", "density"), "feature_table")
    shown = table[table["density"] > 0].round({"auroc": 4, "density": 6})
    base = alt.Chart(rows(shown)).encode(
        x=alt.X("density:Q", title="share of tokens at which it is active", scale=alt.Scale(type="log"), axis=alt.Axis(format="~%", values=[10.0**n for n in range(-5, 1)])),
        y=alt.Y("auroc:Q", title="AUROC for its best concept", scale=alt.Scale(zero=False)),
        tooltip=["feature:O", "concept:N", alt.Tooltip("auroc:Q", format=".3f"), alt.Tooltip("density:Q", format=".2%")],
    )  # fmt: skip
    points = base.mark_point(filled=True, size=70, opacity=0.6, color="#0072b2", aria=False)
    points = points.add_params(alt.selection_point(name="picked", fields=["feature"], toggle=False, clear="mouseout"))
    chosen = base.transform_filter("datum.feature == chosen_feature").mark_point(
        style="interval", size=260, strokeWidth=3, filled=False, aria=False
    )
    said = f"{len(shown)} features: share of tokens at which each is active, and AUROC for the concept it detects best."
    return _layers(points, chosen, height=260, description=said).add_params(alt.param(name="chosen_feature", value=-1))
