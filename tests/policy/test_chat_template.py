"""Chat templates: ChatML, Jinja files, tokenizer folders, and templates that misbehave."""

from __future__ import annotations

import json

import pytest

from dreamprm_jax.cof.prompts import Message
from dreamprm_jax.policy.chat_template import load_chat_template
from dreamprm_jax.schema import DataError

CHAT = [Message(role="system", content="Be brief."), Message(role="user", content="Hi {{ x }}")]
TURNS = """{{ bos_token }}{% for message in messages %}
    {%- if message.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}
[{{ message.role }}]{{ message.content | trim }}{{ eos_token }}
{% endfor %}
{% if add_generation_prompt %}
[assistant]{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}
{% endif %}"""
RENDERED = "[system]Be brief.</s>\n[user]Hi {{ x }}</s>\n[assistant]<think></think>"


def test_chatml_is_the_default():
    text = load_chat_template("").render(CHAT)
    assert (
        text
        == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi {{ x }}<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_tokenizers_folder_in_each_of_its_layouts(tmp_path):
    tokens = {"bos_token": {"content": "<s>", "lstrip": False}, "eos_token": "</s>"}
    settings = tmp_path / "tokenizer_config.json"
    for template in (TURNS, [{"name": "rag", "template": "x"}, {"name": "default", "template": TURNS}]):
        settings.write_text(json.dumps({**tokens, "chat_template": template}))
        assert load_chat_template(str(tmp_path)).render(CHAT) == RENDERED  # the server adds <s> itself
    settings.write_text(json.dumps(tokens))
    (tmp_path / "chat_template.jinja").write_text(TURNS)
    assert load_chat_template(str(tmp_path)).render(CHAT) == RENDERED


def test_a_jinja_file(tmp_path):
    path = tmp_path / "t.jinja"
    path.write_text(
        "{% for m in messages %}{{ m.content | tojson }}{% if loop.last %}{% break %}{% endif %}{% endfor %}"
    )
    template = load_chat_template(str(path))
    assert template.render(CHAT) == '"Be brief.""Hi {{ x }}"'
    assert template.identity != load_chat_template("").identity


LOOP = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
BOTH = "<system>Be brief.<user>Hi {{ x }}"
PARTS = "{% for m in messages %}<{{ m.role }}>{% for part in m.content %}{{ part.text }}{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    ("source", "rendered"),
    [
        (LOOP.replace("{{ m.content }}", "{% generation %}{{ m.content }}{% endgeneration %}"), BOTH),
        (PARTS, BOTH),
        ("{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + LOOP,
         "<user>Be brief.\n\nHi {{ x }}"),
        ("{% for m in messages if m.role != 'system' %}<{{ m.role }}>{{ m.content }}{% endfor %}",
         "<user>Be brief.\n\nHi {{ x }}"),
        ("{% set messages = messages | rejectattr('role', 'equalto', 'system') | list %}" + PARTS,
         "<user>Be brief.\n\nHi {{ x }}"),
        (LOOP + "A:<think>\n", BOTH + "A:<think>\n\n</think>\n\n"),
        (LOOP + "A:[THINK]", BOTH + "A:[THINK]\n\n[/THINK]\n\n"),
        (LOOP + "<|START_THINKING|>", BOTH + "<|START_THINKING|>\n\n<|END_THINKING|>\n\n"),
        (LOOP + "<|begin_of_thought|>", BOTH + "<|begin_of_thought|>\n\n<|end_of_thought|>\n\n"),
        (LOOP + "<seed:think>", BOTH + "<seed:think>\n\n</seed:think>\n\n"),
        (LOOP + "<think>\n\n</think>\n\n", BOTH + "<think>\n\n</think>\n"),
        (LOOP + "<scratchpad>\n", BOTH + "<scratchpad>\n\n</scratchpad>\n\n"),
        (LOOP + "<|inner_prefix|>", BOTH + "<|inner_prefix|>\n\n<|inner_suffix|>\n\n"),
        (LOOP + "◁think▷", BOTH + "◁think▷\n\n◁/think▷\n\n"),
        (LOOP + "A:<|assistant|>", BOTH + "A:<|assistant|>"),
        (LOOP + "[plan]", BOTH + "[plan]"),
        (LOOP + "<|channel|>analysis<|message|>",
         BOTH + "<|channel|>analysis<|message|><|end|><|start|>assistant<|channel|>final<|message|>"),
        (LOOP + "<|channel|>final<|message|>", BOTH + "<|channel|>final<|message|>"),
        (LOOP + "<|start|>assistant", BOTH + "<|start|>assistant<|channel|>final<|message|>"),
    ],
)  # fmt: skip
def test_kinds_of_templates(tmp_path, source, rendered):
    path = tmp_path / "t.jinja"
    path.write_text(source)
    assert load_chat_template(str(path)).render(CHAT) == rendered


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ messages | length }}", "omits the content of the messages"),
        ("{% for %}", "TemplateSyntaxError"),
        ("{{ raise_exception('only one system turn') }}", "only one system turn"),
        ("{{ messages.__class__.__mro__ }}", "SecurityError"),
        ("{{ messages.append(1) }}", "SecurityError"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "RecursionError"),
    ],
)
def test_templates_that_fail_or_reach_out_are_refused(tmp_path, source, message):
    path = tmp_path / "t.jinja"
    path.write_text(source)
    with pytest.raises(DataError, match=message):
        load_chat_template(str(path)).render(CHAT)


def test_places_without_a_template(tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        load_chat_template(str(tmp_path / "none"))
    with pytest.raises(DataError, match=r"neither chat_template\.jinja"):
        load_chat_template(str(tmp_path))
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(DataError, match="not valid JSON"):
        load_chat_template(str(tmp_path))
