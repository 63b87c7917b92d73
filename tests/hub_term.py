"""What two students and an instructor do on a JupyterHub; `test_jupyterhub` runs it as root on its small machine.

Each act is its person's own: through the server that the hub starts for them, or as their user in a shell. The last
line of what it prints is JSON, of what each of them got.
"""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
import time
import urllib.error
import urllib.request
from email.message import Message
from pathlib import Path

STAGE, HUB, TOKEN = "02_lora_layer", "http://127.0.0.1:8000", "of-the-driver"
HOMES = Path("/", "home")
COURSE = HOMES / "ines" / "lora"
LOGS = Path("/srv/logs")
COMMENT = "Say what starts at zero."


def ask(path: str, method: str = "GET", body: object = None, form: bool = False) -> tuple[int, Message, bytes]:
    """A request to the hub or to somebody's server: status, headers, body."""
    data = None if body is None else json.dumps(body).encode()
    kind = "application/json"
    if form:
        data, kind = "&".join(f"{k}={v}" for k, v in body.items()).encode(), "application/x-www-form-urlencoded"
    headers = {"Authorization": f"token {TOKEN}", "Content-Type": kind}
    try:
        with urllib.request.urlopen(urllib.request.Request(HUB + path, data, headers, method=method)) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def until(true, what: str):
    """Wait for it, five minutes at most."""
    end = time.monotonic() + 300
    while time.monotonic() < end:
        try:
            if found := true():
                return found
        except OSError:
            pass
        time.sleep(0.3)
    raise TimeoutError(what)


def start(user: str) -> None:
    """Have the hub start somebody's server."""
    ask(f"/hub/api/users/{user}/server", "POST", {})
    until(lambda: ask(f"/user/{user}/api/status")[0] == 200, f"the server of {user}")


def act(user: str, what: str) -> str:
    """An action of the Assignment List; the error that it would show, or ""."""
    status, _, body = ask(f"/user/{user}/{what}", "POST", {"course_id": "lora", "assignment_id": STAGE}, form=True)
    said = json.loads(body) if status == 200 else {"success": False, "value": body.decode()[-500:]}
    return "" if said["success"] else str(said["value"])[-1500:]


def answer(user: str, text: str) -> None:
    """Write the exercise's written answer in the fetched notebook, and save it."""
    path = f"/user/{user}/api/contents/{STAGE}/{STAGE}.ipynb"
    notebook = json.loads(ask(path)[2])["content"]
    (cell,) = (c for c in notebook["cells"] if c["metadata"].get("nbgrader", {}).get("grade_id") == "written_2_8")
    cell["source"] = text
    status, _, said = ask(path, "PUT", {"type": "notebook", "content": notebook})
    assert status == 200, said


def shell(*line: str, cwd: Path = COURSE, ok: tuple[int, ...] = (0,)) -> str:
    """A command of the instructor's."""
    ines = pwd.getpwnam("ines")
    who = {"HOME": ines.pw_dir, "USER": "ines", "PATH": os.environ["PATH"], "JUPYTERHUB_USER": "ines"}
    done = subprocess.run(
        line, cwd=cwd, env=who, user=ines.pw_uid, group=ines.pw_gid, extra_groups=[], capture_output=True, text=True
    )
    assert done.returncode in ok, f"{line}: {done.stdout[-3000:]} {done.stderr[-3000:]}"
    return done.stdout


def term() -> dict[str, object]:
    """From the release to the feedback."""
    nbgrader = (sys.executable, "-m", "nbgrader")
    seen: dict[str, object] = {}
    shell(*nbgrader, "generate_assignment", STAGE)
    shell(*nbgrader, "release_assignment", STAGE)
    for user in ("ann", "bob"):
        start(user)
        assert (said := act(user, "assignments/fetch")) == "", said
        answer(user, f"The first answer of {user}.")
        assert (said := act(user, "assignments/submit")) == "", said
    time.sleep(1.1)  # the exchange knows seconds
    answer("ann", "The second answer of ann.")
    assert (said := act("ann", "assignments/submit")) == "", said

    shell(*nbgrader, "collect", STAGE, "--update")
    grade = ("-m", "autograder", "grade", "--submissions", "submitted", "--out", "graded", "--stage", STAGE)
    # no sandbox fits into this one, and its own tests are elsewhere
    seen["grade"] = shell(sys.executable, *grade, "--workers", "1", "--sandbox", "none")
    home = COURSE.parent / ".jupyter"
    shell("mkdir", "-p", str(home))
    load = f"c = get_config()\nload_subconfig('{COURSE}/graded/nbgrader_config.py')\n"
    shell(sys.executable, "-c", f"open({str(home / 'nbgrader_config.py')!r}, 'w').write({load!r})")
    start("ines")
    status, headers, body = ask("/user/ines/formgrader")
    seen["formgrader"] = [status, headers.get("Content-Security-Policy", ""), len(body)]
    listed = json.loads(ask(f"/user/ines/formgrader/api/submissions/{STAGE}")[2])
    seen["waiting"] = {one["student"]: one["needs_manual_grade"] for one in listed}
    notebooks = json.loads(ask(f"/user/ines/formgrader/api/submitted_notebooks/{STAGE}/{STAGE}")[2])
    assert len(notebooks) == 2, notebooks
    for number, notebook in enumerate(notebooks):
        grades = json.loads(ask(f"/user/ines/formgrader/api/grades?submission_id={notebook['id']}")[2])
        (written,) = (grade for grade in grades if grade["name"] == "written_2_8")
        status, _, said = ask(f"/user/ines/formgrader/api/grade/{written['id']}", "PUT", {"manual_score": 1 + number})
        assert status == 200, said
        comments = json.loads(ask(f"/user/ines/formgrader/api/comments?submission_id={notebook['id']}")[2])
        (own,) = (comment for comment in comments if comment["name"] == "written_2_8")
        status, _, said = ask(f"/user/ines/formgrader/api/comment/{own['id']}", "PUT", {"manual_comment": COMMENT})
        assert status == 200, said

    shell(sys.executable, "-m", "autograder", "feedback", "--graded", "graded")
    shell(*nbgrader, "release_feedback", STAGE, cwd=COURSE / "graded")
    for user in ("ann", "bob"):
        assert (said := act(user, "assignments/fetch_feedback")) == "", said
        pages = sorted((HOMES / user / STAGE / "feedback").glob("*/*.html"))
        texts = [page.read_text(encoding="utf-8") for page in pages]
        looked_for = (f"The first answer of {user}.", f"The second answer of {user}.", COMMENT)
        seen[user] = [[what in text for what in looked_for] for text in texts]
    shared = os.stat("/srv/nbgrader/exchange")
    seen["exchange"] = oct(shared.st_mode & 0o7777)
    return seen


def main() -> None:
    """Start the hub, live the term, print what was seen."""
    LOGS.mkdir(exist_ok=True)
    with (LOGS / "hub.log").open("wb") as log:
        line = [sys.executable, "-m", "jupyterhub", "-f", "/etc/jupyterhub/jupyterhub_config.py"]
        hub = subprocess.Popen(line, cwd="/srv", stdout=log, stderr=subprocess.STDOUT)
        try:
            until(lambda: ask("/hub/api/")[0] == 200, "the hub")
            print(json.dumps(term()))
        finally:
            hub.terminate()  # with this process the machine ends, and all that runs on it


if __name__ == "__main__":
    main()
