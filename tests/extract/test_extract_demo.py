from pathlib import Path

from extract import label_counts, read_manifest, write_demo
from extract.decode import DecodeError, decode_image


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_equal_seeds_write_equal_files(tmp_path: Path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_demo(tmp_path / name, seed)
    write_demo(tmp_path / "c", 1)  # over what another seed has left
    assert files(tmp_path / "a") == files(tmp_path / "b") == files(tmp_path / "c")
    write_demo(tmp_path / "d", 2)
    assert files(tmp_path / "d") != files(tmp_path / "a")


def test_one_picture_is_missing_one_corrupt_and_one_post_stands_twice(tmp_path: Path):
    demo = write_demo(tmp_path)
    manifest = read_manifest(demo.data)
    assert len(manifest.samples) == demo.posts
    pictures = [sample.inputs["image"] for sample in manifest.samples]
    absent = {path for path in pictures if not path.exists()}
    assert len(absent) == 1
    corrupt = set()
    for path in set(pictures) - absent:
        try:
            decode_image(path.read_bytes())
        except DecodeError:
            corrupt.add(path)
    assert len(corrupt) == 1
    contents = [(sample.inputs["text"], sample.inputs["image"]) for sample in manifest.samples]
    assert len(contents) - len(set(contents)) == 1
    assert set(label_counts(manifest)) == {"praise", "complaint", "irony", "question", "advert"}
    assert sum(not sample.label for sample in manifest.samples) >= 10


def test_the_text_model_is_a_bert_base_that_knows_every_word(tmp_path: Path):
    from transformers import AutoConfig, AutoTokenizer

    demo = write_demo(tmp_path)
    config = AutoConfig.from_pretrained(demo.text_model)
    assert (config.model_type, config.hidden_size, config.num_hidden_layers) == ("bert", 768, 12)
    tokenizer = AutoTokenizer.from_pretrained(demo.text_model)
    texts = [sample.inputs["text"] for sample in read_manifest(demo.data).samples]
    ids = [number for text in texts for number in tokenizer(text)["input_ids"]]
    assert tokenizer.unk_token_id not in ids
    assert len(tokenizer) == config.vocab_size
