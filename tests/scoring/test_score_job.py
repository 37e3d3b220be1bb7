"""dreamprm score: any input; every candidate is scored or reported; interruptions do not change the output bytes."""

import argparse
import dataclasses
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dreamprm_jax.cli import main as cli
from dreamprm_jax.cli.score import add_arguments, parse_shard
from dreamprm_jax.problems.json_rows import json_array
from dreamprm_jax.schema import DataError, Problem, Program, Score, arrow_schema, program_hash
from dreamprm_jax.scoring.inputs import read_items, read_problems
from dreamprm_jax.scoring.job import JobOptions, ScoreJob, Shard
from dreamprm_jax.scoring.protocol import parse_steps
from dreamprm_jax.scoring.scorer import Scorer, score_row
from dreamprm_jax.storage import read_records, write_records


@pytest.fixture
def job(prm, scorer, problems_file, candidates_file, tmp_path):
    """Runs a job in this process: job(candidates=..., chunk=..., ...) -> (counts, rows, skips)."""
    problems = read_problems(str(problems_file), "")

    def run(candidates=candidates_file, output=tmp_path / "scores.parquet", **options):
        settings = {"problems": problems, "source": candidates.name, "chunk": 7} | options
        work = ScoreJob(JobOptions(candidates=candidates, output=output, **settings), prm, scorer)
        counts = work.run()
        if counts is None:
            return None
        skips = [json.loads(line) for line in work.skipped_path.read_text("utf-8").splitlines()]
        return counts, pq.read_table(output).to_pylist(), skips

    return run


def test_every_candidate_in_order_with_the_scores_of_its_own_pass(job, written, prm, tmp_path):
    counts, rows, skips = job()
    codes = [(problem.problem_id, code) for problem, codes in written for code in codes]
    assert [(r["row"], r["problem_id"], r["program_hash"]) for r in rows] == [
        (n, problem, program_hash(problem, code)) for n, (problem, code) in enumerate(codes, 1)
    ]
    assert [r["sample_index"] for r in rows] == [0, 1, 2, 3] * 8
    assert skips == []
    assert counts["read"] == counts["scored"] == 32
    assert counts["steps"] == sum(len(r["step_scores"]) for r in rows) > 100
    assert 0 < counts["tokens computed"] <= counts["tokens"]  # fewer if prefix trees are cheaper (test_packing.py)
    assert 0 < counts["padding share"] < 0.6
    records = read_records(tmp_path / "scores.parquet", Score)  # the rest of the package can read it as Score records
    assert {(r.model, r.checkpoint) for r in records} == {(prm.name, prm.checkpoint)}
    alone = Scorer(prm.model, prm.mesh, prm.params, 1024, 1024)
    for (problem, codes), record in zip(written, records[::4], strict=True):
        body = {"problem": {f: getattr(problem, f) for f in ("title", "statement", "platform")}, "code": codes[0]}
        np.testing.assert_allclose(record.step_logits, alone.logits(parse_steps(body, prm).readings)[0], atol=1e-5)
    assert np.ptp([s for r in records for s in r.step_logits]) > 0.3


def test_all_formats_give_the_same_scores(job, written, tmp_path):
    _, wanted, _ = job()
    ids = {problem.problem_id: problem for problem, _ in written}
    eval_all = [{"question_id": p.problem_id, "code_list": codes, "graded_list": [True] * 4} for p, codes in written]
    (tmp_path / "eval_all.json").write_text(json.dumps(eval_all, indent=1), "utf-8")
    programs = [Program.make(p.problem_id, c, n, "x", {}) for p, codes in written for n, c in enumerate(codes)]
    write_records(tmp_path / "programs.parquet", Program, programs)
    inline = [
        {"question_title": p.title, "question_content": p.statement, "platform": p.platform, "code": c}
        | {"problem_id": p.problem_id}
        for p, codes in written
        for c in codes
    ]
    (tmp_path / "inline.jsonl").write_text("".join(json.dumps(r) + "\n" for r in inline), "utf-8")
    for problem, codes in written:
        (tmp_path / "samples" / problem.problem_id).mkdir(parents=True)
        for number, code in enumerate(codes):
            (tmp_path / "samples" / problem.problem_id / f"{number}.py").write_text(code, "utf-8")
    lists = [codes for _, codes in sorted(written, key=lambda one: one[0].problem_id)]
    (tmp_path / "lists.json").write_text(json.dumps(lists), "utf-8")
    files = {"eval_all.json": ids, "programs.parquet": ids, "inline.jsonl": {}, "samples": ids, "lists.json": ids}
    key = ("problem_id", "sample_index", "program_hash", "step_logits")
    for name, problems in files.items():
        _, rows, skips = job(tmp_path / name, tmp_path / f"{name}.scores.parquet", problems=problems)
        assert skips == []
        ordered = [sorted([r[k] for k in key] for r in found) for found in (rows, wanted)]
        for ours, expected in zip(*ordered, strict=True):
            assert ours[:3] == expected[:3], name
            np.testing.assert_allclose(ours[3], expected[3], atol=1e-5)


def test_scores_that_are_not_finite_are_counted_skips_and_with_strict_an_error(
    prm, problems_file, candidates_file, tmp_path
):
    scorer = Scorer(prm.model, prm.mesh, jax.tree.map(lambda leaf: leaf * jnp.nan, prm.params), 1024, 4096)
    problems = read_problems(str(problems_file), "")
    options = JobOptions(
        candidates=candidates_file, output=tmp_path / "scores.parquet", problems=problems, source="c", chunk=7
    )
    work = ScoreJob(options, prm, scorer)
    counts = work.run()
    assert (counts["read"], counts["scored"], counts["steps"], counts["skipped"]) == (32, 0, 0, 32)
    skips = [json.loads(line) for line in work.skipped_path.read_text("utf-8").splitlines()]
    assert skips[0]["row"] == "row 1, sample 0"
    assert "not finite" in skips[0]["reason"]
    assert pq.read_table(tmp_path / "scores.parquet").num_rows == 0
    strict = dataclasses.replace(options, output=tmp_path / "strict.parquet", strict=True)
    with pytest.raises(DataError, match=r"c, row 1, sample 0: the reward model's logit is not finite"):
        ScoreJob(strict, prm, scorer).run()
    with pytest.raises(DataError, match=r"problem p, \w+: the reward model's logit is not finite"):
        score_row(Program.make("p", "x = 1", 0, "", {}), np.asarray([0.0, np.nan]), "m", "c")


HOSTILE = [
    ("{this is no JSON", "not valid JSON"),
    ("[1, 2]", "must be a JSON object, not a list"),
    ({"code": "x = 1"}, "field problem_id: missing"),
    ({"problem_id": "nobody", "code": "x = 1"}, "'nobody' is not in the problems file"),
    ({"problem_id": "P"}, "has none of the fields code"),
    ({"problem_id": "P", "code": 7}, "field code: must be a string, not a number"),
    ({"problem_id": "P", "code": ""}, "field code: empty program"),
    ({"problem_id": "P", "code": "x = 1\0"}, "field code: contains a NUL character"),
    ({"problem_id": "P", "code": "x = '\ud800'"}, "field code: contains a lone surrogate"),
    ({"problem_id": "P", "code": "x = 1\n" * 33_333}, "longer than the model's context of 1024 tokens"),
    ({"problem_id": "P", "code": "a" * 200_000}, "longer than the model's context of 1024 tokens"),
    ({"problem_id": "P", "code": "b" * 200_001}, "200001 characters, more than 200000"),
    ({"problem_id": "P\0", "code": "x = 1"}, "field problem_id: contains a NUL character"),
]


def write_hostile(path, problem_id, good):
    """Writes hostile candidates between two good ones; the last candidate is a duplicate of the first."""
    rows = [
        {"problem_id": problem_id, "code": good, "sample_index": 10**30},  # not one of 64 bits: counted instead
        *(row for row, _ in HOSTILE),
        {"problem_id": problem_id, "code": good},
    ]
    lines = [
        row
        if isinstance(row, str)
        else json.dumps({k: v.replace("P", problem_id) if k == "problem_id" else v for k, v in row.items()})
        for row in rows
    ]
    path.write_bytes("\n".join(lines).encode() + b"\n\n\xff\xfe{}\n")
    return path


def test_hostile_rows_are_named_and_counted(job, written, tmp_path):
    problem, codes = written[0]
    path = write_hostile(tmp_path / "hostile.jsonl", problem.problem_id, codes[0])
    counts, rows, skips = job(path, max_characters=200_000)
    assert [row["row"] for row in rows] == [1, len(HOSTILE) + 2]
    assert rows[0]["step_scores"] == rows[1]["step_scores"]
    assert counts["duplicates"] == 1
    assert counts["read"] == len(HOSTILE) + 3
    assert counts["scored"] == 2
    assert counts["skipped"] == len(skips) == len(HOSTILE) + 1
    assert sum(counts["skipped by reason"].values()) == counts["skipped"]
    assert counts["skipped by reason"]["longer than the model's context of N tokens"] == 2
    for number, (skip, (_, reason)) in enumerate(zip(skips, HOSTILE, strict=False), 2):
        assert skip["row"].startswith(f"row {number}")
        assert skip["source"] == "hostile.jsonl"
        assert reason in skip["reason"], skip
    assert "not valid JSON" in skips[-1]["reason"]
    with pytest.raises(DataError, match=r"hostile\.jsonl, row 2: not valid JSON .*without --strict it is skipped"):
        job(path, tmp_path / "strict.parquet", strict=True)
    with pytest.raises(DataError, match=rf"an earlier run without --strict skipped {len(skips)} candidates"):
        job(path, max_characters=200_000, strict=True)  # the job is finished, but with a skipped candidate


def test_shards_that_share_a_folder_end_with_the_bytes_of_one_process(job, tmp_path):
    job()
    whole = (tmp_path / "scores.parquet").read_bytes()
    shared = tmp_path / "shared" / "scores.parquet"
    assert job(output=shared, shard=Shard(2, 3)) is None
    assert job(output=shared, shard=Shard(0, 3)) is None
    assert not shared.exists()
    assert job(output=shared, shard=Shard(1, 3)) is not None
    assert shared.read_bytes() == whole
    assert sorted(path.name for path in shared.parent.iterdir()) == [
        "scores.counts.json", "scores.parquet", "scores.skipped.jsonl",
    ]  # fmt: skip


def test_another_jobs_files_are_left_alone(job, tmp_path, candidates_file):
    job()
    before = (tmp_path / "scores.parquet").read_bytes()
    assert job()[0]["scored"] == 32  # the same job, which is finished
    with pytest.raises(DataError, match=r"is there and not this job's result"):
        job(chunk=9)
    assert (tmp_path / "scores.parquet").read_bytes() == before
    job(output=tmp_path / "b" / "scores.parquet", shard=Shard(0, 2))
    with pytest.raises(DataError, match=r"holds the unfinished work of another job"):
        job(output=tmp_path / "b" / "scores.parquet", shard=Shard(0, 2), chunk=9)


def test_json_lists_are_read_element_by_element(tmp_path, monkeypatch):
    monkeypatch.setattr("dreamprm_jax.problems.json_rows.READ_BYTES", 7)
    values = [{"a": [1, 2.5, "x,]["]}, 12345678, "é" * 40, None, [], {"b": {"c": "]"}}]
    path = tmp_path / "list.json"
    for text in (json.dumps(values), json.dumps(values, indent=3), "\n " + json.dumps(values, ensure_ascii=False)):
        path.write_text(text, "utf-8")
        assert list(json_array(path)) == values
    path.write_text("[]", "utf-8")
    assert list(json_array(path)) == []
    for broken, message in (
        ('[{"a": 1}, {"b": ', "row 2: not valid JSON"), ('[{"a": 1} {"b": 2}]', "row 2: a comma"),
        ('{"a": 1}', "a list of rows"), ("[1, 2", "row 3: a comma"), ("", "a list of rows"),
        ("[" * 9000, "row 1: not valid JSON"),
    ):  # fmt: skip
        path.write_text(broken, "utf-8")
        with pytest.raises(DataError, match=message):
            list(json_array(path))


def test_parquet_with_other_columns_and_nulls(tmp_path):
    table = pa.table({"problem_id": ["p", None, "q"], "code": ["x = 1", "y", None], "other": [1, 2, 3]})
    pq.write_table(table, tmp_path / "c.parquet")
    problem = Problem("p", "t", "s", "c", "", "", "")
    first, *others = read_items(tmp_path / "c.parquet", {"p": problem, "q": problem}, "c", 99)
    assert (first.row, first.code, first.problem) == (1, "x = 1", problem)
    assert [skip.row for skip in others] == ["row 2", "row 3"]
    assert "problem_id: missing" in others[0].reason
    assert "must be a string, not null" in others[1].reason


def test_a_job_without_any_finite_score_fails(prm_folder, problems_file, candidates_file, tmp_path, capsys):
    from safetensors.numpy import load_file, save_file

    folder = shutil.copytree(prm_folder, tmp_path / "nan")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * np.nan
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    options = {
        "prm": folder,
        "problems": problems_file,
        "candidates": candidates_file,
        "output": tmp_path / "s.parquet",
    }
    assert cli.main(["score", *(f"--{name}={value}" for name, value in options.items())]) == 1
    error = capsys.readouterr().err
    assert "no candidate was scored (32 times: the reward model's logit is not finite" in error


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--prm": "nowhere"}, r"--prm=nowhere: no trained model there; give RUN/ARM.*or a Hugging Face folder"),
        ({"--candidates": "none.jsonl"}, r"--candidates=none\.jsonl: no such file"),
        ({"--problems": "none.jsonl"}, r"none\.jsonl: no such file"),
        ({"--shard": "3/3"}, r"--shard=3/3: must be I/N"),
        ({"--batch-tokens": "0"}, r"--batch-tokens=0: must be at least 1"),
        ({"--max-length": "4096"}, r"max_length=4096 exceeds the context"),
        ({"--overlong": "raise", "--max-length": "64"}, r"exceed config\.model\.max_length=64"),
    ],
)
def test_bad_options_are_named(change, message, prm_folder, problems_file, candidates_file, tmp_path, capsys):
    options = {"--candidates": str(candidates_file), "--problems": str(problems_file), "--prm": str(prm_folder)}
    options |= {"--output": str(tmp_path / "out.parquet"), **change}
    assert cli.main(["score", *(f"{name}={value}" for name, value in options.items())]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_shard_from_the_environment(monkeypatch):
    monkeypatch.setenv("SLURM_PROCID", "2")
    monkeypatch.setenv("SLURM_NTASKS", "5")
    assert parse_shard("auto") == (2, 5)
    monkeypatch.delenv("SLURM_PROCID")
    monkeypatch.setenv("TPU_WORKER_ID", "1")
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "a,b,c,d")
    assert parse_shard("auto") == (1, 4)
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert parser.parse_args(["--candidates=-", "--prm=x", "--output=y"]).shard == "0/1"


def test_stdin(prm_folder, problems_file, candidates_file, tmp_path, monkeypatch, capsys):
    lines = candidates_file.read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
    options = [f"--prm={prm_folder}", f"--problems={problems_file}", "--candidates=-", "--row-tokens=1024"]
    assert cli.main(["score", *options, "--batch-tokens=4096", f"--output={tmp_path / 'out.parquet'}"]) == 0
    assert len(read_records(tmp_path / "out.parquet", Score)) == 32
    assert set(pq.read_schema(tmp_path / "out.parquet").names) == {*arrow_schema(Score).names, "row", "sample_index"}
    assert "scored" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.counts.json", "out.parquet", "out.skipped.jsonl"]


@pytest.mark.slow
def test_killed_and_run_again_ends_with_the_same_bytes(prm_folder, problems_file, candidates_file, tmp_path):
    """Sends kill -9 as soon as the first and then the second chunk exist, twice."""

    def command(output):
        options = {"prm": prm_folder, "problems": problems_file, "candidates": candidates_file, "output": output}
        fixed = ["--chunk=1", "--row-tokens=512", "--batch-tokens=512"]
        return [sys.executable, "-m", "dreamprm_jax.cli", "score", *(f"--{k}={v}" for k, v in options.items()), *fixed]

    subprocess.run(command(tmp_path / "whole.parquet"), check=True, capture_output=True)
    output = tmp_path / "killed.parquet"
    parts = tmp_path / "killed.parquet.parts"
    for chunks in (1, 3):
        process = subprocess.Popen(command(output), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 300
        while len(list(parts.glob("*.parquet"))) < chunks and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    assert not output.exists()
    done = len(list(parts.glob("*.parquet")))
    assert 3 <= done < 32
    subprocess.run(command(output), check=True, capture_output=True)
    assert output.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert not parts.exists()
    counts = json.loads((tmp_path / "killed.counts.json").read_text("utf-8"))
    assert counts["scored"] == 32


@pytest.mark.slow
def test_several_devices_give_the_scores_of_one(job, prm_folder, problems_file, candidates_file, tmp_path):
    """A separate process with four devices: batches are sharded over two, and each layer over two."""
    _, rows, _ = job(chunk=32)
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    output = tmp_path / "four.parquet"
    options = {"prm": prm_folder, "problems": problems_file, "candidates": candidates_file, "output": output, "fsdp": 2}
    command = [sys.executable, "-m", "dreamprm_jax.cli", "score", *(f"--{k}={v}" for k, v in options.items())]
    fixed = ["--tensor=2", "--row-tokens=1024", "--batch-tokens=4096"]
    subprocess.run([*command, *fixed], env=os.environ | {"XLA_FLAGS": flags}, check=True, capture_output=True)
    for row, other in zip(rows, pq.read_table(output).to_pylist(), strict=True):
        assert row["program_hash"] == other["program_hash"]
        np.testing.assert_allclose(other["step_logits"], row["step_logits"], atol=1e-4)
