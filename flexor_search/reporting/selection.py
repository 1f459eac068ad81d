"""The model that is looked at: its layers and the command that exports it; a click in a figure chooses another."""

import json
from typing import Any

from flexor_search.planning import LayerSpec
from flexor_search.reporting import tables
from flexor_search.reporting.command import copied, export_command
from flexor_search.reporting.words import escaped, told
from flexor_search.runs import CONFIRM, DONE, FAILED, Measurement, Run

_NONE = "{trial}"
"""Stands in the command for the number."""


def selectable(run: Run) -> dict[str, Any]:
    """Every training as a click shows it, small enough for thousands of them.

    Returns:
        layers: names in network order; shares: label of a rate -> its strength of color, 0 to 1, None for kept;
        command: with {trial} for the number; trials: number -> kind, facts, rates (label of each layer), state.
    """
    layers: list[str] = []
    shares: dict[str, float | None] = {}
    trials: dict[str, dict[str, Any]] = {}
    parsed: dict[str, list[str]] = {}
    for m in run.measurements:
        if m.allocation not in parsed:
            specs = json.loads(m.allocation)["layers"]
            layers = layers or list(specs)
            known = {name: LayerSpec.from_json(body) for name, body in specs.items()}
            parsed[m.allocation] = [known[name].label for name in layers] if list(known) == layers else []
            shares |= {spec.label: None if spec.is_kept else spec.nominal_rate for spec in known.values()}
        trials[str(m.number)] = {"kind": m.kind, "facts": _facts(m), "rates": parsed[m.allocation], "state": m.state}
    most = max([1.0, *(share for share in shares.values() if share is not None)])
    strong = {label: share if share is None else round(share / most, 3) for label, share in shares.items()}
    return {"layers": layers, "shares": strong, "command": export_command(run, _NONE), "trials": trials}


def first_selected(run: Run, chosen: set[str]) -> int | None:
    """The training that is shown before any click: the chosen one, else the most accurate of the front."""
    points = tables.points(run)
    for fidelity in (CONFIRM, tables.SEARCH):
        same = points[(points["fidelity"] == fidelity) & (points["kind"] != tables.FULL)]
        same = same[same["digest"].isin(chosen)] if same["digest"].isin(chosen).any() else same
        if len(same):
            return int(same.sort_values("val_accuracy", ascending=False)["trial"].iloc[0])
    return None


def panel(run: Run, chosen: set[str]) -> str:
    """The selected model; empty where nothing finished. A script fills it anew on a click (selection.js)."""
    number = first_selected(run, chosen)
    if number is None:
        return ""
    data = selectable(run)
    body = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    trial = data["trials"][str(number)]
    return (
        '<aside id="selected" class="selected" aria-live="polite">'
        f'<h3>Trial <b class="number">{number}</b>, <span class="kind">{escaped(trial["kind"])}</span></h3>'
        f'<p class="facts">{escaped(trial["facts"])}</p>'
        f'<ol class="chips">{_chips(data["layers"], trial["rates"], data["shares"])}</ol>'
        f"{copied(export_command(run, number))}"
        '<p class="note">Click a point of a figure, or a trial\'s number in the table, to see its layers here.</p>'
        f'</aside><script type="application/json" id="selection-data">{body}</script>'
    )


def _facts(m: Measurement) -> str:
    accuracy = told(m.val_accuracy)
    if m.state == FAILED:
        accuracy = f"failed: {m.reason}"
    elif m.state != DONE:
        accuracy = f"stopped early at {accuracy}"
    return (
        f"{accuracy}, {m.bits_per_weight:g} bits per weight, {m.file_bytes:,} bytes of file; "
        f"{m.phase}, seed {m.seed}, {m.epochs} epochs"
    )


def _chips(layers: list[str], rates: list[str], shares: dict[str, float | None]) -> str:
    pairs = zip(layers, rates, strict=True) if rates else ()
    return "".join(
        f'<li class="{"kept" if shares[rate] is None else ""}" style="--share:{shares[rate] or 0}">'
        f"<span>{escaped(name or '(model)')}</span><b>{escaped(rate)}</b></li>"
        for name, rate in pairs
    )
