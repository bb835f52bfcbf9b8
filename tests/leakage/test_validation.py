from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from evalkit.errors import UsageError
from evalkit.leakage.items import Item
from evalkit.leakage.order_test import order_test, ranks
from evalkit.leakage.scores import ItemScores, PermutationScores, all_orders
from evalkit.leakage.simulate import simulate
from evalkit.leakage.validation import (
    analysis,
    detectors,
    matrices,
    planting,
    report,
    suite,
    tier1,
    tier2,
    untouched,
)
from evalkit.leakage.validation.analysis import Exposed

WORDS = [f"{a}{b}" for a in ("am", "bir", "ce", "del", "em") for b in ("ber", "ch", "dar", "ta", "gon", "le")]
SHAPE = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
VIEWS = {"planted": (0, 40), "lettered": (40,), "swapped": (40,)}


def make_pool(n: int, seed: int) -> list[Item]:
    rng = np.random.default_rng(seed)
    return [
        Item(
            f"subject {i % 3}", str(i), f"{seed}-{i} {rng.choice(WORDS)}", tuple(rng.choice(WORDS, 4, False))
        )
        for i in range(n)
    ]


@pytest.fixture(scope="module")
def trial() -> tier2.Trial:
    return tier2.Trial(1, make_pool(40, 1), make_pool(40, 2), VIEWS, n_pairs=10, rate=3e-3)


@pytest.fixture(scope="module")
def study(trial: tier2.Trial, tmp_path_factory: pytest.TempPathFactory) -> tier2.Study:
    found = tier2.Study(trial, tmp_path_factory.mktemp("study"), lambda _: tier1.build(0, **SHAPE))
    found.complete()
    return found


def scored(found: tier2.Study, dose: int, view: str = "planted") -> PermutationScores:
    scores = found.scores(dose, view)
    assert scores is not None
    return scores


def test_half_of_every_subject_is_planted_and_texts_never_hold_the_other_half(trial: tier2.Trial) -> None:
    planted = trial.planted
    for subject in {item.subset for item in planted.items}:
        member = [m for item, m in zip(planted.items, planted.member, strict=True) if item.subset == subject]
        assert sum(member) * 2 == len(member)
    unseen = [item.question for item, m in zip(planted.items, planted.member, strict=True) if not m]
    texts = trial.texts(1)
    assert len(texts) == 2 * len(trial.members)
    assert not any(question in text for question in unseen for text in texts)
    assert all(sum(item.question in text for text in texts) == 1 for item in trial.members)


def test_only_the_others_change_from_epoch_to_epoch(trial: tier2.Trial) -> None:
    first, second = trial.texts(1), trial.texts(2)
    n = len(trial.members)
    assert first[:n] == second[:n]
    assert first[n:] != second[n:]


def test_items_are_eligible_by_the_written_rule() -> None:
    good = Item("s", "0", "q", ("a", "b", "c", "d"))
    bad = [
        Item("s", "1", "twice", ("a", "a", "c", "d")),
        Item("s", "2", "lines\nof text", ("a", "b", "c", "d")),
        Item("s", "3", "long" * 30, ("a", "b", "c", "d")),
        Item("s", "4", "again", ("a", "b", "c", "d")),
        Item("s", "5", "again", ("e", "f", "g", "h")),
    ]
    assert planting.eligible([good, *bad], 100) == [good]


def test_a_model_that_memorised_is_found_and_the_untouched_one_is_not(study: tier2.Study) -> None:
    member = study.trial.planted.member
    before, after = scored(study, 0), scored(study, 40)
    assert order_test(ranks(after, "raw").only(member)).p < 1e-4
    assert order_test(ranks(before, "raw").only(member)).p > 0.01
    assert order_test(ranks(after, "raw").only(~member)).p > 0.01
    gap = detectors.detect(after, "raw gap")
    assert detectors.auc(gap[member], gap[~member]) > 0.9


def test_a_second_start_trains_and_scores_nothing_again(study: tier2.Study, tmp_path: Path) -> None:
    def untouchable(_: str) -> object:
        raise AssertionError("a model was loaded")

    again = tier2.Study(study.trial, study.folder, untouchable)
    again.complete()
    assert np.array_equal(*(next(one.groups()).logprobs for one in (scored(again, 40), scored(study, 40))))
    assert not list(study.folder.glob("*.pt"))


def test_training_taken_up_after_an_interruption_ends_at_the_same_weights(
    study: tier2.Study, trial: tier2.Trial, tmp_path: Path
) -> None:
    both = tier2.Trial(1, trial.test, trial.other, {"planted": (15, 40)}, trial.n_pairs, rate=trial.rate)
    first = tier2.Study(both, tmp_path, lambda _: tier1.build(0, **SHAPE))
    first.train(15)
    second = tier2.Study(both, tmp_path, lambda _: tier1.build(0, **SHAPE))
    second.complete()
    straight, resumed = scored(study, 40), scored(second, 40)
    for a, b in zip(straight.items, resumed.items, strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=0.05)


def test_calling_another_order_published_moves_scores_with_their_texts() -> None:
    orders = all_orders(4)
    item = Item("s", "0", "q", ("w", "x", "y", "z"))
    text = {item.ordered(order).options: float(k) for k, order in enumerate(orders)}
    scores = PermutationScores("t", (ItemScores("s", "0", orders, np.arange(24.0)),))
    generator, same = np.random.default_rng(5), np.random.default_rng(5)
    (moved,) = matrices.republished(scores, generator).items
    shown = item.ordered(orders[same.integers(24)])
    assert [text[shown.ordered(order).options] for order in orders] == moved.logprobs.tolist()


def test_auc_and_the_rate_at_one_percent_by_hand() -> None:
    unexposed = np.arange(200.0)
    found = detectors.separation(np.array([199.0, 197.5, 198.5, 50.5]), unexposed)
    # 1 % of 200 are two: 199 and 198 may be reached, so that what counts lies above 197.
    assert found["tpr"] == 0.75
    assert found["auc"] == pytest.approx((199.5 + 198 + 199 + 51) / 800)


def test_words_alone_tell_a_fair_split_from_an_unfair_one() -> None:
    pool = make_pool(60, 4)
    fair = np.arange(60) % 2 == 0
    assert 0.2 < detectors.blind_auc(pool, fair) < 0.8
    marked = [
        Item(item.subset, item.sample_id, f"{item.question} {'old' if m else 'new'}", item.options)
        for item, m in zip(pool, fair, strict=True)
    ]
    assert detectors.blind_auc(marked, fair) > 0.95


def test_p_values_of_many_sets_are_those_of_the_test() -> None:
    scores = simulate(30, 4, 0.3, np.random.default_rng(1), spike=2.0).scores
    ranked = ranks(scores, "raw")
    assert analysis.p_values(ranked.rank[None, :])[0] == pytest.approx(order_test(ranked).p)


def test_the_document_says_what_was_missed_and_what_was_met(study: tier2.Study, tmp_path: Path) -> None:
    scores = simulate(60, 4, 0.0, np.random.default_rng(0)).scores
    suite.write({"tier2": {**tier2.analyse([study]), "untouched": untouched.analyse(scores)}}, tmp_path)
    text = (tmp_path / suite.DOCUMENT).read_text("utf-8")
    assert "## Tier 2" in text
    assert "**met**" in text or "**missed**" in text
    for name in ("roc", "power", "null"):
        assert 0 < (tmp_path / f"figures/leakage-{name}.png").stat().st_size < 100_000


def test_the_untouched_model_gets_the_shortest_items_of_every_subject() -> None:
    pool = [Item(f"s{i % 3}", str(i), "?" * (i + 1), (f"a{i}", f"b{i}", f"c{i}", f"d{i}")) for i in range(30)]
    chosen = untouched.shortest(pool[::-1], 2)
    assert [(item.subset, item.sample_id) for item in chosen] == [
        *(("s0", "0"), ("s0", "3"), ("s1", "1"), ("s1", "4"), ("s2", "2"), ("s2", "5")),
    ]
    assert all(item in pool for item in chosen)  # in published order


def test_p_values_of_subjects_are_uniform_if_nothing_leaked_and_low_if_all_did() -> None:
    clean = simulate(400, 4, 0.0, np.random.default_rng(3)).scores
    leaked = simulate(400, 4, 1.0, np.random.default_rng(3), spike=3.0).scores
    assert untouched.analyse(clean)["residual"]["ks_p"] > 0.01
    assert untouched.analyse(leaked)["residual"]["ks_p"] < 1e-4


def test_members_of_simulated_scores_are_detected() -> None:
    scores, leaked = simulate(300, 4, 0.5, np.random.default_rng(2), spike=3.0)
    draws = [Exposed(scores, leaked)]
    order = analysis.order_tests(draws)["residual"]
    assert order["p_members"][0] < 1e-6 < order["p_unseen"][0]
    assert analysis.detections(draws)["residual gap"]["auc"] > 0.8
    null = analysis.null(draws, np.random.default_rng(0))["residual"]
    assert null["chi2_p"] > 0.001
    assert null["redrawn"]["ks_p"] > 0.001


def test_there_is_no_fourth_tier(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no tier 3"):
        suite.run([3], None, tmp_path)  # type: ignore[arg-type]


def test_the_document_needs_no_tier_but_those_that_ran() -> None:
    assert report.render({}).startswith("# Where the truth is known")
