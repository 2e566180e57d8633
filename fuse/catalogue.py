"""All heads: names, classes, formulas and sources, in the order in which they are shown."""

from __future__ import annotations

from fuse.head import Head
from fuse.heads import (
    aligned,
    attention,
    bilinear,
    conditional,
    gated,
    kernel,
    linear,
    merge,
    mlp,
    sets,
    stack,
    svm,
    tensor,
    vote,
)

SKIPPED = "left out, the rest is renormalised"
MEAN = "counts with its mean"


_LOGISTIC = "Cox (1958); scikit-learn's LogisticRegression and Ridge"
_KITTLER = "Kittler et al. (1998)"
_POOLED = "product by element; needs an interaction to pay"


def _vote(name: str, voting: str, summary: str, formula: str, use: str, regress: str | None = None) -> Head:
    """A voting rule; a rule that is only for classes has no regressor."""
    regressor = vote.LateVotingRegressor if regress else None
    params = {} if voting == "soft" else {"voting": voting}
    return Head(name, vote.LateVotingClassifier, regressor, summary, formula, _KITTLER, use, SKIPPED, params)


def _merge(kind: str, formula: str, use: str) -> Head:
    classes = merge.LogitMergeClassifier, merge.LogitMergeRegressor
    source = "element-wise maximum: the Fakeddit tutorial; Nakamura et al. (2020)" if kind == "max" else "late fusion"
    return Head(
        f"logit-{kind}", *classes, f"{kind} of each modality's logits", formula, source, use, SKIPPED, {"merge": kind}
    )


def _feature(kind: str, sign: str, use: str) -> Head:
    classes = merge.FeatureMergeClassifier, merge.FeatureMergeRegressor
    formula = f"V relu({sign} (W_m x_m + b_m)) + c"
    source = "Nakamura et al. (2020); Baltrusaitis et al. (2019)"
    summary = f"{kind} of mapped features, a ReLU, a linear layer"
    return Head(f"feature-{kind}", *classes, summary, formula, source, use, SKIPPED, {"merge": kind})


def _set(name: str, pooling: str, summary: str, formula: str, source: str, use: str) -> Head:
    classes = sets.SetFusionClassifier, sets.SetFusionRegressor
    return Head(name, *classes, summary, formula, source, use, params={"pooling": pooling})


def _unimodal(name: str, modality: str | None, summary: str) -> Head:
    classes = linear.UnimodalClassifier, linear.UnimodalRegressor
    params = {} if modality is None else {"modality": modality}
    use = "the baseline that a fusion must beat"
    return Head(
        name, *classes, summary, "softmax(W z_m + b)", _LOGISTIC, use, "the classes' shares, or the mean", params
    )


CATALOGUE: tuple[Head, ...] = (
    _unimodal("text", "text", "text alone, logistic or ridge regression"),
    _unimodal("image", "image", "image alone, logistic or ridge regression"),
    _unimodal("unimodal", None, "one modality alone (--set modality=NAME), logistic or ridge regression"),
    Head(
        "logreg",
        linear.ConcatLogisticClassifier,
        None,
        "concatenation, multinomial logistic regression",
        "softmax(W [z_1; ...; z_M] + b)",
        _LOGISTIC,
        "first: quick, convex, hard to beat on few rows",
        MEAN,
    ),
    Head(
        "ridge",
        linear.RidgeClassifier,
        linear.RidgeRegressor,
        "concatenation, least squares with an L2 penalty",
        "W [z_1; ...; z_M] + b",
        "Hoerl and Kennard (1970); scikit-learn's Ridge",
        "first for regression; many columns",
        MEAN,
    ),
    Head(
        "svm",
        svm.LinearSVMClassifier,
        svm.LinearSVMRegressor,
        "concatenation, linear support vector machine",
        "W [z_1; ...; z_M] + b, squared hinge",
        "Cortes and Vapnik (1995); LIBLINEAR, Fan et al. (2008)",
        "few rows, many columns",
        MEAN,
    ),
    Head(
        "kernel",
        kernel.KernelClassifier,
        kernel.KernelRegressor,
        "one RBF kernel a modality, weighted sum, support vector machine",
        "sum_m beta_m K_m",
        "Goenen and Alpaydin (2011); weights: Cortes et al. (2012)",
        "up to some 10 000 rows; smooth boundaries",
        MEAN,
        most_rows=10_000,
    ),
    Head(
        "kernel-product",
        kernel.KernelClassifier,
        kernel.KernelRegressor,
        "one RBF kernel a modality, product, support vector machine",
        "prod_m K_m",
        "Goenen and Alpaydin (2011)",
        "as kernel, where modalities must agree",
        MEAN,
        {"combine": "product"},
        10_000,
    ),
    _vote("vote", "soft", "mean of one model a modality", "sum_m w_m p_m", "modalities that err apart", "mean"),
    _vote("vote-hard", "hard", "majority of one model a modality", "sum_m w_m [k = argmax p_m]", "three or more"),
    _vote(
        "vote-product",
        "product",
        "product of probabilities",
        "prod_m p_m^{w_m}",
        "confident, well calibrated voters",
    ),
    _vote(
        "vote-prior",
        "prior",
        "product, prior counted once: Bayes' rule for independent modalities",
        "prior^{1-M} prod_m p_m",
        "unequal classes, modalities independent given the class",
    ),
    _vote("vote-max", "max", "largest probability by class", "max_m p_m", "one sure modality is enough"),
    _vote("vote-min", "min", "smallest probability by class", "min_m p_m", "no modality may object"),
    _vote("vote-median", "median", "median by class", "median_m p_m", "three or more, some wild", "median"),
    _vote(
        "vote-fitted",
        "fitted",
        "mean by weights fitted out of fold",
        "sum_m w_m p_m",
        "modalities of unequal worth",
        "fitted",
    ),
    Head(
        "stacking",
        stack.StackingClassifier,
        stack.StackingRegressor,
        "a model on out-of-fold predictions of one model a modality",
        "softmax(sum_m A_m log p_m + b)",
        "Wolpert (1992)",
        "modalities good at different classes",
        "says the classes' shares",
    ),
    Head(
        "ensemble",
        stack.EnsembleSelectionClassifier,
        stack.EnsembleSelectionRegressor,
        "greedy mean of heads by their loss on held-out rows",
        "sum_h c_h p_h / sum_h c_h",
        "Caruana et al. (2004)",
        "the last point of accuracy, interpretation aside",
        "as each member does",
    ),
    _merge("max", "max_m (W_m x_m + b_m)", "to compare with published Fakeddit results"),
    _merge("mean", "mean_m (W_m x_m + b_m)", "late fusion trained as a whole"),
    _merge("sum", "sum_m (W_m x_m + b_m)", "late fusion trained as a whole; a linear model"),
    _feature("max", "max_m", "one shared space of features"),
    _feature("mean", "mean_m", "one shared space; many missing values"),
    _feature("sum", "sum_m", "one shared space of features"),
    _feature("product", "prod_m", _POOLED),
    Head(
        "linear",
        mlp.ConcatMLPClassifier,
        mlp.ConcatMLPRegressor,
        "concatenation, one linear layer, by gradient",
        "W [z_1; ...; z_M] + b",
        "softmax regression; Cox (1958)",
        "on top of encoders that are tuned; on cached features logreg and ridge find the optimum itself",
        params={"hidden_sizes": ()},
    ),
    Head(
        "mlp",
        mlp.ConcatMLPClassifier,
        mlp.ConcatMLPRegressor,
        "concatenation, one hidden layer",
        "W_2 relu(W_1 [z_1; ...; z_M] + b_1) + b_2",
        "early fusion; Baltrusaitis et al. (2019), section 6.1",
        "the usual neural baseline; learns interactions",
    ),
    Head(
        "mlp-aux",
        mlp.ConcatMLPClassifier,
        mlp.ConcatMLPRegressor,
        "as mlp, a hidden layer a modality, each with a loss of its own",
        "L(y) + a sum_m L(V_m h_m + c_m)",
        "auxiliary losses; Wang et al. (2020), section 3",
        "one modality drowns the others while training",
        params={"auxiliary": 1.0, "hidden_sizes": (64,)},
    ),
    Head(
        "blend",
        mlp.GradientBlendingClassifier,
        mlp.GradientBlendingRegressor,
        "as mlp-aux, losses weighted by how well each generalises",
        "sum_k w_k L_k, w_k ~ G_k / O_k^2",
        "Wang, Tran and Feiszli (2020)",
        "modalities that overfit at different rates",
    ),
    Head(
        "gmu",
        gated.GatedUnitClassifier,
        gated.GatedUnitRegressor,
        "gated multimodal unit",
        "V sum_m sigmoid(G_m x) * tanh(W_m x_m) + d",
        "Arevalo et al. (2017)",
        "which modality counts differs from row to row",
    ),
    Head(
        "bilinear",
        bilinear.BilinearClassifier,
        bilinear.BilinearRegressor,
        "bilinear form of two modalities",
        "u_1' W_k u_2 + b_k",
        "Tenenbaum and Freeman (2000)",
        "two modalities that explain each other",
    ),
    Head(
        "mlb",
        bilinear.MLBClassifier,
        bilinear.MLBRegressor,
        "low-rank bilinear pooling",
        "P' (tanh(U_1 x_1) * ... * tanh(U_M x_M)) + b",
        "Kim et al. (2017)",
        "as bilinear, fewer weights",
    ),
    Head(
        "mfb",
        bilinear.MFBClassifier,
        bilinear.MFBRegressor,
        "factorised bilinear pooling",
        "V l2(root(sum-pool_k(U_1 x_1 * ... * U_M x_M))) + b",
        "Yu et al. (2017)",
        "as bilinear, between mlb and bilinear",
    ),
    Head(
        "mcb",
        bilinear.MCBClassifier,
        bilinear.MCBRegressor,
        "compact bilinear pooling by count sketches",
        "V l2(root(ifft(prod_m fft(sketch_m([1; x_m]))))) + b",
        "Fukui et al. (2016)",
        "the full outer product without its weights",
    ),
    Head(
        "mutan",
        bilinear.MutanClassifier,
        bilinear.MutanRegressor,
        "Tucker fusion of low rank",
        "V sum_r (A_r^1 x_1 * ... * A_r^M x_M) + b",
        "Ben-younes et al. (2017)",
        "as bilinear, rank chosen",
    ),
    Head(
        "tensor",
        tensor.TensorFusionClassifier,
        tensor.TensorFusionRegressor,
        "outer product of all modalities, each extended by 1",
        "W vec([1; u_1] o ... o [1; u_M]) + b",
        "Zadeh et al. (2017)",
        "two or three modalities; all orders of interaction",
    ),
    Head(
        "lowrank",
        tensor.LowRankFusionClassifier,
        tensor.LowRankFusionRegressor,
        "tensor fusion of low rank",
        "V (sum_r prod_m F_m^r [1; x_m] + b) + c",
        "Liu et al. (2018)",
        "as tensor, any number of modalities",
    ),
    Head(
        "film",
        conditional.FiLMClassifier,
        conditional.FiLMRegressor,
        "the first modality scales and shifts the second",
        "V relu(gamma(x_1) * u_2 + beta(x_1)) + c",
        "Perez et al. (2018)",
        "one modality says how to read the other",
    ),
    Head(
        "multiplicative",
        conditional.MultiplicativeClassifier,
        conditional.MultiplicativeRegressor,
        "bilinear form plus a linear one",
        "u_1' W u_2 + U x_1 + V x_2 + b",
        "Jayakumar et al. (2020)",
        "as bilinear, where modalities also count alone",
    ),
    Head(
        "tokens-mlp",
        mlp.FlatTokensClassifier,
        mlp.FlatTokensRegressor,
        "all token vectors of the text end to end, and the image, one wide hidden layer",
        "V relu(W [t_1; ...; t_T; x] + b) + c",
        "the ECNU write-up",
        "to compare with it; slow, many weights",
    ),
    Head(
        "cross-attention",
        attention.CrossAttentionClassifier,
        attention.CrossAttentionRegressor,
        "tokens of each modality attend to those of the others",
        "V [mean_t LN(t_m + Attention(t_m, others))]_m + b",
        "Vaswani et al. (2017); Lu et al. (2019)",
        "text and image grids; which word, which place",
    ),
    Head(
        "cmbert",
        aligned.CMBERTClassifier,
        aligned.CMBERTRegressor,
        "CM-BERT's masked multimodal attention over aligned tokens",
        "softmax(sum_m w_m relu(P_m P_m') + b + M) X_t",
        "Yang, Xu and Gao (2020)",
        "words with their sound or face",
        "of the text a learned vector stands in; others have no say",
    ),
    Head(
        "ef-lstm",
        aligned.EFLSTMClassifier,
        aligned.EFLSTMRegressor,
        "LSTM over aligned tokens side by side",
        "V h_T + b, h = LSTM([x_1t; ...; x_Mt])",
        "Hochreiter and Schmidhuber (1997); Zadeh et al. (2017)",
        "the usual baseline for aligned sequences",
    ),
    Head(
        "mult",
        attention.MulTClassifier,
        attention.MulTRegressor,
        "cross-modal transformers between all pairs",
        "z = y + Attention(LN y, LN x); z + FF(LN z), for each pair",
        "Tsai et al. (2019)",
        "sequences that are not aligned; enough rows",
    ),
    _set(
        "set-mean",
        "mean",
        "mean of several vectors a sample",
        "mean_i x_i",
        "masked mean",
        "several images a sample",
    ),
    _set(
        "set-max",
        "max",
        "maximum of several vectors a sample",
        "max_i x_i",
        "masked maximum",
        "one image of many decides",
    ),
    _set(
        "deepsets",
        "deepsets",
        "DeepSets over several vectors a sample",
        "rho(sum_i relu(P x_i + a))",
        "Zaheer et al. (2017)",
        "several images, and how many counts",
    ),
    _set(
        "gated-attention",
        "attention",
        "gated attention over several vectors a sample",
        "sum_i a_i x_i, a ~ exp(w' (tanh V x_i * sigmoid U x_i))",
        "Ilse et al. (2018)",
        "several images of which few matter, and which",
    ),
)
