"""The batch job: reads a file of candidates and writes a file of scores (Parquet, JSON lines or CSV) in chunks.

The input is divided into chunks of equal size, in its order. A finished chunk is two files in OUTPUT.parts, its scores
and its record. Both are written to a temporary file and renamed, so a process that is killed loses only its current
chunk. Any number of processes may share the work and the folder (``Shard``). The process that finds all chunks done
joins them into the output in order, so the output's bytes do not depend on how the work was divided or repeated.
"""

from __future__ import annotations

import re
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dreamprm_jax.engine.concurrent import concurrent_map
from dreamprm_jax.runs.input_digests import path_digest
from dreamprm_jax.runs.locks import locked
from dreamprm_jax.runs.progress import Progress
from dreamprm_jax.schema import DataError, Problem, Score, Skip, arrow_schema, canonical_json, content_hash
from dreamprm_jax.scoring.inputs import Item, read_items
from dreamprm_jax.scoring.prm import Prm
from dreamprm_jax.scoring.scorer import NOT_FINITE, ProgramReading, Reading, Scorer, is_finite, score_row
from dreamprm_jax.storage import atomic_path, file_hash, read_json, write_json, write_rows, write_text

FORMAT = 2  # increase it when the meaning of the output changes
JOB, BYTES = "job", "output sha256"  # keys of the counts: fingerprints of the job and of the output that it wrote
# The Score fields and the position of each program in the input.
SCHEMA = pa.schema(
    [*arrow_schema(Score), pa.field("row", pa.int64(), False), pa.field("sample_index", pa.int64(), False)]
)


@dataclass(frozen=True)
class Shard:
    """The share of this process: every ``count``-th chunk, starting with chunk ``index``."""

    index: int = 0
    count: int = 1


@dataclass(frozen=True)
class JobOptions:
    """The input and the output of a job, and its division into chunks."""

    candidates: Path
    source: str  # name of the candidates' file in the skips
    problems: dict[str, Problem]
    output: Path
    chunk: int = 4096  # candidates per chunk
    max_characters: int = 1_000_000  # longer programs are skipped
    strict: bool = False  # whether the first candidate that cannot be scored is an error
    shard: Shard = Shard()


@dataclass(frozen=True)
class _Chunk:
    index: int
    items: list[Item | Skip]
    duplicates: int


@dataclass(frozen=True)
class _Prepared:
    rows: list[tuple[Item, ProgramReading]]
    skips: list[Skip]
    counts: Counter[str]


class ScoreJob:
    """A scoring job with its folder, and this process's share of the work."""

    def __init__(self, options: JobOptions, prm: Prm, scorer: Scorer):
        self.options = options
        self.prm = prm
        self.scorer = scorer
        self.output = options.output
        self.parts = options.output.with_name(options.output.name + ".parts")
        self.fingerprint = self._fingerprint()

    @property
    def skipped_path(self) -> Path:
        """File with one JSON line for every candidate that has no score."""
        return self.output.with_name(self.output.stem + ".skipped.jsonl")

    @property
    def counts_path(self) -> Path:
        """File of the job's counts."""
        return self.output.with_name(self.output.stem + ".counts.json")

    def run(self) -> dict[str, Any] | None:
        """Scores this process's chunks, and joins all chunks if they are then done.

        With ``strict``, candidates that an earlier run without ``strict`` skipped are an error as well. The chunks of
        that run are kept and used.

        Returns:
          The job's counts; None while other processes still have chunks to score.

        Raises:
          DataError: if the input is unreadable, if the output or its parts belong to another job, or, with
            ``strict``, if a candidate cannot be scored.
        """
        counts = self._run()
        if self.options.strict and counts is not None and counts["skipped"]:
            raise DataError(
                f"{self.skipped_path}: an earlier run without --strict skipped {counts['skipped']} candidates; without "
                f"--strict {self.output} is the result"
            )
        return counts

    def _run(self) -> dict[str, Any] | None:
        if self._is_done():
            return read_json(self.counts_path)
        self.parts.mkdir(parents=True, exist_ok=True)
        shard = self.options.shard
        with locked(self.parts / f"lock-{shard.index}-of-{shard.count}"):
            self._claim()
            chunks = self._work()
        with locked(self.parts / "lock-join", wait=True):
            if self._is_done():  # another process was faster
                return read_json(self.counts_path)
            if missing := sum(not self._record(index).exists() for index in range(chunks)):
                print(f"{missing} of {chunks} chunks are other processes' and not done yet: the last one joins them")
                return None
            return self._join(chunks)

    def _fingerprint(self) -> str:
        """Hash of everything that the output's bytes depend on."""
        options, limits = self.options, self.prm.limits
        settings = {
            "format": FORMAT, "chunk": options.chunk, "max_characters": options.max_characters,
            "row_tokens": self.scorer.row_tokens, "batch_tokens": self.scorer.batch_tokens,
            "model": self.prm.name, "checkpoint": self.prm.checkpoint, "max_length": limits.max_length,
            "overlong": limits.overlong, "dtype": limits.dtype, "attention": limits.attention,
            "granularity": self.prm.granularity, "source": options.source,
        }  # fmt: skip
        candidates = path_digest(options.candidates)
        assert candidates is not None, f"{options.candidates} was there a moment ago"
        prompts = content_hash(
            *(f"{p.problem_id}\0{p.platform}\0{p.title}\0{p.statement}" for p in options.problems.values())
        )
        return content_hash(canonical_json(settings), candidates["digest"], prompts)

    def _is_done(self) -> bool:
        if not self.output.exists():
            return False
        counts = read_json(self.counts_path) if self.counts_path.exists() else {}
        if (counts.get(JOB), counts.get(BYTES)) != (self.fingerprint, file_hash(self.output)):
            raise DataError(
                f"--output={self.output}: is there and not this job's result (other candidates, problems, model or "
                "settings); remove it or name another"
            )
        shutil.rmtree(self.parts, ignore_errors=True)  # an earlier run may have been killed before this line
        return True

    def _claim(self) -> None:
        mark = self.parts / "job.json"
        if not mark.exists():
            write_json(mark, {"fingerprint": self.fingerprint})
        elif read_json(mark)["fingerprint"] != self.fingerprint:
            raise DataError(
                f"{self.parts}: holds the unfinished work of another job (other candidates, problems, model or "
                "settings); remove the folder, or name another --output"
            )

    def _scores(self, index: int) -> Path:
        return self.parts / f"{index:06d}.parquet"

    def _record(self, index: int) -> Path:
        return self.parts / f"{index:06d}.json"

    # ------------------------------------------------------------ the work

    def _work(self) -> int:
        """Scores this process's chunks that are not done. Returns the total number of chunks."""
        seen = 0
        shard = self.options.shard

        def mine() -> Iterator[_Chunk]:
            nonlocal seen
            for chunk in self._chunks():
                seen = chunk.index + 1
                if chunk.index % shard.count != shard.index:
                    continue
                if self._record(chunk.index).exists():
                    progress.add(units=len(chunk.items))
                else:
                    yield chunk

        with Progress(f"score {self.prm.name}", None, "program") as progress:
            # While the devices score a chunk, a thread reads and tokenizes the next one.
            for chunk, prepared in concurrent_map(self._prepare, mine(), threads=1, max_pending=2):
                self._finish(chunk, prepared, progress)
        return seen

    def _chunks(self) -> Iterator[_Chunk]:
        items = read_items(
            self.options.candidates, self.options.problems, self.options.source, self.options.max_characters
        )
        known: set[bytes] = set()
        index = 0
        while rows := list(islice(items, self.options.chunk)):
            duplicates = 0
            for row in rows:
                if isinstance(row, Skip):
                    self._refuse(row)
                else:
                    key = bytes.fromhex(content_hash(row.problem.problem_id, row.code, digits=24))
                    duplicates += key in known
                    known.add(key)
            yield _Chunk(index, rows, duplicates)
            index += 1

    def _refuse(self, skip: Skip) -> None:
        if self.options.strict:
            raise DataError(f"{skip.source}, {skip.row}: {skip.reason}; without --strict it is skipped and counted")

    def _prepare(self, chunk: _Chunk) -> _Prepared:
        """Tokenizes a chunk, one problem at a time."""
        counts: Counter[str] = Counter()
        by_problem: dict[Problem, list[tuple[int, Item]]] = {}
        for place, item in enumerate(chunk.items):
            if isinstance(item, Item):
                by_problem.setdefault(item.problem, []).append((place, item))
        readings: dict[int, ProgramReading] = {}
        for problem, items in by_problem.items():
            # The position in the chunk replaces the sample index, to identify the programs that were left out.
            programs = [item.program(place) for place, item in items]
            for program, tokens, ends in self.prm.read(problem, programs, counts):
                readings[program.sample_index] = ProgramReading(program, Reading(tokens, ends))
        rows, skips = [], []
        for place, item in enumerate(chunk.items):
            if isinstance(item, Skip):
                skips.append(item)
            elif place in readings:
                rows.append((item, readings[place]))
            else:
                reason = f"longer than the model's context of {self.prm.limits.max_length} tokens"
                skips.append(Skip(self.options.source, f"row {item.row}, sample {item.sample_index}", reason))
                self._refuse(skips[-1])
        kept = Counter({"statements truncated on the left": counts["statements truncated on the left"]})
        return _Prepared(rows, skips, kept)

    def _finish(self, chunk: _Chunk, prepared: _Prepared, progress: Progress) -> None:
        """Scores a chunk and writes its scores, then its record."""
        before, start = Counter(self.scorer.summary()), time.perf_counter()
        logits = self.scorer.logits(
            [scored.reading for _, scored in prepared.rows], lambda count: progress.add(units=count)
        )
        seconds = time.perf_counter() - start
        progress.add(units=len(prepared.skips))
        rows, skips = [], list(prepared.skips)
        for (item, scored), values in zip(prepared.rows, logits, strict=True):
            if is_finite(values):
                row = vars(score_row(scored.program, values, self.prm.name, self.prm.checkpoint))
                rows.append(dict(row) | {"row": item.row, "sample_index": item.sample_index})
            else:
                skips.append(Skip(self.options.source, f"row {item.row}, sample {item.sample_index}", NOT_FINITE))
                self._refuse(skips[-1])
        with atomic_path(self._scores(chunk.index)) as temporary:
            pq.write_table(pa.Table.from_pylist(rows, SCHEMA), temporary, compression="zstd")
        counts = Counter(self.scorer.summary())
        counts.subtract(before)
        record = {
            "read": len(chunk.items),
            "scored": len(rows),
            "steps": sum(len(row["step_logits"]) for row in rows),
            "duplicates": chunk.duplicates,
            **prepared.counts,
            **counts,
        }
        write_json(self._record(chunk.index), {"counts": record, "seconds": seconds, "skips": list(map(vars, skips))})

    # ------------------------------------------------------------ the end

    def _join(self, chunks: int) -> dict[str, Any]:
        """Writes the skips, the counts and last the output, so that a job with an output is complete."""
        counts: Counter[str] = Counter({"skipped": 0})
        reasons: Counter[str] = Counter()
        seconds = 0.0
        lines = []
        for index in range(chunks):
            record = read_json(self._record(index))
            counts.update(record["counts"])
            seconds += record["seconds"]
            for skip in record["skips"]:
                reasons[_kind(skip["reason"])] += 1
                lines.append(canonical_json(skip) + "\n")
        counts["skipped"] = len(lines)
        with atomic_path(self.output) as temporary:
            scores = (pq.read_table(self._scores(index), schema=SCHEMA) for index in range(chunks))
            write_rows(temporary, self.output.suffix, SCHEMA, scores)
            report = self._report(counts, reasons, seconds) | {JOB: self.fingerprint, BYTES: file_hash(temporary)}
            write_text(self.skipped_path, "".join(lines))
            write_json(self.counts_path, report)
        shutil.rmtree(self.parts, ignore_errors=True)
        return report

    def _report(self, counts: Counter[str], reasons: Counter[str], seconds: float) -> dict[str, Any]:
        computed = counts["tokens computed"] + counts["padding"]
        return {
            **counts,
            "skipped by reason": dict(reasons.most_common()),
            "padding share": round(counts["padding"] / computed, 4) if computed else 0.0,
            "seconds": round(seconds, 3),
            "programs a second": round(counts["scored"] / seconds, 2) if seconds else 0.0,
            "tokens a second": round(counts["tokens"] / seconds) if seconds else 0,
            "model": self.prm.name,
            "checkpoint": self.prm.checkpoint,
        }


def _kind(reason: str) -> str:
    """A reason without the parts specific to its row: numbers, quoted text, and text from the first parenthesis on."""
    return re.sub(r"\d+", "N", re.sub(r"(?<!\w)'[^']*'", "...", reason.split(" (")[0]))


def spool(lines: Iterable[bytes], path: Path) -> None:
    """Writes a stream to a file, so that its rows can be read again if the process is killed."""
    with atomic_path(path) as temporary, open(temporary, "wb") as handle:
        handle.writelines(lines)
