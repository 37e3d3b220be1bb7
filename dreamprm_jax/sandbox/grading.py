"""Reads the results of one child and compares them test by test, as they arrive."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

from dreamprm_jax.sandbox import compare
from dreamprm_jax.sandbox.inside import frames, jobs, values
from dreamprm_jax.sandbox.records import JudgeTask, safe_text
from dreamprm_jax.schema import Verdict


@dataclass(frozen=True)
class Failure:
    """Why a test did not pass."""

    verdict: Verdict
    error: str
    code: int  # result code of the official evaluator


_SHOWN_BYTES = 4004  # enough for 1,001 characters


class Grader:
    """Grades one child. Call ``open`` first, ``advance`` at any time and once after the child's end, then ``close``."""

    def __init__(self, task: JudgeTask, functional: bool, official: bool, first: int, output_bytes: int) -> None:
        self.task = task
        self.first = first
        self.position = first  # the next test; all before it have passed
        self.failure: Failure | None = None  # of the test at ``position``
        self.answers: list[str] = []  # of the tests from ``first`` on, for a checker that runs in the sandbox
        self.shown: list[str] = []  # beginnings of the answers, if the task requests reports
        self.exit_status: int | None = None  # of the last test, according to the child
        self.ended = False  # the child reported that it runs no further test
        self.output_file = self.result_file = -1
        self._functional = functional
        self._official = official
        self._output_bytes = output_bytes
        self._output_start = 0
        self._consumed = 0
        self._wanted = 0  # size of the result file at which the next frame is complete

    def open(self) -> None:
        """Creates the files that the child will write."""
        self.output_file = os.memfd_create("stdout", os.MFD_CLOEXEC)
        self.result_file = os.memfd_create("results", os.MFD_CLOEXEC)

    def close(self) -> None:
        """Closes the files, if they are open."""
        if self.task.per_test and self.output_file >= 0 and not self.shown:  # a script that failed
            self._show(_read(self.output_file, 0, _SHOWN_BYTES).decode("utf-8", "replace"))
        for descriptor in (self.output_file, self.result_file):
            if descriptor >= 0:
                os.close(descriptor)
        self.output_file = self.result_file = -1

    def advance(self) -> None:
        """Compares the tests that have finished since the last call, up to the first failure."""
        if self.failure is not None or self.ended or self.result_file < 0:
            return
        size = os.fstat(self.result_file).st_size
        if size < self._wanted:
            return  # avoids reading a long frame again and again while it is being written
        try:
            found, used, missing = frames.parse(_read(self.result_file, self._consumed, size))
        except frames.FrameError as error:
            self.failure = Failure(Verdict.RE, str(error), -4)
            return
        self._consumed += used
        self._wanted = size + missing
        for frame in found:
            self._grade(frame)
            if self.failure is not None:
                return
            self.ended = self.ended or frame.last

    def exited_early(self) -> None:
        """Grades the test at ``position`` of a faithful script that exited by itself, with status 0."""
        self._grade_output(os.fstat(self.output_file).st_size)

    def _show(self, answer: str) -> None:
        if self.task.per_test:
            self.shown.append(answer[:_SHOWN_BYTES])

    def _grade(self, frame: frames.Frame) -> None:
        self.exit_status = _exit_status(frame)
        if frame.test != self.position - self.first or self.ended or self.position >= len(self.task.tests):
            self.failure = Failure(Verdict.RE, "result frames out of order", -4)
        elif frame.status == frames.BAD_INPUT and self._functional and not self._valid_input():
            self.failure = Failure(Verdict.INVALID_TASK, "the test's input is not one JSON value per line", -4)
        elif frame.status != frames.OK:
            self.failure = _failure(frame)
        elif self._functional:
            self._grade_value(frame.payload)
        elif self._official:
            self._compare(frame.payload.decode("utf-8", "surrogatepass" if _valid(frame.payload) else "replace"))
        else:
            self._grade_output(frame.output_end)

    def _valid_input(self) -> bool:
        """Whether the input is valid. The child's report of bad input is not trusted."""
        try:
            for line in self.task.tests[self.position].input.split("\n"):
                json.loads(line)
        except (ValueError, RecursionError):
            return False
        return True

    def _grade_output(self, end: int) -> None:
        if not self._output_start <= end <= os.fstat(self.output_file).st_size:
            self.failure = Failure(Verdict.RE, "result frame points outside the output", -4)
        elif end - self._output_start > self._output_bytes:
            self.failure = Failure(Verdict.OLE, "output limit exceeded", -2)
        else:
            output = _read(self.output_file, self._output_start, end)
            self._output_start = end
            self._compare(output.decode("utf-8", "replace"))

    def _compare(self, output: str) -> None:
        self._show(output)
        test = self.task.tests[self.position]
        if self._otherwise(output):
            return
        try:
            mismatch = compare.output_mismatch(output, test.output)
        except compare.Signalling:
            self.failure = (
                Failure(Verdict.RE, "!a signalling NaN", -4)
                if self._official
                else Failure(Verdict.WA, "a signalling NaN", -2)
            )
            return
        if mismatch is None:
            self.position += 1
        else:
            self.failure = Failure(Verdict.WA, mismatch, -2)

    def _grade_value(self, payload: bytes) -> None:
        try:
            encoded = payload.decode("ascii")
        except UnicodeDecodeError:
            self.failure = Failure(Verdict.RE, "malformed value", -4)
            return
        if self.task.per_test:
            self._show(values.without_marks(encoded))
        if self._otherwise(values.without_marks(encoded)):
            return
        try:
            expected = compare.expected_value(self.task.tests[self.position].output)
            right = compare.value_matches(encoded, expected, self._official)
        except compare.Signalling as error:
            self.failure = Failure(Verdict.RE, str(error), -4)
            return
        except RecursionError:
            self.failure = Failure(Verdict.INVALID_TASK, "the expected output is nested too deeply", -4)
            return
        if right:
            self.position += 1
        else:
            self.failure = Failure(Verdict.WA, "the returned value differs", 0)

    def _otherwise(self, answer: str) -> bool:
        """Grades by the task's own comparison or checker. Returns False if it has none."""
        test, comparison = self.task.tests[self.position], self.task.comparison
        try:
            if self.task.checker is not None:
                right = self.task.checker(test.input, test.output, answer)
            elif comparison is None:
                return False
            elif comparison.code:  # the checker runs in the sandbox after the child has ended
                self.answers.append(answer)
                right = True
            else:
                right = comparison.matches(answer, test.output, self._functional)
        except Exception as error:
            if self.task.checker is None:
                self.failure = Failure(Verdict.INVALID_TASK, f"test {self.position}, expected output: {error}", -4)
            else:  # the checker cannot handle this text
                self.failure = Failure(Verdict.WA, safe_text(f"the checker failed: {type(error).__name__}"), -2)
            return True
        if right is True:
            self.position += 1
        else:
            self.failure = Failure(Verdict.WA, "the checker says no", 0 if self._functional else -2)
        return True


def ending_failure(reply: jobs.Reply, official: bool) -> Failure:
    """Why a child ended without a frame for its current test."""
    code = -2 if official else -4  # the official evaluator finds an empty result list
    if reply.ending == jobs.CPU_LIMIT:
        return Failure(Verdict.TLE, "CPU time limit exceeded", -2 if official else -3)
    if reply.ending == jobs.WALL_LIMIT:
        return Failure(Verdict.TLE, "wall time limit exceeded", -2 if official else -3)
    if reply.ending == jobs.MEMORY_LIMIT:
        return Failure(Verdict.MLE, "memory limit exceeded", code)
    if reply.ending == jobs.SIGNALLED:
        if reply.value == 25:  # SIGXFSZ
            return Failure(Verdict.OLE, "output limit exceeded", code)
        if reply.value == 24:  # SIGXCPU
            return Failure(Verdict.TLE, "CPU time limit exceeded", -2 if official else -3)
        denied = " (a denied system call)" if reply.value == 31 else ""  # SIGSYS
        return Failure(Verdict.RE, f"killed by signal {reply.value}{denied}", code)
    return Failure(Verdict.RE, f"the process ended early, with status {reply.value}", code)


def _exit_status(frame: frames.Frame) -> int | None:
    """Exit status of a plain process. The frame is hostile."""
    if frame.status == frames.EXITED:
        return int(frame.payload) if frame.payload.isdigit() and len(frame.payload) <= 3 else None
    return {frames.OK: 0, frames.RAISED: 1, frames.MEMORY: 1, frames.COMPILE: 1}.get(frame.status)


def _failure(frame: frames.Frame) -> Failure:
    text = safe_text(frame.payload.decode("utf-8", "replace"))
    return {
        frames.MEMORY: Failure(Verdict.MLE, text or "out of memory", -4),
        frames.EXITED: Failure(Verdict.RE, f"exit status {text}", -4),
        frames.COMPILE: Failure(Verdict.CE, text, -4),
        frames.TIMEOUT: Failure(Verdict.TLE, "time limit exceeded", -3),
        frames.TOO_LARGE: Failure(Verdict.OLE, "output limit exceeded", -2),
    }.get(frame.status, Failure(Verdict.RE, text, -4))


def _read(descriptor: int, start: int, end: int) -> bytes:
    data = bytearray()
    while len(data) < end - start:
        part = os.pread(descriptor, end - start - len(data), start + len(data))
        if not part:
            break
        data += part
    return bytes(data)


def _valid(data: bytes) -> bool:
    try:
        data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True
