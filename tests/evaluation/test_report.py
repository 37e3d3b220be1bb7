import dataclasses
import html.parser
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from dreamprm_jax.cof.splitter import split_steps
from dreamprm_jax.config import Config, EvaluateConfig, to_dict
from dreamprm_jax.evaluation.judged_candidates import load_candidates
from dreamprm_jax.evaluation.report.conclusions import conclusions
from dreamprm_jax.evaluation.report.page import run_facts
from dreamprm_jax.evaluation.report.viewer import (
    MAX_CHARACTERS,
    color,
    json_for_script,
    problem_titles,
    viewer_data,
    visible,
)
from dreamprm_jax.runs.paths import Paths
from dreamprm_jax.runs.server_usage import Usage, UsageLog
from dreamprm_jax.runs.stage_folder import stage_folder
from dreamprm_jax.schema import CorrectedLabel, Outcome, Problem, Program, Score, StepLabel, StepTruth, Verdict
from dreamprm_jax.stages.evaluate import evaluate
from dreamprm_jax.stages.report import report
from dreamprm_jax.storage import write_json, write_records

ATTACK = "<script>document.title = 'owned'</script>"
TABLES = (
    *("selection", "differences", "curve", "strategies", "costs", "hacking", "programs", "aggregators"),
    *("months", "steps", "labels"),
)
PLOTS = ("aggregators", "best_of_n", "cost", "hacking", "labels", "reliability", "training", "trajectories")
PROGRAMS = {
    "script": f"{ATTACK}\n</pre><img src=x onerror=\"document.title='owned'\">",
    "template": "{{ 7 * 7 }} {% raw %}\nprint('&lt;')",
    "control": "print('a\x00b\x1b[31m\u202e)')\n",
    "long": "def f():\n    return 1\n\n" * 9000,
    "empty": "",
}


class Page(html.parser.HTMLParser):
    """Collects the start tags and the text of every <pre>."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict]] = []
        self.blocks: list[str] = []
        self._inside = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "pre":
            self._inside = True
            self.blocks.append("")

    def handle_endtag(self, tag):
        self._inside = self._inside and tag != "pre"

    def handle_data(self, data):
        if self._inside:
            self.blocks[-1] += data


@pytest.fixture(scope="module")
def page(run_folder, config):
    evaluate(config, run_folder)
    counts = report(config, run_folder)
    return counts, run_folder.report().read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory, config, label_of):
    """A run with settings for real problems (no truth, nothing corrected), and programs that attack the page."""
    config = dataclasses.replace(
        config,
        name=ATTACK,
        problems=dataclasses.replace(config.problems, source="livecodebench"),
        train=dataclasses.replace(config.train, arms=("orm", "raw")),
    )
    paths = Paths(tmp_path_factory.mktemp("hostile"))
    problem = Problem("p<b>", ATTACK, f"say </pre>{ATTACK}", "x", "c", "2025-02-01", "easy")
    programs = [Program.make("p<b>", code, index, "policy", {}) for index, code in enumerate(PROGRAMS.values())]
    write_records(paths.problems("test"), Problem, [problem])
    write_records(paths.programs("test"), Program, programs)
    verdicts = [Verdict.AC if index % 2 else Verdict.RE for index in range(len(programs))]
    outcomes = [
        Outcome("p<b>", program.program_hash, verdict, 0, 1, ATTACK, 0.0, "faithful", "T")
        for program, verdict in zip(programs, verdicts, strict=True)
    ]
    write_records(paths.outcomes("test"), Outcome, outcomes)
    for arm in config.train.arms:
        scores = []
        for index, program in enumerate(programs):
            logits = tuple(np.linspace(-2, 2, len(split_steps(program.code)) + (index == 1)).tolist())
            scores.append(Score("p<b>", program.program_hash, logits, logits, arm, "c"))
        write_records(paths.scores(arm), Score, scores)
    write_records(
        paths.step_labels(),
        StepLabel,
        [label_of(StepTruth("t", "h", index, 0.3, True, False, -1), 1) for index in range(3)],
    )
    write_records(paths.corrected_labels("corrected"), CorrectedLabel, [])
    evaluate(config, paths)
    report(config, paths)
    return paths


def test_the_page_holds_tables_plots_and_code_and_needs_no_network(page):
    counts, text = page
    assert counts == {"tables": len(TABLES) + 1, "plots": len(PLOTS), "problems": 12, "programs": 96}
    parsed = Page(text)
    assert sum(tag == "svg" for tag, _ in parsed.tags) == len(PLOTS)
    assert {attrs["id"] for tag, attrs in parsed.tags if tag == "figure" and "id" in attrs} == {*TABLES, "problems"}
    assert not [attrs for _, attrs in parsed.tags if "src" in attrs or attrs.get("href", "#")[0] != "#"]
    assert "url(http" not in text
    assert not re.search(r"@import|\bfetch\(", text)
    for label in ("PRM, corrected labels", "oracle (= pass@8)", "procedural-0-00006", "106"):
        assert label in text


def test_ids_are_unique_and_references_lead_somewhere(page):
    ids = re.findall(r'\sid="([^"]+)"', page[1])
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:url\(|href=")#([^)"]+)', page[1])) <= set(ids)


def test_figures_follow_the_colors_of_the_page(page):
    svg = "".join(re.findall(r"<svg.*?</svg>", page[1], flags=re.DOTALL))
    assert "currentColor" in svg
    assert "#1b1f28" not in svg
    assert "#fefefe" not in svg


def test_the_same_run_gives_the_same_bytes(page, run_folder, config, tmp_path):
    shutil.copytree(run_folder.root, tmp_path / "run")
    again = Paths(tmp_path / "run")
    shutil.rmtree(again.report().parent)
    report(config, again)
    names = sorted(path.name for path in run_folder.report().parent.iterdir())
    assert names == sorted(
        [
            "report.html",
            *(f"{n}.{e}" for n in PLOTS for e in ("svg", "png")),
        ]
    )
    for name in names:
        assert (again.report().parent / name).read_bytes() == (run_folder.report().parent / name).read_bytes(), name


def test_untrusted_text_is_shown_as_text(hostile):
    text = hostile.report().read_text(encoding="utf-8")
    parsed = Page(text)
    assert [attrs.get("type") for tag, attrs in parsed.tags if tag == "script"] == ["application/json", None]
    assert not any(tag in ("img", "b") for tag, _ in parsed.tags)
    assert not any(name.startswith("on") for _, attrs in parsed.tags for name in attrs)
    data = json.loads(text.partition('id="viewer-data">')[2].partition("</script>")[0])
    programs = ["".join(step[0] for step in program["steps"]) for program in data["problems"][0]["programs"]]
    assert PROGRAMS["script"] in programs
    assert PROGRAMS["template"] in programs
    assert "\x00" not in text
    assert "print('a␀b␛[31m[U+202E])')\n" in programs
    assert any(program.endswith("[8900 more steps, 204701 characters]") for program in programs)
    assert [program["verdict"] for program in data["problems"][0]["programs"]] == [
        f"{verdict}, 0 of 1 tests" for verdict in ("RE", "AC", "RE", "AC", "RE")
    ]
    assert len(text) < 600_000


def test_sections_without_data_are_absent_and_the_reason_is_given(hostile):
    text = hostile.report().read_text(encoding="utf-8")
    assert "no exact truth of their steps" in text
    assert 'id="steps"' not in text
    assert "first wrong step</dt>" not in text
    assert {path.stem for path in hostile.report().parent.glob("*.svg")} == {
        *("best_of_n", "reliability", "labels", "hacking", "aggregators")
    }


@pytest.fixture(scope="module")
def browse(tmp_path_factory):
    """A function that maps (page, script run at its end) to the document after all scripts have run."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    folder = tmp_path_factory.mktemp("browser")

    def run(page, script: str = "") -> str:
        copy = folder / "page.html"
        copy.write_text(page.read_text(encoding="utf-8").replace("</body>", f"<script>{{{script}}}</script></body>"))
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000", "--dump-dom"]
        command += [f"--user-data-dir={folder / 'profile'}", f"file://{copy}"]
        return subprocess.run(command, capture_output=True, text=True, timeout=120).stdout

    return run


def test_a_browser_runs_no_foreign_script(hostile, browse):
    dom = browse(hostile.report())
    assert "<title>&lt;script&gt;" in dom
    assert "owned</title>" not in dom
    viewer = dom[dom.index('id="viewer"') :]  # what the page's own script built from the data
    assert "&lt;script&gt;document.title = 'owned'&lt;/script&gt;" in viewer
    assert viewer.count('class="program"') == len(PROGRAMS)
    assert "<img" not in dom
    assert "Fewer than 10 problems: no intervals are given." in dom
    # The reliability of the last step's score is shown, although the steps have no truth.
    assert "#steps-section" in dom


def test_a_browser_sorts_searches_and_opens_any_program(page, run_folder, browse):
    script = """
      const told = [];
      const table = document.querySelector("#selection table");
      const column = () => [...table.tBodies[0].rows].map((row) => Number(row.cells[4].textContent));
      table.tHead.rows[0].cells[4].click();
      told.push(column().every((value, i, all) => !i || all[i - 1] <= value));
      table.tHead.rows[0].cells[4].click();
      told.push(column().every((value, i, all) => !i || all[i - 1] >= value));
      const search = document.querySelector("#strategies input.search");
      search.value = "VOTE corrected";
      search.dispatchEvent(new Event("input"));
      const left = [...document.querySelectorAll("#strategies tbody tr")].filter((row) => !row.hidden);
      told.push(left.length === 1 && left[0].cells[0].textContent === "vote by PRM (corrected)");
      const link = document.querySelector("#problems tbody").lastElementChild.querySelector("a");
      const shown = () => document.querySelector("#viewer h3 small").textContent;
      const after = (act, test) => new Promise((done) => {
        window.addEventListener("hashchange", () => done(told.push(test())), { once: true });
        act();
      });
      (async () => {
        await after(() => link.click(), () => shown().startsWith(link.textContent));
        await after(() => document.getElementById("previous").click(), () => !shown().startsWith(link.textContent));
        await after(() => document.getElementById("next").click(), () => shown().startsWith(link.textContent));
        const programs = [...document.querySelectorAll("#viewer > details")].slice(1);
        const numbers = programs.map((one) => Number(one.querySelector("strong").textContent));
        told.push(programs.length === 8 && numbers.every((value, i) => !i || numbers[i - 1] >= value));
        told.push(programs[0].open && programs[0].querySelectorAll(".step").length > 1);
        told.push(programs.every((one) => /^(AC|WA|RE|TLE), [0-9]+ of [0-9]+ tests/.test(one.textContent)));
        document.title = told.join();
      })();
    """
    title = re.search("<title>(.*?)</title>", browse(run_folder.report(), script))[1]
    assert title == ",".join(["true"] * 9)


def test_a_browser_shows_the_first_of_many_candidates_and_then_all(page, run_folder, browse):
    script = """
      const told = [];
      const one = data.problems[0].programs[0];
      data.problems[0].programs = Array.from({ length: 100 }, (_, sample) => ({ ...one, sample }));
      show();
      const shown = () => document.querySelectorAll("#viewer > details").length - 1;
      told.push(shown());
      document.querySelector("#viewer > button").click();
      told.push(shown(), document.querySelector("#viewer > button"));
      location.hash = "#problem=100%";  // no valid address
      told.push(problemInAddress());
      document.title = JSON.stringify(told);
    """
    assert '<title>[30,100,null,"100%"]</title>' in browse(run_folder.report(), script)


@pytest.mark.parametrize("width", [1440, 390])
def test_nothing_is_cut_off_or_overflows(page, run_folder, browse, width):
    """Shows the page in a frame of this width. It never scrolls sideways, and no table is cut off at 1440 pixels."""
    script = f"""
      const text = document.documentElement.outerHTML;
      const frame = document.createElement("iframe");
      frame.style.cssText = "border:0;width:{width}px;height:900px";
      frame.srcdoc = text.replace(/<script>\\{{[^]*/, "</body></html>");
      frame.onload = () => {{
        const inside = frame.contentDocument;
        inside.querySelectorAll("details").forEach((one) => {{ one.open = true; }});
        const wide = [...inside.querySelectorAll(".scroll")].filter((one) => one.scrollWidth > one.clientWidth + 1);
        const cut = wide.map((one) => one.parentElement.id || "settings");
        const first = inside.querySelector("#selection tbody th").getBoundingClientRect();
        document.title = JSON.stringify(
          [inside.documentElement.scrollWidth <= {width}, {width} > 1000 ? cut : [], first.width > 50]);
      }};
      document.body.replaceChildren(frame);
    """
    assert "<title>[true,[],true]</title>" in browse(run_folder.report(), script)


def test_titles_tell_problems_apart():
    one, two, other = (
        Problem(str(index), title, statement, "x", "", "", "easy")
        for index, (title, statement) in enumerate(
            [("Task", "Read n. Print twice n."), ("Task", "Read n. Print its square."), ("Sums", "Read n. Add up.")]
        )
    )
    assert problem_titles([one, two, other]) == ["Print twice n.", "Print its square.", "Sums"]


def test_conclusions_follow_from_the_results(page, run_folder):
    results = json.loads(run_folder.results().read_text())
    told = " ".join(conclusions(results))
    best = max(results["arms"], key=lambda arm: next(
        row["overall"]["estimate"] for row in results["selection"]["table"] if row["method"] == arm
    ))  # fmt: skip
    assert f"The best of 3 reward models here, {'ORM' if best == 'orm' else f'PRM ({best})'}, solves" in told
    assert "Without a reward model, the best strategy is" in told
    assert "At the level of steps," in told
    assert told.split(". ")[0] in page[1]
    few = results | {"selection": results["selection"] | {"counts": {"overall": 3}}}
    assert conclusions(few) == [
        "This run has 3 test problems: enough to show that the pipeline works, too few to compare methods."
    ]
    worse = [row | {"low": -0.3, "high": -0.1, "estimate": -0.2} for row in results["selection"]["differences"]]
    told = " ".join(conclusions(results | {"selection": results["selection"] | {"differences": worse}}))
    assert "Differences in selection whose interval excludes zero, in points: ORM - PRM, raw labels: -20.0" in told


def test_the_viewer_is_cut_at_its_limit_and_its_json_ends_no_script(run_folder, config):
    candidates, _ = load_candidates(run_folder, "test", config.train.arms)
    data = viewer_data(candidates, config.train.arms, "last", None)
    assert (len(data["problems"]), data["left_out"]) == (12, 0)
    code = "".join(step[0] for step in data["problems"][3]["programs"][2]["steps"])
    assert code == candidates[3].programs[2].code
    small = viewer_data(candidates, config.train.arms, "last", limit=12_000)
    assert 0 < len(small["problems"]) == 12 - small["left_out"] < 12
    assert json.loads(json_for_script({"a": "</script><!--&"})) == {"a": "</script><!--&"}
    assert not set("<>&") & set(json_for_script({"a": "</script><!--&"}))


def test_visible_text():
    assert visible("tab\tand\nline é") == "tab\tand\nline é"
    assert visible("\u200b\ud800\x7f") == "[U+200B]\ufffd␡"
    assert visible("x" * (MAX_CHARACTERS + 5)).endswith("x[5 more characters]\n")
    assert visible("abc", 0) == "[3 more characters]\n"


def test_colors_run_from_orange_to_blue():
    assert color(0.5).endswith(",0.00)")
    assert color(0.0) == "rgba(209,87,27,0.42)"
    assert color(1.0) == "rgba(43,131,186,0.42)"
    assert color(None) == "transparent"


def test_the_cost_of_the_policy_is_that_of_its_tokens(tmp_path):
    """The cost is summed over the stages that sent requests to the server. Without prices, no cost is shown."""
    config = Config()
    for stage, usage in (("generate", Usage(2, 0, 1_500_000, 500_000, 200_000)), ("label", Usage(1, 0, 500_000))):
        folder = stage_folder(config, tmp_path, stage)
        folder.open(to_dict(config))
        UsageLog(folder.path).add(usage)
        folder.finish({}, 1.0)
    write_json(tmp_path / "config.json", to_dict(config))
    free = run_facts(tmp_path, config.evaluate).costs
    assert free is not None
    assert "cost" not in free.explanation
    priced = run_facts(tmp_path, EvaluateConfig(price_prompt=2.0, price_completion=10.0)).costs
    assert priced is not None
    assert (
        "cost 6.00: 2,000,000 prompt tokens at 2 per million, and 200,000 completion tokens at 10."
        in priced.explanation
    )
