from __future__ import annotations

import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from doran.base.errors import ArtifactError, ConfigError
from doran.text.tokenizer import SPECIALS, Tokenizer, train_bpe

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "3 + 4?"},
    {"role": "assistant", "content": "<think>easy</think>7"},
    {"role": "user", "content": "안녕?"},
]
TEXTS = ["3 + 4 = 7", "", " \n\n x", "<think>no</think> <|end|>", "고양이가 1234 번", "a\u0301 é ½ 🙂"]


def spelt(tokenizer: Tokenizer, text: str) -> list[str]:
    return [tokenizer.decode([index]) for index in tokenizer.encode(text)]


def test_an_equation_costs_five_tokens(small):
    assert spelt(small, "3 + 4 = 7") == ["3", " + ", "4", " = ", "7"]


@pytest.mark.parametrize("bound", [0, 9, 10, 57, 99, 100, 123, 345, 999])
def test_every_number_up_to_the_bound_is_one_token_whatever_the_texts(bound):
    tokenizer = train_bpe(["12 12 12 1212 abc"], 1400, bound)
    assert all(len(tokenizer.encode(str(value))) == 1 for value in range(bound + 1))
    if bound < 999:
        assert len(tokenizer.encode(str(max(bound + 1, 10)))) > 1


def test_a_number_has_one_spelling_in_every_context(small):
    for text in ("12", " 12 ", "x12y", "+12=", "(12)", "12\n"):
        assert small.id_of("12") in small.encode(text)


def test_training_is_deterministic_to_the_byte(small, tmp_path):
    texts = ["나는 학교에 간다. the end", "one two three"] * 5
    for name in ("a", "b"):
        train_bpe(iter(texts), 1300, 500).save(tmp_path / name)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_the_vocabulary_is_as_large_as_asked_or_as_the_texts_allow(small):
    assert train_bpe(["the cat sat on the mat"] * 4, 270, 0).vocab_size == 270
    assert small.vocab_size <= 1400
    assert [small.id_of(token) for token in SPECIALS] == list(range(7))
    assert (small.bos_id, small.eos_id, small.pad_id, small.stop_ids) == (0, 1, 2, (1,))


@pytest.mark.parametrize("size, bound, word", [(500, 999, "vocab_size"), (2000, 1000, "whole_numbers_up_to")])
def test_impossible_sizes_are_refused(size, bound, word):
    with pytest.raises(ConfigError, match=word):
        train_bpe(["x"], size, bound)


@given(st.text())
def test_encode_and_decode_are_inverse_and_never_forge_a_control_token(text):
    ids = FORGE.encode("<think>" + text + "<|end|>")
    assert FORGE.decode(ids) == "<think>" + text + "<|end|>"
    assert min(ids) >= len(SPECIALS)
    assert FORGE.encode_batch([text, "x"]) == [FORGE.encode(text), FORGE.encode("x")]


FORGE = train_bpe(["<think> </think> <|end|> think end"] * 9, 400, 9)


def test_trusted_text_may_hold_control_tokens(small):
    ids = small.encode("<|begin|><think>1</think>", specials=True)
    assert ids == [0, 5, small.id_of("1"), 6]
    assert small.decode(ids) == "<|begin|><think>1</think>"
    assert small.decode(ids, skip_special=True) == "<think>1</think>"


def test_our_chat_form(small):
    assert small.apply_chat(CHAT) == "<|begin|>Be brief.<|User|>3 + 4?<|Assistant|>7<|end|><|User|>안녕?<|Assistant|>"
    assert small.apply_chat(CHAT[:3], add_generation_prompt=False).endswith("<|Assistant|><think>easy</think>7<|end|>")
    with pytest.raises(ConfigError, match="narrator"):
        small.apply_chat([{"role": "narrator", "content": "x"}])


def test_a_user_cannot_type_control_tokens_into_a_chat(small, real):
    for tokenizer in (small, real("qwen2"), real("llama3")):
        stop = tokenizer.decode([tokenizer.eos_id])
        chat = [{"role": "user", "content": f"say {stop}<think> please"}]
        ids, text = tokenizer.encode_chat(chat), tokenizer.apply_chat(chat)
        assert tokenizer.decode(ids) == text
        clean = tokenizer.encode_chat([{"role": "user", "content": "say"}])
        assert ids.count(tokenizer.eos_id) == clean.count(tokenizer.eos_id)
        assert tokenizer.encode(text, specials=True).count(tokenizer.eos_id) == ids.count(tokenizer.eos_id) + 1


def test_a_chat_without_control_tokens_encodes_as_its_text(small, real):
    for tokenizer in (small, real("qwen2"), real("llama3"), real("deepseek")):
        assert tokenizer.encode_chat(CHAT) == tokenizer.encode(tokenizer.apply_chat(CHAT), specials=True)


@pytest.mark.parametrize("name", ["small", "qwen2", "llama3", "deepseek"])
def test_transformers_loads_what_we_save_with_equal_ids_and_chats(name, small, real, tmp_path):
    ours = small if name == "small" else real(name)
    ours.save(tmp_path)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    again = Tokenizer.load(tmp_path)
    for text in TEXTS:
        want = theirs(text, add_special_tokens=False)["input_ids"]
        assert ours.encode(text, specials=True) == again.encode(text, specials=True) == want
        assert ours.decode(want) == theirs.decode(want, clean_up_tokenization_spaces=False)
        assert ours.decode(want, skip_special=True) == theirs.decode(want, skip_special_tokens=True)
    for prompt in (True, False):
        want = theirs.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=prompt)
        assert ours.apply_chat(CHAT, prompt) == again.apply_chat(CHAT, prompt) == want
    assert (ours.bos_id, ours.eos_id, ours.pad_id) == (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id)


def test_stop_ids_come_from_the_generation_config(real):
    assert real("qwen2").stop_ids == (151645, 151643)
    assert set(real("llama3").stop_ids) == {128001, 128008, 128009}


def test_a_phi2_tokenizer_keeps_its_runs_of_blanks(shared_data):
    folder = shared_data / "tokenizers/phi-2"
    if not folder.is_dir():
        pytest.skip("the shared tokenizer files are not here")
    ours, theirs = Tokenizer.load(folder), AutoTokenizer.from_pretrained(folder)
    for text in ("def f():\n        return 1", "a    b"):
        assert ours.encode(text) == theirs(text)["input_ids"]


def test_bad_folders_are_named(tmp_path, small):
    with pytest.raises(ArtifactError, match="nowhere"):
        Tokenizer.load(tmp_path / "nowhere")
    with pytest.raises(ArtifactError, match="holds no tokenizer"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": ')
    with pytest.raises(ArtifactError, match="tokenizer.json"):
        Tokenizer.load(tmp_path)
    small.save(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config["eos_token"] = "<nope>"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="<nope>"):
        Tokenizer.load(tmp_path)


def test_vocab_and_merges_of_an_unknown_style_are_refused(tmp_path):
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "OddTokenizer"}')
    with pytest.raises(ConfigError, match="OddTokenizer"):
        Tokenizer.load(tmp_path)
