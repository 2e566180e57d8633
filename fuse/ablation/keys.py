"""Names of fits: digests of all that they depend on, so that a fit is used again only where it would be the same."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from cache import canonical_json, digest
from fuse.ablation.plan import Cell, Plan, Round, Settings, make
from fuse.ablation.search import candidates
from fuse.ablation.work import Data, Wanted
from fuse.runs import versions

SCHEMA = 1
"""Changes when a fit of this version means something else than one of an earlier."""


def wanted_fits(data: Data, settings: Settings, plan: Plan) -> dict[tuple[Cell, int], Wanted]:
    """Every fit of a plan, by cell and number of the round."""
    common = {"schema": SCHEMA, "versions": versions(), "task": data.task}
    # Named by the fold's own table, a fit of a cross-fitted data set is that of the fold's view alone, too.
    tables = [
        {"data": one.table.view.digest, "labelled": digest(one.table.ids.tobytes())} for one in data.folds or (data,)
    ]
    rows = [digest(one.fold.train.tobytes(), one.fold.test.tobytes()) for one in plan.rounds]
    first = [one.seed == plan.rounds[0].seed for one in plan.rounds]
    found = {}
    for cell in plan.cells:
        for number, round_ in enumerate(plan.rounds):
            blocks = data.of(round_.fold).table.view.blocks
            encoders = [[name, blocks[name].encoder, blocks[name].output] for name in cell.modalities]
            own = common | tables[round_.fold.table] | {"cell": asdict(cell), "encoders": encoders}
            said, seeded = decided_by(data, settings, cell, round_)
            # A temperature takes a fit more: only the first repeat has them, and what is the same in all.
            again = not seeded and rows[number] in [one for one, early in zip(rows, first, strict=True) if early]
            calibrate = bool(data.classes) and not cell.control and (first[number] or again)
            key = digest(canonical_json(own | said | {"calibrate": calibrate, "rows": rows[number]}))
            found[cell, number] = Wanted(key, cell, calibrate)
    return found


def decided_by(data: Data, settings: Settings, cell: Cell, round_: Round) -> tuple[dict[str, Any], bool]:
    """What decides on a head's fit beside the rows, and whether the seed of the round is part of it."""
    head = make(settings, cell, data.task, round_.seed)
    params = head.get_params(deep=False)
    # A head without chance gives the same for every seed, unless a control is drawn by it.
    fixed = settings.params.get(cell.head, {})
    seeded = ("random_state" in params and "random_state" not in fixed) or bool(cell.control)
    own_seed = fixed.get("random_state")
    params = {name: value for name, value in params.items() if name not in ("random_state", "device", "blocks")}
    said = {
        "params": {name: _plain(value) for name, value in params.items()},
        "candidates": candidates(head, settings.grid, fixed),
        "seed": round_.seed if seeded else own_seed,
    }
    return said, seeded


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
