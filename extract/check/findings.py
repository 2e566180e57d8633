"""What of all the numbers a reader should know, in sentences: how bad it is, what it means, and what to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cache import listing
from extract.check.labels import FOLDS
from extract.check.modalities import LONG, TINY

ERROR, WARNING, NOTE = "error", "warning", "note"
LEVELS = (ERROR, WARNING, NOTE)
UNEVEN = 3
"""How many times as many rows as the rarest class the most frequent has, where classes are called uneven."""
MUCH = 0.1
"""Share of texts that are cut, from which it is a warning."""
Finding = dict[str, Any]


def findings_of(summary: Mapping[str, Any]) -> list[Finding]:
    """All findings, the worst first: `level`, `key`, `text` with its numbers, `advice`.

    An error is what a later command refuses, a warning what makes its figures wrong or worse than need be.
    """
    found = [
        *_labels(summary),
        *_splits(summary),
        *_contents(summary),
        *_duplicates(summary),
        *_leaks(summary["leaks"]),
    ]
    return sorted(found, key=lambda one: LEVELS.index(one["level"]))


def many(count: int, what: str) -> str:
    """`1 row`, `3 rows`, `2 copies`."""
    plural = f"{what[:-1]}ies" if what.endswith("y") else f"{what}es" if what.endswith("s") else f"{what}s"
    return f"{count} {what if count == 1 else plural}"


def judged_by_splits(summary: Mapping[str, Any]) -> bool:
    """Whether `fuse` judges by the data's own splits, rather than by folds."""
    held = {name for name, one in summary["splits"]["of"].items() if one["labelled"]}
    return "train" in held and bool(held & {"valid", "test"})


def _finding(level: str, key: str, text: str, advice: str) -> Finding:
    return {"level": level, "key": key, "text": text, "advice": advice}


def _labels(summary: Mapping[str, Any]) -> Iterator[Finding]:
    labels, labelled = summary["labels"], summary["labelled"]
    if not labelled:
        advice = "A saved run can label them (predict); to train, name the column by --columns label=..."
        yield _finding(NOTE, "labels-none", "No row has a label.", advice)
        return
    if labelled < summary["rows"]:
        lacking = many(summary["rows"] - labelled, "row")
        yield _finding(
            NOTE, "labels-missing", f"{lacking} without a label.", "They are left out by fuse and labelled by predict."
        )
    if labels["refused"]:
        text = f"{labels['refused'][:1].upper()}{labels['refused'][1:]}."
        yield _finding(ERROR, "labels-refused", text, "fuse refuses the labels as they are.")
    elif labels["spoilt"] or labels["words"]:
        shown = listing([repr(one) for one in labels["words"]], 5)
        text = (
            f"{many(labels['number_rows'], 'label')} are numbers, {labelled - labels['number_rows']} are not: {shown}."
        )
        level = ERROR if labels["spoilt"] else WARNING
        advice = "Correct what is a slip; as long as they are mixed, numbers are names of classes."
        yield _finding(level, "labels-mixed", text, "Regression is refused. " * labels["spoilt"] + advice)
    if labels["numbers"] is not None:
        return
    if labels["distinct"] == 1:
        text = f"All {labelled} labels are {labels['majority']['label']!r}."
        yield _finding(ERROR, "labels-one", text, "A classifier needs two classes: see --columns label=...")
        return
    yield from _balance(summary, labels)
    for alike in labels["alike"]:
        counts = ", ".join(f"{one!r} ({labels['classes'].get(one, 'few')} rows)" for one in alike)
        advice = "They are classes of their own to every head; write them alike."
        yield _finding(WARNING, "labels-alike", f"Labels that differ in their writing alone: {counts}.", advice)


def _balance(summary: Mapping[str, Any], labels: Mapping[str, Any]) -> Iterator[Finding]:
    most, labelled = labels["majority"], summary["labelled"]
    held = labels["classes"].get(most["label"], 0)
    if held >= UNEVEN * labels["rarest"]:
        text = (
            f"Classes are uneven: {most['label']!r} is {held} of {labelled} rows ({100 * most['share']:.1f} %), the "
            f"rarest of {labels['distinct']} classes has {labels['rarest']}."
        )
        advice = (
            f"Who always says {most['label']!r} is right on {100 * most['share']:.1f} %: judge by macro-F1 and the "
            "recall of each class. --set class_weight=balanced of many heads gives up accuracy for the rare classes."
        )
        yield _finding(WARNING, "imbalance", text, advice)
    if labels["few_count"] and not judged_by_splits(summary):
        shown = listing([f"{label!r} ({count})" for label, count in labels["few"].items()], 10)
        text = f"{many(labels['few_count'], 'class')} with fewer than {FOLDS} independent rows: {shown}."
        advice = f"fuse refuses {FOLDS} folds: add rows, join classes, lower --folds, or give splits in the data."
        yield _finding(ERROR, "classes-few", text, advice)


def _splits(summary: Mapping[str, Any]) -> Iterator[Finding]:
    splits = summary["splits"]
    if splits["unknown"]:
        text = f"Splits that are neither train, valid nor test: {listing(splits['unknown'], 10)}."
        yield _finding(ERROR, "splits-unknown", text, "fuse refuses them: rename, or leave out by --columns split=")
    if splits["without"]:
        text = f"{many(splits['without'], 'labelled row')} without a split, while others have one."
        advice = "fuse refuses that: fill the column, or leave it out by --columns split="
        yield _finding(ERROR, "splits-missing", text, advice)
    if splits["unseen"]:
        shown = listing([f"{label!r} ({many(count, 'row')})" for label, count in splits["unseen"].items()], 10)
        advice = "fuse refuses that: no head can learn them. Correct the labels, or move rows to train."
        yield _finding(ERROR, "labels-unseen", f"Labels of valid or test that train lacks: {shown}.", advice)


def _contents(summary: Mapping[str, Any]) -> Iterator[Finding]:
    rows = summary["rows"]
    for one in summary["remarks"]:
        yield _finding(NOTE, "read", f"{one[:1].upper()}{one[1:]}.", "See --encoding and --allow-outside.")
    for name, one in summary["modalities"].items():
        if not one["present"]:
            text = (
                f"Of {rows} rows none has {name} that can be read ({one['missing']} missing, {one['failed']} broken)."
            )
            advice = "extract would leave it empty: see --columns, and where the files lie."
            yield _finding(ERROR, f"{name}-none", text, advice)
            continue
        if one["failed"]:
            reasons = Counter(one["reason"] for one in summary["failures"] if one["modality"] == name)
            shown = "; ".join(f"{reason} ({count})" for reason, count in reasons.most_common(3))
            advice = (
                "extract records them as failed, keeps their rows and ends with exit code 3; no other row moves. "
                "rows.csv lists them: replace the files, or remove the rows."
            )
            text = f"{many(one['failed'], 'row')} whose {name} cannot be decoded: {shown}."
            yield _finding(WARNING, f"{name}-broken", text, advice)
        if one["missing"]:
            text = f"{many(one['missing'], 'row')} without {name}, {100 * one['missing'] / rows:.1f} % of all."
            yield _finding(
                NOTE, f"{name}-missing", text, "They stay; each head treats a missing modality in its own way."
            )
        yield from {"text": _texts, "image": _pictures}.get(one["kind"], _others)(name, one)
    if summary["empty_rows"]:
        text = f"{many(summary['empty_rows'], 'row')} of which nothing at all can be read."
        yield _finding(WARNING, "rows-empty", text, "Heads can only guess them: remove them, or find their files.")
    texts = [one for one in summary["modalities"].values() if one["kind"] == "text" and one["present"]]
    if texts and "tokens" not in texts[0]:
        yield _finding(NOTE, "tokens-uncounted", "Tokens were not counted.", f"{summary['text_model']}.")


def _texts(name: str, one: Mapping[str, Any]) -> Iterator[Finding]:
    if one.get("truncated"):
        share = one["truncated"] / one["present"]
        text = (
            f"{many(one['truncated'], 'row')} ({100 * share:.1f} %) whose {name} has more than {one['longest']} tokens."
        )
        advice = "The model reads their start alone; another --text-model may take more."
        yield _finding(WARNING if share >= MUCH else NOTE, f"{name}-cut", text, advice)


def _pictures(name: str, one: Mapping[str, Any]) -> Iterator[Finding]:
    odd = [
        ("one_colour", "of one colour", "They say nothing; often they stand for a picture that was lost."),
        (
            "tiny",
            f"less than {TINY} pixels wide or high",
            "They are enlarged, which adds nothing; icons are often among them.",
        ),
        ("long", f"at least {LONG:g} times as long as wide", "Encoders see the square in the middle."),
        ("rotated", "turned by its EXIF data", "They are encoded upright."),
        ("animated", "animated", "The first frame is encoded."),
    ]
    for key, what, advice in odd:
        if one[key]:
            yield _finding(NOTE, f"{name}-{key}", f"{many(one[key], 'row')} whose {name} is {what}.", advice)


def _others(name: str, one: Mapping[str, Any]) -> Iterator[Finding]:
    if len(one.get("widths", ())) > 1:
        shown = ", ".join(f"{width} ({many(count, 'row')})" for width, count in one["widths"].items())
        advice = "extract takes the commonest of the first files and records all others as failed."
        yield _finding(WARNING, f"{name}-widths", f"Arrays of {name} with several numbers of columns: {shown}.", advice)


def _duplicates(summary: Mapping[str, Any]) -> Iterator[Finding]:
    found, by_splits = summary["duplicates"], judged_by_splits(summary)
    several = len(summary["modalities"]) > 1
    kept = (
        "Splits that the data gives are taken as they are: nothing is moved."
        if by_splits
        else "Where it makes folds, fuse keeps equal contents in one of them by itself."
    )
    parted = (
        "Folds may part them: give them one value in a group column (rows.csv has it), and fuse keeps them together."
    )
    if found["sample"] and found["sample"]["groups"]:
        text = _counted("Rows that are equal in every modality", found["sample"])
        yield _finding(NOTE, "sample-equal", text, kept)
        yield from _trouble("sample", "The same in every modality", found["sample"], summary, "No model")
    for name, one in found["equal"].items():
        if one["groups"]:
            yield _finding(NOTE, f"{name}-equal", _counted(f"Rows of equal {name}", one), kept)
            who = f"No rule that goes by {name} alone" if several else "No model"
            yield from _trouble(f"{name}-equal", f"The same {name}", one, summary, who)
    for name, one in found["near"].items():
        if one["groups"]:
            formed = one.get("same_but_form", 0)
            form = f", {formed} of which differ from another in case, links or signs alone" if formed else ""
            text = _counted(f"Rows of nearly equal {name}", one, f"; {one['contents']} different contents{form}")
            yield _finding(NOTE if by_splits else WARNING, f"{name}-near", text, kept if by_splits else parted)
            yield from _trouble(f"{name}-near", f"Nearly the same {name}", one, summary, "")
        if not one["complete"]:
            text = f"Not all pairs of {name} were compared: {one['checked']} of {one['compared']} contents in full."
            yield _finding(NOTE, f"{name}-near-partly", text, "There are more nearly equal ones than are counted here.")


def _counted(what: str, one: Mapping[str, Any], more: str = "") -> str:
    return f"{what}: {one['rows']} in {many(one['groups'], 'group')}, at most {one['largest']} in one{more}."


def _trouble(key: str, what: str, one: Mapping[str, Any], summary: Mapping[str, Any], who: str) -> Iterator[Finding]:
    """Several labels for one content, and one content on several sides of a split; `who` cannot be right on all."""
    conflicts, across = one["conflicts"], one["across"]
    if conflicts["groups"]:
        text = f"{what}, other labels: {conflicts['rows']} rows in {many(conflicts['groups'], 'group')}"
        if "wrong" not in conflicts:
            text += f", which differ by up to {conflicts['largest_difference']:g}."
        elif who:
            best = 100 * (1 - conflicts["wrong"] / summary["labelled"])
            text += f". {who} can be right on more than {best:.1f} % of the labelled rows."
        else:
            text += "."
        advice = "Look at them in the report, and settle their labels or remove them."
        yield _finding(WARNING, f"{key}-conflicts", text, advice)
    if across["groups"]:
        sides = ", ".join(f"{count} of {name}" for name, count in sorted(across["rows"].items()))
        seen = f"; rows that stand in train as well: {sides}" if sides else ""
        text = f"{what}, on several sides of the splits: {many(across['groups'], 'group')}{seen}."
        advice = "Figures on such rows are too good. Remove them from train, or from the rows that judge."
        yield _finding(WARNING, f"{key}-across", text, advice)


def _leaks(leaks: Mapping[str, Any]) -> Iterator[Finding]:
    for one in leaks["columns"]:
        if one["level"] == "none":
            continue
        sure = one["level"] == "warning"
        told = "gives the label away" if sure else "says something of the label"
        text = (
            f"{one['name']!r} alone {told}: {one['score']:.2f} on held-out rows, where a guess is 0 and always right 1."
        )
        if one["is_group"]:
            advice = "fuse keeps groups in one fold by itself; splits of the data should do so too."
        elif one["is_input"]:
            advice = "Encoders see it: leave it out of --columns tabular=..., unless it is known before the label is."
        else:
            advice = "Encoders do not see it as it is; never make it an input, and ask whether contents betray it."
        yield _finding(WARNING if sure else NOTE, "leak", text, advice)
    if leaks["not_looked_at"]:
        text = f"Not looked at for leaks: {listing(leaks['not_looked_at'], 10)}."
        yield _finding(NOTE, "leaks-partly", text, "Whether they give labels away is not known.")
    if leaks["why"] and leaks["of"]:
        yield _finding(
            NOTE, "leaks-none", f"Leaks were not looked for: {leaks['why']}.", "Nothing can be learnt of so few."
        )


def worst(findings: Sequence[Finding]) -> dict[str, int]:
    """How many findings there are of each level."""
    return {level: sum(one["level"] == level for one in findings) for level in LEVELS}
