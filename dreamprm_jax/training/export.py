"""``dreamprm export``: one trained arm as a Hugging Face folder, adapters merged, tokenizer beside it."""

from __future__ import annotations

from pathlib import Path

from dreamprm_jax.models.hf_export import TRAINED_SEPARATOR, export_model
from dreamprm_jax.models.pretrained import model_config, weights_folder
from dreamprm_jax.models.tokenizer import prompt_text, record_splitting, splits_special_tokens
from dreamprm_jax.runs.trained import TrainedArm
from dreamprm_jax.schema import DataError, Problem
from dreamprm_jax.storage import write_json, write_text
from dreamprm_jax.training.mesh import make_mesh
from dreamprm_jax.training.parameters import frozen_params, trained_params

CARD = "dreamprm.json"
_BLANK = Problem("", "{title}", "{statement}", "{platform}", "", "", "")
_CARD_TEXT = """\
---
library_name: transformers
pipeline_tag: token-classification
tags: [process-reward-model, code]
---

# {name}: a process reward model for code

Exported by dreamprm_jax from the arm `{name}` of the run {run}. It reads a problem and a Python program, and says
after each step how likely a correct program still is: the sigmoid of the one label's logit at the step's last token.

- A step is a **{granularity}** (`dreamprm_jax.cof.splitter`); the steps of a program make it up, byte for byte.
- The prompt is `PROMPT`; a field that a problem does not have is empty. Without it the scores are wrong.
- Prompt and steps are tokenized apart, without special tokens, and joined; at most {length} tokens.

With dreamprm_jax (`FOLDER` is this folder): `dp.load_prm(FOLDER).score({{"statement": statement}}, code)`, or

    dreamprm serve --prm=FOLDER

With transformers alone:

```python
import torch, transformers
folder, title, statement, platform = ".", "", "Print twice the number.", ""
steps = ["def read():\\n    return int(input())\\n", "\\nprint(2 * read())\\n"]
model = transformers.AutoModelForTokenClassification.from_pretrained(folder).eval()
tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
pieces = [f"PROMPT", *steps]
ids = [tokenizer(piece, add_special_tokens=False).input_ids for piece in pieces]
ends = torch.tensor([len(one) for one in ids]).cumsum(0)[1:] - 1
with torch.no_grad():
    scores = model(torch.tensor([sum(ids, [])])).logits[0, ends, 0].sigmoid()
```
"""


def export(arm: TrainedArm, output: Path) -> Path:
    """Writes the model of an arm's last checkpoint to ``output``.

    Raises:
      DataError: if the folder holds anything already.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise DataError(f"--output={output}: exists and is not an empty folder; name a new one, nothing is overwritten")
    config = arm.config
    model, mesh = model_config(config.model), make_mesh(config.train.mesh)
    _, params = trained_params(model, mesh, arm.checkpoints, frozen_params(config, model, mesh))
    # Pretrained weights come with the whole tokenizer folder: its special tokens and chat template go along.
    tokenizer = weights_folder(config.model.weights) if config.model.weights else arm.tokenizer
    extra = {TRAINED_SEPARATOR: config.train.step_data.separator} if config.train.step_data.path else {}
    export_model(model, params, output, tokenizer, extra=extra)
    if splits_special_tokens(arm.tokenizer):
        record_splitting(output / arm.tokenizer.name)
    granularity = config.label.granularity
    write_json(output / CARD, {"granularity": granularity, "max_length": config.model.max_length})
    text = _CARD_TEXT.format(
        name=arm.name, granularity=granularity, length=config.model.max_length, run=arm.fingerprint
    )
    write_text(output / "README.md", text.replace("PROMPT", repr(prompt_text(_BLANK))[1:-1]))
    return output
