"""What encoders of transformers share: folders and hub, clear errors, the files that a model was read from."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cache import ModelError, listing

NOT_THE_FUNCTION = (
    "_name_or_path",
    "architectures",
    "transformers_version",
    "torch_dtype",
    "dtype",
    "use_cache",
    "gradient_checkpointing",
    "id2label",
    "label2id",
    "problem_type",
    "finetuning_task",
)
"""Fields of a model's config that cannot change a hidden state at inference."""
Loaded = TypeVar("Loaded")


@dataclass(frozen=True)
class Named:
    """A model as the user names it.

    Attributes:
        model: name on the hub, or a folder.
        what: `text model` or `audio model`, for messages.
        remedy: what else the user can give, for messages.
    """

    model: str
    what: str
    remedy: str

    def load(self, load: Callable[[bool], Loaded]) -> Loaded:
        """What `load` gives, which is told whether it must do without the hub.

        What the local hub cache holds is taken without asking the hub: a model does not change
        between two runs, and a machine without a network does not wait for one.

        Raises:
            ModelError: it cannot be found, or its parts do not fit together.
        """
        with self._explained():
            return self._from_here_or_hub(load)

    def _from_here_or_hub(self, load: Callable[[bool], Loaded]) -> Loaded:
        if Path(self.model).is_dir():
            return load(True)
        if self.model.startswith((".", "/", "~")) or self.model.count("/") > 1:
            raise ModelError(f"cannot load the {self.what} {self.model!r}: there is no such folder. {self.remedy}")
        try:
            return load(True)
        except ModelError as incomplete:
            try:
                return load(False)
            except OSError:
                raise incomplete from None  # the hub is out of reach; what is here says more
        except OSError:
            return load(False)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns what transformers raises for absent or broken models into one clear error."""
        try:
            yield
        except ModelError:
            raise
        except Exception as error:  # transformers and what it stands on raise dozens of types for bad files
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            folder = Path(self.model)
            where = f"the folder {folder}" if folder.is_dir() else "the local hub cache and the hub"
            raise ModelError(
                f"cannot load the {self.what} {self.model!r}, looked for in {where}: {reason}. {self.remedy}"
            ) from error

    def files(self) -> tuple[Path, ...]:
        """The files of a local folder, or those of a hub model in the local hub cache, and the folder itself."""
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.constants import HF_HUB_CACHE

        folder = Path(self.model)
        extra: list[Path] = []
        if not folder.is_dir():
            cached = try_to_load_from_cache(self.model, "config.json")
            if not isinstance(cached, str):
                return ()
            folder = Path(cached).parent
            extra = [Path(HF_HUB_CACHE) / f"models--{self.model.replace('/', '--')}" / "refs" / "main"]
        # The folder's own time tells of files that are added: a tokenizer.json goes before a vocab.txt.
        return (folder.absolute(), *sorted(path.absolute() for path in folder.iterdir() if path.is_file()), *extra)


def load_weights(model: str, config: Any, seed: int | None, local_files_only: bool, unused: str) -> Any:
    """The bare model of a config, in evaluation mode, with its weights or, by the seed, random ones.

    Args:
        model: name or folder.
        config: as transformers read it.
        seed: of random weights; None for those of the model.
        local_files_only: do without the hub.
        unused: first letters of parameters that no hidden state depends on at inference.

    Raises:
        ModelError: weights are missing, or of other shapes.
    """
    import torch
    from transformers import AutoModel

    with torch.random.fork_rng(devices=[]):  # what the checkpoint lacks and nothing uses, such as a pooler, is drawn
        if seed is not None:
            torch.manual_seed(seed)
            return AutoModel.from_config(config, trust_remote_code=False).eval()
        found, report = AutoModel.from_pretrained(
            model,
            config=config,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            local_files_only=local_files_only,
            trust_remote_code=False,
        )
    _refuse_partial(model, report, unused)
    return found


def _refuse_partial(model: str, report: dict[str, Any], unused: str) -> None:
    """A missing weight would be filled at random: the vectors would mean nothing."""
    lost = sorted(name for name in report["missing_keys"] if not name.startswith(unused))
    wrong = sorted(
        f"{name} {tuple(found)} for {tuple(expected)}"
        for name, found, expected in report.get("mismatched_keys", ())
        if not name.startswith(unused)
    )
    if lost or wrong:
        raise ModelError(
            f"the weights of {model} do not fit its config.json: {len(lost)} missing ({listing(lost, 3)}), "
            f"{len(wrong)} of another shape ({listing(wrong, 3)}); download it again or give another folder"
        )
