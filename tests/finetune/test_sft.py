import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from congling.artifact import Stage
from congling.evaluate.bits import count_bytes
from congling.finetune.config import SftConfig
from congling.finetune.data import PackedDialogues, load_dialogues, make_batch, pack
from congling.finetune.run import run
from congling.model.config import ModelConfig
from congling.model.folder import load_model, save_model
from congling.model.loss import IGNORE
from congling.model.transformer import Transformer
from congling.reporter import Reporter
from congling.tokenizer.tokenizer import Tokenizer
from congling.tokenizer.vocabulary import Vocabulary

TOKENIZER = Tokenizer(Vocabulary("congling", ["你好", "再见", "什么"], [-1_000_000] * 3, [9] * 3))
ROW = 64


def talk(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]


def dialogues(tmp_path, talks):
    file = tmp_path / "talks.jsonl"
    file.write_text("".join(json.dumps({"conversations": messages}) + "\n" for messages in talks))
    return file


def load(tmp_path, talks, row_len=ROW, valid_share=0.2):
    return load_dialogues([dialogues(tmp_path, talks)], TOKENIZER, row_len, valid_share)


NAMES = [talk(f"你好{n}", f"再见{n}") for n in range(30)]


def test_loss_is_on_the_assistants_words_and_their_end(tmp_path):
    found = load(tmp_path, [talk("你好", "再见", "什么", "你好"), talk("什么", ""), *NAMES[:3]])
    assert found.silent == 1
    learned = []
    for examples in (found.train, found.valid):
        for n in range(len(examples)):
            batch = make_batch(examples, [[n]], ROW, TOKENIZER.pad_id)
            learned.append(batch.targets[batch.targets != IGNORE].tolist())
    end, hello, bye = TOKENIZER.im_end_id, TOKENIZER.encode("你好"), TOKENIZER.encode("再见")
    assert [*bye, end, *hello, end] in learned
    assert [*TOKENIZER.encode("再见0"), end] in learned


def test_bytes_are_those_of_the_learned_targets(tmp_path):
    examples = load(tmp_path, NAMES).train
    batch = make_batch(examples, [[0]], ROW, TOKENIZER.pad_id)
    answer = TOKENIZER.decode_bytes(batch.targets[batch.targets != IGNORE].tolist()[:-1])  # without the end marker
    assert count_bytes(batch, torch.from_numpy(TOKENIZER.token_bytes.astype(np.int64))) == len(answer)
    assert answer.decode().startswith("再见")
    learned = int((batch.targets != IGNORE).sum())
    assert count_bytes(batch, torch.full((TOKENIZER.vocab_size,), 3)) == 3 * learned  # though id 0 has bytes here


def test_long_dialogues_are_cut_between_messages(tmp_path):
    long = "什么" * ROW
    found = load(tmp_path, [talk("你好", "再见", "什么", long), talk("你好", long), *NAMES])
    assert (found.cut, found.too_long, found.silent) == (1, 1, 0)
    assert len(found.train) + len(found.valid) == 31
    every = [examples[n] for examples in (found.train, found.valid) for n in range(len(examples))]
    assert all(ids[learned].tolist().count(TOKENIZER.im_end_id) == 1 for ids, learned in every)
    assert max(len(ids) for ids, _ in every) <= ROW


def test_no_row_is_shared_by_attention_or_targets(tmp_path):
    examples = load(tmp_path, NAMES).train
    source = PackedDialogues(examples, ROW, 1, TOKENIZER.pad_id)
    batch = source.batch(0, source.num_rows, ROW)
    assert source.num_rows < len(examples)
    seen = []
    for ids, targets, numbers in zip(batch.ids, batch.targets, batch.documents, strict=True):
        for number in set(numbers.tolist()) - {-1}:
            inside = numbers == number
            seen.append(number)
            text, learned = examples[number]
            assert ids[inside].tolist() == text.tolist()
            expected = np.where(learned[1:], text[1:].astype(np.int64), IGNORE)
            assert targets[inside].tolist() == [*expected, IGNORE]
        assert (ids[numbers == -1] == TOKENIZER.pad_id).all()
        assert (targets[numbers == -1] == IGNORE).all()
    assert sorted(seen) == list(range(len(examples)))  # each once an epoch
    again = source.batch(source.num_rows * ROW, source.num_rows, ROW)
    assert sorted(map(tuple, again.ids.tolist())) == sorted(map(tuple, batch.ids.tolist()))


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=60), st.integers(1, 5))
def test_pack_loses_nothing_and_overfills_nothing(sizes, open_rows):
    rows = pack(np.array(sizes), range(len(sizes)), 20, open_rows)
    assert sorted(number for row in rows for number in row) == list(range(len(sizes)))
    assert all(0 < sum(sizes[number] for number in row) <= 20 for row in rows)


def test_held_out_dialogues_depend_on_their_text_alone(tmp_path):
    def texts(examples):
        return {tuple(examples[n][0].tolist()) for n in range(len(examples))}

    one, other = load(tmp_path, NAMES), load(tmp_path, NAMES[::-1] + NAMES[:5])
    assert texts(one.valid) == texts(other.valid)
    assert not texts(one.valid) & texts(one.train)
    assert len(load(tmp_path, NAMES[:2], valid_share=1e-9).valid) == 1  # never none, never all
    assert len(load(tmp_path, NAMES[:2], valid_share=1 - 1e-9).train) == 1


def test_nothing_to_learn_is_a_loud_error(tmp_path):
    silent = [[{"role": "user", "content": f"你好{n}"}] for n in range(5)]
    with pytest.raises(ValueError, match=r"talks.jsonl: 0 dialogues .* \(5 without assistant text, 0 whose"):
        load(tmp_path, silent)
    with pytest.raises(ValueError, match=r"30 whose first answer does not fit into 8 tokens"):
        load(tmp_path, NAMES, row_len=8)


def test_run_tunes_a_model(tmp_path):
    base, path = tmp_path / "pretrain", tmp_path / "sft"
    for folder in (base, path):
        folder.mkdir()
    TOKENIZER.save(base / "vocabulary.txt")
    architecture = ModelConfig(dim=16, num_layers=1, num_heads=2, head_dim=8, ffn_dim=32).resolve(TOKENIZER.vocab_size)
    save_model(base, Transformer(architecture, seed=1), base / "vocabulary.txt")
    config = SftConfig(
        input=(str(dialogues(tmp_path, NAMES)),),
        epochs=2.0,
        lengths=(ROW,),
        batch_tokens=ROW,
        micro_batch_tokens=ROW,
        warmup_steps=1,
        sample_tokens=3,
        sample_prompts=("你好",),
    )
    stage = Stage("sft", path, {"pretrain": base}, 1, "key", False)
    summary = run(stage, Reporter(quiet=True), config)
    assert summary["epochs"] == 2
    assert summary["dialogues"] + summary["held_out"] == 30
    assert summary["loss"] < np.log(TOKENIZER.vocab_size)
    assert load_model(path).architecture == architecture


def test_more_than_one_length_is_refused():
    with pytest.raises(ValidationError, match="one length, that of the packed rows"):
        SftConfig(lengths=(64, 128))
