"""The marking page's widgets: they show a `autograder.marking.desk.Desk` and hand it keys and clicks.

All can be done with a mouse, with a screen reader, or by keys alone. The one script, ``keys.js``, hands over keys,
clicks and text in their order, as a log in a hidden field. Where no script runs, clicks and text come as any widget's.
"""

from __future__ import annotations

import getpass
import json
from pathlib import Path

import ipywidgets as widgets
from IPython.display import HTML, display
from markupsafe import Markup

from autograder.exercises.scheme import keys
from autograder.marking.desk import KEYS, Answer, Desk
from autograder.results.templates import lines
from autograder.results.texts import markdown

HERE = Path(__file__).parent
#: How much of a kept comment its button shows.
SHORT = 70
FIT = {"width": "auto"}
NEW = "a comment to be offered again"


def show(out: Path | str = ".", marker: str = "") -> None:
    """Show the marking page of a graded course; what ``graded/mark.ipynb`` calls.

    Args:
        out: the folder that `python -m autograder grade --out` wrote.
        marker: a name for the other markers to read; by default the one you are logged in with.
    """
    if widgets.__version__.startswith("7."):  # which Colab has, and JupyterLab 4 doesn't draw
        print(f"Marking needs ipywidgets 8 or newer, and this is {widgets.__version__}: pip install 'ipywidgets>=8'")
        return
    panel = Panel(Desk(Path(out), marker or _user()))
    display(panel.box)
    display(HTML(f"<script>{(HERE / 'keys.js').read_text(encoding='utf-8')}</script>"))


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "marker"


class Panel:
    """Widgets around a desk.

    Attributes:
        box: to be displayed.
    """

    def __init__(self, desk: Desk):
        self.desk = desk
        self.style = widgets.HTML(f"<style>{(HERE / 'marking.css').read_text(encoding='utf-8')}</style>")
        self.choice = widgets.Dropdown(description="Question", layout=FIT)
        self.name = widgets.Text(desk.marker, description="Marker", continuous_update=False, layout={"width": "16em"})
        self.bar = widgets.IntProgress(description="Marked", layout={"width": "12em"})
        self.count, self.message = widgets.HTML(), widgets.HTML()
        self.scheme, self.reading, self.beside = (widgets.HTML() for _ in range(3))
        self.switches, self.comments, self.near = widgets.VBox(), widgets.VBox(), widgets.VBox()
        self.text = widgets.Textarea(
            description="Text",
            placeholder="for this student: t to write, Esc to leave it",
            style={"description_width": "initial"},
            continuous_update=False,
            layout={"width": "auto", "height": "4.5em"},
        )
        self.text.add_class("lora-text")
        self.where = widgets.Dropdown(description="as", layout=FIT, style={"description_width": "initial"})
        self.keep = self._does(widgets.Button(description="Keep the text", layout=FIT), "keep")
        self.log, self._done = widgets.Text(continuous_update=False, tabbable=False), 0
        self.log.add_class("lora-log")
        self.read = widgets.HTML()
        self.buttons = {key: self._button(key, words) for key, (words, _) in KEYS.items()}
        self.together = self.buttons.pop("m")
        self._filling = False
        for row in (self.switches, self.comments, self.near):
            row.add_class("lora-rows")
        self.near.add_class("lora-near")
        self.reading.add_class("lora-reading")
        self.count.add_class("lora-count")
        self.keys = widgets.HBox(list(self.buttons.values()))
        self.keys.add_class("lora-keys")
        left = widgets.VBox([self.switches, self.comments])
        right = widgets.VBox([self.read, self.text, widgets.HBox([self.keep, self.where]), self.message, self.keys])
        left.add_class("lora-left")
        right.add_class("lora-right")
        decide = widgets.HBox([left, right])
        decide.add_class("lora-decide")
        self.beside.add_class("lora-beside")
        answer = widgets.HBox([self.reading, self.beside])
        answer.add_class("lora-answers")
        top = widgets.HBox([self.choice, self.name, self.bar, self.count])
        top.add_class("lora-top")
        self.box = widgets.VBox([self.style, top, self.scheme, answer, self.near, decide, self.log])
        self.box.add_class("lora-marking")
        self.choice.observe(self._chosen, names="value")
        self.name.observe(self._named, names="value")
        self.text.observe(self._written, names="value")
        self.log.observe(self._told, names="value")
        self._questions()

    def _button(self, key: str, words: str) -> widgets.Button:
        sign = {"ArrowLeft": "←", "ArrowRight": "→"}.get(key, key)
        button = widgets.Button(description=f"{sign}  {words}", layout=FIT)
        return self._does(button, key)

    def _does(self, button: widgets.Button, what: str) -> widgets.Button:
        """Have a button do something, by the script or by itself."""
        button.add_class(f"lora-do-{what}")
        button.on_click(lambda _: self.do(what))
        return button

    # --- what a person does -----------------------------------------------------------------------------------------

    def do(self, what: str) -> None:
        """A key, a button's name, or ``=`` and the free text."""
        name, _, rest = what.partition("-")
        if what.startswith("="):
            self.desk.text = self.text.value = what[1:]
        elif name == "switch":
            self.desk.toggle(rest)
        elif name == "kept":
            self.desk.kept_on ^= {int(rest)}
        elif what == "keep":
            self.desk.keep(self.desk.text, self.where.value)
            self.desk.text = ""
            self._rows()
        else:
            self.desk.press(what)
        self.fill()

    def _told(self, change: dict) -> None:
        """The script's log has grown: how many entries there have been, and the last ones."""
        log = json.loads(change["new"] or '{"count": 0, "entries": []}')
        new = max(0, min(log["count"] - self._done, len(log["entries"])))
        self._done = log["count"]
        for what in log["entries"][len(log["entries"]) - new :]:
            self.do(what)

    def _chosen(self, change: dict) -> None:
        if change["new"] and not self._filling:
            self.message.value = "Putting like answers together ..."
            self.desk.choose(*change["new"])
            self._rows()
            self.fill()

    def _named(self, change: dict) -> None:
        self.desk.marker = self.desk.ledger.marker = change["new"].strip() or _user()

    def _written(self, change: dict) -> None:
        if not self._filling and change["new"] != self.desk.text:
            self.do(f"={change['new']}")

    # --- what is shown ----------------------------------------------------------------------------------------------

    def _questions(self) -> None:
        """Fill the list of questions, and take up the first that has answers left."""
        questions = self.desk.questions()
        if not questions:
            self.message.value = "No written question has been graded yet: run `python -m autograder grade` first."
            return
        first = next((q for q in questions if q.left), questions[0])
        self._filling = True
        self.choice.options = [(q.label, (q.stage, q.exercise.id)) for q in questions]
        self._filling = False
        self.choice.value = (first.stage, first.exercise.id)
        if not self.desk.chosen:  # the value was the first option's already
            self._chosen({"new": self.choice.value})

    def _rows(self) -> None:
        """What changes with the question and its kept comments: buttons, the mark scheme."""
        desk = self.desk
        folds = [_fold(title, markdown(text)) for title, text in desk.scheme_text().items()]
        self.scheme.value = f'<div class="lora-folds">{"".join(folds)}</div>'
        names = keys(desk.question.scheme)
        self.switches.children = [self._does(widgets.Button(layout=FIT), f"switch-{name}") for name in names]
        self.comments.children = [self._does(widgets.Button(layout=FIT), f"kept-{kept.id}") for kept in desk.kept()]
        self.where.options = [(NEW, "")] + [(f"the comment of {p.name}: {s.text}", n) for n, (p, s) in names.items()]
        self.where.index = 0
        parts = [part.name for part in desk.question.scheme] if len(names) > 9 else []
        self.buttons = {key: button for key, button in self.buttons.items() if key in KEYS}
        self.buttons |= {part: self._button(part, f"part ({part})") for part in parts}
        self.keys.children = list(self.buttons.values())

    def fill(self) -> None:
        """Show the desk as it is."""
        desk = self.desk
        if not desk.chosen:
            return
        done, total, others = desk.progress
        self.bar.max, self.bar.value = max(1, total), done
        self.count.value = f"{done} of {total} marked, {total - done} left" + (
            f", {others} with others" if others else ""
        )
        self.message.value = str(Markup('<p role="status">{}</p>').format(desk.message))
        if desk.answer is None:
            self.reading.value = "Nobody has written an answer to this question."
            return
        self.reading.value = self._answer(desk.answer)
        self.beside.value = _scroll(self._evidence(desk.answer) + self._neighbour(), "Beside it")
        known = keys(desk.question.scheme)
        for (name, key), button in zip(desk.switches(), self.switches.children, strict=True):
            part, point = known[name]
            worth = f"+{point.points:g}" if point.points else "0"
            button.description = f"{'✓' if name in desk.on else '·'} {key or ' '}  {worth}  ({part.name}) {point.text}"
            button.tooltip = desk.comment_of(name)
            _only(button, "lora-on", name in desk.on)
        for number, (kept, button) in enumerate(zip(desk.kept(), self.comments.children, strict=False), start=1):
            key = f"shift+{number}" if number <= 9 else ""
            sign = "✓" if kept.id in desk.kept_on else "·"
            text = kept.text if len(kept.text) <= SHORT else kept.text[: SHORT - 3] + "..."
            button.description, button.tooltip = f"{sign} {key}  {text}", kept.text
            _only(button, "lora-on", kept.id in desk.kept_on)
        self._filling = True
        self.text.value = desk.text
        self._filling = False
        read = lines(desk.comment) if desk.comment else "nothing"
        earned = f'<p class="lora-points">{desk.points:g} of {desk.question.points:g}</p>'
        self.read.value = f"{earned}<div><b>The student will read:</b> {read}</div>"
        self._near()

    def _answer(self, answer: Answer) -> str:
        desk, state = self.desk, self.desk.entry.state
        by = desk.entry.marker or ("formgrader" if state.score is not None else "")
        status = "not marked yet" if state.waits and state.score is None else f"{state.score:g} points, by {by}"
        if state.waits and state.score is not None:
            changed = "it was handed in again and is another" if desk.changed_text else "it was graded again"
            status += f": look at it once more, {changed}"
        text = markdown(answer.text) if answer.text.strip() else "<p>Nothing could be read of this hand-in.</p>"
        words = len(answer.text.split())
        return _scroll(
            f"<h3>Answer {desk.place + 1} of {len(desk.answers)}</h3><p>{words} words; {status}</p>{text}", "The answer"
        )

    def _evidence(self, answer: Answer) -> str:
        if not self.desk.wants_evidence:
            return ""
        parts = []
        for output in self.desk.evidence(answer):
            if "png" in output:
                parts.append(f'<img alt="a figure of the student\'s own" src="data:image/png;base64,{output["png"]}">')
            else:
                parts.append(Markup("<pre>{}</pre>").format(output["text"]))
        return "<h3>Their own figures</h3>" + ("".join(parts) or "<p>The notebook was handed in without them.</p>")

    def _neighbour(self) -> str:
        other = self.desk.neighbour()
        if other is None:
            return ""
        state = self.desk.entries[other.grade].state
        marked = "not marked yet" if state.score is None else f"{state.score:g} points"
        how = Markup("Answer {}, {}. Ordered by {}.").format(self.desk.place, marked, self.desk.measure)
        return f"<h3>The one before, most like it</h3><p>{how}</p>{markdown(other.text)}"

    def _near(self) -> None:
        desk, others = self.desk, self.desk.alike()
        self.buttons["g"].description = f"g  {len(others)} alike"
        self.buttons["g"].disabled = not others
        if not desk.looked:
            self.near.children = []
            return
        heading = widgets.HTML("<h3>Nearly the same: what is only there is underlined</h3>")
        rows: list[widgets.Widget] = [heading, self.together]
        for place in others:
            check = widgets.Checkbox(place not in desk.left_out, description=f"answer {place + 1}", indent=False)
            check.observe(lambda _, n=place: desk.leave_out(n), names="value")
            rows += [check, widgets.HTML(_pieces(desk.difference(place)))]
        self.near.children = rows


def _pieces(pieces: list[tuple[str, str]]) -> str:
    tags = {"same": "span", "only here": "del", "only there": "ins"}
    return "<p>{}</p>".format(" ".join(Markup(f"<{tags[w]}>{{}}</{tags[w]}>").format(text) for w, text in pieces))


def _scroll(html: str, name: str) -> str:
    """What may be higher than its place, so that keys can scroll it."""
    return f'<div class="lora-scroll" role="region" aria-label="{name}" tabindex="0">{html}</div>'


def _fold(title: str, html: str) -> str:
    return f"<details><summary>{title}</summary>{html}</details>" if html else ""


def _only(widget: widgets.Widget, name: str, wanted: bool) -> None:
    """Have a class or not; one that is there already is not sent again."""
    there = name in widget._dom_classes
    if wanted and not there:
        widget.add_class(name)
    elif there and not wanted:
        widget.remove_class(name)
