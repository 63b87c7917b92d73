"""``make bench``: run every benchmark, or those named; exit status 1 if a claim did not hold."""

from __future__ import annotations

import importlib
import sys

#: Module -> the claim it measures.
BENCHMARKS = {
    "imports": "importing lora_ref costs under 0.3 s beyond torch",
    "padding": "dynamic padding trains over 10 times faster than padding to 512",
    "layer": "a LoRA layer takes at most PEFT's time, and fused 8 % less",
    "step": "a training step is 1.1 times as fast as PEFT's, at the same accuracy",
    "notebooks": "each notebook runs in 4 minutes on the laptop profile and in 40 s on tiny",
    "precision": "bfloat16 products inside float32 training cost no accuracy",
    "grading": "24 submissions, sandbox on, at 30 times nbgrader autograde's rate; 300 and 1,000 cost no more each",
    "sandbox": "a submission's sandbox costs at most 15 ms more than before its network and its limits",
    "first_minutes": "README leads to the first passed check in 5 minutes and to a trained model in 10",
    "learning": "LoRA reaches 0.82 on held-out reviews and beats the head alone by 10 points",
    "t4": "on a GPU in fp16, a step takes at most PEFT's time, and adapters come back bit for bit",
}


def main(names: list[str]) -> int:
    """Run the named benchmarks (all, if none is named); 1 if a claim did not hold. ``--tiny`` is for ``t4``."""
    options = {"tiny": True} if "--tiny" in names else {}
    names = [name for name in names if name != "--tiny"]
    if options and names != ["t4"]:
        print("--tiny goes with t4 alone", file=sys.stderr)
        return 2
    unknown = sorted(set(names) - set(BENCHMARKS))
    if unknown:
        print(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    failed = 0
    for name in names or BENCHMARKS:
        print(f"\n== {name}: {BENCHMARKS[name]}", flush=True)
        held = importlib.import_module(f"benchmarks.{name}").run(**options)
        print({True: "   holds", None: "   not judged on this machine"}.get(held, "   DOES NOT HOLD"), flush=True)
        failed += held is False
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
