"""Compares public reward models of every form with transformers, with the publishers' input format for each."""

import dataclasses
import json
from collections import Counter

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dreamprm_jax.models.tokenizer import prompt_text, train_tokenizer
from dreamprm_jax.schema import DataError, Problem, Program
from dreamprm_jax.scoring.forms import FORMS, FormOptions
from dreamprm_jax.scoring.prm import PrmOptions, load_prm
from dreamprm_jax.scoring.scorer import Reading, Scorer
from dreamprm_jax.selection.aggregators import sigmoid

torch = pytest.importorskip("torch", reason="the comparison needs torch")
transformers = pytest.importorskip("transformers")

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TRIMMED = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}\n\n{{ m.content | trim }}<|im_end|>{% endfor %}"
)
PROBLEM = Problem("p", "Äpfel", "Add two numbers.\n\nInput: a and b.", "atcoder", "", "", "easy")
CODES = [
    "def add(a, b):\n    return a + b\n\n\ndef main():\n    print(add(1, 2))  # ки + -\n",
    "def main():\n    print('x')\n",
    "    x = 1\n",
]
SHAPE = {
    "vocab_size": 400, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 1024, "initializer_range": 0.3, "pad_token_id": 3,
    "sliding_window": None,
}  # fmt: skip


def make_tokenizer(folder, template=CHAT, bos=True):
    text = prompt_text(PROBLEM) + "".join(CODES)
    base = train_tokenizer([text] * 3, 380)
    special = {"bos_token": "<s>"} if bos else {}
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=base, pad_token="<|pad|>", extra_special_tokens=["<|im_start|>", "<|im_end|>", "<extra_0>"],
        chat_template=template, **special,
    )  # fmt: skip
    tokenizer.save_pretrained(folder)
    return transformers.AutoTokenizer.from_pretrained(folder)


def make_model(folder, kind, task, **changes):
    torch.manual_seed(5)
    config = transformers.AutoConfig.for_model(kind, **(SHAPE | changes))
    model = getattr(transformers, f"AutoModelFor{task}").from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder)
    return model


def add_tensors(folder, tensors, remove=(), **changes):
    """Changes a saved folder's tensors and config.json."""
    path = folder / "model.safetensors"
    kept = {name: value for name, value in load_file(path).items() if name not in remove}
    save_file(kept | {name: value.detach().numpy().copy() for name, value in tensors.items()}, path)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | changes))


def ours(folder, code, dtype=None, granularity=None, **options):
    prm = load_prm(folder, PrmOptions(form=FormOptions(**options), dtype=dtype, granularity=granularity))
    program = Program.make("p", code, 0, "", {})
    [(_, tokens, ends)] = prm.read(PROBLEM, [program], Counter())
    scorer = Scorer(prm.model, prm.mesh, prm.params, 1024, 1024)
    [logits] = scorer.logits([Reading(tokens, ends)])
    assert len(logits) == len(prm.steps(code))
    return tokens, logits, [code[s.start : s.end].rstrip() for s in prm.steps(code)]


def hidden(model, ids):
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0]


def check(tokens, logits, ids, expected):
    np.testing.assert_array_equal(tokens, ids)
    np.testing.assert_allclose(sigmoid(logits), np.asarray(expected), atol=1e-4)
    assert np.std(expected) > 1e-3 or len(expected) == 1


PROMPT = prompt_text(PROBLEM).strip()


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "llama", "mistral"])
def test_trl_token_classifier(kind, code, tmp_path):
    model = make_model(tmp_path, kind, "TokenClassification", num_labels=2)
    tokenizer = make_tokenizer(tmp_path)
    tokens, logits, steps = ours(tmp_path, code)
    ids, ends = [tokenizer.bos_token_id, *tokenizer(PROMPT, add_special_tokens=False).input_ids], []
    for step in steps:
        ids += tokenizer(step, add_special_tokens=False).input_ids
        ids += tokenizer("\n", add_special_tokens=False).input_ids
        ends.append(len(ids) - 1)
    with torch.no_grad():
        expected = model(input_ids=torch.tensor([ids])).logits[0].softmax(-1)[ends, 1].numpy()
    check(tokens, logits, ids, expected)


@pytest.mark.parametrize(
    ("kind", "template", "bias"),
    [("llama", CHAT, 0.0), ("llama", None, 0.0), ("mistral", TRIMMED, 0.0), ("qwen2", CHAT, 0.7)],
)
def test_one_label_sequence_classifier(kind, template, bias, tmp_path):
    model = make_model(tmp_path, kind, "SequenceClassification", num_labels=1)
    if bias:  # the head of transformers has no bias
        add_tensors(tmp_path, {"score.bias": torch.tensor([bias])})
    tokenizer = make_tokenizer(tmp_path, template)
    tokens, logits, _ = ours(tmp_path, CODES[0])
    messages = [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": CODES[0].rstrip()}]
    text = tokenizer.apply_chat_template(messages, tokenize=False) if template else f"<s>{PROMPT}\n{CODES[0].rstrip()}"
    ids = tokenizer(text, add_special_tokens=False).input_ids
    with torch.no_grad():
        expected = model(input_ids=torch.tensor([ids])).logits[0].numpy() + bias
    np.testing.assert_array_equal(tokens, ids)
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_sequence_classifier_is_read_before_padding_tokens(tmp_path):
    tokenizer = make_tokenizer(tmp_path)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    model = make_model(tmp_path, "llama", "SequenceClassification", num_labels=1, pad_token_id=end)
    template = CHAT.replace("<|im_end|>\n", "<|im_end|>")
    tokenizer.chat_template = template
    tokenizer.save_pretrained(tmp_path)
    tokens, logits, _ = ours(tmp_path, CODES[0])
    assert tokens[-1] == end
    with torch.no_grad():
        expected = model(input_ids=torch.tensor([tokens.tolist()])).logits[0].numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-4)


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("labels", [1, 2])
def test_qwen_heads_of_two_layers(labels, code, tmp_path):
    model = make_model(tmp_path, "qwen2", "CausalLM")
    tokenizer = make_tokenizer(tmp_path)
    head = torch.nn.Sequential(torch.nn.Linear(32, 32), torch.nn.ReLU(), torch.nn.Linear(32, labels))
    tensors = {f"score.{name}": value for name, value in head.state_dict().items()}
    name = "Qwen2ForProcessRewardModel" if labels == 2 else "Qwen2ForRewardModel"
    numbers = {str(n): f"LABEL_{n}" for n in range(labels)}
    remote = {"AutoModel": f"modeling_qwen2_rm.{name}", "AutoConfig": "configuration_qwen2_rm.Qwen2RMConfig"}
    add_tensors(tmp_path, tensors, architectures=[name], id2label=numbers, auto_map=remote)
    tokens, logits, steps = ours(tmp_path, code)
    answer = "<extra_0>".join(steps) + "<extra_0>" if labels == 2 else code.rstrip()
    messages = [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": answer}]
    ids = tokenizer.encode(tokenizer.apply_chat_template(messages, tokenize=False))
    with torch.no_grad():
        values = head(hidden(model, ids))
    if labels == 2:
        places = np.asarray(ids) == tokenizer.convert_tokens_to_ids("<extra_0>")
        expected = values.softmax(-1)[places, 1].numpy()
    else:
        expected = values[-1].sigmoid().numpy()
    check(tokens, logits, ids, expected)


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("beside", [False, True])
def test_skywork_value_head(code, beside, tmp_path):
    model = make_model(tmp_path, "qwen2", "CausalLM")
    tokenizer = make_tokenizer(tmp_path)
    head = torch.nn.Linear(32, 1)
    tensors = {f"v_head.summary.{name}": value for name, value in head.state_dict().items()}
    if beside:  # as saved by LLaMA-Factory
        save_file({name: value.numpy().copy() for name, value in tensors.items()}, tmp_path / "value_head.safetensors")
    else:
        add_tensors(tmp_path, tensors)
    tokens, logits, steps = ours(tmp_path, code)
    ids, ends = tokenizer.encode(tokenizer.bos_token + PROMPT + "\n"), []
    for step in steps:
        ids += [*tokenizer.encode(step), tokenizer.encode("\n")[-1]]
        ends.append(len(ids) - 1)
    with torch.no_grad():
        expected = head(hidden(model, ids))[ends, 0].sigmoid().numpy()
    check(tokens, logits, ids, expected)


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize(("kind", "tied"), [("llama", False), ("qwen3", True)])
def test_rlhflow_next_token(kind, tied, code, tmp_path):
    model = make_model(tmp_path, kind, "CausalLM", tie_word_embeddings=tied)
    tokenizer = make_tokenizer(tmp_path, TRIMMED)
    tokens, logits, steps = ours(tmp_path, code, form="rlhflow")
    plus, minus = (tokenizer.encode(label, add_special_tokens=False)[-1] for label in "+-")
    conversation, expected = [], []
    for number, step in enumerate(steps):
        conversation.append({"role": "user", "content": step if number else PROMPT + " " + step})
        conversation.append({"role": "assistant", "content": "+"})
        text = tokenizer.apply_chat_template(conversation, tokenize=False)
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert (ids[-2], ids[-1]) == (plus, tokenizer.convert_tokens_to_ids("<|im_end|>"))
        with torch.no_grad():
            values = model(input_ids=torch.tensor([ids])).logits[0, -3, [plus, minus]]
        expected.append(float(values.softmax(-1)[0]))
    check(tokens, logits, ids, expected)


def test_math_shepherd_next_token(tmp_path):
    model = make_model(tmp_path, "mistral", "CausalLM", sliding_window=512)
    tokenizer = make_tokenizer(tmp_path)
    tokens, logits, steps = ours(tmp_path, CODES[0].replace("ки", ""), form="math-shepherd")
    text = f"<s>{PROMPT} " + "\n".join(f"{step} ки" for step in steps)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ends = [n for n, (start, _) in enumerate(encoded.offset_mapping) if text[start - 2 : start + 1] == " ки"]
    plus, minus = (tokenizer.encode(label, add_special_tokens=False)[-1] for label in "+-")
    with torch.no_grad():
        values = model(input_ids=torch.tensor([encoded.input_ids])).logits[0][:, [plus, minus]]
    if len(ends) != len(steps):  # the tokenizer has "ки" as one token
        ends = [n for n, (_, end) in enumerate(encoded.offset_mapping) if text[end - 2 : end] == "ки"]
    check(tokens, logits, encoded.input_ids, values.softmax(-1)[ends, 0].numpy())


# ---------------------------------------------------------------- options and errors


def test_control_tokens_in_programs_are_text(tmp_path):
    make_model(tmp_path, "llama", "SequenceClassification", num_labels=1)
    tokenizer = make_tokenizer(tmp_path)
    tokens, _, _ = ours(tmp_path, "x = '<|im_end|>'  # <s> <extra_0>\n")
    assert (tokens == tokenizer.convert_tokens_to_ids("<|im_end|>")).sum() == 2  # from the template
    assert (tokens == tokenizer.bos_token_id).sum() == 0
    assert "<|im_end|>'  # <s> <extra_0>" in tokenizer.decode(tokens)


def test_statement_is_cut_inside_the_template(tmp_path):
    make_model(tmp_path, "llama", "SequenceClassification", num_labels=1)
    make_tokenizer(tmp_path)
    program = Program.make("p", CODES[0], 0, "", {})
    whole = load_prm(tmp_path, PrmOptions()).read(PROBLEM, [program], Counter())[0][1]
    prm, counts = load_prm(tmp_path, PrmOptions(max_length=len(whole) - 7)), Counter()
    [(_, tokens, ends)] = prm.read(PROBLEM, [program], counts)
    assert len(tokens) == len(whole) - 7
    assert tokens[:3].tolist() == whole[:3].tolist()
    assert ends.tolist() == [len(tokens) - 1]
    assert counts["statements truncated on the left"] == 1
    long = dataclasses.replace(PrmOptions(), max_length=20)
    assert load_prm(tmp_path, long).read(PROBLEM, [program], counts) == []


def test_labels_and_separator_are_options(tmp_path):
    names = {"0": "good", "1": "bad"}
    make_model(tmp_path, "qwen2", "TokenClassification", num_labels=2, id2label=names)
    tokenizer = make_tokenizer(tmp_path)
    _, logits, _ = ours(tmp_path, CODES[0])
    _, swapped, _ = ours(tmp_path, CODES[0], labels=("bad", "0"))
    np.testing.assert_allclose(logits, -swapped, atol=1e-5)
    tokens, _, steps = ours(tmp_path, CODES[0], form="trl", separator="<extra_0>")
    assert (tokens == tokenizer.convert_tokens_to_ids("<extra_0>")).sum() == len(steps) == 2


@pytest.mark.parametrize(
    ("task", "changes", "options", "message"),
    [
        ("CausalLM", {}, {}, r"has no reward head .*--form=rlhflow .* or --form=math-shepherd"),
        ("TokenClassification", {"num_labels": 3}, {}, r"'score\.weight' has 3 labels .*--labels=POSITIVE,NEGATIVE"),
        ("TokenClassification", {"num_labels": 2}, {"labels": ("a", "b")}, r"--labels: 'a' is none of the labels"),
        ("TokenClassification", {"num_labels": 2}, {"form": "best"}, r"--form=best: choose from native, trl"),
        ("CausalLM", {}, {"form": "trl"}, r"has no reward head"),
        ("CausalLM", {}, {"form": "rlhflow", "labels": ("def add", "-")}, r"--labels: 'def add' is \d tokens"),
        ("CausalLM", {"rope_scaling": {"rope_type": "longrope"}}, {}, r"rope type 'longrope'; supported are default"),
        ("CausalLM", {"quantization_config": {"quant_method": "fp8"}}, {}, r"weights are quantized \(fp8\)"),
        ("CausalLM", {"model_type": "gemma2"}, {}, r"field 'model_type' is 'gemma2'; supported are qwen2, .*mistral"),
        ("CausalLM", {"partial_rotary_factor": 0.5}, {}, r"field 'partial_rotary_factor' is not 1"),
    ],
)
def test_what_is_not_supported_is_named(task, changes, options, message, tmp_path):
    labels = {name: value for name, value in changes.items() if name == "num_labels"}
    changes = {name: value for name, value in changes.items() if name != "num_labels"}
    make_model(tmp_path, "llama", task, **labels)
    make_tokenizer(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    if "rope_scaling" in changes:
        values.pop("rope_parameters", None)
    (tmp_path / "config.json").write_text(json.dumps(values | changes))
    with pytest.raises(DataError, match=message):
        ours(tmp_path, CODES[0], **options)


def test_tensors_that_are_no_known_head_are_named(tmp_path):
    make_model(tmp_path, "llama", "SequenceClassification", num_labels=1)
    make_tokenizer(tmp_path)
    add_tensors(tmp_path, {"regression_layer.weight": torch.zeros(2, 32)})
    with pytest.raises(DataError, match=r"tensor 'regression_layer\.weight' .*nor in a reward head that is known"):
        load_prm(tmp_path, PrmOptions())
    from safetensors.torch import load_file as load_torch
    from safetensors.torch import save_file as save_torch

    tensors = load_torch(tmp_path / "model.safetensors")
    tensors.pop("regression_layer.weight")
    tensors["model.norm.weight"] = tensors["model.norm.weight"].to(torch.float8_e4m3fn)
    save_torch(tensors, tmp_path / "model.safetensors")
    with pytest.raises(DataError, match=r"tensor 'model\.norm\.weight' is stored as F8_E4M3"):
        load_prm(tmp_path, PrmOptions())
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(DataError, match=r"adapter_model\.safetensors is a PEFT adapter; merge it"):
        load_prm(tmp_path, PrmOptions())


def test_bfloat16_scoring_keeps_bfloat16_parameters(tmp_path):
    make_model(tmp_path, "llama", "SequenceClassification", num_labels=1)
    make_tokenizer(tmp_path)
    prm = load_prm(tmp_path, PrmOptions(dtype="bfloat16"))
    assert prm.params["decoder"]["layers"]["q"]["kernel"].dtype.name == "bfloat16"
    _, narrow, _ = ours(tmp_path, CODES[0], dtype="bfloat16")
    np.testing.assert_allclose(narrow, ours(tmp_path, CODES[0])[1], atol=0.3)


def test_every_form_can_be_named_at_the_command_line():
    from dreamprm_jax.cli.score import FORMS as NAMES

    assert tuple(FORMS) == NAMES


# ---------------------------------------------------------------- the commands


def test_requests_to_a_chat_model(tmp_path):
    import base64

    from dreamprm_jax.scoring.protocol import parse_steps, steps_response
    from dreamprm_jax.scoring.vllm_protocol import parse, response

    make_model(tmp_path, "llama", "SequenceClassification", num_labels=1)
    tokenizer = make_tokenizer(tmp_path)
    prm = load_prm(tmp_path, PrmOptions())
    scorer = Scorer(prm.model, prm.mesh, prm.params, 1024, 1024)
    chat = [{"role": "system", "content": "Judge."}, {"role": "user", "content": "Add."}]
    answer = {"role": "assistant", "content": CODES[0].rstrip()}
    parts = [{"role": m["role"], "content": [{"type": "text", "text": m["content"]}]} for m in (*chat, answer)]
    request = parse("pooling", {"messages": parts, "encoding_format": "base64", "embed_dtype": "float16"}, prm)
    text = tokenizer.apply_chat_template([*chat, answer], tokenize=False)
    assert request.readings[0].tokens.tolist() == tokenizer(text, add_special_tokens=False).input_ids
    [entry] = response(request, scorer.logits(request.readings), prm)["data"]
    assert len(np.frombuffer(base64.b64decode(entry["data"]), "<f2")) == 1
    with pytest.raises(DataError, match=r"messages\[0\]: must have a role and a content of text"):
        parse("pooling", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}, answer]}, prm)
    with pytest.raises(DataError, match=r"embed_dtype: 'fp8'"):
        parse("pooling", {"messages": [*chat, answer], "embed_dtype": "fp8"}, prm)

    body = {"problem": {"title": "t", "statement": "s", "platform": "p"}, "codes": CODES}
    steps = parse_steps(body, prm)
    results = steps_response(steps, scorer.logits(steps.readings), prm)["results"]
    assert [[(s["start"], s["end"]) for s in one["steps"]] for one in results] == [[(0, len(code))] for code in CODES]


def test_score_command_with_a_public_model(tmp_path, capsys):
    import pyarrow.parquet as pq

    from dreamprm_jax.cli.main import main

    (tmp_path / "prm").mkdir()
    make_model(tmp_path / "prm", "mistral", "CausalLM")
    make_tokenizer(tmp_path / "prm", TRIMMED)
    rows = [{"problem_id": "p", "title": "t", "statement": PROBLEM.statement, "code": code} for code in CODES]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["score", f"--prm={tmp_path / 'prm'}", f"--candidates={tmp_path / 'c.jsonl'}"]
    command.append(f"--output={tmp_path / 'scores.parquet'}")
    assert main(command) == 2
    assert "--form=rlhflow" in capsys.readouterr().err
    assert main([*command, "--form=rlhflow", "--labels=+,-"]) == 0
    first = pq.read_table(tmp_path / "scores.parquet").to_pylist()
    assert [len(row["step_scores"]) for row in first] == [2, 1, 1]
    assert "rlhflow" in first[0]["checkpoint"]
    assert main([*command, "--form=rlhflow", "--labels=-,+"]) == 2  # --output belongs to another job
    assert "not this job's result" in capsys.readouterr().err
