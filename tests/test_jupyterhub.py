"""A JupyterHub for real, with its proxy and real users: the guide's files, the exchange, grading, feedback and back.

It runs in a small machine of its own: bubblewrap with another /etc, /home and /srv, and no network. So the guide's own
paths are used, and no account is made here.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import NoReturn

import pytest

from autograder.engine.sandbox import may_mount

ROOT = Path(__file__).resolve().parents[1]
PEOPLE = {"ines": 2001, "ann": 2002, "bob": 2003}
#: For the test alone: who may log in without a password, and a token for the one who drives it.
HUB = """
c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allowed_users = {people!r}
c.JupyterHub.services = [{{"name": "driver", "api_token": "of-the-driver"}}]
c.JupyterHub.load_roles = [{{"name": "driver", "services": ["driver"],
                            "scopes": ["admin:users", "admin:servers", "access:servers"]}}]
c.JupyterHub.db_url = "sqlite:////srv/hub.sqlite"
c.JupyterHub.cookie_secret_file = "/srv/cookie"
c.Spawner.args += ["--ServerApp.disable_check_xsrf=True"]
c.Spawner.start_timeout = c.Spawner.http_timeout = 300
"""


def missing(what: str) -> NoReturn:
    """Skip, and say why; with ``CI=true``, where nothing may be left out, fail."""
    (pytest.fail if os.environ.get("CI", "").lower() in ("true", "1") else pytest.skip)(what)


def installed(folder: Path) -> tuple[Path, Path]:
    """JupyterHub beside this environment's packages, and its proxy: (python, folder of the proxy's command)."""
    for line, what in (
        ([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], "a virtual environment"),
        ([*(sys.executable, "-m", "pip", "--python", str(folder / "venv"), "install", "-q", "jupyterhub>=5")], "pip"),
        (["npm", "install", "--silent", "--prefix", str(folder), "configurable-http-proxy"], "npm"),
    ):
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        if done.returncode:
            missing(f"no JupyterHub here: {what} says {(done.stderr or done.stdout).strip()[-300:]}")
    return folder / "venv" / "bin" / "python", folder / "node_modules" / ".bin"


def beside(python: Path) -> None:
    """Let that environment see the packages and Jupyter extensions of this one."""
    ask = [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"]
    packages = Path(subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip())
    (packages / "course.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    for name in ("share/jupyter", "etc/jupyter"):
        here, there = Path(sys.prefix, name), python.parents[1] / name
        there.mkdir(parents=True, exist_ok=True)
        for path in here.iterdir():
            if not (there / path.name).exists():
                (there / path.name).symlink_to(path)


def machine(folder: Path, python: Path, proxy: Path) -> list[str]:
    """The command line of bubblewrap for a machine with the guide's files in place."""
    etc, srv, home = (folder / name for name in ("etc", "srv", "home"))
    shutil.copytree("/etc", etc, symlinks=True, ignore_dangling_symlinks=True)
    for name, line in (("passwd", "{0}:x:{1}:{1}::/home/{0}:/bin/sh\n"), ("group", "{0}:x:{1}:\n")):
        with (etc / name).open("a") as file:
            file.writelines(line.format(person, number) for person, number in PEOPLE.items())
    for name in ("jupyter", "jupyterhub"):
        (etc / name).mkdir(exist_ok=True)
    docs = ROOT / "docs" / "jupyterhub"
    shutil.copy(docs / "nbgrader_config.py", etc / "jupyter")
    own = HUB.format(people=set(PEOPLE))
    (etc / "jupyterhub" / "jupyterhub_config.py").write_text((docs / "jupyterhub_config.py").read_text() + own)
    (srv / "nbgrader" / "exchange").mkdir(parents=True)
    (srv / "nbgrader" / "exchange").chmod(0o1777)  # as the guide says
    for person, number in PEOPLE.items():
        (home / person).mkdir(parents=True)
        os.chown(home / person, number, number)
    course = home / "ines" / "lora"
    left_out = shutil.ignore_patterns("__pycache__", "build", ".*", "submitted", "graded", "tests", "docs")
    shutil.copytree(ROOT, course, ignore=left_out, symlinks=True)
    for path in (course, *course.rglob("*")):
        os.chown(path, PEOPLE["ines"], PEOPLE["ines"], follow_symlinks=False)
    course.chmod(0o700)

    line = ["bwrap", "--die-with-parent", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--cap-add", "ALL"]
    for path in sorted(Path("/").iterdir()):
        if path.is_symlink():
            line += ["--symlink", os.readlink(path), str(path)]
        elif path.is_dir() and path.name not in ("proc", "dev", "tmp", "etc", "srv", "home", "root", "run"):
            line += ["--ro-bind", str(path), str(path)]
    line += ["--proc", "/proc", "--dev", "/dev", "--perms", "1777", "--tmpfs", "/tmp", "--perms", "0755"]
    line += ["--tmpfs", "/root", "--bind", str(etc), "/etc", "--bind", str(srv), "/srv", "--bind", str(home), "/home"]
    for path in dict.fromkeys([sys.base_prefix, sys.prefix, str(python.parents[1]), str(proxy.parent)]):
        if Path(path).parts[1] in ("tmp", "root", "home", "run"):
            for parent in reversed(Path(path).parents[:-2]):
                line += ["--perms", "0755", "--dir", str(parent)]
            line += ["--ro-bind", path, path]
    line += ["--ro-bind", str(ROOT / "tests" / "hub_term.py"), "/srv/hub_term.py"]
    commands = os.pathsep.join(map(str, (python.parent, proxy, "/usr/local/bin", "/usr/bin", "/bin")))
    return [*line, "--clearenv", "--setenv", "PATH", commands, "--setenv", "HOME", "/root", "--chdir", "/srv"]


@pytest.mark.slow
def test_a_stage_on_a_hub(tmp_path, bubblewrap):
    if os.geteuid() != 0 or not may_mount():
        missing("a hub with users of its own takes root, and the right to mount")
    if not shutil.which("npm"):
        missing("JupyterHub's proxy comes with npm, which is not here (apt-get install npm)")
    python, proxy = installed(tmp_path / "hub")
    beside(python)
    line = machine(tmp_path, python, proxy)
    done = subprocess.run([*line, str(python), "/srv/hub_term.py"], capture_output=True, text=True)
    logs = tmp_path / "srv" / "logs" / "hub.log"
    log = logs.read_text(errors="replace")[-3000:] if logs.exists() else ""
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:] + log
    seen = json.loads(done.stdout.splitlines()[-1])
    assert "2 graded, 0 need attention" in seen["grade"]
    status, policy, length = seen["formgrader"]
    assert status == 200
    assert length > 1000
    assert "frame-ancestors 'self'" in policy
    assert seen["waiting"] == {"ann": True, "bob": True}
    # the page of what was handed in last, with the points and the comment that the instructor gave
    assert seen["ann"] == [[False, True, True]]
    assert seen["bob"] == [[True, False, True]]
    assert seen["exchange"] == "0o1777"
