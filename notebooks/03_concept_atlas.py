# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 3. The concept atlas: which layer carries which concept, and how sure we can be
#
# **You will hear** single layers bring a drum kit, a tempo or a genre into a song whose prompt names something else.
#
# **You will learn**
#
# - how to build an atlas from patched generations;
# - how to read it without being fooled: intervals, undefined and censored cells, controls, scales, a second listener;
# - what the shipped atlas of `tiny` shows, when during denoising the text acts, and what self-attention adds;
# - how to send someone an atlas: as a page with sound.
#
# **Time**: 30 minutes; it runs in about 1. **Before this**: [2. Look inside](02_look_inside.ipynb); what a confidence interval is.

# %%
import tempfile
from pathlib import Path

import altair as alt
import pandas as pd
import torch

import audioscope
from audioscope import Atlas, datasets
from audioscope.atlas import step_impacts
from audioscope.datasets import data_folder
from audioscope.pages import iframe

audioscope.show_charts()
model = audioscope.load("tiny")

# %% [markdown]
# ## An atlas is a table of patched generations
# For a model with L layers, each counterfactual pair gives L + 2 clips: one of the clean prompt, one of the corrupted prompt, and for each layer one of
# the corrupted prompt in which that layer reads the clean text. The *impact* of a layer is how far this one layer moves the score from corrupted (0) to
# clean (1).
#
# Here is a small atlas, made live: three concepts, three pairs each. With `out="a folder"` it is saved pair by pair, so an interrupted run resumes where it stopped.

# %%
small = audioscope.localize(model, ["drums", "fast", "metal"], pairs=3, steps=8)
small

# %%
assert len(small.table[small.table["scored"] == "drums"]) == 3 * 3 * (12 + 2)
small.impacts().head()

# %% [markdown]
# ## Of <!--=atlas.cells-->252<!--/--> cells <!--=atlas.beyond-->149<!--/--> lie beyond their control, and a few of them by chance
# The shipped atlas has <!--=atlas.concepts-->21<!--/--> concepts with <!--=atlas.pairs-->34<!--/--> pairs each. Click a cell to hear it. Everything also works from the keyboard, through the menus.

# %%
atlas = datasets.atlas()
atlas

# %%
atlas.explore(model).wait()

# %% [markdown]
# A cell lies beyond its *control* when its whole interval lies above what swaps of unrelated concepts do to this concept's score. Among so many cells, some get there by chance. To estimate
# how many, put each unrelated swap in the place of the concept's own swap, and count. About <!--=atlas.false-->7<!--/--> of the <!--=atlas.beyond-->149<!--/--> are expected to be false.

# %%
impacts = atlas.impacts()
false = atlas.false_cells()
print({name: round(value, 3) for name, value in false.items()})
assert false["beyond"] == (impacts["low"] > impacts["control"]).sum() > 100 and false["expected"] < 0.1 * false["beyond"]

# %% [markdown]
# ## One layer passes the rule, and the result is about these concepts
# A layer is *functional* when its impact, averaged over concepts, is at least 2.5 / L and its whole interval lies above the control. In the
# paper's large models, two to seven layers pass this rule. In `tiny`, only layer <!--=atlas.functional-->0<!--/--> passes, with a mean impact of <!--=atlas.top-->.27 [.26, .28]<!--/--> against a threshold of <!--=atlas.threshold-->.21<!--/-->.
#
# That interval is for the same concepts and other pairs. A wider question is what other concepts would give. The columns `all_low` and `all_high` answer it for concepts drawn one by one: the interval is <!--=atlas.top.all-->[.13, .43]<!--/-->, and it reaches far below the threshold. When you print `functional`, it shows how fragile the set is. You see the share of draws of pairs and concepts in which the layer passes
# (<!--=atlas.top.share-->81 %<!--/--> here, down to <!--=atlas.top.share.least-->64 %<!--/--> with the other network or scale), and which concepts, or whole groups of concepts, change the set when they are left out. Here these are <!--=atlas.top.without-->all of genre and all of percussion<!--/-->: the layer carries these two groups (<!--=atlas.top.genre-->.64<!--/--> and <!--=atlas.top.percussion-->.74<!--/-->) some of mood (<!--=atlas.top.mood-->.25<!--/-->), and little else (tempo <!--=atlas.top.tempo-->.08<!--/-->, voice <!--=atlas.top.voice-->.04<!--/-->, lead <!--=atlas.top.lead-->.02<!--/-->). To call the layer "shared by the concepts" would claim
# too much.

# %%
means = atlas.layer_means()
means.round(3)

# %%
print(atlas.functional)
top = means.loc[means["impact"].idxmax()]
assert [path.split(".")[2] for path in atlas.functional] == ["0"] and top["layer"] == 0
assert top["low"] > top["threshold"] and top["all_low"] < top["threshold"]
share = atlas.functional.fragility.set_index("layer").loc[0, "share"]
assert 0.5 < share < 0.95  # more likely than not, but not certain

# %% [markdown]
# ## No scale is innocent: raw, clipped and probability
# The listener's scores are log-odds. It was calibrated on clips where it can be wrong, up to about 6 on either side (one error in 400). Beyond that range, it extrapolates. There are three ways to handle such scores:
#
# - **clipped** cuts off every score at 6, so it claims nothing beyond the calibrated range. But most clean and corrupted clips lie beyond it, and a layer that moves a score from −20 to −10 then has an impact of 0. Such
#   cells are *censored*: in <!--=scale.censored-->158<!--/--> of <!--=atlas.cells-->252<!--/--> cells, both scores of most pairs lie beyond the same end of the range. The chart marks these cells with dots, because a 0 there means that nothing was seen.
# - **probability** compresses the ends even more.
# - **raw** takes log-odds as they are. It sees every shift, and its intervals are narrow, but it trusts the listener where nobody tested it.
#
# Raw is the default here. What a scale hides cannot be checked; what a network extrapolates can be checked, with another network.

# %%
clipped = atlas.impacts("clipped")
print(
    f"censored when clipped: {(clipped['censored'] > 0.5).sum()} of {len(clipped)} cells; when raw: {impacts['censored'].max():.0f}"
)
assert (clipped["censored"] > 0.5).mean() > 0.6 and impacts["censored"].max() == 0
atlas.chart("clipped")

# %%
atlas.chart("probability")

# %% [markdown]
# These are the cells where raw and clipped differ most, chosen by that rule alone. In most of them, most pairs are censored. Where they are not, the two scales weight the same shifts differently.

# %%
both = impacts.merge(clipped, on=["concept", "layer"], suffixes=("", " clipped"))
both["difference"] = (both["impact"] - both["impact clipped"]).abs()
widest = both.nlargest(8, "difference")[["concept", "layer", "impact", "impact clipped", "censored clipped", "difference"]]
widest.round(2)

# %%
assert widest["censored clipped"].mean() > both["censored clipped"].mean() - 0.3
assert (atlas.layer_means("clipped")["functional"] == means["functional"]).all()
assert (atlas.layer_means("probability")["functional"] == means["functional"]).all()
print(atlas.functional_on("clipped"))

# %% [markdown]
# The functional set is the same on all three scales, but it is not equally safe on all three. On the clipped scale, the layer passes in <!--=scale.clipped.share-->65 %<!--/--> of the draws, and leaving out any one of <!--=scale.clipped.without-->metal and drums<!--/--> changes the set.
#
# ## A second network heard the same clips
# The *judge* differs from the listener in architecture and in training clips. Its raw map is much the same: over the cells, the correlation is <!--=scale.judge.r-->.95 [.94, .96]<!--/--> (Spearman <!--=scale.judge.rho-->.91 [.88, .93]<!--/-->). The
# intervals come from resampling pairs, because the twelve cells of a pair are not independent.

# %%
judge = atlas.heard_by("judge")
alike = {
    "listener and judge, raw": atlas.correlation(judge),
    "listener, raw and clipped": atlas.correlation(atlas, "raw", "clipped"),
}
pd.DataFrame(alike).T.round(2)

# %%
assert alike["listener and judge, raw"]["pearson_low"] > 0.9
judge.chart()

# %% [markdown]
# So this notebook makes a claim only where four views agree: listener and judge, each on the raw and the clipped scale. All four must have the same sign and lie beyond the control after Holm's correction over the cells. <!--=atlas.holds-->16<!--/--> of <!--=atlas.cells-->252<!--/--> cells pass. On the raw scale alone, both networks agree on <!--=atlas.raw-->36<!--/--> cells. Of those that do not pass in all four views, <!--=atlas.undecided-->16<!--/--> are *undecided*: most of their pairs are censored, so the clipped
# scale says nothing for or against them.

# %%
agreement = atlas.agreement()
holds = agreement[agreement["holds"]]
print({concept: rows["layer"].tolist() for concept, rows in holds.groupby("concept", sort=False)})
print(
    "undecided (both networks agree, on the raw scale only):",
    {c: rows["layer"].tolist() for c, rows in agreement[agreement["undecided"]].groupby("concept", sort=False)},
)
assert 10 < len(holds) < 40 and len(holds) < false["beyond"] / 3 and agreement["undecided"].sum() > len(holds) / 2

# %% [markdown]
# ## An ear from outside confirms the strongest layer of fast, slow and metal
# The listener and the judge learned from the same rendered music, so they may share an error. *musicnn* learned from recordings, by other people, to name
# what is heard in them (`audioscope.scoring.Musicnn`). It is worth asking only where it hears a concept in rendered music, which certainly has it: this is its
# *ceiling*. An AUROC of at least <!--=outside.least-->.75<!--/--> is reached for slow (<!--=outside.musicnn.slow.ceiling-->.79<!--/-->), fast (<!--=outside.musicnn.fast.ceiling-->.84<!--/-->), metal (<!--=outside.musicnn.metal.ceiling-->.97<!--/-->), opera (<!--=outside.musicnn.opera.ceiling-->.83<!--/-->) and flute (<!--=outside.musicnn.flute.ceiling-->.87<!--/-->). For these, it scored the same swaps.

# %%
outside = datasets.outside()
ear = outside.heard_by("musicnn")
outside_alike = {"listener": outside.correlation(ear), "judge": outside.heard_by("judge").correlation(ear)}
print(pd.DataFrame(outside_alike).T.round(2).to_string())
ear.chart()

# %% [markdown]
# Over the <!--=outside.listener.cells-->48<!--/--> of <!--=outside.cells-->60<!--/--> cells that it can tell, its map goes with the listener's (correlation <!--=outside.listener.r-->.90 [.87, .93]<!--/-->, Spearman <!--=outside.listener.rho-->.62 [.39, .78]<!--/-->; without the listener's three largest cells <!--=outside.listener.without-->.65<!--/-->) and with the judge's (<!--=outside.judge.r-->.87 [.82, .91]<!--/-->). With it, there are five views; it has no clipped scale, because
# nobody calibrated it. All five hold in <!--=outside.holds-->3<!--/--> cells: fast in layer <!--=outside.fast.holds-->1<!--/-->, slow in <!--=outside.slow.holds-->1<!--/-->, metal in <!--=outside.metal.holds-->0<!--/-->. It hears the flute most in the layer in which the others do, but not beyond chance in
# all views. Alone it finds <!--=outside.alone-->slow at layers 3, 4 and 5<!--/-->, with impacts up to <!--=outside.alone.most-->.19<!--/-->, where those of the networks are at most <!--=outside.alone.networks-->.04<!--/-->. Opera is undefined for it: it hears opera in rendered songs, but no sure difference between the model's clean and corrupted clips. About the other concepts, it says nothing.

# %%
heard = outside.agreement()
five = {concept: rows["layer"].tolist() for concept, rows in heard[heard["holds"]].groupby("concept", sort=False)}
print(five)
assert outside_alike["listener"]["pearson_low"] > 0.8 and outside_alike["judge"]["pearson_low"] > 0.7
assert heard["asked"].max() == 5 and five["metal"] == [0] and set(five["fast"]) | set(five["slow"]) <= {1, 2}
by_ear = ear.impacts().pivot(index="concept", columns="layer", values="impact")
assert by_ear.loc["flute"].idxmax() == 10 and by_ear.loc["opera"].isna().all()

# %% [markdown]
# ## Groups of concepts have layers of their own
# The mean over concepts hides which concepts make it up. Genre enters through layer <!--=atlas.holds.genre-->0<!--/--> (metal, opera and jazz in all four views, reggae on the raw scale). Tempo enters through layer <!--=atlas.holds.fast-->1<!--/--> and, on the raw scale, through 2 as well. Percussion enters through several layers (drums <!--=atlas.holds.drums-->0, 2 and 6<!--/-->, bongos <!--=atlas.holds.bongos-->0, 6 and 7<!--/-->, maracas <!--=atlas.holds.maracas-->0, 2 and 6<!--/-->), and never through layer 3. Of the leads, only the cello has cells that hold, <!--=atlas.holds.cello-->6 and 11<!--/-->; the mean lead enters late. For <!--=atlas.holds.none-->female, male, happy, sad, reggae, violin, trumpet, saxophone, flute, harmonica, trombone and xylophone<!--/-->, no cell holds in all
# four views. Happy, sad and xylophone are censored when clipped: on the raw scale, both networks find cells of theirs. Trumpet (<!--=atlas.raw.trumpet-->9<!--/-->), violin (<!--=atlas.raw.violin-->8 and 11<!--/-->) and reggae have cells on which the networks agree on the raw scale, but not in every view. Others are spread: no single layer brings in
# much of a voice, a saxophone or a harmonica.
#
# The rule for functional layers, applied to one concept, gives its *own layers*. Notebook 5 steers the concept there.

# %%
by_group = impacts[impacts["defined"]].groupby(["group", "layer"])["impact"].mean().unstack()
by_group.round(2)

# %%
defined = impacts[impacts["defined"]]
assert by_group.loc["genre", 0] > 0.4 and by_group.loc["genre", 1:].max() < 0.2
assert set(by_group.loc["tempo"].nlargest(2).index) == {1, 2} and by_group.loc["tempo", 3:].max() < 0.1
assert by_group.loc["percussion", 3] < 0.05 and by_group.loc["lead"].idxmax() in (8, 9, 10, 11)
own = {concept: [int(path.split(".")[2]) for path in atlas.own_layers(concept)] for concept in atlas.concepts}
print({concept: layers for concept, layers in own.items() if layers})
found = {concept: set(rows["layer"]) for concept, rows in holds.groupby("concept")}
assert all(found[genre] == {0} for genre in ("metal", "opera", "jazz")) and found["fast"] == found["slow"] == {1}
assert own["reggae"] == [0] and found["cello"] == {6, 11} and by_group.loc["lead"].idxmax() == 9
assert impacts[impacts["concept"].isin(["female", "male", "saxophone", "harmonica"])]["impact"].max() < 0.3

# %% [markdown]
# ## On average, the text acts in the middle of denoising
# You can also patch a layer in only one part of the denoising process (`localize(..., when="middle")`). Each part covers an equal share of the log signal-to-noise ratio, which is the scale
# that a denoiser moves along. Here the parts are steps 0 to 3, 4 to 6 and 7 to 9. (Equal shares of sigma would give the first three steps almost nothing: they cover a fortieth of it.) The
# layer that leads over all steps also leads in the middle part; in the early part, no layer leads. These maps ship with 12 pairs each.

# %%
thirds = {
    each.settings["when"]: each.layer_means().set_index("layer")
    for each in audioscope.datasets.maps().values()
    if each.settings["when"]
}
by_third = pd.DataFrame({name: means_of["impact"] for name, means_of in thirds.items()})
by_third.assign(all_steps=means.set_index("layer")["impact"]).round(3)

# %%
strongest = means.nlargest(2, "impact")["layer"].tolist()
assert (by_third.loc[strongest].idxmax(axis=1) == "middle").all()
assert thirds["middle"].loc[0, "low"] > max(thirds["early"].loc[0, "high"], thirds["late"].loc[0, "high"])
assert by_third["middle"].idxmax() == means.set_index("layer")["impact"].idxmax() == 0
assert thirds["early"].loc[0, "low"] < by_third["early"].drop(index=0).max()  # in the early part, layer 0 does not clearly lead
print(
    "layer 0, sum of the three parts:", by_third.loc[0].sum().round(3), "and all steps at once:", means.loc[0, "impact"].round(3)
)

# %% [markdown]
# For a finer view, patch all layers at once, but in one step only (`audioscope.atlas.patch_steps`; the table ships, with 12 pairs). In log signal-to-noise ratio, all steps of this schedule are equally long except the first and the
# last, so they can be compared. Steps 5 and 6 do the most in every view: <!--=step.5-->.28 [.26, .30]<!--/--> and <!--=step.6-->.28 [.26, .30]<!--/--> by the listener, <!--=step.judge.5-->.23 [.21, .25]<!--/--> and <!--=step.judge.6-->.22 [.20, .25]<!--/--> by the judge. (These intervals are for these concepts. For concepts like these
# they are wider: <!--=step.5.concepts-->[.17, .41]<!--/--> and <!--=step.6.concepts-->[.19, .39]<!--/-->.) The first steps do the least (step 0: <!--=step.0-->.02 [.01, .02]<!--/-->): there the clip is noise, and little is decided yet. This is the mean; concepts differ. Percussion acts from step 2 on, a trombone up to
# the last step.

# %%
steps_table = datasets.steps()
by_step = {
    "listener, raw": step_impacts(steps_table),
    "listener, clipped": step_impacts(steps_table, "clipped"),
    "judge, raw": step_impacts(steps_table, score="score of judge"),
    "judge, clipped": step_impacts(steps_table, "clipped", "score of judge"),
}
one_step = pd.concat(rows[rows["concept"] == "mean"].assign(view=view) for view, rows in by_step.items())
base = alt.Chart(one_step, title="All layers patched in one step only: mean impact over concepts").encode(
    x=alt.X("step:O", title="denoising step (0 is the noisiest)", axis=alt.Axis(labelAngle=0)),
    xOffset="view:N",
    color=alt.Color("view:N", scale=alt.Scale(range=["#56b4e9", "#0072b2", "#e69f00", "#d55e00"])),
)
(
    base.mark_rule().encode(y=alt.Y("low:Q", title="impact, 95 % interval"), y2="high:Q")
    + base.mark_point(filled=True).encode(y="impact:Q", shape="view:N", tooltip=["view", "step", "sigma", "log_snr", "impact", "low", "high"])
).properties(width=420, height=220, description="Mean impact over concepts of each single denoising step, in four views, with intervals")  # fmt: skip

# %%
for view, rows in by_step.items():
    of_step = rows[rows["concept"] == "mean"].set_index("step")
    assert set(of_step["impact"].nlargest(2).index) == {5, 6}, view
    assert of_step.loc[[5, 6], "low"].min() > of_step.loc[[0, 1, 2, 8, 9], "high"].max(), view
each = by_step["listener, raw"].pivot(index="concept", columns="step", values="impact")
drumming, others = ["bongos", "drums", "maracas"], each.drop(index=["bongos", "drums", "maracas", "mean"], errors="ignore")
assert (
    each.loc[drumming, 2].min() > 0.2 > 4 * others[2].max()
    and each.loc["trombone", [8, 9]].min() > 0.15 > others.drop(index="trombone")[9].max()
)

# %% [markdown]
# ## Swaps of other concepts should not move this one: the control
# Every clip is scored on every concept, so the control costs nothing. It measures how much swaps of *unrelated* concepts move a concept's
# score, divided by the concept's own denominator. In the heatmap it is the blue band.

# %%
shown = impacts.dropna(subset="control")
print(
    f"median control {shown['control'].median():.3f}, median impact of a concept's best layer {defined.groupby('concept')['impact'].max().median():.2f}"
)
assert shown["control"].median() < 0.05

# %% [markdown]
# ## A best layer is reported on pairs that did not choose it
# Choosing a concept's best layer and reporting its impact on the same pairs would flatter that layer. So `examples` chooses on half of the
# pairs and reports the impact on the other half.

# %%
best = atlas.examples()[["concept", "layer", "impact"]].merge(impacts[["concept", "layer", "control"]], on=["concept", "layer"])
best.round(2)

# %%
beyond = (best["impact"] > best["control"]).mean()
print(f"{beyond:.0%} of the concepts have a best layer beyond the control, on pairs that did not choose it")
assert beyond > 0.9

# %% [markdown]
# ## Training on other music kept most of the largest cells and moved others
# `data/atlas/before.csv` holds the clipped impacts of the version of `tiny` before this one. Training went on from its weights, with more recordings of each instrument, a synthesized singing voice, clearer idioms and a finer codec. Each point is one concept at one layer. Over all cells,
# the correlation is <!--=before.r-->.88<!--/-->, by ranks (Spearman) <!--=before.rho-->.66<!--/-->, and among the <!--=before.small.count-->218<!--/--> cells below .2 it is <!--=before.small-->.65<!--/-->. Most of the largest cells stayed; jazz in the functional layer shrank, and a quarter of the larger ones fell below half, reggae in that layer among them; tempo's strongest layer is another, and of the weak ones, many moved. Both maps come from one continued training run, so they
# say nothing about what a second run from scratch would give.

# %%
before = pd.read_csv(data_folder() / "atlas" / "before.csv")
both = clipped.merge(before[before["defined"]], on=["concept", "layer", "group"], suffixes=("", "_before"))
both = both[both["defined"]]
pair = both[["impact", "impact_before"]]
agree = {
    "all": pair.corr().iloc[0, 1],
    "ranks": pair.corr("spearman").iloc[0, 1],
    "small": pair[pair.abs().max(axis=1) < 0.2].corr().iloc[0, 1],
}
moved = both.loc[both.groupby("concept")["impact"].idxmax()].set_index("concept")["layer"]
first = both.loc[both.groupby("concept")["impact_before"].idxmax()].set_index("concept")["layer"]
print(
    f"correlation of the two atlases: { {k: round(v, 2) for k, v in agree.items()} }; the strongest layer is the same for {(moved == first).sum()} of {len(moved)} concepts"
)
alt.Chart(both, title="Impact of one layer on one concept").mark_point().encode(
    x=alt.X("impact_before:Q", title="the version before"),
    y=alt.Y("impact:Q", title="this version"),
    color=alt.Color("group:N", scale=alt.Scale(scheme="tableau10")),
    shape="group:N",
    tooltip=["concept", "layer", "impact_before", "impact"],
).properties(width=320, height=320, description="Impacts of all concepts and layers in two versions of the model")

# %%
assert len(both) == 12 * both["concept"].nunique() and agree["all"] > 0.8 and 0.5 < agree["small"] < agree["all"]
large = both[both["impact_before"] >= 0.2]
assert 0.15 < (large["impact"] < large["impact_before"] / 2).mean() < 0.35 and (first["fast"], moved["fast"]) == (2, 1)

# %% [markdown]
# ## Undefined is not zero
# Where clean and corrupted clips do not differ, a ratio has nothing to divide by. Such concepts are flagged and gray, never colored.

# %%
undefined = sorted(set(atlas.concepts) - set(defined["concept"]))
print("undefined:", undefined or "none")
assert impacts.loc[~impacts["defined"], "impact"].isna().all()

# %% [markdown]
# ## Whether single layers add up to one depends on who listens
# All layers together reach 1 by construction (the swap at every site is the clean run). The sum over single layers shows how much they overlap (above 1: any of several layers will do) or need each other (below 1). For
# percussion, they overlap in every view (the sum is at least <!--=sum.percussion-->2.19<!--/-->).
#
# For some of the others, the four views disagree. On the clipped scale, sad, reggae and harmonica have next to nothing (<!--=sum.listener.clipped.sad-->.03 [−.01, .12]<!--/-->, <!--=sum.listener.clipped.reggae-->.22 [.14, .33]<!--/-->, <!--=sum.listener.clipped.harmonica-->.13 [.05, .26]<!--/-->), as if only many
# layers at once brought them in. But those cells are censored. On the raw scale, the listener finds about half of the whole or more (<!--=sum.listener.raw.sad-->.88 [.73, 1.03]<!--/-->, <!--=sum.listener.raw.reggae-->.65 [.61, .71]<!--/-->, <!--=sum.listener.raw.harmonica-->.48 [.37, .59]<!--/-->), the judge
# less (<!--=sum.judge.raw.sad-->.31 [.21, .40]<!--/-->, <!--=sum.judge.raw.reggae-->.34 [.30, .38]<!--/-->, <!--=sum.judge.raw.harmonica-->.40 [.23, .56]<!--/-->). So of these three we cannot say "additive", nor how many layers must act together. What we can say: for reggae and harmonica, single layers do not
# add up to the whole in any view.

# %%
views = {
    f"{name}, {scale}": view.additivity(scale)
    for name, view in (("listener", atlas), ("judge", judge))
    for scale in ("raw", "clipped")
}
sums = pd.concat(frame.assign(view=name) for name, frame in views.items())
wide = sums.pivot(index="concept", columns="view", values="sum_of_single")
assert (wide.loc[["drums", "bongos", "maracas"]] > 1.5).all(axis=None)
few = wide.loc[["sad", "reggae", "harmonica"]]
assert few[["listener, clipped", "judge, clipped"]].max(axis=None) < 0.25 and few.max(axis=None) < 1
assert (few["judge, raw"] < few["listener, raw"]).all() and few[["judge, raw", "listener, raw"]].min(axis=None) > 0.25
order = wide["listener, raw"].sort_values(ascending=False).index.tolist()
base = alt.Chart(sums, title="Sum of the impacts of single layers").encode(
    y=alt.Y("concept:N", sort=order),
    yOffset="view:N",
    color=alt.Color("view:N", scale=alt.Scale(range=["#0072b2", "#56b4e9", "#d55e00", "#e69f00"])),
)
(
    base.mark_rule().encode(x=alt.X("low:Q", title="sum of single-layer impacts, 95 % interval"), x2="high:Q")
    + base.mark_point(filled=True).encode(x="sum_of_single:Q", shape="view:N", tooltip=["concept", "view", "sum_of_single", "censored"])
).properties(width=380, height={"step": 8}, description="Sum of the single-layer impacts of each concept in four views; all layers together give 1")  # fmt: skip

# %% [markdown]
# ## A score is a promise: listen
# Here are the clean clip, the corrupted clip, and the corrupted clip with the best layer patched. The layer was chosen on half of the pairs; the clips come from
# the other half.

# %%
atlas.play(defined["concept"].iloc[0])

# %% [markdown]
# ## You can send an atlas as one file, with its sound
# Here is all of it in one file, ready to send. Click a cell to hear it, and press A, B and X to switch between clean, corrupted and patched while the
# music plays. The box next to the map shows how sure the number is and which code regenerates the clips. `save_site` writes a folder for a web server; this
# is how `make atlas` ends.

# %%
file = small.save_html(Path(tempfile.mkdtemp()) / "atlas.html", [atlas], progress=False)
iframe("The atlas as a page", file.read_text(), 900)

# %%
assert file.stat().st_size < 12_000_000
print(f"{file}: {file.stat().st_size / 1e6:.1f} MB")

# %% [markdown]
# ## Self-attention carries concepts, too, once they are in
# Self-attention has no text to swap, so the patch copies its *output* from the clean run, which is another row of the same batch.

# %%
inner = audioscope.localize(model, ["metal", "fast"], pairs=4, patch="output", sites="self", steps=8)
inner.impacts().pivot(index="concept", columns="layer", values="impact").round(2)

# %%
assert {s.kind for s in inner.sites} == {"self"}
assert inner.impacts().groupby("concept")["impact"].max().min() > 0.4

# %% [markdown]
# ## Exercise 1: one layer, two concepts
# In the shipped atlas, which layer moves *drums* the most when it alone reads the clean text? And which layer moves *fast* the most? Answer with the two layers in
# a tuple, drums first.

# %% tags=["answer"]
best_layers = None  # (layer of drums, layer of fast)

# %% jupyter={"source_hidden": true} tags=["check"]
from audioscope.course import check

strongest = defined.loc[defined.groupby("concept")["impact"].idxmax()].set_index("concept")["layer"]
assert (strongest["drums"], strongest["fast"]) == (0, 1)
shown_impact = impacts.set_index(["concept", "layer"])["impact"]
check(
    best_layers,
    lambda pair: tuple(pair) == (0, 1),
    well="Drums are strongest in layer 0, tempo in layer 1: a concept has layers of its own.",
    wrong=[
        (lambda pair: tuple(pair) == (1, 0), "The other way around: drums come first."),
        (
            lambda pair: pair[0] == 2,
            f"Layer 2 brings in drums, too ({shown_impact['drums', 2]:.2f}), but another layer brings in more.",
        ),
        (
            lambda pair: pair[1] == 2,
            f"Layer 2 carries some of tempo, too ({shown_impact['fast', 2]:.2f}), but layer 1 carries more.",
        ),
    ],
    otherwise="Take the rows for drums and fast in `impacts`, and find the largest impact of each.",
    kind=(tuple, list),
)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# best = defined.loc[defined.groupby("concept")["impact"].idxmax()].set_index("concept")["layer"]
# best_layers = (best["drums"], best["fast"])
# ```
# </details>

# %% [markdown]
# ## Exercise 2: a concept of your own
# Make an atlas of your own pairs: three sentences with *piano*, and the same three with *guitar* instead. (`localize` takes a DataFrame with the columns concept, clean and
# corrupted.) Then say what you can conclude from it.

# %% tags=["answer"]
mine = None  # an Atlas


# %% jupyter={"source_hidden": true} tags=["check"]
def strongest_of(atlas):
    """The strongest layer of an atlas with one concept, in words."""
    row = atlas.impacts().query("concept == 'piano'").nlargest(1, "impact").iloc[0]
    verdict = (
        "includes 0, so nothing is known yet"
        if row["low"] <= 0
        else "excludes 0, which is more than three pairs give by chance; try other pairs"
    )
    return f"The strongest layer is {row['layer']}, with an impact of {row['impact']:.2f} [{row['low']:.2f}, {row['high']:.2f}]: the interval {verdict}."


def is_ours(atlas):
    prompts = atlas.table[["clean_prompt", "corrupted_prompt"]].astype(str).drop_duplicates()
    here = prompts["clean_prompt"].str.contains("piano") & prompts["corrupted_prompt"].str.contains("guitar")
    return "piano" in atlas.concepts and atlas.settings["pairs"] >= 3 and here.all()


check(
    mine,
    is_ours,
    well=(strongest_of(mine) if isinstance(mine, Atlas) and "piano" in mine.concepts else "")
    + " Three pairs are few; `audioscope.atlas.plan` tells you how many it takes.",
    wrong=[
        (
            lambda atlas: "guitar" in atlas.concepts,
            "The concept is what the clean prompts have: name it piano, and put guitar in the corrupted prompts.",
        ),
        (
            lambda atlas: "piano" in atlas.concepts and atlas.settings["pairs"] < 3,
            "Ask for all three: localize(model, pairs, pairs=3).",
        ),
        (
            lambda atlas: "piano" in atlas.concepts,
            "The clean prompts must have piano, and the corrupted prompts guitar in its place.",
        ),
    ],
    otherwise="Answer with the atlas that `localize` returns for the concept 'piano', from three pairs.",
    kind=Atlas,
)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# pairs = pd.DataFrame({"concept": "piano", "clean": [f"a {kind} song with piano" for kind in ("jazz", "pop", "slow")]})
# pairs["corrupted"] = pairs["clean"].str.replace("piano", "guitar")
# mine = audioscope.localize(model, pairs, pairs=3)
# mine.impacts()[["layer", "impact", "low", "high"]]
# ```
# </details>

# %% [markdown]
# ## Limits
# The atlas measures what a layer's text is sufficient for. Impacts of concepts that the model has learned poorly have wide intervals. Listener and judge are classifiers that learned one sound world, with one codec: two networks,
# not two pairs of ears. Beyond their calibrated range, both extrapolate the raw scores. The paper used 34 pairs and published no intervals.
#
# ## Read next
# - [4. Real models](04_real_models.ipynb): the same map of four large models.
# - [8. Your own music](08_your_own_music.ipynb), if you came with a concept of your own.
# - `audioscope atlas --help`: the same on the command line, for an overnight run.

# %%
import diffusers
import nnsight

print({m.__name__: m.__version__ for m in (audioscope, torch, diffusers, nnsight, alt)})
