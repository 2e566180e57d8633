import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.svm import SVC, SVR

from cache import UsageError
from fuse import KernelClassifier, KernelRegressor
from fuse.heads.kernel import alignment

WEIGHT = np.linspace(0.5, 2, 60)
BETA = {"text": 0.3, "image": 1.2}


def _kernels(zscore, vectors, kind="rbf", gamma=0.5):
    parts = [zscore({name: x}) for name, x in vectors.items()]
    return [z @ z.T if kind == "linear" else rbf_kernel(z, z, gamma) for z in parts]


def _joined(kernels, combine, beta=(0.3, 1.2)):
    return kernels[0] * kernels[1] if combine == "product" else beta[0] * kernels[0] + beta[1] * kernels[1]


@pytest.mark.parametrize("combine", ["sum", "product"])
@pytest.mark.parametrize("kind", ["rbf", "linear"])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_classifier_is_libsvm_on_the_combined_kernel(signal, zscore, make_table, combine, kind, n_classes):
    vectors, y = signal(n_classes)
    table = make_table(vectors, y)
    head = KernelClassifier(combine=combine, kernel=kind, beta=BETA, C=2.0).fit(table, y)
    gram = _joined(_kernels(zscore, vectors, kind), combine)
    sides = [SVC(kernel="precomputed", C=2.0, tol=1e-9).fit(gram, y == label) for label in head.classes_]
    expected = np.column_stack([side.decision_function(gram) for side in sides])
    np.testing.assert_allclose(head.predict_proba(table), softmax(head.sharpness_ * expected, axis=1), atol=1e-6)
    np.testing.assert_array_equal(head.predict(table), head.classes_[expected.argmax(axis=1)])


@pytest.mark.parametrize("combine", ["sum", "product"])
def test_regressor_is_libsvm_on_the_combined_kernel(signal, zscore, posts, combine):
    y = posts.to_numpy()[:, 0] * 3 + 50
    head = KernelRegressor(combine=combine, beta=BETA, C=2.0, epsilon=0.2, gamma=0.1).fit(posts, y)
    gram = _joined(_kernels(zscore, signal()[0], gamma=0.1), combine)
    reference = SVR(kernel="precomputed", C=2.0, epsilon=0.2, tol=1e-9).fit(gram, (y - y.mean()) / y.std())
    np.testing.assert_allclose(head.predict(posts), reference.predict(gram) * y.std() + y.mean(), rtol=1e-6)


def test_alignment_is_the_formula():
    rng = np.random.default_rng(0)
    rows, wanted = rng.normal(size=(12, 3)), rng.normal(size=(12, 2))
    kernel, weight = rows @ rows.T, rng.integers(1, 4, size=12)
    rep = np.repeat(np.arange(12), weight)  # weights count as repetition
    centre = np.eye(len(rep)) - 1 / len(rep)
    K, Y = centre @ kernel[np.ix_(rep, rep)] @ centre, centre @ wanted[rep]
    expected = np.sum(K * (Y @ Y.T)) / np.linalg.norm(K) / np.linalg.norm(Y @ Y.T)
    assert alignment(kernel, wanted, weight.astype(float)) == pytest.approx(expected)


def test_weights_of_kernels_are_their_alignments(signal, zscore, make_table):
    vectors, y = signal()
    kernels, wanted = _kernels(zscore, vectors), np.eye(3)[np.unique(y, return_inverse=True)[1]]
    aligned = np.array([alignment(kernel, wanted, np.ones(60)) for kernel in kernels])
    head = KernelClassifier().fit(make_table(vectors, y), y)
    np.testing.assert_allclose(head.beta_, aligned / aligned.sum(), rtol=1e-9)


def test_only_the_rows_that_count_are_kept(posts):
    head = KernelClassifier(C=0.5).fit(posts, posts.y)
    assert head.support_.shape == (head.dual_.shape[1], 10)
    assert (head.dual_ != 0).any(axis=0).all()


@pytest.mark.parametrize(
    "beta", [{"text": -1}, {"sound": 1}, {"text": 0, "image": 0}, {"text": "a"}, 3, {"text": np.inf}]
)
def test_weights_that_are_no_weights_are_refused(posts, beta):
    with pytest.raises(UsageError, match="beta must map each of text, image"):
        KernelClassifier(beta=beta).fit(posts, posts.y)
