"""Checks the figures in the text of the documents.

``claims`` computes phrases whose figures follow from the committed CSVs. ``research/given_figures.txt`` lists phrases
with other figures, one per line under the name of the document: settings, aims, quotes, and measurements of other
commands that the document names. ``unexplained`` finds every figure that is in neither, so that no figure can be added
or become outdated unnoticed.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence

from dreamprm_jax.cli.plan import add_arguments as add_plan_options
from dreamprm_jax.config import load_config
from dreamprm_jax.planning.duration import run_steps
from dreamprm_jax.planning.labels import Assumptions, label_cost
from dreamprm_jax.planning.plan import ASSUMED, LIVECODEBENCH_TEST, LIVECODEBENCH_TRAIN
from dreamprm_jax.tables import percent
from research.study.document import (
    BEST,
    CHOICE_CELLS,
    DEFAULT,
    HEAD,
    REPAIR_CELLS,
    RESULTS,
    ROOT,
    aggregator_members,
    choice_members,
    count,
    label_moves,
    label_table,
    points,
    repair_members,
    rows_of,
    span,
    without_tables,
)
from research.study.statistics import Tested, family
from research.study.tables import mean, number, paired, signed

DOCUMENTS = (
    "docs/label_correction.md", "docs/experiments.md", "docs/reproduction.md", "docs/choosing.md", "README.md",
)  # fmt: skip
GIVEN = ROOT / "research" / "given_figures.txt"
# Decimals, integers of at least two digits, percentages and points, except in names, versions, dates and code.
_FIGURE = re.compile(
    r"(?<![\w.:/-])[+-]?(?:\d{1,3}(?:,\d{3})+|\d*\.\d+|\d+(?= ?%| points)|\d{2,}(?!\w|,\d|-))(?![\w/]*\d|\.\d)"
)  # fmt: skip
_NO_PROSE = re.compile(r"```.*?```|`[^`]*`|\]\([^()]*\)|\d{4}\.\d{5}", re.DOTALL)  # the last alternative is an arXiv id


def prose(document: str) -> str:
    """The text of a document on one line, without the tables that a command generates."""
    return " ".join(without_tables((ROOT / document).read_text(encoding="utf-8")).split())


def unexplained(document: str) -> list[str]:
    """The figures, with context, that are in no claim and no given phrase, and the phrases not found in the text."""
    text = prose(document)
    known = claims().get(document, []) + given(document)
    missing = [f"not in the text: {phrase}" for phrase in known if phrase not in text]
    for phrase in sorted(known, key=len, reverse=True):
        text = text.replace(phrase, " ")
    text = _NO_PROSE.sub(" ", text)
    return missing + [text[max(0, m.start() - 50) : m.end() + 25] for m in _FIGURE.finditer(text)]


def given(document: str) -> list[str]:
    """The document's phrases in ``research/given_figures.txt``."""
    sections = re.split(r"^\[(.*)\]$", GIVEN.read_text(encoding="utf-8"), flags=re.MULTILINE)
    phrases = dict(zip(sections[1::2], sections[2::2], strict=True)).get(document, "")
    return [line for line in phrases.splitlines() if line and not line.startswith("#")]


def claims() -> dict[str, list[str]]:
    """Document -> parts of sentences, with figures computed from the CSVs."""
    fewer = _fewer_steps()
    return {
        "docs/label_correction.md": [
            *_repair(), *_family_labels(), *_before_repair(), *_label_table(),
            *_choosing(), *_held_out(), *_real_code(),
        ],
        "docs/experiments.md": [
            *_heads(), *_trained(),
            f"{len(rows_of('embedded', 'choices.csv'))} test problems, 8 candidates each",
            f"solves {fewer['orm']} % by the outcome model, {fewer['raw']} % by raw, {fewer['closure']} % by `closure` "
            f"and {fewer['corrected']} % by default labels",
        ],
        "docs/reproduction.md": _reproduction(),
        "README.md": [
            f"{_head_gains()} on CodeI/O programs",
            f"default labels solve {fewer['corrected']} % and `closure` {fewer['closure']} %",
        ],
    }  # fmt: skip


def _repair() -> list[str]:
    rows = rows_of("repair_confirm")
    tested = family(rows, repair_members())
    width = len(REPAIR_CELLS)
    step = {base: tested[place * width : (place + 1) * width] for place, base in enumerate(("raw", "closure"))}
    best = {base: tested[(place + 3) * width : (place + 4) * width] for place, base in enumerate(("raw", "closure"))}
    aggregators = family(rows, aggregator_members())
    clean = [paired(rows, cell, "clean", "raw", "step_auroc").mean for cell in REPAIR_CELLS]
    shares = [one.difference.mean / bound for one, bound in zip(step["raw"], clean, strict=True)]
    repaired = [one for cell, one in zip(REPAIR_CELLS, step["closure"], strict=True) if "repair" in cell]
    raw = [mean(rows, cell, "raw", "step_auroc") for cell in REPAIR_CELLS]
    rule = {cell: paired(rows, cell, "closure", "raw", "step_auroc").mean for cell in REPAIR_CELLS}
    return [
        f"gains {span([one.difference.mean for one in step['raw']])} step-AUROC over raw labels",
        f"step-AUROC of {span(raw)}. Relative to raw labels, `closure` is at {signed(rule['k1'])} in `k1`, "
        f"{signed(rule['k4_repair5'])} in `k4_repair5` and {signed(rule['k16_repair5'])} in `k16_repair5`",
        f"{span([one.difference.mean for one in step['closure']])} over the two-line rule `closure`",
        f"{points([one.difference.mean for one in best['raw']])} points of best of 8",
        f"reaches {span(shares, digits=2)} of what exact labels gain",
        f"`closure` is {number(step['closure'][0].difference.mean)} behind at one rollout and "
        f"{number(step['closure'][2].difference.mean)} at four",
        f"over all {len(tested)} members of family R",
        f"with repair {span([one.difference.mean for one in repaired])}",
        f"rises by {points([one.difference.mean for one in best['raw']])} points over raw",
        f"{count(one.certain for one in best['raw'])} of six cells remains certain",
        f"the gain in best of 8 is certain in {count(one.certain for one in best['closure'])} cell",
        f"by {points([one.difference.mean for one in aggregators])} points, certain in all "
        f"{count(one.certain for one in aggregators)} cells",
    ]


def _reproduction() -> list[str]:
    """Costs and settings of the paper's configurations, and the weights of the released code."""
    from research.study.arms import parse_arm
    from research.study.faithful import WARM_BATCH, WARM_EPOCHS
    from research.study.release import SMOOTHING, ReleaseSettings

    paper, table, weights = (
        load_config(str(ROOT / "configs" / f"{name}.py"), [])
        for name in ("qwen2_5_coder_3b", "paper/label_table", "paper/weight_table")
    )
    options = argparse.ArgumentParser()
    add_plan_options(options)
    plan = options.parse_args(["--chip=h100", "--chips=1", "--config="])
    learners = LIVECODEBENCH_TRAIN - paper.problems.meta_count
    assumed = {name: getattr(plan, name) for name in ASSUMED}
    cost = label_cost(paper, Assumptions(learners, paper.problems.meta_count, LIVECODEBENCH_TEST, **assumed))
    steps, (slow, fast) = run_steps(paper.train), (run_steps(one.train).bilevel for one in (table, weights))
    train, meta, lora = paper.train, paper.train.meta, paper.model.lora
    release = ReleaseSettings()
    updates = release.iterations // release.accumulation
    outer = updates // release.accumulation
    rates = [_short(one.train.meta.learning_rate, 1) for one in (table, weights)]
    faithful = {str(row["arm"]): row for row in rows_of("faithful")}
    tried = sorted({arm.rate for arm in map(parse_arm, faithful) if arm.labeling == "label_table"})
    shrunk = faithful["release_weight_table"]
    untouched, mean_weight = (number(float(shrunk[f"mean_weight{end}"])) for end in ("_untouched", ""))
    return [
        f"| {cost.rollouts:,.0f} rollouts, {cost.generated_tokens / 1e6:.1f} M tokens written, "
        f"{cost.prompt_tokens / 1e6:.1f} M read; half a GPU hour | {LIVECODEBENCH_TRAIN} problems before "
        f"{paper.problems.train_before} less {paper.problems.meta_count} for the meta set, one program each, "
        f"{plan.functions:.0f} functions, {plan.functions - 1:.0f} of them rolled out {paper.label.rollouts} times, "
        f"{plan.program_tokens:.0f} tokens a program, a server that writes {plan.decode_rate:,.0f} tokens/s |",
        f"| {cost.judged:,.0f} programs, {cost.judge_hours:.1f} CPU core hours | every completion differs, "
        f"{plan.judge_seconds} CPU seconds a program",
        f"{steps.plain:,} plain and {steps.bilevel} bi-level steps of {train.batch_size} x {train.row_tokens:,} tokens",
        f"| {LIVECODEBENCH_TEST} x {paper.generate.test_programs} candidates",
        f"| {LIVECODEBENCH_TEST * paper.generate.test_programs:,} answers",
        f"on, {LIVECODEBENCH_TEST} problems",
        f"One problem is {100 / LIVECODEBENCH_TEST:.2f} points",
        f"T={paper.generate.temperature} for problems before {paper.problems.train_before}; "
        f"{paper.label.rollouts} completions of each function prefix at T={paper.label.temperature}",
        f"| of one sample each, {release.accumulation} an update: {updates:,} | {train.steps:,} of {train.batch_size} "
        f"packed rows (3B), which hold more samples | {updates:,} of {release.accumulation} samples |",
        f"| {release.iterations:,} iterations |",
        f"| {outer}, each the mean of {release.accumulation} hypergradients of one training sample | "
        f"`meta.every={meta.every}`: {steps.bilevel} (3B), each one hypergradient of the last inner batch; {slow} "
        f"(`label_table`), {fast} (`weight_table`) |",
        f"Adam, decay {number(release.meta_weight_decay)} |",
        f"(3B); {rates[0]} (`label_table`), {rates[1]} (`weight_table`) |",
        f"{_short(tried[0], 1)} and {tried[1]:.0f} for the label table",
        f"{slow} and {fast} outer updates at this size",
        f"L2 of {_short(release.weight_decay)}, clip {release.clip_norm:.0f} |",
        f"after {release.rising} rising ones",
        f"warm-up of {WARM_EPOCHS} epochs on steps and meta outcomes, {WARM_BATCH} an update",
        f"labels smoothed by {_short(SMOOTHING, 1)} |",
        f"r {lora.rank}, alpha {lora.alpha:.0f}, {' '.join(lora.targets)} | dropout {_short(lora.dropout)},",
        f"| {paper.label.rollouts} at T={_short(paper.label.temperature, 1)} | prefix shown as starter code, top_p "
        f"{_short(paper.policy.top_p)} | prefix forced, top_p {_short(paper.policy.top_p)},",
        f"L2 of {number(release.meta_weight_decay)} into a full step of {_short(release.meta_learning_rate)}. After "
        f"{outer} updates",
        f"from 1 to {untouched}, and their mean over all samples is {mean_weight}",
    ]


def _before_repair() -> list[str]:
    old, long = rows_of("confirm"), rows_of("confirm_long")
    regimes = list(dict.fromkeys(row["regime"] for row in old))
    text = [paired(old, regime, DEFAULT, "raw", BEST) for regime in regimes]
    exact = [paired(old, regime, "clean", "raw", BEST).mean for regime in regimes]
    last = paired(old, "k1", DEFAULT, "raw", "best_of_n_last")
    target = [
        paired(old, regime, "clean:target=value", "raw", "step_auroc").mean
        / paired(old, regime, "clean", "raw", "step_auroc").mean
        for regime in regimes
    ]
    return [
        f"certain in {count(one.low > 0 for one in text)} regime of three",
        f"exact labels gain {points(exact)} points",
        f"({100 * last.mean:+.1f} [{100 * last.low:+.1f}, {100 * last.high:+.1f}] points)",
        f"gains {span(target, digits=2)} of what exact recoverability gains",
        f"by the table it is {span(target, digits=2)}",
        f"the gain falls to {signed(paired(long, 'k1', DEFAULT, 'raw', 'step_auroc').mean)}",
    ]


def _family_labels() -> list[str]:
    """Family L: means over the complete seeds."""
    rows = rows_of("labels_confirm")
    seeds = {row["seed"] for row in rows}
    cells: dict[str, dict[str, float]] = {}
    for row in rows:
        here = cells.setdefault(str(row["regime"]), {})
        name = str(row["labeling"])
        here[name] = here.get(name, 0.0) + float(row["label_auroc"]) / len(seeds)
    rules = ("raw", "closure", "closure_mixture")
    margins = [min(one["undetected_fault"] - one[rule] for rule in rules) for one in cells.values()]
    misses = sum(margin < -0.002 for margin in margins)
    return [
        f"over {count([True] * len(seeds))} held-out seed",
        f"{misses or 'none'} of {len(cells)} cells is more than .002 AUROC below `raw`, `closure` or `closure_mixture` "
        f"(the worst: {signed(min(margins))}), and AUROC at 16 rollouts with 5 % repair is "
        f"{number(cells['k4_k16_repair5']['undetected_fault'])}",
    ]


def _label_table() -> list[str]:
    structural, fast = "label_table:meta=same", "label_table:meta=same,rate=2"
    rows = rows_of("bilevel")
    regimes = dict.fromkeys(row["regime"] for row in rows)
    gains = [paired(rows, regime, fast, "raw", "step_auroc").mean for regime in regimes]
    release = next(row for row in rows_of("faithful") if row["arm"] == "release_weight_table")
    clean, touched = (_short(float(release[f"weight_auroc_{name}"])) for name in ("clean", "touched"))
    (text,) = {_short(value) for value in label_moves("confirm", f"{structural},rate=0.1")}
    return [
        f"within {number(label_table())} step-AUROC of raw labels in four regimes, where it moved labels by "
        f"{span(label_moves('confirm_structure', structural))}",
        f"which moves them by {span(label_moves('bilevel', fast))}, the difference is {signed(min(gains))} to "
        f"{signed(max(gains))}",
        f"In the text model's runs it moved them by {text}",
        f"weights without a hypergradient fall to {number(float(release['mean_weight_untouched']))}",
        f'the AUROC of a weight for "the label is clean" is {clean}',
        f'for "it had a hypergradient" {touched}',
    ]


def _choosing() -> list[str]:
    """Family T, and the tuning seed on which its arms were chosen."""
    rows = rows_of("choosing_confirm")
    tested = family(rows, choice_members())
    width = len(CHOICE_CELLS)
    by_sum, head_by_sum, learned, head_learned = (tested[place * width : (place + 1) * width] for place in range(4))
    exact = [paired(rows, cell, "clean", "raw", BEST).mean for cell in CHOICE_CELLS]
    step = [paired(rows, cell, DEFAULT, "raw", "step_auroc").mean for cell in CHOICE_CELLS]
    seeds = count([True] * len({row["seed"] for row in rows}))
    tuned = {str(row["arm"]): float(row[BEST]) for row in rows_of("choosing")}
    gap = {arm: signed(value - tuned["raw"]) for arm, value in tuned.items()}
    return [
        f"on {seeds} held-out seeds {_range(by_sum)} points, where exact labels gain {points(exact)}",
        f"Family T: {seeds} held-out seeds",
        f"over all {len(tested)} members of family T",
        f"its step-AUROC rises by {span(step)} over raw labels, but best of 8 by the sum of log-odds changes by "
        f"{_range(by_sum)} points, with the second head by {_range(head_by_sum)}; by the learned choice by "
        f"{_range(learned)} and {_range(head_learned)}",
        f"is reached in {count(one.difference.mean >= 0.03 and one.difference.low > 0 for one in by_sum)} regime",
        f"{count(one.certain for one in tested)} member is certain",
        f"Exact labels gain {points(exact)} points by the sum",
        f"the default was at {gap[DEFAULT]}, with a tenth of the tokens hidden (`mask=0.1`) at "
        f"{gap[f'{DEFAULT}:mask=0.1']}, with the second head at {gap[HEAD]} and exact labels at {gap['clean']}",
    ]


def _range(members: Sequence[Tested]) -> str:
    means = [100 * one.difference.mean for one in members]
    return f"{min(means):+.1f} to {max(means):+.1f}"


def _held_out() -> list[str]:
    return [
        f"step-AUROC {_gains('held_out_mistakes')}",
        f"structural model on three seeds {_gains('held_out_mistakes_structure')}",
        f"With held-out primitives {_gains('held_out_primitives')}",
    ]


def _gains(study: str) -> str:
    """A phrase such as ``.639 on raw labels, +.122 on `closure`, ...`` for the regime of the held-out studies."""
    rows = rows_of(study)
    gain = {
        arm: signed(paired(rows, "k4_repair5", arm, "raw", "step_auroc").mean) for arm in ("closure", DEFAULT, "clean")
    }
    return (
        f"{number(mean(rows, 'k4_repair5', 'raw', 'step_auroc'))} on raw labels, {gain['closure']} on `closure`, "
        f"{gain[DEFAULT]} on the default, {gain['clean']} on exact ones"
    )


def _real_code() -> list[str]:
    first = (RESULTS / "codeio_repair" / "study.md").read_text(encoding="utf-8")
    runs = re.search(r"(\d+) programs run", first)
    assert runs is not None
    model, position = (one["auroc"] for one in json.loads((RESULTS / "real_code" / "raw.json").read_text("utf-8")))
    return [
        f"({int(runs[1]):,} programs)",
        f"step-AUROC {number(model['estimate'])} [{number(model['low'])}, {number(model['high'])}], and the step's "
        f"position alone {number(position['estimate'])}",
        f"gain {_head_gains()} step-AUROC over raw labels with the default",
    ]


def _head_gains() -> str:
    rows = rows_of("real_code", "comparisons.csv")
    found = [float(row["difference"]) for row in rows if (row["scorer"], row["less"]) == (DEFAULT, "raw")]
    return f"{signed(min(found))} to {signed(max(found))}"


def _heads() -> list[str]:
    rows = [row for row in rows_of("real_code", "measures.csv") if row["group"] == "all"]
    best = [float(row["best_of_8_gain"]) for row in rows if row["scorer"] == DEFAULT]
    step = {str(row["scorer"]): max(float(one["step_auroc"]) for one in rows if one["scorer"] == row["scorer"])
            for row in rows}  # fmt: skip
    language = next(row for row in rows if row["scorer"] == "mean log-probability")
    return [
        f"p < .05 after Holm's correction over all {len(rows_of('real_code', 'comparisons.csv'))})",
        f"the best head is ahead of it by {number(max(step.values()) - step['position'])}",
        f"differs by {signed(min(best))} to {signed(max(best))} from a random one for the default in the four regimes",
        f"({_position('3 steps')} and {_position('4 steps')})",
        f"mean log-probability gains {signed(float(language['best_of_8_gain']))}",
        f"its step-AUROC over all programs is {number(float(language['step_auroc']))}",
    ]


def _trained() -> list[str]:
    rows = [row for row in rows_of("real_code_trained", "measures.csv") if row["group"] == "all"]
    step = {str(row["scorer"]): float(row["step_auroc"]) for row in rows}
    arms = ("raw", "closure", DEFAULT, "clean")
    best = {str(row["scorer"]): float(row["best_of_8_gain"]) for row in rows}
    losses = [-best[name] for name in arms]
    ahead = [step[name] - step["position"] for name in arms]
    assert all(float(row["best_of_8_high"]) < 0 for row in rows if row["scorer"] in arms)
    return [
        f"measured on the {rows[0]['programs']} programs of held-out problems with at most 1,024 tokens "
        f"({rows[0]['problems']} problems)",
        f"ahead of the step's position by {number(min(ahead))} to {number(max(ahead))}",
        f"best of 8 is {number(min(losses))} to {number(max(losses))} below",
        f"effect ({signed(best['length'])})",
        f"the mean log-probability gains {signed(best['mean log-probability'])}",
    ]


def _position(group: str) -> str:
    rows = rows_of("real_code", "measures.csv")
    return next(
        number(float(row["step_auroc"])) for row in rows if (row["scorer"], row["group"]) == ("position", group)
    )


def _fewer_steps() -> dict[str, str]:
    """The percentage of problems that each arm solves in the embedded job with 300 steps."""
    rows = rows_of("embedded_300", "strategies.csv")
    return {str(row["method"]): percent(float(row["overall.estimate"])) for row in rows}


def _short(value: float, digits: int = 2) -> str:
    return f"{value:.{digits}f}".removeprefix("0")
