"""Encoders tuned end to end with a head: what is learned, what is the same, what is kept."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import tuning
from cache import DataError, FeatureStore, UsageError, load, table_of, unpack_items
from extract import EncoderSpec, Settings, Tuning, extract, read_manifest
from fuse import Joint, head_for, judge, load_run, protocol_for
from tests.extract.conftest import WORDS, bert, one_thread, shufflenet  # noqa: F401
from tuned import tuned_folds
from tuning import Finetuned, Finetuning, Wanted


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    """Heads on cached features are trained for their epochs alone, as here."""
    monkeypatch.setattr("fuse.training.MIN_STEPS", 1)


@pytest.fixture(scope="module")
def sure(bert, tmp_path_factory):  # noqa: F811
    """The tiny BERT without dropout."""
    folder = tmp_path_factory.mktemp("sure") / "bert"
    shutil.copytree(bert, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def posts(tmp_path):
    """32 different posts, two of three words each, labelled by chance; four without text."""
    from PIL import Image

    folder = tmp_path / "posts"
    folder.mkdir()
    draw = np.random.default_rng(0)
    with (folder / "posts.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text", "image", "label"])
        for number in range(32):
            words = " ".join([WORDS[number % 14], WORDS[number // 14], *draw.choice(WORDS, number % 4)])
            pixels = draw.integers(0, 256, (6, 5, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((50, 60)).save(folder / f"{number}.png")
            label = ["bad", "good"][int(draw.integers(2))]
            writer.writerow([f"p{number}", "" if number % 8 == 7 else words, f"{number}.png", label])
    return folder


@pytest.fixture
def ask(tmp_path, posts, sure, shufflenet):  # noqa: F811
    """Runs a fine-tuning of the posts; options are those of `Tuning` and of `Wanted`."""

    def run(*modalities: str, out: str = "run", root: str = "runs", **options: object) -> Finetuned:
        specs = {
            "text": EncoderSpec("text", str(sure)),
            "image": EncoderSpec("image", "shufflenet_v2_x0_5", weights=str(shufflenet)),
        }
        own = {
            name: options.pop(name)
            for name in ("tune", "head", "params", "folds", "cross_fit", "task")
            if name in options
        }
        chosen = Tuning(**{"precision": "fp32", "epochs": 2, "batch_size": 8, **options})
        wanted = Wanted(
            tmp_path / "store",
            tuple(specs[name] for name in modalities),
            **{"tune": modalities, "head": "linear", "params": {}, "device": "cpu", **own},
            tuning=chosen,
        )
        fine = Finetuning(read_manifest(posts), "posts", wanted, lambda *_: None)
        done = fine.run(None if out is None else tmp_path / out, tmp_path / root)
        assert done is not None
        return done

    return run


def table_by(specs, posts, store):
    done = extract(read_manifest(posts), Settings(store, "posts", tuple(specs), device="cpu", keep=False))
    return table_of(FeatureStore(store), done.view)


def encoders_of(done):
    return [one["encoder"] for one in load_run(done.folder).encoders.values()]


# Learning


@pytest.mark.parametrize(
    ("modalities", "head"),
    [
        ("text", "linear"),
        pytest.param("image", "linear", marks=pytest.mark.slow),
        *(pytest.param("text image", head, marks=pytest.mark.slow) for head in ("mlp", "logit-max", "bilinear")),
    ],
)
def test_it_can_learn_32_posts_by_heart(ask, modalities, head):
    names = modalities.split()
    rates = dict.fromkeys(names, 3e-3)
    done = ask(*names, head=head, epochs=60, batch_size=28, rates=rates, schedule="constant", warm_up=0.0, folds=8)
    history = done.tuned[0]["history"]
    assert history[0]["train_loss"] > 0.5
    assert history[-1]["train_loss"] < 0.05


def test_what_is_tuned_changes_and_what_is_frozen_does_not(ask, tmp_path, posts, sure):
    from safetensors.torch import load_file

    done = ask("text", freeze={"text": 2})
    before, after = (load_file(path / "model.safetensors") for path in (sure, done.folder / "encoders" / "text"))
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert moved
    assert all(name.startswith("encoder.layer.1.") for name in moved)


@pytest.mark.slow
def test_frozen_batch_norms_keep_their_means(ask, shufflenet):  # noqa: F811
    from safetensors.torch import load_file

    before = torch.load(shufflenet, weights_only=True)
    partly = load_file(ask("image", freeze={"image": 1}).folder / "encoders" / "image" / "weights.safetensors")
    assert torch.equal(before["conv1.1.running_mean"], partly["conv1.1.running_mean"])
    assert not torch.equal(before["conv5.1.running_mean"], partly["conv5.1.running_mean"])


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant", "plateau"])
def test_every_schedule_trains(ask, schedule):
    options = {"patience": 5} if schedule == "plateau" else {}
    history = ask("text", schedule=schedule, epochs=6, rates={"text": 1e-3}, **options).tuned[0]["history"]
    assert history[-1]["train_loss"] < history[0]["train_loss"]


# The same as on cached features


@pytest.mark.parametrize(
    ("head", "nearly"),
    [
        ("linear", 1e-4),
        pytest.param("mlp", 1e-4, marks=pytest.mark.slow),
        pytest.param("gmu", 1e-4, marks=pytest.mark.slow),
        pytest.param("cross-attention", 1e-3, marks=pytest.mark.slow),  # tokens are stored as float16
    ],
)
def test_with_encoders_that_do_not_learn_it_is_the_training_on_cached_features(ask, tmp_path, posts, head, nearly):
    same = {"schedule": "cosine", "warm_up": 0.0, "clip_norm": None, "weight_decay": 0.0, "epochs": 5, "batch_size": 8}
    params = {"epochs": 5, "batch_size": 8}
    done = ask(
        "text", "image", head=head, params=params, rates={"text": 0.0, "image": 0.0}, freeze={"image": 7}, **same
    )
    run = load_run(done.folder)
    specs = [EncoderSpec.from_json(run.encoders[name]["spec"]) for name in ("text", "image")]
    table = table_by(specs, posts, tmp_path / "store")
    fold = protocol_for(table, 5, 0).judged[0]
    alone = head_for(head, "classification", params, 0).fit(table[fold.train], table.y[fold.train])
    logits = [np.log(model.predict_proba(table)) for model in (run.model, alone)]
    centred = [one - one.mean(axis=1, keepdims=True) for one in logits]
    np.testing.assert_allclose(centred[0], centred[1], atol=nearly)
    assert np.abs(centred[0]).max() > 1e-2


def test_the_module_gives_the_scores_of_the_head_it_becomes(ask, tmp_path, posts, sure):
    table = table_by([EncoderSpec("text", str(sure))], posts, tmp_path / "store")
    head = head_for("mlp", "classification", {}, 3)
    shown = torch.as_tensor(table.masks["text"])
    joint = Joint(head, table, np.flatnonzero(table.masks["text"])[:20], ("text",))
    given = {"text": (torch.tensor(table.block("text")), shown)}
    with torch.no_grad():
        scores = joint.eval().scores(torch.arange(len(table)), given).double().numpy()
    shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    some = shown.numpy()  # of nothing, an estimator knows the classes' shares
    np.testing.assert_allclose(joint.fitted().predict_proba(table)[some], shares[some], atol=1e-6)


# Chance, and being stopped


@pytest.mark.slow
def test_the_seed_decides_all(ask):
    one, two, other = (
        ask("text", "image", out=name, seed=seed, augment=True, head="mlp")
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    encoders = [[one["encoder"] for one in load_run(done.folder).encoders.values()] for done in (one, two, other)]
    assert encoders[0] == encoders[1]
    assert set(encoders[0]).isdisjoint(encoders[2])
    assert one.tuned[0]["history"] == two.tuned[0]["history"]


@pytest.mark.slow
def test_torchs_generators_are_left_as_they_were(ask):
    torch.manual_seed(5)
    np.random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    ask("text")
    assert torch.equal(before[0], torch.get_rng_state())
    np.testing.assert_array_equal(before[1], np.random.get_state()[1])


@pytest.mark.parametrize(
    ("modalities", "accumulate"), [("text", 1), pytest.param("text image", 2, marks=pytest.mark.slow)]
)
def test_a_stopped_run_goes_on_to_the_same_weights(ask, monkeypatch, modalities, accumulate):
    from extract.finetune import trainer

    options = {"epochs": 4, "augment": True, "rates": {"text": 1e-3}, "accumulate": accumulate, "head": "mlp"}
    names = modalities.split()
    whole = ask(*names, out="whole", **options)
    real = trainer._Told.on_step_end

    def killed(self, args, state, control, **rest):
        real(self, args, state, control, **rest)
        if state.epoch > 2.3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trainer._Told, "on_step_end", killed)
        with pytest.raises(KeyboardInterrupt):
            ask(*names, out="stopped", **options)
    steps = []
    monkeypatch.setattr(
        trainer._Told, "on_step_end", lambda self, args, state, control, **_: steps.append(state.global_step)
    )
    again = ask(*names, out="stopped", **options)
    assert 0 < len(steps) < again.tuned[0]["steps"]  # not from the start
    assert encoders_of(whole) == encoders_of(again)
    for name, weights in load_run(whole.folder).model.weights_.items():
        np.testing.assert_array_equal(weights, load_run(again.folder).model.weights_[name])
    assert not (again.folder / "checkpoints").exists()


@pytest.mark.slow
def test_without_out_a_stopped_run_is_found_and_a_finished_one_is_not_touched(ask, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(tuning.Finetuning, "_keep", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            ask("text", out=None)
    (stopped,) = (tmp_path / "runs").iterdir()
    done = ask("text", out=None)
    assert done.folder == stopped
    other = ask("text", out=None)
    assert other.folder != stopped
    with pytest.raises(UsageError, match="holds a run"):
        ask("text", out=f"runs/{stopped.name}")


@pytest.mark.slow
def test_a_run_of_other_settings_is_refused(ask, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(tuning.Finetuning, "_keep", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            ask("text", out="run")
    with pytest.raises(UsageError, match="other data or settings"):
        ask("text", out="run", epochs=3)


# Watching


@pytest.mark.slow
def test_patience_keeps_the_best_weights(ask):
    done = ask("text", rates={"text": 3e-3}, schedule="constant", epochs=30, patience=2, params={"learning_rate": 1e-2})
    history = done.tuned[0]["history"]
    losses = [epoch["valid_loss"] for epoch in history]
    assert len(history) < 30
    assert min(range(len(losses)), key=losses.__getitem__) == len(losses) - 3
    assert done.tuned[0]["rows"]["watched"] > 0


def test_watched_rows_count_as_seen(ask, tmp_path, posts, sure):
    done = ask("text", patience=3)
    table = table_by([EncoderSpec("text", str(sure))], posts, tmp_path / "store")
    seen = {bytes.fromhex(item) for item in load_run(done.folder).encoders["text"]["spec"]["tuned_on"]["items"]}
    items = unpack_items(table.view.blocks["text"].items)
    test = set(done.tuned[0]["test"])
    assert seen == {
        item for item, id_, has in zip(items, table.ids, table.masks["text"], strict=True) if id_ not in test and has
    }


# The guard


def test_rows_that_tuned_an_encoder_judge_no_head(ask, tmp_path, posts):
    done = ask("text", "image", tune=("text",))
    assert set(load_run(done.folder).encoders["image"]["spec"]) & {"tuned_on"} == set()
    (fold,) = tuned_folds(done.folder)
    specs = [fold.specs["text"]]
    manifest = read_manifest(posts)
    extract(manifest, Settings(tmp_path / "store", "posts", tuple(specs), device="cpu"))
    table = load(tmp_path / "store", "posts")
    with pytest.raises(DataError, match="tuned the text encoder"):
        judge(table, "logreg", store=tmp_path / "store", out=tmp_path / "judged")
    split = tuple(replace(one, split="test" if one.id in fold.test else "train") for one in manifest.samples)
    extract(replace(manifest, samples=split), Settings(tmp_path / "store", "posts", tuple(specs), device="cpu"))
    judged = judge(load(tmp_path / "store", "posts"), "logreg", store=tmp_path / "store", out=tmp_path / "judged")
    assert judged.metrics["n"] == len(fold.test)


@pytest.mark.slow
def test_cross_fitting_judges_every_row_by_encoders_that_did_not_see_it(ask, tmp_path):
    done = ask("text", cross_fit=True, folds=3)
    assert done.metrics["n"] == 32
    folds = tuned_folds(done.folder)
    assert sorted(id_ for fold in folds for id_ in fold.test) == sorted(f"p{number}" for number in range(32))
    assert len({fold.specs["text"].model for fold in folds}) == 3
    with (done.folder / "predictions.csv").open(newline="") as file:
        held = {row["id"]: row["fold"] for row in csv.DictReader(file)}
    assert all(held[id_] == str(number) for number, fold in enumerate(folds) for id_ in fold.test)


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "logreg"}, "cannot be trained together"),
        ({"head": "blend"}, "cannot be trained together"),
        ({"params": {"early_stopping": True}}, "give --patience"),
        ({"freeze": {"text": 4}}, "3 parts to freeze"),
        ({"freeze": {"image": 1}}, "not among the modalities that are tuned"),
        ({"rates": {"image": 1.0}}, "not among the modalities that are tuned"),
        ({"schedule": "plateau", "epochs": 0}, "epochs must be 1 or more"),
        ({"lora": 2, "freeze": {"text": 1}}, "LoRA leaves all weights"),
        ({"precision": "fp8"}, "precision is one of"),
    ],
)
def test_what_makes_no_sense_is_refused(ask, options, message):
    with pytest.raises(UsageError, match=message):
        ask("text", **options)


# Low rank


@pytest.mark.slow
def test_lora_learns_little_and_is_merged(ask, tmp_path, posts, sure):
    pytest.importorskip("peft")
    from safetensors.torch import load_file

    done = ask("text", lora=2, rates={"text": 1e-2}, epochs=4)
    before, after = (load_file(path / "model.safetensors") for path in (sure, done.folder / "encoders" / "text"))
    assert set(after) == {name for name in before if not name.startswith("pooler.")}
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert moved
    for name in moved:
        change = (after[name] - before[name]).double().numpy()
        assert np.linalg.matrix_rank(change, tol=1e-5) <= 2, name


def test_a_column_that_hardly_varies_has_no_huge_gradient(ask, tmp_path, posts, sure):
    table = table_by([EncoderSpec("text", str(sure))], posts, tmp_path / "store")
    values = np.array(table.block("text"))
    values[:, 3] *= 1e-32 / values[:, 3].std()

    class Dead(type(table)):
        def block(self, modality, missing=0.0):
            return values[self._rows]

        def to_numpy(self, missing=0.0):
            return values[self._rows]

        def __getitem__(self, rows):
            return Dead(self._view, self._readers, self._rows[rows], self._modalities)

    dead = Dead(table._view, table._readers, table._rows, table._modalities)
    some = np.flatnonzero(table.masks["text"])
    joint = Joint(head_for("linear", "classification", {}, 0), dead, some, ("text",))
    given = torch.tensor(values[some], dtype=torch.float32, requires_grad=True)
    joint(torch.as_tensor(some), {"text": (given, torch.ones(len(some), dtype=torch.bool))}).backward()
    slopes = given.grad.norm(dim=0)
    assert torch.isfinite(slopes).all()
    assert slopes[3] <= 100 * slopes.median() * 10


@pytest.mark.parametrize(
    ("rows", "options", "passes"),
    [
        (2560, {}, 3),
        (100_000, {}, 3),
        (1284, {}, 6),
        (1284, {"accumulate": 2}, 12),
        (20, {}, 20),
        (1284, {"epochs": 1}, 1),
    ],
)
def test_small_data_is_seen_more_often(rows, options, passes):
    assert Tuning(**options).passes(rows) == passes


# Other tasks, heads and ways


@pytest.mark.slow
def test_numbers_are_learned_too(ask, posts):
    rows = (posts / "posts.csv").read_text().replace(",bad", ",-1.5").replace(",good", ",2.25")
    (posts / "posts.csv").write_text(rows)
    done = ask("text", rates={"text": 3e-3}, epochs=40, schedule="constant", warm_up=0.0, task="regression")
    assert done.tuned[0]["history"][-1]["train_loss"] < 0.05
    assert {"mae", "corr"} <= set(done.metrics)


@pytest.mark.slow
def test_class_weights_move_the_loss(ask):
    weights = (None, {"good": 1.0, "bad": 9.0})
    still = {"epochs": 1, "rates": {"text": 0.0}}
    losses = [
        ask("text", out=f"run {n}", params={"class_weight": one, "learning_rate": 1e-9}, **still).tuned[0]["history"]
        for n, one in enumerate(weights)
    ]
    assert losses[0] != losses[1]


@pytest.mark.slow
@pytest.mark.parametrize("option", [{"checkpointing": True}, {"accumulate": 2, "batch_size": 4}])
def test_saving_memory_changes_nothing_but_digits(ask, monkeypatch, option):
    real = Finetuning._parted
    monkeypatch.setattr(Finetuning, "_parted", lambda *args: tuple(rows[:16] for rows in real(*args)))  # whole batches
    options = {"rates": {"text": 1e-3}, "batch_size": 8, "epochs": 3}
    plain, saving = ask("text", out="plain", **options), ask("text", out="saving", **{**options, **option})
    losses = [[epoch["train_loss"] for epoch in done.tuned[0]["history"]] for done in (plain, saving)]
    assert max(losses[0]) > 1.01 * min(losses[0])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)


@pytest.mark.slow
def test_bfloat16_trains_nearly_the_same(ask):
    full, half = (ask("text", out=name, precision=name, epochs=4, rates={"text": 1e-3}) for name in ("fp32", "bf16"))
    losses = [[epoch["train_loss"] for epoch in done.tuned[0]["history"]] for done in (full, half)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=0.05)
    assert losses[0] != losses[1]


@pytest.mark.slow
def test_two_pictures_of_a_row_share_one_encoder(ask, tmp_path, posts, shufflenet):  # noqa: F811
    from PIL import Image

    lines = (posts / "posts.csv").read_text().splitlines()
    for number in range(32):
        Image.new("RGB", (40, 40), (8 * number, 0, 0)).save(posts / f"second-{number}.png")
    more = ["image_2", *(f"second-{number}.png" for number in range(32))]
    (posts / "posts.csv").write_text("\n".join(f"{line},{one}" for line, one in zip(lines, more, strict=True)))
    spec = EncoderSpec("image", "shufflenet_v2_x0_5", weights=str(shufflenet))
    specs = (spec, replace(spec, modality="image_2"))
    manifest = read_manifest(posts, columns={"image": "image", "image_2": "image_2", "label": "label", "id": "id"})
    names = ("image", "image_2")
    tuning_ = Tuning(precision="fp32", epochs=1, batch_size=8, rates={"image": 1e-3})
    wanted = Wanted(tmp_path / "store", specs, names, "linear", {}, tuning_, device="cpu")
    done = Finetuning(manifest, "posts", wanted, lambda *_: None).run(tmp_path / "run", tmp_path)
    encoders = load_run(done.folder).encoders
    assert encoders["image"]["encoder"] == encoders["image_2"]["encoder"]
    assert encoders["image"]["spec"]["tuned_on"] == encoders["image_2"]["spec"]["tuned_on"]


@pytest.mark.parametrize("head", ["cmbert", pytest.param("ef-lstm", marks=pytest.mark.slow)])
def test_aligned_sound_stands_beside_words_that_learn(tmp_path, sure, head):
    draw = np.random.default_rng(0)
    lines = []
    for number in range(24):
        words = draw.choice(WORDS, 2 + number % 3).tolist()
        np.save(tmp_path / f"{number}.npy", draw.normal(size=(len(words), 4)).astype(np.float32))
        lines.append(
            json.dumps({"id": f"u{number}", "words": words, "audio": f"{number}.npy", "label": float(draw.normal())})
        )
    (tmp_path / "sound.jsonl").write_text("\n".join(lines) + "\n")
    columns = {"audio": "audio", "words": "words", "label": "label", "id": "id"}
    manifest = read_manifest(tmp_path / "sound.jsonl", columns=columns)
    from extract import choose_specs, found_in

    names = ("text", "audio")
    specs = choose_specs(names, {"text": {"model": str(sure), "precision": "fp32"}}, {}, {}, found_in(manifest, names))
    how = Tuning(precision="fp32", epochs=30, batch_size=8, rates={"text": 3e-3}, schedule="constant", warm_up=0.0)
    wanted = Wanted(
        tmp_path / "store", specs, ("text",), head, {"learning_rate": 1e-2}, how, task="regression", device="cpu"
    )
    done = Finetuning(manifest, "sound", wanted, lambda *_: None).run(tmp_path / "run", tmp_path)
    history = done.tuned[0]["history"]
    assert history[-1]["train_loss"] < 0.3 * history[0]["train_loss"]
    assert done.metrics["modalities"] == ["text", "audio"]


@pytest.mark.slow
def test_on_a_plateau_the_rate_falls_before_patience_ends(ask, monkeypatch):
    from extract.finetune import trainer

    rates = []

    def look(self, args, state, control, optimizer, **_):
        rates.append(optimizer.param_groups[0]["lr"])

    monkeypatch.setattr(trainer._Told, "on_step_end", look)
    ask("text", schedule="plateau", patience=6, epochs=12, rates={"text": 1e-2}, params={"learning_rate": 1e-1})
    assert rates[0] == 1e-2
    assert min(rates) == pytest.approx(1e-3, rel=1e-6) or min(rates) < 1e-3


def test_a_picture_is_cropped_and_mirrored_by_chance():
    from PIL import Image

    from extract.encoders.picture import Preset
    from extract.finetune.networks import augmented

    ramp = np.tile(np.linspace(0, 255, 90, dtype=np.uint8), (60, 1))
    picture = Image.fromarray(np.stack([ramp] * 3, axis=2))
    preset = Preset(32, 24, "bilinear", (0.5,) * 3, (0.5,) * 3)
    made = [augmented(picture, preset, np.random.default_rng(seed)) for seed in range(200)]
    assert all(one.shape == (24, 24, 3) and one.dtype == np.uint8 for one in made)
    np.testing.assert_array_equal(made[7], augmented(picture, preset, np.random.default_rng(7)))
    spans = np.array([int(one[0, -1, 0]) - int(one[0, 0, 0]) for one in made])
    assert 0.35 < (spans < 0).mean() < 0.65  # mirrored
    assert np.abs(spans).min() < 140 < np.abs(spans).max()  # small and large parts of it
    assert np.abs(spans).min() > 60  # but no scraps
