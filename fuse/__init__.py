"""Fusion heads as sklearn estimators, and the protocol that compares them."""

from typing import TYPE_CHECKING, Any

from fuse.ablation.plan import Settings
from fuse.ablation.report import Ablated, read_summary, report
from fuse.ablation.run import Asked, ablate
from fuse.bundle import load, save
from fuse.cca import CanonicalCorrelation
from fuse.estimators import FusionClassifier, FusionHead, FusionRegressor
from fuse.evaluate import Evaluation, Predictions, evaluate, predicted, summarise, task_for
from fuse.explain import ModalityShares, Projection, emap, modality_shares
from fuse.folds import held_out
from fuse.head import Head
from fuse.heads.aligned import CMBERTClassifier, CMBERTRegressor, EFLSTMClassifier, EFLSTMRegressor
from fuse.heads.attention import CrossAttentionClassifier, CrossAttentionRegressor, MulTClassifier, MulTRegressor
from fuse.heads.bilinear import (
    BilinearClassifier,
    BilinearRegressor,
    MCBClassifier,
    MCBRegressor,
    MFBClassifier,
    MFBRegressor,
    MLBClassifier,
    MLBRegressor,
    MutanClassifier,
    MutanRegressor,
)
from fuse.heads.conditional import FiLMClassifier, FiLMRegressor, MultiplicativeClassifier, MultiplicativeRegressor
from fuse.heads.gated import GatedUnitClassifier, GatedUnitRegressor
from fuse.heads.kernel import KernelClassifier, KernelRegressor
from fuse.heads.linear import (
    ConcatLogisticClassifier,
    RidgeClassifier,
    RidgeRegressor,
    UnimodalClassifier,
    UnimodalRegressor,
)
from fuse.heads.merge import FeatureMergeClassifier, FeatureMergeRegressor, LogitMergeClassifier, LogitMergeRegressor
from fuse.heads.mlp import (
    ConcatMLPClassifier,
    ConcatMLPRegressor,
    FlatTokensClassifier,
    FlatTokensRegressor,
    GradientBlendingClassifier,
    GradientBlendingRegressor,
)
from fuse.heads.sets import SetFusionClassifier, SetFusionRegressor
from fuse.heads.stack import (
    EnsembleSelectionClassifier,
    EnsembleSelectionRegressor,
    StackingClassifier,
    StackingRegressor,
)
from fuse.heads.svm import LinearSVMClassifier, LinearSVMRegressor
from fuse.heads.tensor import (
    LowRankFusionClassifier,
    LowRankFusionRegressor,
    TensorFusionClassifier,
    TensorFusionRegressor,
)
from fuse.heads.vote import LateVotingClassifier, LateVotingRegressor
from fuse.inputs import out_of_core
from fuse.memory import Planned, TooLarge, plan_fit
from fuse.metrics import classification_metrics, regression_metrics
from fuse.onnx import export_onnx
from fuse.registry import HEADS, make_classifier, make_regressor, tokens_read
from fuse.report.ablation import ablation_result, ablation_text, accuracies
from fuse.report.heads import heads_content, heads_lines, heads_page
from fuse.report.page import Shown, page
from fuse.report.screen import comparison_table, evaluation_text
from fuse.runs import (
    Judged,
    Run,
    check_free,
    head_for,
    judge,
    load_run,
    new_folder,
    predict,
    run_head,
    write_run,
)
from fuse.splits import Fold, Protocol, protocol_for
from fuse.task import targets, task_of

if TYPE_CHECKING:
    from fuse.joint import Joint

__all__ = [
    "HEADS",
    "Ablated",
    "Asked",
    "BilinearClassifier",
    "BilinearRegressor",
    "CMBERTClassifier",
    "CMBERTRegressor",
    "CanonicalCorrelation",
    "ConcatLogisticClassifier",
    "ConcatMLPClassifier",
    "ConcatMLPRegressor",
    "CrossAttentionClassifier",
    "CrossAttentionRegressor",
    "EFLSTMClassifier",
    "EFLSTMRegressor",
    "EnsembleSelectionClassifier",
    "EnsembleSelectionRegressor",
    "Evaluation",
    "FeatureMergeClassifier",
    "FeatureMergeRegressor",
    "FiLMClassifier",
    "FiLMRegressor",
    "FlatTokensClassifier",
    "FlatTokensRegressor",
    "Fold",
    "FusionClassifier",
    "FusionHead",
    "FusionRegressor",
    "GatedUnitClassifier",
    "GatedUnitRegressor",
    "GradientBlendingClassifier",
    "GradientBlendingRegressor",
    "Head",
    "Joint",
    "Judged",
    "KernelClassifier",
    "KernelRegressor",
    "LateVotingClassifier",
    "LateVotingRegressor",
    "LinearSVMClassifier",
    "LinearSVMRegressor",
    "LogitMergeClassifier",
    "LogitMergeRegressor",
    "LowRankFusionClassifier",
    "LowRankFusionRegressor",
    "MCBClassifier",
    "MCBRegressor",
    "MFBClassifier",
    "MFBRegressor",
    "MLBClassifier",
    "MLBRegressor",
    "ModalityShares",
    "MulTClassifier",
    "MulTRegressor",
    "MultiplicativeClassifier",
    "MultiplicativeRegressor",
    "MutanClassifier",
    "MutanRegressor",
    "Planned",
    "Predictions",
    "Projection",
    "Protocol",
    "RidgeClassifier",
    "RidgeRegressor",
    "Run",
    "SetFusionClassifier",
    "SetFusionRegressor",
    "Settings",
    "Shown",
    "StackingClassifier",
    "StackingRegressor",
    "TensorFusionClassifier",
    "TensorFusionRegressor",
    "TooLarge",
    "UnimodalClassifier",
    "UnimodalRegressor",
    "ablate",
    "ablation_result",
    "ablation_text",
    "accuracies",
    "check_free",
    "classification_metrics",
    "comparison_table",
    "emap",
    "evaluate",
    "evaluation_text",
    "export_onnx",
    "head_for",
    "heads_content",
    "heads_lines",
    "heads_page",
    "held_out",
    "judge",
    "load",
    "load_run",
    "make_classifier",
    "make_regressor",
    "modality_shares",
    "new_folder",
    "out_of_core",
    "page",
    "plan_fit",
    "predict",
    "predicted",
    "protocol_for",
    "read_summary",
    "regression_metrics",
    "report",
    "run_head",
    "save",
    "summarise",
    "targets",
    "task_for",
    "task_of",
    "tokens_read",
    "write_run",
]


def __getattr__(name: str) -> Any:
    """Loads `Joint` when it is asked for: it takes torch, which most of `fuse` does without until a head trains."""
    if name == "Joint":
        from fuse.joint import Joint

        return Joint
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
