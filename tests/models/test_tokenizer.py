import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refimpl.models.tokenizer import BPE, Bytes, load, tokenizer

TEXT = b"the cat sat on the mat; the rat sat on the cat, the 12 bats 12 times\n" * 3
SMALL = BPE.train(TEXT, 280)


@given(st.one_of(st.binary(max_size=60), st.text(max_size=40), st.lists(st.sampled_from([b"the ", b"cat", b"12"]))))
def test_decoding_gives_back_every_text(text):
    text = b"".join(text) if isinstance(text, list) else text
    expected = text.encode() if isinstance(text, str) else text
    for each in (Bytes(), SMALL):
        tokens = each.encode(text)
        assert each.decode(tokens) == expected and tokens.dtype == np.int64
        assert each.lengths()[tokens].sum() == len(expected)


def test_training_merges_the_most_frequent_pair_first():
    found = BPE.train(b"aaabdaaabac", 259)  # aa, then the pair aa a or ab, ...
    assert found.merges[0] == (97, 97)
    assert found.pieces[257] in (b"aaa", b"ab") and found.pieces[257] == b"ab"  # a b and aa a both occur twice: a < aa
    assert found.pieces[258] == b"aaab"
    assert found.encode(b"aaab").tolist() == [258]


def test_merges_do_not_cross_words_and_stop_when_nothing_repeats():
    assert BPE.train(b"ab cd", 300).merges == []
    assert not any(b" " in piece[1:] for piece in SMALL.pieces)
    assert 256 < SMALL.size <= 280 and len(SMALL.encode(TEXT)) < 0.6 * len(TEXT)


def test_files_give_back_the_same_tokenizer(tmp_path):
    for each in (Bytes(), SMALL):
        each.save(tmp_path / "t.json")
        again = load(tmp_path / "t.json")
        assert type(again) is type(each) and again.pieces == each.pieces


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"format": "refimpl tokenizer 1", "kind": "bpe"}', '{"format": "refimpl tokenizer 1"}'],
)
def test_other_files_are_refused_by_name(tmp_path, content):
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(ValueError, match=r"bad\.json"):
        load(tmp_path / "bad.json")


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="size is 255, expected at least 256"):
        BPE.train(b"abc", 255)
    with pytest.raises(ValueError, match="merge 1 joins tokens 300 and 97, expected 0 to 256"):
        BPE([(97, 97), (300, 97)])
    with pytest.raises(ValueError, match="merged twice"):
        BPE([(97, 97), (97, 97)])
    with pytest.raises(ValueError, match="token 256 does not exist, expected 0 to 255"):
        Bytes().decode([256])
    with pytest.raises(ValueError, match="token -1 does not exist"):
        Bytes().decode([-1])
    with pytest.raises(TypeError, match="text is float64"):
        Bytes().encode(np.zeros(3))
    with pytest.raises(ValueError, match="not a tokenizer"):
        tokenizer({"format": "other"})
