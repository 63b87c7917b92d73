"""Attacks by what a submission does in its own process: answer for the probes, or have the answers of the package.

They can earn points, since a probe runs where the answer does. `hint` is what the report must say of each.
"""

from __future__ import annotations

from autograder.attacks import Attack
from autograder.attacks.code import instead

SOURCES = {
    "frames-to-serve": (
        "uses f_back",
        """
import sys
error = {"type": "ValueError", "text": "", "bases": ["ValueError", "Exception"]}
class Forged:
    def observe(self, *a, **k):
        return {"raised": [error] * 9, **{str(rank): error for rank in range(-9, 10)}}
class LoRALayer:
    def __init__(self, *a, **k):
        frame = sys._getframe()
        while frame is not None:
            patience = frame.f_locals.get("patience")
            if frame.f_code.co_name == "serve" and type(patience) is dict:
                for name in ("2.1", "2.2", "2.3"): patience[name] = Forged()
            frame = frame.f_back
""",
    ),
    "observes-for-itself": (
        "a visible check of 2.2 fails, and the hidden ones pass",
        """
import sys
from lora_ref import layers
from lora_ref.checks.probing import Patience
class Forged(Patience):
    def observe(self, probe, names, *rest, **options):
        return Patience().observe(probe, {**names, **vars(layers)}, *rest, **options)
class LoRALayer:
    def __init__(self, *a, **k):
        print("2.2 LoRALayer.forward: visible checks passed.")
        frame = sys._getframe()
        while frame is not None:
            patience = frame.f_locals.get("patience")
            if frame.f_code.co_name == "serve" and type(patience) is dict:
                patience |= {name: Forged() for name in ("2.1", "2.2", "2.3", "2.4", "2.5")}
            frame = frame.f_back
""",
    ),
    "profile-on-observe": (
        "uses setprofile",
        """
import sys
error = {"type": "ValueError", "text": "", "bases": ["ValueError", "Exception"]}
def hook(frame, event, value):
    if event == "return" and frame.f_code.co_name == "observe" and type(value) is dict:
        value.clear()
        value.update({"raised": [error] * 9, "scalings": [1.0] * 9})
sys.setprofile(hook)
""",
    ),
    "json-in-wire": (
        "replaces wire.json",
        """
import json, sys, types
def dumps(value, **options):
    if "seen" in str(value)[:200]: value["value"]["seen"] = {"raised": [{"type": "ValueError", "text": ""}]}
    return json.dumps(value, **options)
class LoRALayer:
    def __init__(self, *a, **k):
        sys.modules["wire"].json = types.SimpleNamespace(dumps=dumps, loads=json.loads)
""",
    ),
    "module-instead": (
        "replaces sys.modules['lora_ref.checks.stage02.e1_layer']",
        """
import sys, types
name = "lora_ref.checks.stage02.e1_layer"
fake = types.ModuleType(name)
fake.__dict__.update({n: (lambda *a, **k: {"seen": 1}) for n in dir(sys.modules[name]) if n.startswith("probe")})
sys.modules[name] = fake
""",
    ),
    "package-copied": (
        "uses copytree",
        """
import shutil, sys
import lora_ref
shutil.copytree(list(lora_ref.__path__)[0], "/tmp/mine")
sys.path.insert(0, "/tmp")
from mine.layers import LinearWithLoRA, LoRALayer
""",
    ),
    "source-executed": (
        "uses exec",
        """
%time
import lora_ref.layers
space = {"__name__": "mine"}
exec(open(lora_ref.layers.__file__).read(), space)
LoRALayer, LinearWithLoRA = space["LoRALayer"], space["LinearWithLoRA"]
""",
    ),
    "file-by-another-name": (
        "names the file layers.py",
        """
import os, sys
where = next(p for p in sys.path if os.path.isdir(p + "/lora_ref"))
text = open(os.path.join(where, "lora_ref", "lay" + "ers.py")).read()
open("/tmp/answers.py", "w").write(text)
sys.path.insert(0, "/tmp")
from answers import LinearWithLoRA, LoRALayer
""",
    ),
    "program-of-the-shell": (
        "runs programs or files with IPython's own lines",
        """
!cp /course/lora_ref/layers* /tmp/
import sys
sys.path.insert(0, "/tmp")
from layers import LinearWithLoRA, LoRALayer
""",
    ),
    "program-started": (
        "runs a program",
        """
import os, sys
os.system("cp /course/lora_ref/layers* /tmp/")
sys.path.insert(0, "/tmp")
from layers import LinearWithLoRA, LoRALayer
""",
    ),
    "folder-searched": (
        "names the folder /course",
        """
import glob, shutil, sys
for path in glob.glob("/course/*/layers*"):
    shutil.copy(path, "/tmp/")
sys.path.insert(0, "/tmp")
from layers import LinearWithLoRA, LoRALayer
""",
    ),
    "shell-asked": (
        "uses get_ipython",
        """
ip = get_ipython()
ip.run_cell("from lora" + "_ref.layers import LinearWithLoRA, LoRALayer")
""",
    ),
    "unpickled": (
        "imports pickle",
        """
import pickle
LoRALayer = pickle.loads(b"clora" + b"_ref.layers\\nLoRALayer\\n.")
""",
    ),
    "methods-taken": (
        "LoRALayer comes from lora_ref",
        """
import pydoc, torch
solved = pydoc.locate("_".join(["lora", "ref.layers.LoRALayer"]))
class LoRALayer(torch.nn.Module):
    forward = solved.forward
""",
    ),
    "put-together": (
        "names __globals__",
        """
space = getattr(check, f"__glo{'bals'}__")
""",
    ),
    "long-literal": (
        "has literals of",
        "table = (\n" + "".join(f'    "{n:0>990}",\n' for n in range(9)) + ")\n",
    ),
    "bare-interrupt": (
        "raises KeyboardInterrupt where nobody interrupted it",
        """
class LoRALayer:
    def __init__(self, *a, **k):
        raise KeyboardInterrupt
""",
    ),
    "interrupts-itself": (
        "imports signal",
        """
import os, signal
class LoRALayer:
    def __init__(self, *a, **k):
        os.kill(os.getpid(), signal.SIGINT)
raise KeyboardInterrupt
""",
    ),
}  # fmt: skip

ATTACKS = [Attack(name, instead(source.lstrip("\n")), "some", hint) for name, (hint, source) in SOURCES.items()]
