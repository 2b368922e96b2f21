"""Stands in for the process that looks at choices before an audit."""

# Answers as preflight does, at once and without torch: a source says what is found in it.
ANSWERS = r"""
import json, os, sys, time
def facts(source):
    return {"source": source, "architecture": "LlamaForCausalLM", "format": "safetensors", "dtypes": ["bfloat16"],
            "parameters": 1234567, "size_bytes": 2469134}
def answer(question):
    kind, source = question["kind"], question.get("source", question.get("unlearned", question.get("folder", "")))
    if kind == "schemes":
        return {"kind": kind, "schemes": [{"name": name, "title": f"[b]{name}[/b]", "bits_per_weight": 4.5}
                                          for name in ("nf4", "fp4", "int8")]}
    if kind == "devices":
        return {"kind": kind, "devices": [{"name": "cuda:0", "title": "H100"}, {"name": "cpu", "title": "2 cores"}]}
    if "die" in source: os._exit(9)
    while kind == "pair" and "slow" in source and not os.path.exists("go-on"): time.sleep(0.01)
    if "wrong" in source or (kind == "pair" and "other" in source):
        return {"kind": "problem", "message": f"is [red]wrong[/red]", "where": source, "mend": "Give another"}
    if "hub/" in source: return {"kind": "not yet known", "message": "it will be fetched when the audit starts"}
    if kind == "data" and "labels" in source and "causal" in (question["checkpoint"] or ""):
        return {"kind": "problem", "message": "this data is for a classifier", "where": source, "mend": "Give texts"}
    if kind == "pair": return {"kind": kind, "layers": 28, "weights": 1000000}
    if kind == "data": return {"kind": kind, "samples": {"verbmem_forget": 24}, "skipped": {"privleak": "no texts"}}
    if kind == "policy": return {"kind": kind, "policy": {}, "day": "2026-01-01"}
    return {"kind": "checkpoint", "facts": facts(source), "layers": 28, "notes": ["a [b]note[/b]"]}
for line in sys.stdin:
    print(json.dumps(answer(json.loads(line))), flush=True)
"""
