"""TorchLinear follows torch's SGD."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone

import flowreg

SHARED = Path(os.environ.get("FLOWREG_SHARED", Path(__file__).parents[3] / "shared"))
RNG = np.random.default_rng(0)
X = RNG.standard_normal((40, 60)).astype(np.float32)
Y = RNG.integers(0, 3, 40)


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def sgd(
    X, y, classes, W, b, epochs, lr, momentum=0, dampening=0, nesterov=False, weight_decay=0, bias=True
):
    """torch.optim.SGD over all rows, in float64, as its documentation defines it."""
    X, W, b = X.astype(np.float64), W.astype(np.float64), b.astype(np.float64)
    buffers, losses = None, []
    for epoch in range(epochs):
        z = X @ W.T + b
        if classes == 2:
            p = 1 / (1 + np.exp(-z[:, 0]))
            losses.append(np.logaddexp(0, np.where(y == 1, -z[:, 0], z[:, 0])).mean())
            g = ((p - y) / len(y))[:, None]
        else:
            p = softmax(z)
            losses.append(-np.log(p[np.arange(len(y)), y]).mean())
            g = (p - np.eye(classes)[y]) / len(y)
        gradients = [g.T @ X + weight_decay * W, bias * (g.sum(axis=0) + weight_decay * b)]
        if momentum:
            if buffers is None:
                buffers = gradients
            else:
                buffers = [momentum * m + (1 - dampening) * g for m, g in zip(buffers, gradients)]
            gradients = [
                g + momentum * m if nesterov else m for g, m in zip(gradients, buffers)
            ]
        rate = lr(epoch) if callable(lr) else lr
        W, b = W - rate * gradients[0], b - rate * gradients[1]
    return W, b, losses


@pytest.mark.parametrize("engine", ["gram", "primal"])
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.9},
        {"momentum": 0.9, "dampening": 0.5},
        {"momentum": 0.9, "nesterov": True},
        {"weight_decay": 0.1},
        {"bias": False, "momentum": 0.9},
    ],
)
def test_every_epoch_is_torchs(options, classes, engine):
    y = Y % classes
    start = flowreg.TorchLinear(epochs=0, bias=options.get("bias", True)).fit(X, y)
    W, b, losses = sgd(X, y, classes, start.coef_, start.intercept_, 30, 0.05, **options)
    model = flowreg.TorchLinear(lr=0.05, epochs=30, engine=engine, **options).fit(X, y)
    np.testing.assert_allclose([epoch["loss"] for epoch in model.history_], losses, rtol=1e-5)
    np.testing.assert_allclose(model.state_dict()["weight"], W, atol=1e-5)
    np.testing.assert_allclose(model.intercept_, b, atol=1e-5)
    assert model.engine_ == engine and model.lr_ == 0.05


def test_initial_weights_are_torchs():
    # torch.manual_seed(0); torch.nn.Linear(49152, 1)
    x = np.zeros((2, 49152), np.float32)
    state = flowreg.TorchLinear(epochs=0).fit(x, [0, 1]).state_dict()
    expected = np.float32([-3.376966924406588e-05, 0.002419654978439212, -0.0037123854272067547])
    np.testing.assert_array_equal(state["weight"][0, :3], expected)
    np.testing.assert_array_equal(state["bias"], np.float32([-0.0015905866166576743]))
    assert np.all(flowreg.TorchLinear(epochs=0, init="zeros").fit(x, [0, 1]).coef_ == 0)


def flowers(split, classes):
    """Rows of a split of Flowers102, as torchvision's Resize((128, 128)) and ToTensor make them."""
    Image = pytest.importorskip("PIL.Image", reason="SKIPPED: Pillow reads the photographs")
    from scipy.io import loadmat

    root = SHARED / "flowers102-64px"
    names = {"train": "trnid", "val": "valid", "test": "tstid"}
    ids = loadmat(root / "setid.mat")[names[split]][0]
    labels = loadmat(root / "imagelabels.mat")["labels"][0][ids - 1] - 1
    ids, labels = ids[labels < classes], labels[labels < classes]
    rows = []
    for number in ids:
        with Image.open(root / "jpg" / f"image_{number:05d}.jpg") as photograph:
            resized = photograph.convert("RGB").resize((128, 128), Image.Resampling.BILINEAR)
        pixels = np.asarray(resized)
        rows.append((pixels.astype(np.float32) / np.float32(255)).transpose(2, 0, 1).ravel())
    return np.array(rows), labels


REFERENCE = SHARED / "reference" / "torch_trajectories.json"


@pytest.mark.skipif(not REFERENCE.exists(), reason=f"SKIPPED: no {REFERENCE}")
@pytest.mark.parametrize("number", range(3))
def test_trajectories_of_torch_on_photographs(number):
    run = json.loads(REFERENCE.read_text())[number]
    x, y = flowers(run["train_split"], run["classes"])
    assert x.shape == (run["n_train"], 49152)
    model = flowreg.TorchLinear(lr=run["lr"], epochs=run["epochs"], seed=run["seed"]).fit(x, y)
    losses = [epoch["loss"] for epoch in model.history_]
    # binary-fast spikes at first: there torch itself is 1.3e-5 from float64.
    np.testing.assert_allclose(losses, run["losses"], rtol=2e-5)
    if run["n_test"] < 1000:
        x, y = flowers(run["test_split"], run["classes"])
        assert model.score(x, y) == pytest.approx(run["test_accuracy"], abs=1.5 / len(y))


@pytest.mark.parametrize(
    "options, factor",
    [
        ({"schedule": "step", "step_size": 4, "gamma": 0.3}, lambda t: 0.3 ** (t // 4)),
        ({"schedule": "cosine"}, lambda t: (1 + np.cos(np.pi * t / 12)) / 2),
        ({"warmup": 4}, lambda t: min(1, (1 + 2 * t / 4) / 3)),
    ],
)
def test_schedules(options, factor):
    model = flowreg.TorchLinear(lr=0.1, epochs=12, **options).fit(X, Y)
    rates = [epoch["lr"] for epoch in model.history_]
    np.testing.assert_allclose(rates, [0.1 * factor(t) for t in range(12)])


def test_validation_and_early_stopping():
    validation = {"X_val": X[30:], "y_val": Y[30:]}
    options = {"lr": 0.02, "epochs": 400, "early_stopping": 5}
    model = flowreg.TorchLinear(**options).fit(X[:30], Y[:30], **validation)
    table = pd.DataFrame(model.history_)
    assert list(table) == ["epoch", "lr", "loss", "val_loss", "val_accuracy"]
    assert len(table) < 400 and model.best_epoch_ == table["val_loss"].argmin() == len(table) - 6
    best = model.predict_log_proba(X[30:])[np.arange(10), Y[30:]]
    assert -best.mean() == pytest.approx(table["val_loss"].min(), rel=1e-5)
    assert model.score(X[30:], Y[30:]) == table["val_accuracy"][model.best_epoch_]
    with pytest.raises(ValueError, match="early_stopping: found 5 without validation rows"):
        flowreg.TorchLinear(**options).fit(X, Y)
    with pytest.raises(ValueError, match="y_val: found 7 in row 1, expected the labels of y"):
        flowreg.TorchLinear().fit(X, Y, X_val=X[:2], y_val=[0, 7])
    with pytest.raises(ValueError, match="X_val and y_val: found one of them"):
        flowreg.TorchLinear().fit(X, Y, X_val=X)


def test_weights_go_in_and_out():
    first = flowreg.TorchLinear(epochs=7).fit(X, Y)
    second = flowreg.TorchLinear(epochs=5).load_state_dict(first.state_dict()).fit(X, Y)
    whole = flowreg.TorchLinear(epochs=12).fit(X, Y)
    np.testing.assert_allclose(second.coef_, whole.coef_, atol=1e-6)
    losses = [epoch["loss"] for epoch in whole.history_]
    np.testing.assert_allclose([epoch["loss"] for epoch in second.history_], losses[7:], rtol=1e-5)
    with pytest.raises(ValueError, match=r"state_dict: found a weight of shape \(3, 60\)"):
        second.fit(X[:, 1:], Y)
    with pytest.raises(ValueError, match="state_dict: found .'weight'., expected"):
        second.load_state_dict({"weight": X})
    with pytest.raises(ValueError, match=r"state_dict: found a weight of shape \(40, 60\)"):
        second.load_state_dict({"weight": X, "bias": Y[:3]})
    state = first.state_dict()
    for name, value in [("weight", np.nan), ("bias", -np.inf), ("bias", 1e39)]:
        damaged = {**state, name: np.full(state[name].shape, value)}
        with pytest.raises(ValueError, match=f"state_dict: found (nan|inf|-inf) in {name}, expected finite"):
            second.load_state_dict(damaged)
    np.testing.assert_array_equal(second._start[0], state["weight"])
    assert clone(first).get_params() == first.get_params()


def test_without_a_bias_the_state_has_none():
    model = flowreg.TorchLinear(bias=False, epochs=3).fit(X, Y)
    assert list(model.state_dict()) == ["weight"] and not model.intercept_.any()
    start = flowreg.TorchLinear(epochs=0).fit(X, Y).state_dict()
    again = flowreg.TorchLinear(bias=False, epochs=3).load_state_dict({"weight": start["weight"]})
    np.testing.assert_array_equal(again.fit(X, Y).coef_, model.coef_)
    with pytest.raises(ValueError, match="expected .'weight'. with bias=False"):
        again.load_state_dict(start)


def test_batches_are_seeded():
    options = {"batch_size": 16, "epochs": 3}
    one, two, other = (
        flowreg.TorchLinear(seed=seed, **options).fit(X, Y) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one.coef_, two.coef_)
    assert (one.coef_ != other.coef_).any()


def test_weights_of_classes_and_samples():
    weighted = flowreg.TorchLinear(class_weight={0: 1, 1: 2, 2: 1}).fit(X, Y)
    repeated = flowreg.TorchLinear().fit(X, Y, 1.0 + (Y == 1))
    np.testing.assert_allclose(weighted.coef_, repeated.coef_, atol=1e-6)
    assert (flowreg.TorchLinear(label_smoothing=0.1).fit(X, Y).coef_ != weighted.coef_).any()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"lr": "fast"}, "'lr' parameter .* Got 'fast'"),
        ({"lr": -1}, "'lr' parameter .* Got -1"),
        ({"schedule": "linear"}, "'schedule' parameter .* Got 'linear'"),
        ({"init": "ones"}, "'init' parameter .* Got 'ones'"),
        ({"engine": "gpu"}, "'engine' parameter .* Got 'gpu'"),
        ({"nesterov": True}, "`nesterov`"),
        ({"bias": "no"}, "'bias' parameter .* must be an instance of 'bool'"),
        ({"dampening": np.inf, "momentum": 0.9}, "`dampening`: found inf"),
        *[
            ({name: value}, f"'{name}' parameter of TorchLinear must be an int .* Got {value}")
            for name in (
                "epochs", "batch_size", "step_size", "warmup", "seed", "early_stopping", "n_threads"
            )
            for value in (-3, 2.5, 10**30)
        ],
        ({"batch_size": 0}, "'batch_size' parameter .* Got 0"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        flowreg.TorchLinear(**options).fit(X, Y)


def test_parameters_of_numpy_are_taken():
    options = {"epochs": 3, "batch_size": 7, "seed": 2, "step_size": 2, "warmup": 1, "n_threads": 2}
    model = flowreg.TorchLinear(**{name: np.int16(value) for name, value in options.items()})
    expected = flowreg.TorchLinear(**options).fit(X, Y)
    np.testing.assert_array_equal(model.fit(X, Y).coef_, expected.coef_)
    model = flowreg.TorchLinear(lr=np.float32(0.5), momentum=np.float64(0.1), bias=np.bool_(False))
    model.fit(X, Y)


def test_divergence_is_an_error():
    with pytest.raises(RuntimeError, match="the (loss|weight) became .* try a smaller `lr`"):
        flowreg.TorchLinear(lr=1e38).fit(100 * X, Y)
