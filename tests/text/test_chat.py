from __future__ import annotations

from datetime import datetime

import pytest
from transformers import PreTrainedTokenizerFast

from doran.base.errors import ConfigError
from doran.text.chat import render

NAMES = [
    "HuggingFaceTB-SmolLM3-3B", "Qwen-Qwen2.5-7B-Instruct", "Qwen-Qwen3-0.6B",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", "deepseek-ai-DeepSeek-V3",
    "meta-llama-Llama-3.1-8B-Instruct", "meta-llama-Llama-3.2-3B-Instruct", "openai-gpt-oss-120b",
]
TOKENS = {"bos_token": "<|begin|>", "eos_token": "<|end|>"}
TOOL = {
    "type": "function",
    "function": {
        "name": "add", "description": "두 수를 더한다 <b>",
        "parameters": {"type": "object", "properties": {"a": {"type": "number", "description": "왼쪽"}}},
    },
}
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
TEXT_CALL = {"type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}  # DeepSeek wants text
CHATS = {
    "plain": [{"role": "user", "content": "Hi"}],
    "turns": [
        {"role": "system", "content": "Be <brief> & kind."}, {"role": "user", "content": "안녕?"},
        {"role": "assistant", "content": "<think>\n음\n</think>\n\n네"}, {"role": "user", "content": "q2 "},
    ],
    "answered": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "<think>a</think>b"}],
    "tools": [
        {"role": "user", "content": "1?"}, {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "2"}, {"role": "assistant", "content": "Two."}, {"role": "user", "content": "ok"},
    ],
    "text calls": [
        {"role": "user", "content": "1?"}, {"role": "assistant", "content": None, "tool_calls": [TEXT_CALL]},
        {"role": "tool", "content": "2"}, {"role": "assistant", "content": "Two."},
    ],
    "separate thought": [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a", "reasoning_content": "why", "thinking": "why"},
    ],
}


@pytest.fixture(scope="module")
def theirs(small):
    return PreTrainedTokenizerFast(tokenizer_object=small.backend, **TOKENS)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("tools", [None, [TOOL]], ids=["no tools", "tools"])
@pytest.mark.parametrize("prompt", [True, False], ids=["prompt", "no prompt"])
def test_renders_as_transformers_does(shared_data, theirs, name, chat, tools, prompt):
    path = shared_data / "chat_templates" / f"{name}.jinja"
    if not path.exists():
        pytest.skip("the shared chat templates are not here")
    template, messages = path.read_text(encoding="utf-8"), CHATS[chat]
    given = {"messages": messages, "tools": tools, "add_generation_prompt": prompt}
    try:
        want = theirs.apply_chat_template(
            messages, tools=tools, chat_template=template, add_generation_prompt=prompt, tokenize=False
        )
    except Exception:  # a template that wants arguments as text, say: both must refuse
        if chat == "text calls" and "deepseek" in name:  # but the template handles this, transformers spoils it
            assert "add\n```json\n{\"a\": 1}\n```" in render(template, **given, **TOKENS)
            return
        with pytest.raises(ConfigError, match="refused"):
            render(template, **given, **TOKENS)
    else:
        assert render(template, **given, **TOKENS) == want


def test_extra_variables_reach_the_template(shared_data, theirs):
    path = shared_data / "chat_templates/Qwen-Qwen3-0.6B.jinja"
    if not path.exists():
        pytest.skip("the shared chat templates are not here")
    text = render(path.read_text(encoding="utf-8"), CHATS["plain"], enable_thinking=False)
    assert text.endswith("<think>\n\n</think>\n\n")


def test_filters_loops_and_blocks_that_templates_use():
    template = "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m | tojson }}{% endfor %}"
    assert render(template, [{"a": "가<"}, {"a": 2}]) == '{"a": "가<"}'
    assert render("{% generation %}{{ messages[0].a }}{% endgeneration %}", [{"a": "x"}]) == "x"
    assert render("{{ strftime_now('%d %b %Y') }}", [], now=lambda: datetime(2026, 11, 5)) == "05 Nov 2026"
    assert render("  {% if true %}\nx\n  {% endif %}\ny", []) == "x\ny"


@pytest.mark.parametrize(
    "template, named",
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{% for %}", "line 1"),
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe|not safely"),
        ("{{ messages[0]['content'] + 1 }}", "refused"),
        ("{% for i in range(10**9) %}{% endfor %}", "refused"),
    ],
)
def test_a_bad_or_hostile_template_is_a_config_error_that_names_it(template, named):
    with pytest.raises(ConfigError, match=named):
        render(template, [{"role": "user", "content": "x"}])
