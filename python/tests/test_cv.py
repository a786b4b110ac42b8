"""LogisticRegressionCV chooses as scikit-learn's does."""

import warnings

import numpy as np
import pytest
import sklearn
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegressionCV as Reference
from sklearn.metrics import get_scorer, log_loss, make_scorer
from sklearn.model_selection import GroupKFold, KFold, ShuffleSplit, StratifiedKFold

import flowreg

X, Y = load_digits(return_X_y=True)
X, Y = X[Y < 4, 8:40][:240].astype(np.float32) / 16, Y[Y < 4][:240]
CS = [1e-3, 1e-1, 10.0]


def reference(X, y, sample_weight=None, **options):
    options = {"Cs": CS, "solver": "newton-cholesky", "tol": 1e-8, **options}
    if sklearn.__version__ >= "1.8":
        options.update(l1_ratios=(0,), use_legacy_attributes=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Reference(**options).fit(X.astype(np.float64), y, sample_weight)


def cv(**options):
    return flowreg.LogisticRegressionCV(**{"Cs": CS, **options})


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("scoring", ["neg_log_loss", "accuracy", "balanced_accuracy", "roc_auc_ovr"])
def test_scores_choice_and_model_are_scikit_learns(scoring, classes, weighted):
    rows = Y < classes
    x, y = X[rows], Y[rows]
    weights = np.random.default_rng(0).uniform(0.5, 2, len(y)) if weighted else None
    options = {"scoring": scoring, "cv": StratifiedKFold(3)}
    ours = cv(tol=1e-6, **options).fit(x, y, weights)
    theirs = reference(x, y, weights, **options)
    assert ours.scores_.shape == theirs.scores_.shape == (3, 1, 3)
    for number, (fitted, _) in enumerate(StratifiedKFold(3).split(x, y)):
        at = None if weights is None else weights[fitted]
        for C, ours_at, theirs_at in zip(CS, ours.coefs_paths_[number, 0], theirs.coefs_paths_[number, 0]):
            found, lowest = (objective(coefs, x[fitted], y[fitted], at, C) for coefs in (ours_at, theirs_at))
            # Folds are solved to 1e-3, which promises a gap of at most 100 times that.
            assert -1e-6 < found / lowest - 1 < 0.1
            if C < 1:
                size = np.abs(theirs_at).max()
                np.testing.assert_allclose(centred(ours_at), centred(theirs_at), rtol=0, atol=0.01 * size)
    np.testing.assert_array_equal(ours.l1_ratios_, [0])
    assert ours.score(x, y) == pytest.approx(get_scorer(scoring)(ours, x, y))


def objective(coefs, x, y, weights, C):
    z = x.astype(np.float64) @ coefs[:, :-1].T + coefs[:, -1]
    if len(coefs) == 1:
        z = np.hstack([np.zeros_like(z), z])
    losses = np.logaddexp.reduce(z, axis=1) - z[np.arange(len(y)), y]
    return C * np.sum(losses if weights is None else weights * losses) + (coefs[:, :-1] ** 2).sum() / 2


def centred(coefs):
    """Weights and intercepts; those of a softmax are known up to a constant."""
    return coefs - coefs.mean(axis=-2, keepdims=True) if coefs.shape[-2] > 1 else coefs


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.filterwarnings("ignore:F-score is ill-defined")
@pytest.mark.parametrize("scoring", ["f1_macro", "neg_log_loss", "neg_brier_score"])
def test_scorers_are_told_the_classes(scoring, classes):
    rows = Y < classes
    x, labels = X[rows], np.array(list("abcd"))[Y[rows]]
    folds = list(StratifiedKFold(3).split(x, labels))
    # This fold holds out one class alone.
    folds.append((np.arange(len(x)), np.flatnonzero(labels == "b")))
    assert np.isfinite(cv(scoring=scoring, cv=folds).fit(x, labels).scores_).all()


def test_default_score_is_accuracy():
    model = cv().fit(X, Y)
    np.testing.assert_array_equal(model.scores_, cv(scoring="accuracy").fit(X, Y).scores_)
    assert model.score(X, Y) == pytest.approx((model.predict(X) == Y).mean())


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("classes", [2, 4])
def test_without_refit_the_folds_best_models_are_averaged(classes, fit_intercept):
    rows = Y < classes
    options = {"refit": False, "scoring": "neg_log_loss", "fit_intercept": fit_intercept, "cv": 3}
    ours = cv(**options).fit(X[rows], Y[rows])
    theirs = reference(X[rows], Y[rows], **options)
    assert ours.C_ == pytest.approx(theirs.C_)
    size = np.abs(theirs.coef_).max()
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=0, atol=0.02 * size)
    intercepts = [m.intercept_ - (m.intercept_.mean() if classes > 2 else 0) for m in (ours, theirs)]
    np.testing.assert_allclose(*intercepts, rtol=0, atol=0.02 * size)


def test_folds_of_every_kind():
    n = len(Y)
    pairs = list(KFold(4, shuffle=True, random_state=0).split(X))
    masks = [(np.isin(np.arange(n), fit), np.isin(np.arange(n), out)) for fit, out in pairs]
    expected = cv(cv=pairs).fit(X, Y).scores_
    assert expected.shape == (4, 1, 3)
    for folds in (iter(pairs), KFold(4, shuffle=True, random_state=0), masks):
        np.testing.assert_array_equal(cv(cv=folds).fit(X, Y).scores_, expected)
    assert cv(cv=ShuffleSplit(2, random_state=0)).fit(X, Y).scores_.shape == (2, 1, 3)


def test_a_number_of_Cs_and_any_order():
    model = cv(Cs=4).fit(X, Y)
    np.testing.assert_allclose(model.Cs_, np.logspace(-4, 4, 4))
    ordered, shuffled = cv().fit(X, Y), cv(Cs=[10.0, 1e-3, 1e-1]).fit(X, Y)
    np.testing.assert_array_equal(shuffled.scores_, ordered.scores_[:, :, [2, 0, 1]])
    np.testing.assert_array_equal(shuffled.coefs_paths_, ordered.coefs_paths_[:, :, [2, 0, 1]])
    assert shuffled.C_ == ordered.C_


def test_a_scorer_that_looks_at_the_rows():
    seen = []

    def scorer(estimator, rows, y):
        seen.append(rows)
        return -log_loss(y, estimator.predict_proba(rows), labels=estimator.classes_)

    folds = KFold(2)
    model = cv(scoring=scorer, cv=folds).fit(X, Y)
    expected = cv(scoring="neg_log_loss", cv=folds).fit(X, Y)
    np.testing.assert_allclose(model.scores_, expected.scores_)
    np.testing.assert_array_equal(seen[0], X[: len(X) // 2])
    made = make_scorer(log_loss, greater_is_better=False, response_method="predict_proba")
    np.testing.assert_allclose(cv(scoring=made, cv=folds).fit(X, Y).scores_, expected.scores_)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("store", [True, False])
def test_a_scorer_gets_an_estimator_with_all_attributes(classes, store):
    seen = []
    rows = Y < classes
    x, y = X[rows].astype(np.float64) + 1e9 * (np.arange(32) == 20), Y[rows]

    def scorer(estimator, held_out, labels):
        assert isinstance(estimator, flowreg.LogisticRegression)
        known = estimator.predict_log_proba(held_out)
        # Other rows than those held out, too; the model in float32 has its own rounding.
        np.testing.assert_allclose(estimator.predict_log_proba(held_out[:5].copy()), known[:5], atol=1e-4)
        assert estimator.get_params()["max_iter"] == 777 and estimator.C in CS
        assert estimator.status_ == "converged" and estimator.n_iter_.shape == (1,)
        assert estimator.n_features_in_ == 32 and estimator.l2_ > 0 and estimator.gap_ is not None
        seen.append(np.concatenate([estimator.coef_, estimator.intercept_[:, None]], axis=1))
        return -np.abs(estimator.coef_).sum()

    model = cv(scoring=scorer, cv=3, max_iter=777, store_coefs_paths=store).fit(x, y)
    assert model.C_ == min(CS) and len(seen) == 9
    paths = model.coefs_paths_ if store else cv(cv=3).fit(x, y).coefs_paths_
    np.testing.assert_array_equal(np.reshape(seen, paths.shape), paths)


def test_scores_that_are_no_numbers_are_said():
    with pytest.raises(ValueError, match="scoring: found NaN as the score of each fold and C, expected"):
        cv(scoring=lambda *_: np.nan).fit(X, Y)
    with pytest.raises(ValueError, match="scoring: found a score of type dict, expected a number"):
        cv(scoring=lambda *_: {"a": 1}).fit(X, Y)
    scores = iter([np.nan] * 2 + [1.0] * 13)
    said = "scoring: found NaN as the score of fold 0 and C=0.001 .and of 1 more., expected numbers"
    with pytest.warns(UserWarning, match=said) as caught:
        model = cv(scoring=lambda *_: next(scores)).fit(X, Y)
    assert np.isnan(model.scores_).sum() == 2 and caught[0].filename == __file__


def test_folds_that_make_no_sense_are_named():
    n, pairs = len(Y), list(KFold(3).split(X))
    (fitted, held_out), others = pairs[0], pairs[1:]
    for first, said in [
        ((fitted.astype(float), held_out), r"an array of float64 and shape \(160,\) in fold 0, expected numbers"),
        ((fitted, np.arange(n - 1) < 9), rf"an array of bool and shape \({n - 1},\) in fold 0, .* mask of {n} rows"),
        ((fitted[:, None], held_out), r"an array of int64 and shape \(160, 1\)"),
        ((fitted, held_out + 2**32), f"row 4294967296 in fold 0, expected numbers of rows, from 0 to {n - 1}"),
        ((fitted, [n]), f"row {n} in fold 0"),
        ((fitted, [-n - 1]), f"row {-n - 1} in fold 0"),
    ]:
        with pytest.raises(ValueError, match=f"cv: found {said}"):
            cv(cv=[first, *others]).fit(X, Y)
    model = cv(cv=iter(pairs)).fit(X, Y)
    with pytest.raises(ValueError, match="cv: found no folds, .* iterator or a generator, .* pass list"):
        model.fit(X, Y)


def test_shifted_columns():
    far = X.astype(np.float64)
    far[:, 20] += 1e9
    near, shifted = cv(cv=3).fit(X.astype(np.float64), Y), cv(cv=3).fit(far, Y)
    np.testing.assert_allclose(shifted.scores_, near.scores_, atol=0.02)
    intercepts = [shifted.coefs_paths_[..., -1], near.coefs_paths_[..., -1]]
    intercepts[0] = intercepts[0] + 1e9 * shifted.coefs_paths_[..., 20]
    np.testing.assert_allclose(*intercepts, atol=0.1)


@pytest.mark.parametrize("options", [{"refit": False, "tol": 1e-7}, {"tol": 1e-7, "fold_tol": 0}])
def test_folds_are_as_precise_as_tol_without_refit_and_as_fold_tol(options):
    ours = cv(cv=3, scoring="neg_log_loss", **options).fit(X, Y)
    theirs = reference(X, Y, cv=3, scoring="neg_log_loss", refit=options.get("refit", True))
    size = np.abs(theirs.coefs_paths_).max()
    np.testing.assert_allclose(
        centred(ours.coefs_paths_), centred(theirs.coefs_paths_), rtol=0, atol=1e-5 * size
    )
    np.testing.assert_allclose(ours.scores_, theirs.scores_, rtol=1e-5)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=0, atol=1e-5 * size)


def test_models_of_folds_that_did_not_converge_are_said():
    said = "3 of the 3 models of folds, whose mean .*status iteration_limit.*raise max_iter"
    with pytest.warns(ConvergenceWarning, match=said) as caught:
        cv(cv=3, refit=False, max_iter=1).fit(X, Y)
    assert caught[0].filename == __file__


def test_no_penalty_can_be_chosen():
    rows = Y < 2
    x, y = X[rows][:, :3], Y[rows].copy()
    y[::4] = 1 - y[::4]
    model = cv(Cs=[np.inf, 1e-6], scoring="neg_log_loss").fit(x, y)
    assert model.C_ == np.inf and model.l2_ == 0 and model.gap_ is None
    np.testing.assert_allclose(model.coef_, flowreg.LogisticRegression(C=np.inf).fit(x, y).coef_)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_class_that_a_fold_does_not_fit_is_warned_of(weighted):
    y = np.where(np.arange(len(Y)) == 7, 9, Y)
    weights = np.ones(len(y)) if weighted else None
    if weighted:
        # Rows of weight 0 do not count.
        y[200:210], weights[200:210] = 9, 0
    with pytest.warns(UserWarning, match="cv: fold 0 fits no row of class 9.*StratifiedKFold") as caught:
        cv(cv=KFold(4), scoring="neg_log_loss").fit(X, y, weights)
    assert len(caught) == 1 and caught[0].filename == __file__
    y[9] = 9 if not weighted else y[9]
    y[100] = 9
    cv(cv=KFold(4), scoring="neg_log_loss").fit(X, y, weights)


def test_paths_are_left_out_on_request():
    model = cv(store_coefs_paths=False).fit(X, Y)
    assert not hasattr(model, "coefs_paths_")
    np.testing.assert_array_equal(model.coef_, cv().fit(X, Y).coef_)


def test_paths_beyond_memory_are_refused_with_their_size():
    rows = np.zeros((40, 100_000), np.float32)
    everything = np.arange(40)
    huge = cv(Cs=list(np.logspace(-3, 3, 9000)), cv=[(everything, everything)] * 100)
    sizes = "100 folds x 9000 Cs x 20 outputs x 100001 coefficients take 7200072000000 bytes"
    with pytest.raises(MemoryError, match=f"{sizes}.*store_coefs_paths=False"):
        huge.fit(rows, everything % 20)


def test_a_fold_that_cannot_be_fitted_is_left_out_with_a_warning():
    order = np.argsort(Y, kind="stable")
    folds = [(np.flatnonzero(Y == 1), order[:9]), *KFold(3).split(X)]
    with pytest.warns(UserWarning, match="fold 0 is left out") as caught:
        model = cv(cv=folds).fit(X, Y)
    assert caught[0].filename == __file__
    assert np.isnan(model.scores_[0]).all() and np.isfinite(model.scores_[1:]).all()
    np.testing.assert_array_equal(model.coef_, cv(cv=KFold(3)).fit(X, Y).coef_)


def test_events_tell_the_fold():
    events = []
    cv(cv=3, callback=events.append).fit(X, Y)
    folds = {event["fold"] for event in events if event["event"] == "step"}
    assert folds == {0, 1, 2, None}
    assert {event["event"] for event in events} == {"gram_matrix", "step"}


def test_groups_by_metadata_routing():
    groups = np.arange(len(Y)) % 5
    with sklearn.config_context(enable_metadata_routing=True):
        model = cv(cv=GroupKFold(5)).fit(X, Y, groups=groups)
    expected = cv(cv=list(GroupKFold(5).split(X, Y, groups))).fit(X, Y)
    np.testing.assert_array_equal(model.scores_, expected.scores_)
    with pytest.raises(ValueError, match="fit: found groups, expected none"):
        cv().fit(X, Y, groups=groups)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"Cs": []}, "Cs: found"),
        ({"Cs": 0}, "Cs: found 0"),
        ({"Cs": [1, -1]}, "Cs: found"),
        ({"Cs": [10**400]}, "Cs: found"),
        ({"Cs": [1, np.nan]}, "Cs: found .*above 0"),
        ({"Cs": "many"}, "Cs: found 'many', expected the number of values, or a list"),
        ({"cv": 2.5}, "'cv' parameter"),
        ({"refit": "no"}, "'refit' parameter .* must be an instance of 'bool'"),
        ({"fold_tol": -1}, "'fold_tol' parameter"),
        ({"n_threads": -3}, "'n_threads' parameter"),
        ({"penalty": None}, "there is no C to choose"),
        ({"penalty": "l1"}, "penalty: found 'l1'"),
        ({"l1_ratios": [0.5]}, "l1_ratio of"),
        ({"use_legacy_attributes": "warn"}, "'use_legacy_attributes' parameter"),
        ({"use_legacy_attributes": True}, "use_legacy_attributes: found True"),
        ({"solver": "saga"}, "solver: found 'saga'"),
        ({"scoring": "best"}, "best"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        cv(**options).fit(X, Y)
