"""Heads that read token vectors instead of one vector a modality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from sklearn.utils.validation import check_is_fitted

from cache import FeatureTable, Ragged, UsageError, listing
from fuse.gradient import TOKEN_ROWS, GradientHead
from fuse.inputs import BlockScaler, Inputs, unpadded, with_tokens

if TYPE_CHECKING:
    from fuse.feed import Part
    from fuse.networks.model import Model


@dataclass(eq=False, repr=False, kw_only=True)
class TokenHead(GradientHead):
    """Base of heads that read token vectors: of a text its tokens, of an image its grid.

    Args:
        tokens: modalities of a `FeatureTable` that are read token by token (`extract --tokens`);
            None takes all that have tokens. Others count as one vector.
        token_dim: of an array: columns of one token, one number or one by modality. A block of
            `T * token_dim` columns is T tokens end to end; tokens of zeros at the end are padding.
    """

    out_of_core: ClassVar[bool] = False

    aligned: ClassVar[bool] = False
    """Whether token t of each modality must belong to token t of the first."""
    one_is_enough: ClassVar[bool] = False
    """Whether one vector a modality makes sense."""
    because: ClassVar[str] = ""
    """Why it does not."""
    needs_columns: ClassVar[bool] = False
    """Whether tokens of one column each in a fixed order, such as sklearn's checks give, are too little to learn by."""

    tokens: Sequence[str] | None = None
    token_dim: int | Mapping[str, int] | None = None

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        for kind in (tags.classifier_tags, tags.regressor_tags):
            if kind is not None:
                kind.poor_score = self.needs_columns
        return tags

    def _read(self, X: Any, y: Any, groups: Any) -> tuple[Inputs, np.ndarray]:
        inputs, y = super()._read(X, y, groups)
        self.read_by_token_ = self._by_token(X, inputs)
        if self.aligned and len(self.read_by_token_) < len(inputs.modalities):
            whole = [name for name in inputs.modalities if name not in self.read_by_token_]
            raise UsageError(
                f"{type(self).__name__} joins modalities token by token, and {listing(whole)} has one vector a sample; "
                "leave it out, or give its tokens (extract --tokens, or token_dim with an array)"
            )
        inputs = self._tokenised(X, inputs)
        lengths = [int(ragged.lengths.max(initial=0)) for ragged in inputs.tokens.values()]
        if max(lengths, default=0) <= 1 and not self.one_is_enough:
            raise UsageError(
                f"{type(self).__name__} reads token vectors; these features have one vector a modality{self.because}"
                f". Run extract with --tokens, or give token_dim with an array (n_features = {self.n_features_in_})"
            )
        return inputs, y

    def _read_again(self, X: Any) -> Inputs:
        return self._tokenised(self._as_fitted(X), super()._read_again(X))

    def _by_token(self, X: Any, inputs: Inputs) -> list[str]:
        if not isinstance(X, FeatureTable):
            widths = self._token_dims(inputs)
            return [name for name in inputs.modalities if name in widths]
        if self.tokens is None:
            return [name for name in X.modalities if X.has_tokens(name)]
        unknown = [name for name in self.tokens if name not in inputs.modalities]
        if unknown:
            raise UsageError(f"tokens names {listing(unknown)}; the features hold {listing(inputs.modalities)}")
        return list(self.tokens)

    def _token_dims(self, inputs: Inputs) -> dict[str, int]:
        if self.token_dim is None:
            return {}
        given = self.token_dim
        widths = dict(given) if isinstance(given, Mapping) else dict.fromkeys(inputs.modalities, given)
        for name, width in widths.items():
            columns = inputs.values[name].shape[1] if name in inputs.values else 0
            whole = isinstance(width, int | np.integer) and not isinstance(width, bool) and width > 0
            if not whole or not columns or columns % width:
                raise UsageError(
                    f"{type(self).__name__}: token_dim must divide the columns of each modality; "
                    f"{name!r} has {columns}, got {width!r}"
                )
        return widths

    def _tokenised(self, X: Any, inputs: Inputs) -> Inputs:
        names = self.read_by_token_
        if isinstance(X, FeatureTable):
            ragged = {name: X.tokens(name) for name in names}
            if self.aligned:
                _check_aligned(self, X.ids, ragged)
            return with_tokens(inputs, ragged)
        widths = self._token_dims(inputs)
        lengths = unpadded(inputs.values[names[0]], widths[names[0]]).lengths if self.aligned and names else None
        return with_tokens(inputs, {name: unpadded(inputs.values[name], widths[name], lengths) for name in names})

    def attention(self, X: Any) -> list[np.ndarray]:
        """For each row the weights of the tokens that its output is made from; they sum to 1.

        Raises:
            UsageError: the head's formula has no such weights.
        """
        from fuse.training import rebuilt

        check_is_fitted(self)
        model = rebuilt(self._model, self.weights_)
        if not model.network.attends:
            raise UsageError(f"{type(self).__name__} has no attention weights over tokens")
        return _attention(model, self._read_again(X), self.scaler_, self._parts())


def _check_aligned(head: TokenHead, ids: np.ndarray, ragged: Mapping[str, Ragged]) -> None:
    """Every sample must have as many tokens in each modality that it has."""
    lengths = np.stack([one.lengths for one in ragged.values()])
    longest = lengths.max(axis=0)
    wrong = np.flatnonzero(((lengths != longest) & (lengths > 0)).any(axis=0))
    if len(wrong):
        counts = ", ".join(f"{name} {one.lengths[wrong[0]]}" for name, one in ragged.items())
        raise UsageError(
            f"{type(head).__name__} needs modalities aligned token by token; {len(wrong)} samples have "
            f"different numbers of tokens ({listing(ids[wrong].tolist())}; the first: {counts}); give one a token"
        )


def _attention(model: Model, inputs: Inputs, scaler: BlockScaler, parts: Sequence[Part]) -> list[np.ndarray]:
    import torch

    from fuse.feed import Feed
    from fuse.training import one_thread

    feed = Feed(inputs, scaler, parts, torch.float64)
    found: list[np.ndarray] = []
    with torch.inference_mode(), one_thread():
        for start in range(0, len(feed), TOKEN_ROWS):
            batch = feed.take(slice(start, start + TOKEN_ROWS))
            weights, kept = model.looked_at(*batch)
            found += [row[there].numpy() for row, there in zip(weights, kept, strict=True)]
    return found
