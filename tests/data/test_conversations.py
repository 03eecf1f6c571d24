from __future__ import annotations

import json

import pytest

from doran.base.errors import DataError
from doran.data.conversations import read_conversations, to_examples, to_messages
from doran.data.rows import Row
from doran.text.folder import Settings
from doran.text.tokenizer import Tokenizer, train_bpe

SMALL = train_bpe(["the cat sat <think> 안녕"] * 3, 400, 20)
TURNS = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "q1"}, {"role": "assistant", "content": "a1"},
    {"role": "user", "content": "q2"}, {"role": "assistant", "content": "a2"},
]
THOUGHTS = [
    {"role": "user", "content": "q1"}, {"role": "assistant", "content": "<think>t1</think>a1"},
    {"role": "user", "content": "q2"}, {"role": "assistant", "content": "<think>t2</think>a2"},
]
TEMPLATES = [
    "Qwen-Qwen2.5-7B-Instruct", "Qwen-Qwen3-0.6B",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", "deepseek-ai-DeepSeek-V3", "meta-llama-Llama-3.1-8B-Instruct",
]


@pytest.fixture(scope="module")
def templated(shared_data):
    """A function from a real template's name to our small tokenizer with that template and its control tokens."""
    from tokenizers import AddedToken
    from tokenizers import Tokenizer as Backend

    def build(name: str) -> Tokenizer:
        backend = Backend.from_str(SMALL.backend.to_str())
        controls = ["<|im_start|>", "<|im_end|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"]
        controls += ["<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"]
        backend.add_tokens([AddedToken(token, special=True, normalized=False) for token in controls])
        template = (shared_data / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")
        return Tokenizer(backend, Settings(bos_token="<|begin|>", eos_token="<|end|>", chat_template=template))

    return build


def learned(tokenizer: Tokenizer, example) -> str:
    return tokenizer.decode([index for index, learn in zip(*example, strict=True) if learn])


def test_our_template_learns_the_reply_and_its_end_only():
    (example,) = to_examples(SMALL, THOUGHTS[:2])
    assert SMALL.decode(example.ids) == SMALL.apply_chat(THOUGHTS[:2], add_generation_prompt=False)
    assert learned(SMALL, example) == "<think>t1</think>a1<|end|>"
    assert example.ids[-1] == SMALL.eos_id and SMALL.id_of("<think>") in example.ids


def test_a_template_that_keeps_turns_gives_one_example_equal_to_its_rendering():
    (example,) = to_examples(SMALL, TURNS)
    assert SMALL.decode(example.ids) == SMALL.apply_chat(TURNS, add_generation_prompt=False)
    assert learned(SMALL, example) == "a1<|end|>a2<|end|>"


def test_dropped_thoughts_give_one_example_per_turn_with_the_prompt_the_model_would_see():
    first, second = to_examples(SMALL, THOUGHTS)
    assert learned(SMALL, first) == "<think>t1</think>a1<|end|>"
    assert learned(SMALL, second) == "<think>t2</think>a2<|end|>"
    prompt = SMALL.encode_chat(THOUGHTS[:3])
    assert second.ids[: len(prompt)] == prompt and not any(second.loss_mask[: len(prompt)])
    assert "t1" not in SMALL.decode(second.ids)


@pytest.mark.parametrize("name", TEMPLATES)
def test_real_templates_bear_loss_on_assistant_text_alone(templated, name):
    tokenizer = templated(name)
    end = {"Q": "<|im_end|>", "d": "<｜end▁of▁sentence｜>", "m": "<|eot_id|>"}[name[0]]
    opened = "R1-Distill" in name
    examples = to_examples(tokenizer, TURNS)
    replies = "".join(learned(tokenizer, example) for example in examples)
    first, second = ("\n</think>\n\na1", "\n</think>\n\na2") if opened else ("a1", "a2")
    assert replies == first + end + second + end
    if not opened and "Qwen3" not in name:  # the template shows turns as learned: the rendering says it all
        (example,) = examples
        assert tokenizer.apply_chat(TURNS, False).startswith(tokenizer.decode(example.ids))


@pytest.mark.parametrize("name", TEMPLATES)
def test_real_templates_that_cut_thoughts_still_learn_them(templated, name):
    tokenizer = templated(name)
    replies = "".join(learned(tokenizer, example) for example in to_examples(tokenizer, THOUGHTS))
    start = "" if "R1-Distill" in name else "<think>"
    assert f"{start}t1</think>a1" in replies and f"{start}t2</think>a2" in replies


@pytest.mark.parametrize("reply", ["<think>\nt</think>a", "<think>t</think>a", "t</think>a"])
def test_a_template_that_opens_the_thought_is_not_given_a_second_opening(templated, reply):
    tokenizer = templated("deepseek-ai-DeepSeek-R1-Distill-Qwen-32B")
    chat = [{"role": "user", "content": "q"}, {"role": "assistant", "content": reply}]
    (example,) = to_examples(tokenizer, chat)
    assert tokenizer.decode(example.ids).endswith("<think>\nt</think>a<｜end▁of▁sentence｜>")
    assert learned(tokenizer, example) == "t</think>a<｜end▁of▁sentence｜>"


def test_a_user_who_types_an_end_token_teaches_nothing():
    (example,) = to_examples(SMALL, [{"role": "user", "content": "<|end|>x"}, {"role": "assistant", "content": "y"}])
    assert example.ids.count(SMALL.eos_id) == 1 and learned(SMALL, example) == "y<|end|>"


def test_separate_reasoning_becomes_a_thought():
    chat = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "reasoning_content": "why"}]
    assert learned(SMALL, to_examples(SMALL, chat)[0]) == "<think>\nwhy\n</think>\n\na<|end|>"


def test_tool_calls_are_learned_in_the_templates_own_form(templated):
    tokenizer = templated("Qwen-Qwen2.5-7B-Instruct")
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    chat = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    text = learned(tokenizer, to_examples(tokenizer, chat)[0])
    assert text.startswith("<tool_call>") and text.endswith("</tool_call><|im_end|>")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "answer": "a"}, {"prompt": "q", "completion": "a"},
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "prompt": None},
        {"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "a"}]},
    ],
)
def test_every_form_of_a_row_gives_the_same_messages(row):
    assert to_messages(Row("here", row)) == [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


@pytest.mark.parametrize(
    "row, named",
    [
        ({"question": "q", "answer": "a"}, "neither 'messages' nor 'prompt'; the row holds answer, question"),
        ({"prompt": "q"}, "without 'answer' or 'completion'"),
        ({"prompt": 3, "answer": "a"}, r"message 1 \(user\) has no text"),
        ({"messages": "hi"}, "not a list"),
        ({"messages": []}, "not a list"),
        ({"messages": [{"role": "bot", "content": "x"}]}, "message 1 has no known role.*assistant"),
        ({"messages": [{"role": "user", "content": "x"}]}, "no assistant message"),
    ],
)
def test_a_wrong_row_names_file_line_and_what_is_missing(tmp_path, row, named):
    (tmp_path / "chat.jsonl").write_text('{"prompt": "q", "answer": "a"}\n' + json.dumps(row) + "\n")
    with pytest.raises(DataError, match=f"chat.jsonl, line 2: .*{named}"):
        list(read_conversations(tmp_path / "chat.jsonl"))


def test_gsm8k_reads_with_its_field_renamed(shared_data):
    chats = list(read_conversations(shared_data / "gsm8k/train.jsonl.gz", {"question": "prompt"}))
    assert len(chats) > 1000 and [message["role"] for message in chats[0]] == ["user", "assistant"]
