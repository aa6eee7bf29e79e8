"""`report.html`: one file that needs nothing else, and trusts nothing that it shows.

All text is escaped, and the page's own policy lets only its own style and script through, by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape

from arf.types import Experiment, Objective, Verdict
from arf_plugins.report.effects import Chapter
from arf_plugins.report.report_data import Story, better_by, series_of
from arf_plugins.report.results import number, one_line

MAX_DIFF_LINES = 2000

STYLE = """
:root { color-scheme: light dark; --ink: #1c1f23; --soft: #667; --line: #dde; --back: #fff; --card: #f6f7f9; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --soft: #9aa3ad; --line: #363b42; --back: #15181c; --card: #1e2227; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.5rem 4rem; max-width: 72rem; background: var(--back);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; overflow-wrap: anywhere; }
p { margin: .4rem 0; } .soft { color: var(--soft); } .big { font-size: 1.25rem; margin: .8rem 0; }
code, pre, .num { font-family: ui-monospace, monospace; font-size: .88em; }
img { max-width: 100%; height: auto; border: 1px solid var(--line); border-radius: 6px; background: #fff; }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: .6rem; margin: 1rem 0; }
dl div { background: var(--card); border-radius: 6px; padding: .5rem .8rem; }
dt { color: var(--soft); font-size: .8rem; } dd { margin: 0; font-size: 1.05rem; overflow-wrap: anywhere; }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-size: .8rem; color: var(--soft); font-weight: 600; white-space: nowrap; }
td.num, th.num { text-align: right; white-space: nowrap; }
td.text { min-width: 14rem; overflow-wrap: anywhere; }
td.why { color: var(--soft); font-size: .9em; min-width: 16rem; overflow-wrap: anywhere; }
.v { border-radius: 4px; padding: .05rem .45rem; font-size: .85em; white-space: nowrap; background: #8884; }
.v-keep { background: #2ecc7155; } .v-crash, .v-timeout { background: #d6454555; }
.v-invalid, .v-cancelled { background: #e0a03055; } .v-measured { background: #4a7fb555; }
.filter { display: flex; flex-wrap: wrap; gap: .4rem; margin: .6rem 0; }
.filter button { font: inherit; font-size: .88rem; color: inherit; background: var(--card); cursor: pointer;
  border: 1px solid var(--line); border-radius: 999px; padding: .1rem .8rem; }
.filter button[aria-pressed=true] { border-color: #27ae60; box-shadow: inset 0 0 0 1px #27ae60; }
.bar { display: flex; height: 1.5rem; border-radius: 6px; overflow: hidden; background: var(--card); }
.key { display: inline-block; width: .8rem; height: .8rem; border-radius: 3px; margin-right: .4rem; }
pre { background: var(--card); border-radius: 6px; padding: .8rem; overflow-x: auto; line-height: 1.4; }
.add { color: #1f9d55; } .del { color: #d64545; } .at { color: #4a7fb5; }
tr[hidden] { display: none; }
"""

SCRIPT = """
for (const button of document.querySelectorAll('.filter button')) {
  button.addEventListener('click', () => {
    const wanted = button.dataset.verdict;
    for (const other of document.querySelectorAll('.filter button'))
      other.setAttribute('aria-pressed', String(other === button));
    for (const row of document.querySelectorAll('#experiments tbody tr'))
      row.hidden = wanted !== '' && row.dataset.verdict !== wanted;
  });
}
"""

SHADES = {
    "keep": "#2ecc71", "discard": "#9aa0a6", "measured": "#4a7fb5", "crash": "#d64545", "timeout": "#b03030",
    "invalid": "#e0a030", "cancelled": "#c9b458", "not judged": "#777777",
}  # fmt: skip


def render(story: Story, plot: bytes, effects: Chapter) -> str:
    """The page. `plot` is a PNG; empty where there is none."""
    name = one_line(str(story.summary["study"]))
    policy = f"default-src 'none'; img-src data:; style-src '{_hash(STYLE)}'; script-src '{_hash(SCRIPT)}'"
    parts = [
        _head(story, name),
        _suspects(story),
        _facts(story),
        _plot(plot),
        _sure(story),
        _kept(story),
        _effects(effects),
        _change(story),
        _time(story),
        _experiments(story),
        _events(story),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(name)} · arf</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + f"\n<script>{SCRIPT}</script>\n</body></html>\n"
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _text(value: object) -> str:
    """One line of text from anywhere, for anywhere in the page."""
    return escape(one_line(str(value)))


# ---- Parts -----------------------------------------------------------------------------------


def _head(story: Story, name: str) -> str:
    summary = story.summary
    ended = f"{_text(summary['state'])}" + (f": {_text(summary['reason'])}" if summary["reason"] else "")
    return (
        f"<h1>{_text(name)}</h1>"
        f'<p class="soft">{_text(summary["strategy"])} strategy · {_text(summary["agent"])} agent · '
        f"{_text(summary['backend'])} backend · {ended}</p>"
        f'<p class="big">{_headline(story)}</p>'
    )


def _headline(story: Story) -> str:
    base, best = story.summary["baseline"], story.summary["best"]
    metric = _text(story.objective.metric)
    if not base:
        return "The baseline has given no value yet."
    if len(story.kept) < 2 or not best or best["gain"] is None:
        return f"{metric} {number(base['mean'])}: nothing is proven better than the baseline."
    percent = best["gain_percent"]
    better = f", {better_by(percent)}" if percent is not None else ""
    runs = _runs(best["n"], "fresh run" if best["fresh"] else "run")
    how = f"by {runs}" if best["fresh"] else f"by {runs} that it was chosen by: likely too good"
    return (
        f"{metric} {number(base['mean'])} → <strong>{number(best['mean'])}</strong>{better} "
        f'<span class="soft">{how}</span>'
    )


def _suspects(story: Story) -> str:
    """Results that are not believed, with the evidence; empty if nobody is asked about any."""
    found = [story.study.experiments[number] for number in story.summary["suspects"]]
    if not found:
        return ""
    rows = "".join(f"<li>#{run.id} {_text(run.title)}: {_text(run.reason)}</li>" for run in found)
    return f"<h2>Suspect, and left out until a person decides</h2><ul>{rows}</ul>"


def _facts(story: Story) -> str:
    summary = story.summary
    verdicts = summary["verdicts"]
    facts = {
        "experiments": f"{summary['experiments']:,}",
        "kept": str(max(0, len(story.kept) - 1)),
        "discarded": str(verdicts.get("discard", 0)),
        "failed": str(
            sum(verdicts.get(str(v), 0) for v in (Verdict.CRASH, Verdict.TIMEOUT, Verdict.INVALID))
        ),
        "time": _duration(summary["elapsed_s"]),
        "slot time": _duration(3600 * summary["slot_hours"]),
        "hardware": ", ".join(f"{tier['slots']} × {tier['name']}" for tier in summary["tiers"]),
    }
    if summary["utilisation"] is not None:
        facts["slots in use"] = f"{100 * summary['utilisation']:.0f} %"
    if summary["usd"]:
        facts["cost"] = f"${summary['usd']:.2f}"
    if summary["tokens"]:
        facts["tokens"] = f"{summary['tokens']:,}"
    return (
        "<dl>"
        + "".join(f"<div><dt>{_text(k)}</dt><dd>{_text(v)}</dd></div>" for k, v in facts.items())
        + "</dl>"
    )


def _plot(plot: bytes) -> str:
    return _image("Every experiment and the best so far", plot) if plot else ""


def _image(alt: str, png: bytes) -> str:
    data = base64.b64encode(png).decode()
    return f'<p><img alt="{_text(alt)}" src="data:image/png;base64,{data}"></p>'


def _sure(story: Story) -> str:
    """The noise, and the gain as fresh runs give it."""
    rows = []
    for tier, noise in story.summary["noise"].items():
        rows.append((_text(tier), number(noise["sigma"]), str(noise["df"]), number(2 * noise["sigma"])))
    parts = ["<h2>How sure</h2>", _final(story)]
    if rows:
        head = ("tier", "noise of one run (σ)", "degrees of freedom", "what one run cannot tell (2σ)")
        parts.append(_table(head, rows, numbers=(1, 2, 3)))
        about = "σ is the pooled standard deviation of runs of one commit with different seeds."
        parts.append(f'<p class="soft">{about}</p>')
    else:
        parts.append("<p>The noise is not known: no commit has run twice.</p>")
    return "".join(parts)


def _final(story: Story) -> str:
    """What the last runs of the best and the baseline say, as the study recorded it."""
    final = story.summary["final"]
    if not final:
        return "<p>Nothing is claimed: the best was not measured against the baseline by fresh runs.</p>"
    facts = {"claim": "proven" if final.get("proven") else "not proven"}
    facts["gain"] = _signed(final["gain"])
    if final["percent"] is not None:
        facts["gain"] += f" ({final['percent']:+.2f} %)"
    if final["low"] is not None and final["high"] is not None:
        facts["95 % interval"] = f"{_signed(final['low'])} to {_signed(final['high'])}"
    if final["p"] is not None:
        level = f", proven at {final['alpha']:.3g}" if "alpha" in final else ""
        facts["p"] = f"{final['p']:.2g}{level}"
    which = "fresh run" if final["fresh"] else "run"
    facts[f"patch, {_runs(final['best_runs'], which)}"] = number(final["best"])
    facts[f"baseline, {_runs(final['baseline_runs'], which)}"] = number(final["baseline"])
    if final.get("dropped"):
        facts["taken back"] = f"{len(final['dropped'])} changes that were worth nothing"
    if final.get("note"):
        facts["note"] = final["note"]
    cells = "".join(f"<div><dt>{_text(k)}</dt><dd>{_text(v)}</dd></div>" for k, v in facts.items())
    told = (
        "Runs of the patch and of the baseline in pairs, in random order; no choice was made by them."
        if final["fresh"]
        else "The best was chosen by these runs, so its gain is likely too good."
    )
    if final.get("speed"):  # studies of 0.1.0 have no such line
        told += f" As on machines of average speed: {final['speed']}."
    return f'<dl>{cells}</dl><p class="soft">{_text(told)}</p>'


def _signed(value: float) -> str:
    return f"{value:+.4g}" if math.isfinite(value) else "unbounded"


def _runs(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _kept(story: Story) -> str:
    if len(story.kept) < 2:
        return ""
    rows = []
    before = story.kept[0]
    for experiment in story.kept[1:]:
        old, new = story.mean(before), story.mean(experiment)
        same = series_of(before) == series_of(experiment)
        gain = story.objective.gain(old, new) if same and old is not None and new is not None else None
        rows.append(
            (
                str(experiment.id),
                _commit(experiment),
                _text(experiment.title),
                "" if new is None else number(new),
                "" if gain is None else f"{gain:+.6g}",
                _text(experiment.reason),
            )
        )
        before = experiment
    head = ("experiment", "commit", "idea", "mean", "gain", "why it is kept")
    return "<h2>What was kept</h2>" + _table(head, rows, numbers=(0, 3, 4), texts=(2,), reasons=(5,))


def _effects(chapter: Chapter) -> str:
    """What each factor, idea and constant does, alone and together."""
    parts = ["<h2>Effects and interactions</h2>"]
    parts += [f'<p class="soft">{_text(chapter.note)}</p>'] if chapter.note else []
    for section, pictures in chapter.parts:
        parts.append(f"<h3>{_text(section.title)}</h3>")
        parts += [f'<p class="soft">{_text(note)}</p>' for note in section.notes]
        parts += [_image(picture.alt, picture.png) for picture in pictures]
        if section.rows:
            rows = [tuple(map(_text, row)) for row in section.rows]
            numbers = [i for i, side in enumerate(section.right) if side == "r"]
            parts.append(_table(section.head, rows, numbers=numbers, texts=(0,)))
        parts += [f"<p>{_text(line)}</p>" for line in section.after]
    return "".join(parts)


def _change(story: Story) -> str:
    if story.diff_problem:
        return f"<h2>The best change</h2><p>It cannot be shown ({_text(story.diff_problem)}).</p>"
    if not story.diff:
        return ""
    lines = story.diff.splitlines()
    shown = [_diff_line(line) for line in lines[:MAX_DIFF_LINES]]
    if len(lines) > MAX_DIFF_LINES:
        shown.append(f"… and {len(lines) - MAX_DIFF_LINES:,} lines more: arf diff {story.kept[-1].id}")
    return "<h2>The best change</h2><pre>" + "\n".join(shown) + "</pre>"


def _diff_line(line: str) -> str:
    shown = escape("".join(c if c.isprintable() or c == "\t" else "\N{REPLACEMENT CHARACTER}" for c in line))
    if line.startswith(("+++", "---", "diff ", "index ")):
        return f'<span class="soft">{shown}</span>'
    kind = {"+": "add", "-": "del", "@": "at"}.get(line[:1])
    return f'<span class="{kind}">{shown}</span>' if kind else shown


def _time(story: Story) -> str:
    """Where the slots' time went, by verdict, and what was idle."""
    spent: dict[str, tuple[int, float]] = {}
    for e in story.experiments:
        what = "not judged" if e.verdict is None else str(e.verdict)
        count, seconds = spent.get(what, (0, 0.0))
        spent[what] = count + 1, seconds + e.slot_s
    total = sum(seconds for _, seconds in spent.values())
    if not total:
        return ""
    slots = sum(tier["slots"] for tier in story.summary["tiers"])
    idle = max(0.0, slots * story.summary["elapsed_s"] - total)
    rows, bars = [], []
    for what in SHADES:
        if what in spent:
            count, seconds = spent[what]
            rows.append(
                (
                    _key(SHADES[what]) + what,
                    str(count),
                    _duration(seconds),
                    f"{100 * seconds / (total + idle):.1f} %",
                )
            )
            bars.append((SHADES[what], seconds / (total + idle)))
    rows.append((_key("transparent") + "idle", "", _duration(idle), f"{100 * idle / (total + idle):.1f} %"))
    return (
        "<h2>Where the time went</h2>"
        + _bar(bars)
        + _table(("slots were busy with", "experiments", "slot time", "share"), rows, numbers=(1, 2, 3))
    )


def _key(colour: str) -> str:
    return f'<svg class="key" viewBox="0 0 1 1"><rect width="1" height="1" fill="{colour}"/></svg>'


def _bar(shares: Iterable[tuple[str, float]]) -> str:
    """A bar as SVG: the policy allows no style of an element's own."""
    x, boxes = 0.0, []
    for colour, share in shares:
        boxes.append(f'<rect x="{x:.5f}" width="{share:.5f}" height="1" fill="{colour}"/>')
        x += share
    return (
        f'<svg class="bar" width="100%" viewBox="0 0 1 1" preserveAspectRatio="none">{"".join(boxes)}</svg>'
    )


def _experiments(story: Story) -> str:
    counts = story.summary["verdicts"]
    waiting = len(story.experiments) - sum(counts.values())
    buttons = [("", "all", len(story.experiments))]
    buttons += [(verdict, verdict, count) for verdict, count in counts.items()]
    buttons += [("none", "not judged", waiting)] if waiting else []
    chooser = "".join(
        f'<button type="button" data-verdict="{_text(value)}" aria-pressed="{str(value == "").lower()}">'
        f"{_text(label)} {count:,}</button>"
        for value, label, count in buttons
    )
    best = story.kept[-1].id if len(story.kept) > 1 else None
    rows = [_experiment_row(experiment, story.objective, best) for experiment in story.experiments]
    head = "".join(
        f"<th{' class=num' if label in ('#', 'time', 'value') else ''}>{_text(label)}</th>"
        for label in ("#", "verdict", "value", "idea", "role", "tier", "time", "commit", "why")
    ).replace(">value<", f">{_text(story.objective.metric)}<")
    return (
        f'<h2>All experiments</h2><div class="filter">{chooser}</div>'
        f'<div class="wide"><table id="experiments"><thead><tr>{head}</tr></thead><tbody>'
        + "\n".join(rows)
        + "</tbody></table></div>"
    )


def _experiment_row(e: Experiment, objective: Objective, best: int | None) -> str:
    verdict = "none" if e.verdict is None else str(e.verdict)
    shown = str(e.state) if e.verdict is None else verdict
    title = _text(e.title) or _text(e.role)
    return (
        f'<tr data-verdict="{verdict}"><td class="num">{e.id}</td>'
        f'<td><span class="v v-{verdict}">{_text(shown)}</span></td>'
        f'<td class="num">{"" if e.value is None else number(e.value)}</td>'
        f'<td class="text">{f"<strong>{title}</strong> (best)" if e.id == best else title}</td>'
        f'<td>{_text(e.role)}</td><td>{_text(e.tier)}</td><td class="num">{_duration(e.slot_s)}</td>'
        f'<td>{_commit(e)}</td><td class="why">{_text(e.reason)}</td></tr>'
    )


def _events(story: Story) -> str:
    if not story.events:
        return ""
    rows = [tuple(map(_text, event)) for event in story.events]
    return "<h2>The study's log</h2>" + _table(("time", "kind", "what"), rows, reasons=(2,))


# ---- Small things ----------------------------------------------------------------------------


def _commit(experiment: Experiment) -> str:
    return f"<code>{_text(experiment.commit[:7])}</code>"


def _table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    numbers: Sequence[int] = (),
    texts: Sequence[int] = (),
    reasons: Sequence[int] = (),
) -> str:
    """A table of cells that are HTML already."""
    kinds: Mapping[int, str] = {
        **dict.fromkeys(numbers, ' class="num"'),
        **dict.fromkeys(texts, ' class="text"'),
        **dict.fromkeys(reasons, ' class="why"'),
    }

    def line(cells: Sequence[str], tag: str, shown: Callable[[str], str]) -> str:
        inner = "".join(f"<{tag}{kinds.get(i, '')}>{shown(cell)}</{tag}>" for i, cell in enumerate(cells))
        return f"<tr>{inner}</tr>"

    top, body = line(head, "th", _text), "\n".join(line(row, "td", str) for row in rows)
    return f'<div class="wide"><table><thead>{top}</thead><tbody>{body}</tbody></table></div>'


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min {seconds % 60:02.0f} s"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:02.0f} min"
