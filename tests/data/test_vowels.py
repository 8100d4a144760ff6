"""The vowel tables: what is read, what is refused, what is drawn."""

import numpy as np
import pytest

import refimpl.data as data
from refimpl.data import DataError
from refimpl.data.vowels import COLUMNS, Vowels, read_statistics, read_table

CLASSES = ("ae", "ah", "aw", "er", "ih", "iy", "uw")
HEADER = ",".join(("token", *COLUMNS))


def table(change=lambda lines: lines):
    """258 tokens, as the published table counts them."""
    lines = [HEADER]
    for k, vowel in enumerate(CLASSES):
        speakers = 36 if vowel == "uw" else 37
        lines += [f"w{s:02d}{vowel}," + ",".join(str(500 + k + s + i) for i in range(12)) for s in range(speakers)]
    return "\n".join(change(lines)) + "\n"


def write(folder, text):
    file = folder / "vowels.csv"
    file.write_text(text)
    return file


def test_a_table_is_read_as_it_stands(tmp_path):
    x, y = read_table(write(tmp_path, table()), CLASSES)
    assert x.shape == (258, 12) and np.bincount(y).tolist() == [37] * 6 + [36]
    assert x[0].tolist() == [500.0 + i for i in range(12)] and y[-1] == 6


def test_a_set_on_the_disk_is_found_and_split(tmp_path):
    folder = tmp_path / "hillenbrand-vowels"
    folder.mkdir()
    write(folder, table())
    vowels = data.load("hillenbrand-vowels", root=tmp_path)
    assert len(vowels.train[1]) == 206 and len(vowels.test[1]) == 52 and vowels.quick(0) is vowels
    assert "206 training, 52 test" in vowels.sizes


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda a: a[1:], "the first line is"),
        (lambda a: [], "the first line is"),
        (lambda a: a[:-1], "257 tokens, expected 258"),
        (lambda a: [*a[:5], a[5] + ",1", *a[6:]], "line 6 has 14 fields, expected 13"),
        (lambda a: [*a[:5], a[5].replace("w04ae", "w04xx"), *a[6:]], "line 6 has token 'w04xx'"),
        (lambda a: [*a[:5], a[4], *a[6:]], "line 6 has token 'w03ae'"),
        (lambda a: [*a[:5], a[5].replace("504", "nan"), *a[6:]], "line 6 has 'nan', expected a frequency"),
        (lambda a: [*a[:5], a[5].replace("504", "-4"), *a[6:]], "line 6 has '-4'"),
        (lambda a: [*a[:5], a[5].replace("504", "99999"), *a[6:]], "line 6 has '99999'"),
        (lambda a: [*a[:5], a[5] + "é", *a[6:]], "not a table of comma-separated values"),
        (lambda a: [*a[:5], '"' + a[5], *a[6:]], "vowels.csv"),
    ],
)
def test_a_damaged_table_is_refused_with_its_name(tmp_path, change, match):
    with pytest.raises(DataError, match=match):
        read_table(write(tmp_path, table(change)), CLASSES)


def test_a_damaged_table_of_statistics_is_refused(tmp_path):
    file = tmp_path / "statistics.csv"
    file.write_text(",".join(("vowel", "statistic", *COLUMNS)) + "\nae,mean" + ",100" * 12 + "\n")
    with pytest.raises(DataError, match="expected a mean and a deviation of each of ae, ah"):
        read_statistics(file, CLASSES)


def test_the_surrogate_has_the_published_means_and_deviations_and_says_what_it_is():
    vowels = data.load("surrogate-vowels")
    assert "drawn from published" in vowels.title and len(vowels.y) == 259
    mean, deviation = read_statistics(data.path("surrogate-vowels") / "statistics.csv", CLASSES)
    for k in range(7):
        own = vowels.x[vowels.y == k]
        assert (np.abs(own.mean(axis=0) - mean[k]) < 4 * deviation[k] / np.sqrt(37)).all()
        assert (np.abs(own.std(axis=0) / deviation[k] - 1) < 0.5).all()
    again = data.load("surrogate-vowels")
    assert np.array_equal(again.x, vowels.x)
    spoken = vowels.x.reshape(7, 37, 4, 3)
    assert np.corrcoef(spoken[0, :, 0, 2], spoken[0, :, 1, 2])[0, 1] > 0.5  # what is high once is high again


def test_splits_are_random_whole_and_repeatable():
    vowels = data.load("surrogate-vowels")
    a, b, c = vowels.split(1), vowels.split(1), vowels.split(2)
    assert np.array_equal(a.rows[0], b.rows[0]) and not np.array_equal(a.rows[0], c.rows[0])
    assert sorted(np.concatenate(a.rows)) == list(range(259))
    whole = vowels.split(1, "all")
    assert np.allclose(whole.x.mean(axis=0), 0) and np.allclose(whole.x.std(axis=0), 1)
    own = a.standardised()
    assert np.allclose(own.train[0].mean(axis=0), 0) and not np.allclose(own.x.mean(axis=0), 0, atol=1e-6)
    with pytest.raises(ValueError, match="statistics is 'none'"):
        vowels.split(1, "none")


def test_a_token_on_both_sides_is_refused():
    v = data.load("surrogate-vowels")
    with pytest.raises(ValueError, match="rows must name different tokens"):
        Vowels(v.name, v.title, v.x, v.y, v.classes, (np.arange(5), np.arange(4, 9)), v.source, v.licence)
