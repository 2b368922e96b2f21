"""Time attribution and recipe of one audit against a plain loop over all layers.

    python docs/experiments/attribution_speed.py --run RUN --scheme nf4 --out attribution.json

RUN is the folder of an audit with forget texts. Three things in one process, on one loaded model each: quail attribute
as it is; the plain loop, which rounds every layer alone and then everything but it; quail recipe, which needs the
attribution and writes both below RUN/cures as the commands do. Times are of this process's processor, without imports.
"""

import argparse
import json
import time
from pathlib import Path

from quail_audit.engine.cures.attribution import attribute, open_swapped_model, share_of_fall
from quail_audit.engine.cures.recipe import make_recipe
from quail_audit.runs.folder import new_run
from quail_audit.runs.record import record
from quail_audit.schema.events.cures import RecipeChosen, RecipePoint, UnitMeasured
from quail_audit.schema.requests import AttributeRequest, RecipeRequest

TOP = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True)
    parser.add_argument("--scheme", default="nf4")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    run, scheme = arguments.run, arguments.scheme
    open_swapped_model(run, scheme, batch_size=None)[0].measure_losses(())  # imports and compiles what both sides use

    def run_timed(request: AttributeRequest | RecipeRequest, name: str) -> tuple[list[object], float]:
        started_s = time.process_time()
        with new_run(Path(run) / "cures" / f"{name}-{request.cure}", request) as folder:
            events = (
                attribute(request, name, ())
                if isinstance(request, AttributeRequest)
                else make_recipe(request, name, (), folder)
            )
            found = list(record(events, folder))
        return found, time.process_time() - started_s

    name = time.strftime("%Y%m%d-%H%M%S-aaaa")
    events, attribution_s = run_timed(AttributeRequest(run=run, scheme=scheme), name)
    units = [event for event in events if isinstance(event, UnitMeasured)]
    found = {unit.unit: unit.share for unit in units if unit.kind == "layer" and unit.mode == "alone"}

    started_s = time.process_time()
    model, layers, _ = open_swapped_model(run, scheme, batch_size=None)
    everything = frozenset(layer.name for layer in layers)
    full, rounded = model.measure_losses(()), model.measure_losses(everything)
    alone = {
        name: float(share_of_fall(full - model.measure_losses((name,)), full - rounded)) for name in sorted(everything)
    }
    plain_alone_s = time.process_time() - started_s
    for layer in sorted(everything):
        model.measure_losses(everything - {layer})
    plain_s, plain_passes = time.process_time() - started_s, model.passes

    strongest = sorted(alone, key=lambda layer: -alone[layer])[:TOP]
    events, recipe_s = run_timed(RecipeRequest(run=run, scheme=scheme), name)
    chosen = [event.point for event in events if isinstance(event, RecipeChosen)]
    result = {
        "run": run,
        "layers": len(layers),
        "texts": len(full),
        "nll_full": float(full.mean()),
        "nll_rounded": float(rounded.mean()),
        "attribution": {"passes": max(unit.passes for unit in units), "cpu_s": attribution_s},
        "plain_loop": {"passes": plain_passes, "cpu_s": plain_s, "alone_only_cpu_s": plain_alone_s},
        "ratio": plain_s / attribution_s,
        "layers_looked_into": len(found),
        f"of_the_{TOP}_strongest": sum(layer in found for layer in strongest),
        "strongest": {layer: [alone[layer], found.get(layer)] for layer in strongest},
        "singles_add_up_to": sum(alone.values()),
        "coarse": {f"{unit.kind} {unit.unit}": unit.share for unit in units if unit.mode == "alone"},
        "recipe": {
            "points": sum(isinstance(event, RecipePoint) for event in events),
            "cpu_s": recipe_s,
            "chosen": {"layers": len(chosen[0].kept), **chosen[0].model_dump(exclude={"kept"})} if chosen else None,
        },
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
