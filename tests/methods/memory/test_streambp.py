"""StreamBP as a learner and in the lab: the contract of estimators, measuring, the experiment, claims, generation."""

import json

import numpy as np
import pytest

import refimpl
from refimpl import data, record
from refimpl.cli import main
from refimpl.methods.memory import streambp
from refimpl.methods.memory.streambp import claims, study
from refimpl.methods.memory.streambp.measure import flops, peak_bytes, timeline
from refimpl.methods.memory.streambp.strategies import Checkpoint, Plain, Stream
from refimpl.record import Setting

TEXT = data.load("coriolanus")
SMALL = {"T": 24, "batch_size": 3, "steps": 25, "layers": 1, "d": 16, "heads": 2, "kv_heads": 1, "hidden": 20}


def learner(**options):
    return refimpl.LanguageModel(**{**SMALL, "chunk": 7, "head_chunk": 5, "random_state": 0, **options})


def test_all_strategies_train_the_same_model():
    scores = [
        learner(strategy=s, dropout=0.1).fit(*TEXT.train).score(*TEXT.test)
        for s in ("stream", "plain", "checkpoint", "mini-sequence")
    ]
    np.testing.assert_allclose(scores, scores[0], atol=1e-4)


def test_a_trained_model_beats_one_that_knows_nothing_and_the_frequencies_of_bytes():
    model = learner(steps=200, T=48, d=32, lr=1e-2, batch_size=4).fit(*TEXT.train)
    p = np.bincount(TEXT.train_bytes, minlength=256) + 1.0
    unigram = -np.log2(p / p.sum())[TEXT.test_bytes].mean()
    assert model.score(*TEXT.test) < unigram - 0.3
    assert model.history_[-1]["loss"] < model.history_[0]["loss"]


@pytest.mark.parametrize("options", [{}, {"tokenizer": "bpe", "vocabulary": 280, "dropout": 0.2}])
def test_a_checkpoint_goes_on_to_the_same_bits_and_gives_a_model_without_its_text(options):
    whole = learner(**options).fit(*TEXT.train)
    first = learner(**options)
    first.begin(*TEXT.train)
    first.advance()
    arrays, meta = first.checkpoint()
    arrays, meta = {n: a.copy() for n, a in arrays.items()}, json.loads(json.dumps(meta))
    again = learner(**options)
    again.begin(*TEXT.train)
    again.restore(arrays, meta)
    while again.progress_ < again.total_:
        again.advance()
    assert np.array_equal(again._params["model"].flat, whole._params["model"].flat)
    arrays, meta = whole.checkpoint()
    other = streambp.writer(arrays, json.loads(json.dumps(meta)))
    assert other.score(*TEXT.test) == whole.score(*TEXT.test)
    assert list(other.generate("The ", 9, 3)) == list(whole.generate("The ", 9, 3))
    with pytest.raises(ValueError, match="the checkpoint is one of 'NoProp'"):
        streambp.writer(arrays, {**meta, "learner": "NoProp"})


def test_bits_a_byte_count_the_bytes_of_a_token():
    model = learner(tokenizer="bpe", vocabulary=300, steps=10).fit(*TEXT.train)
    tokens = model.tokenizer_.encode(TEXT.test_bytes[:300])
    lp, n = 0.0, 0
    for s in range(0, len(tokens) - 1, 24):
        row = tokens[s : s + 25]
        z = model.model_.apply(model._params["model"], row[None, :-1])[0].astype(float)
        z -= np.log(np.exp(z).sum(axis=1, keepdims=True))
        lp += z[np.arange(len(z)), row[1:]].sum()
        n += sum(len(model.tokenizer_.pieces[t]) for t in row[1:])
    assert np.isclose(model.score(TEXT.test_bytes[:300]), -lp / np.log(2) / n, rtol=1e-5)


def test_bad_input_is_named_before_any_work():
    for options, message in (
        ({"strategy": "fast"}, "strategy is 'fast'"),
        ({"tokenizer": "words"}, "tokenizer is 'words'"),
        ({"T": 0}, "T is 0"),
        ({"lr": -1}, "lr is -1"),
        ({"positions": "none"}, "positions is 'none'"),
        ({"T": 60_000}, "57759 tokens, expected more than T = 60000"),
    ):
        with pytest.raises(ValueError, match=message):
            learner(**options).fit(*TEXT.train)
    with pytest.raises(TypeError, match="text is float64"):
        learner().fit(np.zeros(100))
    with pytest.raises(ValueError, match="not fitted"):
        learner().score(*TEXT.test)
    model = learner(steps=1).fit(*TEXT.train)
    with pytest.raises(ValueError, match="1 tokens, expected at least 2"):
        model.score("a")
    with pytest.raises(ValueError, match="the prompt is empty"):
        next(model.generate("", 3))


# ---------------------------------------------------------------- measuring


def test_peak_counts_what_was_alive_together():
    def work():
        a = np.ones(100_000)
        b = a + 1
        del a
        return b[:10].sum()

    assert 1_600_000 <= peak_bytes(work) < 1_700_000
    probe = study.Probe(64, 1, layers=2, d=16, heads=2, kv_heads=1, hidden=20)
    plain, few, stream = (probe.peak(s, 256) for s in (Plain(), Checkpoint(), Stream(16, 16)))
    assert stream < few < plain
    alive = timeline(probe.work(Plain(), 64))
    assert len(alive) > 20 and max(alive) > 0


def test_operations_are_counted_by_hand():
    q, k = np.zeros((1, 2, 3, 4)), np.zeros((1, 1, 5, 4))
    before = refimpl.ops.attention
    counts = flops(lambda: (refimpl.ops.attention(q, k, k), refimpl.ops.linear(np.zeros((3, 4)), np.zeros((4, 6)))))
    assert counts.scores == 2 * 2 * 3 * 5 * 4 and counts.attention == 2 * counts.scores
    assert counts.linear == 2 * 3 * 4 * 6 and counts.total == counts.attention + counts.linear
    assert refimpl.ops.attention is before


@pytest.mark.parametrize("limit", [900, 1000, 5555, 20_000])
def test_the_longest_length_is_found_within_three_percent(limit):
    calls = []

    def peak(T):
        calls.append(T)
        return 50 + 7 * T

    found = study.longest(peak, limit, 16)
    best = (limit - 50) // 7
    assert found["longest"] <= best <= 1.04 * found["longest"] + 1 and not found["capped"]
    assert len(calls) == len(set(calls)) < 20 and found["T"] == sorted(calls)
    capped = study.longest(peak, 10**9, 16, 100)
    assert capped["longest"] == 100 and capped["capped"]


# ---------------------------------------------------------------- the lab


def test_experiment_has_the_four_strategies_and_names_unknown_settings():
    made = streambp.experiment(TEXT, 0, {"steps": 10, "T": 16})
    assert [c.role for c in made.contenders] == ["method", "baseline", "baseline", "baseline"]
    assert not made.score.higher_is_better
    with pytest.raises(ValueError, match="no setting 'epochs'"):
        streambp.experiment(TEXT, 0, {"epochs": 3})
    with pytest.raises(ValueError, match="digits is not a text"):
        streambp.experiment(data.load("digits"), 0, {})
    assert streambp.DATA[0] == "coriolanus" and streambp.PAPER.slug == "streambp"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    settings = ["--set", "steps=10", "--set", "T=16", "--set", "d=16", "--set", "layers=1"]
    assert main(["run", "streambp", "--quick", "--out", str(folder), *settings]) == 0
    return folder


def test_a_run_draws_and_generates(run, capsys):
    assert (run / "figure.png").stat().st_size > 10_000
    assert main(["generate", str(run), "--prompt", "ROMEO:", "-n", "20"]) == 0
    one = capsys.readouterr().out
    assert one.startswith("ROMEO:") and len(one) > 10
    assert main(["generate", str(run), "--prompt", "ROMEO:", "-n", "20", "--learner", "StreamBP"]) == 0
    assert capsys.readouterr().out == one
    assert main(["generate", str(run), "--temperature", "0", "--top-k", "3", "-n", "3"]) == 0


@pytest.mark.parametrize(
    ("more", "code", "told"),
    [
        (["--learner", "nobody"], 2, "no learner 'nobody', expected one of StreamBP, back-propagation"),
        (["--temperature", "-1"], 2, "expected a number of at least 0"),
        (["--prompt", ""], 2, "the prompt is empty"),
    ],
)
def test_generating_says_what_is_wrong(run, capsys, more, code, told):
    assert main(["generate", str(run), *more]) == code
    assert told in capsys.readouterr().err


def test_generating_needs_the_run_of_a_language_model(tmp_path, capsys):
    assert main(["generate", str(tmp_path / "nowhere")]) == 1
    assert "no such folder" in capsys.readouterr().err
    (tmp_path / "config.json").write_text('{"slug": "noprop"}')
    assert main(["generate", str(tmp_path)]) == 2
    assert "noprop, whose learners write no text" in capsys.readouterr().err
    (tmp_path / "config.json").write_text('{"slug": "streambp"}')
    assert main(["generate", str(tmp_path)]) == 1
    assert "no checkpoint is stored yet" in capsys.readouterr().err


@pytest.mark.parametrize("claim", record.claims("streambp"), ids=lambda c: c.id)
def test_quick_claims_measure_and_judge(claim, tmp_path):
    text = TEXT.quick(0) if claim.data[0] else None
    values = claim.measure(Setting(text, claim.data[0], 0, True, tmp_path))
    json.dumps(values)
    holds, note = claim.judge([values])
    assert isinstance(holds, bool) and note
    if claim.quick_judged:
        assert holds, note
    if claim.draw:
        from refimpl.viz import style

        with style.use():
            claim.draw(style.figure(), [values])


def test_claims_fail_where_the_measurement_says_so():
    exact = {"each": {"float64, SFT, 1": 1e-9}, "float64": 1e-9, "float32": 1e-6}
    assert not claims._judge_exact([exact])[0]
    times = {"T": [512, 4096], "ratio": [1.0, 1.04]}
    assert not claims._judge_time([times])[0] and claims._judge_time([{**times, "ratio": [1.2, 1.04]}])[0]
    longest = {n: {"longest": t, "capped": False} for n, t in (("StreamBP", 27), ("checkpointing", 10))}
    assert not claims._judge_longest([longest])[0]


def test_steps_to_read_are_the_same_step_in_two_ways():
    stream, plain = (step.make() for step in study.teach())
    first = stream(), plain()
    assert np.isclose(*first, rtol=1e-12) and stream() < first[0]


def test_race_steps_agree_between_bodies():
    for step in study.race():
        assert step.flops > 1e9 and step.make_torch is not None
    small = study._step("s", 1, 12, 11, Stream(5, 5), {"layers": 1, "d": 8, "heads": 2, "kv_heads": 1, "hidden": 8})
    found = []
    for body in ("numpy", "native"):
        with refimpl.backend(body):
            f = small.make()
            found.append([f(), f()])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)
