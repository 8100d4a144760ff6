"""`refimpl compare`: the common network by every rule."""

import json

import numpy as np
import pytest

from refimpl import data, record
from refimpl.baselines import BackpropClassifier
from refimpl.cli import main
from refimpl.lab import comparison
from refimpl.lab.errors import UsageError
from refimpl.record import Common, Rule

COMMON = Common(hidden=(16, 12), epochs=2, batch_size=50)


@pytest.fixture(scope="module")
def digits():
    return data.load("digits").quick(0)


@pytest.mark.parametrize("rule", comparison.collect(COMMON), ids=lambda rule: rule.name)
def test_every_rule_trains_the_common_network(rule, digits):
    x = digits.x_train.reshape(len(digits.x_train), -1)
    learner = rule.make(rule.rates[0], 0).fit(x, digits.y_train)
    assert 0 <= learner.score(x, digits.y_train) <= 1
    assert learner.get_params()["batch_size"] == 50
    again = rule.make(rule.rates[0], 0).fit(x, digits.y_train)
    assert np.array_equal(learner.predict(x), again.predict(x))


def test_names_of_rules_are_unique():
    names = [rule.name for rule in comparison.collect(COMMON)]
    assert len(set(names)) == len(names)


def test_the_rate_is_the_best_on_held_out_data_and_what_is_measured_is_not_measured_again(
    digits, tmp_path, monkeypatch
):
    only = ["Back-propagation", "Frozen hidden layers"]
    outcome = comparison.compare(digits, 2, tmp_path, COMMON, only, show=False)
    for rule in outcome["rules"]:
        best = max(rule["held_out"], key=lambda entry: entry["score"])
        assert rule["rate"] == best["rate"] and len(rule["scores"]) == 2
        assert rule["step_bytes"] > 512 * 16 * 4 and all(s > 0 for s in rule["seconds"])
    monkeypatch.setattr(comparison, "_measure", lambda *a: pytest.fail("measured again"))
    assert comparison.compare(digits, 2, tmp_path, COMMON, only, show=False)["rules"] == outcome["rules"]
    assert json.loads((tmp_path / "comparison.json").read_text())["rules"] == outcome["rules"]
    told = comparison.report(outcome)
    assert "Frozen hidden layers" in told and "16-12" in told


def test_memory_counts_the_activations_of_a_step(digits):
    def of(hidden):
        common = Common(hidden, 1, 50)
        rule = next(r for r in comparison.collect(common) if r.name == "Back-propagation")
        x = digits.x_train.reshape(len(digits.x_train), -1)
        return comparison._step_bytes(rule, 1e-3, x, digits.y_train)

    layer = comparison.STEP * 64 * 4
    grown = of((64,) * 6) - of((64,) * 3)
    assert 3 * layer <= grown <= 9 * layer  # what each further layer keeps: its output, at most with its product


def test_a_rule_knows_its_signals():
    with pytest.raises(ValueError, match="unknown signals telepathy"):
        Rule("x", lambda rate, seed: BackpropClassifier(), (1.0,), ("telepathy",))
    with pytest.raises(ValueError, match="no learning rates"):
        Rule("x", lambda rate, seed: BackpropClassifier(), (), ())
    assert set(record.SIGNALS) >= {s for r in comparison.collect(COMMON) for s in r.signals}


def test_unknown_rules_and_sets_are_refused(digits, tmp_path, capsys):
    with pytest.raises(UsageError, match="no rule 'magic'"):
        comparison.compare(digits, 1, tmp_path, COMMON, ["magic"], show=False)
    assert main(["compare", "--data", "karate", "--out", str(tmp_path)]) == 2
    assert "no set of images" in capsys.readouterr().err
    assert main(["compare", "--train", "99999999", "--out", str(tmp_path)]) == 2


def test_the_command_prints_a_table(tmp_path, capsys):
    assert main(["compare", "--quick", "--rules", "Back-propagation", "--out", str(tmp_path)]) == 0
    assert "error from above, weights above" in capsys.readouterr().out
