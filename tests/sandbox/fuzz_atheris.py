"""Coverage-guided fuzzing of what reads hostile bytes in the judge.

    fuzz_atheris.py {outputs,values,frames} --corpus FOLDER [--seconds N]

Needs atheris (``pip install atheris``), which has wheels for some interpreters and otherwise needs clang: it is in no
list of dependencies. Ends with status 0 after ``--seconds``, or with the failing input on the first broken property:

- outputs: the comparison agrees with a direct reading of the official evaluator's rules;
- values: a text matches an expected value only if it is that value's text;
- frames: any bytes give frames or a FrameError, whole or in two parts, and what was read packs to the same bytes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parent))

with atheris.instrument_imports(include=["dreamprm_jax.sandbox"]):
    from dreamprm_jax.sandbox import compare
    from dreamprm_jax.sandbox.inside import frames, values

import test_compare


def _halves(data: bytes) -> tuple[str, str]:
    """Splits data at the first zero byte into output and expected text, for the comparison of lines and tokens."""
    output, _, expected = data.decode("utf-8", "replace").partition("\0")
    return output, expected


def check_outputs(data: bytes) -> None:
    """Checks the comparison of standard outputs against the official rules."""
    output, expected = _halves(data)
    assert test_compare.ours(output, expected) is test_compare.official(output, expected), (output, expected)
    assert test_compare.ours(output, output) is True


def check_values(data: bytes) -> None:
    """Checks the comparison of a hostile text with an expected value."""
    encoded, text = _halves(data)
    try:
        expected = compare.expected_value(text)
    except ValueError:
        return
    right = values.canonical(expected, 1 << 62)
    same = encoded == right and "nan" not in text.lower()  # NaN does not equal itself
    if "nan" not in text.lower() or encoded != right:
        assert compare.value_matches(encoded, expected) is same, (encoded, expected)
    if "*" not in encoded:
        accepted = compare.value_matches(encoded, expected, wildcards=True)
        assert accepted is compare.value_matches(encoded, expected), (encoded, expected)


def check_frames(data: bytes) -> None:
    """Checks the parser of result frames."""
    try:
        found, used, _ = frames.parse(data)
    except frames.FrameError:
        return
    assert 0 <= used <= len(data)
    assert b"".join(map(frames.pack, found)) == data[:used]
    middle = len(data) // 2
    first, position, _ = frames.parse(data[:middle])
    rest, end, _ = frames.parse(data, position)
    assert (first + rest, end) == (found, used)


CHECKS = {"outputs": check_outputs, "values": check_values, "frames": check_frames}
SEEDS = {
    "outputs": [b"1 2\n3\x001.0 2e0\n3", b"YES\x00 YES\n", b"nan sNaN\x001 2", b"\xef\xbc\x911\n\x0011"],
    "values": [b'[1,"a",null]\x00[1.0, "a", null]', b'{"a":[*],"b":-2.5}\x00{"b": -2.5, "a": [3]}', b"1\x00true"],
    "frames": [
        frames.pack(frames.Frame(0, frames.OK, False, 7, b"[1]")),
        frames.pack(frames.Frame(0, frames.OK, False, 2, b""))
        + frames.pack(frames.Frame(1, frames.RAISED, True, 9, b"x")),
    ],
}


def main() -> None:
    """Parses the command line and runs the fuzzer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=CHECKS)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--corpus", type=Path, required=True, help="folder of inputs found: a later run goes on there")
    arguments = parser.parse_args()
    # There is no limit on resident memory, because the peak that libFuzzer reads includes the parent process.
    options = [f"-max_total_time={arguments.seconds}", "-max_len=4096", "-print_final_stats=1", "-rss_limit_mb=0"]
    arguments.corpus.mkdir(parents=True, exist_ok=True)
    for index, seed in enumerate(SEEDS[arguments.what]):
        (arguments.corpus / f"seed-{index}").write_bytes(seed)
    atheris.Setup([sys.argv[0], *options, str(arguments.corpus)], CHECKS[arguments.what])
    atheris.Fuzz()  # ends the process


if __name__ == "__main__":
    main()
