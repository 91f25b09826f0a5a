"""Makes a plan of a recipe: chooses components, checks options, fills what is open, refuses chains that cannot run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from zsq._component import NEEDS, STUDENT_NEEDS, TEACHER_NEEDS, Component, Role
from zsq._plan import NOTHING, Choice, Plan
from zsq._recipe import CHAINS, SINGLE, Entry, Recipe, RunOptions, parse_entry
from zsq.errors import ComponentError, OptionError, PlanError, ZsqError, nearest
from zsq.options import Options

if TYPE_CHECKING:
    from zsq._manager import Manager

#: The sections of an empty recipe.
DEFAULTS: Mapping[str, Any] = {
    "teacher": "zoo:resnet20-cifar10",
    "synth": "noise",
    "quant": "uniform8",
    "calib": ["mean-image-max"],
    "loss": ["kd"],
    "tune": "finetune",
    "eval": ["agreement"],
    "export": ["safetensors"],
    "log": [],
}
#: The task of a teacher if its source does not name one.
DEFAULT_TASK = "classify"


def compose(recipe: Recipe, manager: Manager) -> Plan:
    """Choose every component and check that the chain can run. Imports no code of components.

    Open sections are filled from the ``suggests`` of the synthesizer, quantizer, calibrators and tuner, in this order, then from
    :data:`DEFAULTS`. Precedence: field default < preset < suggestion < recipe < flag and ``--set``.

    Raises:
        ComponentError: If a component is not available.
        OptionError: If no component reads a setting, or a value is out of bounds.
        PlanError: If the chain cannot run; names the missing need.
    """
    draft = _Draft(recipe, manager)
    teacher, ref = draft.teacher()
    task = draft.task = task_of(teacher.component, teacher.options, ref, manager)
    chosen: dict[str, Choice] = {}
    for section in SINGLE[:2]:
        chosen[section] = draft.single(section)
        draft.suggest(chosen[section])
    calibrators = draft.chain("calib")
    for choice in calibrators:
        draft.suggest(choice)
    tuner = draft.single("tune")
    draft.suggest(tuner)
    evaluators = draft.chain("eval")
    if recipe.eval is None:  # without the default, if it cannot run here
        evaluators = tuple(choice for choice in evaluators if choice.needs - TEACHER_NEEDS <= chosen["synth"].provides | task.provides)
    plan = Plan(
        teacher=teacher,
        ref=ref,
        task=task,
        synth=chosen["synth"],
        quant=chosen["quant"],
        calibrators=calibrators,
        losses=draft.chain("loss"),
        tuner=tuner,
        evaluators=evaluators,
        exporters=draft.chain("export"),
        logs=draft.chain("log"),
        run=RunOptions.parse(draft.run, "run"),
        recipe=recipe,
        default_eval=recipe.eval is None,
        notes=tuple(draft.notes),
    )
    _check(plan, manager)
    return replace(plan, recipe=_resolved(plan, recipe))


def task_of(source: Component, options: Options, ref: str, manager: Manager) -> Choice:
    """The task of a teacher: from the options of its source, else from the source's patterns for references.

    Raises:
        ComponentError: If no installed plugin has it.
    """
    return choose_task(next(iter(options.meaning("task").values()), None) or source.task_of(ref) or DEFAULT_TASK, manager)


def choose_task(name: str, manager: Manager) -> Choice:
    """The task of that name."""
    return _choose(Role.TASK, {"name": name}, manager)


def choose_evaluator(text: str, manager: Manager) -> Choice:
    """The evaluator in ``NAME`` or ``NAME:REF``, as typed after ``--eval``."""
    return _choose(Role.EVAL, parse_entry("eval", text, "--eval"), manager)


def _choose(role: Role, entry: Mapping[str, Any], manager: Manager) -> Choice:
    """Choose a component by ``name`` and check its options, which are the other keys of ``entry``."""
    settings = dict(entry)
    name = str(settings.pop("name"))
    found = manager.get(role, name)
    where = f"{role.words} '{name}'"
    weight = 1.0
    if role is Role.LOSS:
        try:
            if isinstance(given := settings.pop("weight", 1.0), bool):
                raise TypeError(given)
            weight = float(given)
        except (TypeError, ValueError):
            raise OptionError(f"weight {entry['weight']!r} is not a number", where, "write e.g. --loss 0.5*ce") from None
        if not abs(weight) < float("inf"):
            raise OptionError(f"weight {weight} is not finite", where)
    options = found.component.options.parse({**found.values, **settings}, where)
    values = options.to_dict()
    return Choice(role, name, found.component, options, weight, found.provider, {key: values[key] for key in settings})


class _Draft:
    """A recipe that is being filled: the user's settings, then suggestions."""

    def __init__(self, recipe: Recipe, manager: Manager) -> None:
        self.recipe, self.manager = recipe, manager
        self.singles: dict[str, Entry] = {key: dict(getattr(recipe, key) or {}) for key in SINGLE}
        self.chains: dict[str, list[Entry]] = {
            key: [dict(e) for e in entries] for key in CHAINS if (entries := getattr(recipe, key)) is not None
        }
        self.run = dict(recipe.run)
        self.settled: set[str] = set()
        self.notes: list[str] = []
        self.task: Choice | None = None

    def teacher(self) -> tuple[Choice, str]:
        """The source of the teacher, and the rest of the reference."""
        entry = dict(self.recipe.teacher or {})
        reference = str(entry.pop("ref", DEFAULTS["teacher"]))
        source, colon, ref = reference.partition(":")
        try:
            if "name" in entry:
                raise OptionError("unknown option 'name'", "teacher", "use ref to name a teacher")
            return _choose(Role.TEACHER, {"name": source, **entry}, self.manager), ref
        except ComponentError as error:
            if colon:
                raise
            hint = f"a teacher is SOURCE:NAME, e.g. zoo:{reference} or py:package.module:callable"
            raise ComponentError(f"teacher '{reference}' names no source", error.where, hint) from None

    def single(self, section: str) -> Choice:
        """Choose the component of a section."""
        self.settled.add(section)
        entry = self.singles[section]
        if dotted := next((key for key in entry if "." in key), None):
            option = dotted.rpartition(".")[2]
            raise OptionError(f"unknown option '{dotted}'", section, f"write --set {section}.{option}=VALUE")
        return _choose(Role(section), {"name": DEFAULTS[section], **entry}, self.manager)

    def chain(self, section: str) -> tuple[Choice, ...]:
        """Choose the components of a section, and apply its ``--set`` values."""
        self.settled.add(section)
        entries = self.chains.setdefault(section, [parse_entry(section, item) for item in DEFAULTS[section]])
        for _, path, value in (s for s in self.recipe.settings if s[0] == section):
            name, _, option = path.rpartition(".")
            targets = [e for e in entries if not name or name in (e["name"], _plain(e["name"]))]
            names = [e["name"] for e in entries]
            if option == "name" or not targets:
                hint = nearest(name, names) or (f"the chain has: {', '.join(names)}" if names else f"section '{section}' is empty")
                raise OptionError(f"no component reads the setting '{section}.{path}'", "--set", hint)
            if not name and len({e["name"] for e in targets}) > 1:
                raise OptionError(
                    f"'{section}.{path}' may mean {' or '.join(names)}", "--set", f"write --set {section}.{names[0]}.{option}={value}"
                )
            for entry in targets:
                entry[option] = value
        return tuple(_choose(Role(section), entry, self.manager) for entry in entries)

    def suggest(self, choice: Choice) -> None:
        """Fill open sections from the recipe fragment that a component suggests."""
        fragment = Recipe.from_dict(choice.component.suggests, f"the suggestions of {choice}")
        for section in CHAINS:
            entries = (getattr(fragment, section) or []) if section not in self.chains else []
            if usable := [entry for entry in entries if self.available(choice, section, entry)]:
                self.chains[section] = self.with_ranges(usable) if section == "calib" and len(usable) < len(entries) else usable
        for section in SINGLE:
            if section not in self.settled and (entry := getattr(fragment, section)):
                self.fill(choice, section, entry)
        for key, value in fragment.run.items():
            self.run.setdefault(key, value)

    def fill(self, choice: Choice, section: str, entry: Entry) -> None:
        """Fill one section, if it holds the suggested component or none; existing settings stay."""
        open_ = self.singles[section]
        wanted = {"name": DEFAULTS[section], **entry}
        if _plain(open_.get("name", wanted["name"])) != _plain(wanted["name"]) or not self.available(choice, section, wanted):
            return
        self.singles[section] = {**wanted, **open_}

    def with_ranges(self, entries: list[Entry]) -> list[Entry]:
        """Suggested calibrators without the skipped ones; if none of them sets ranges, the default ones come first."""
        if any("act.range" in self.manager.get(Role.CALIB, entry["name"]).component.needs for entry in entries):
            return entries
        return [*(parse_entry("calib", item) for item in DEFAULTS["calib"]), *entries]

    def available(self, choice: Choice, section: str, entry: Entry) -> bool:
        """Whether a suggested component is available with these options and fits the task; if not, a note says why."""
        why = ""
        try:
            found = _choose(Role(section), entry, self.manager)
        except ZsqError as error:
            why = error.what
        else:
            if self.task is not None and "classes" in found.needs - self.task.provides:
                why = f"it needs classes ({NEEDS['classes']}), which {self.task} is not"
        if why:
            self.notes.append(f"{choice} suggests {section} '{entry['name']}', skipped: {why}")
        return not why


def _check(plan: Plan, manager: Manager) -> None:
    """Refuse chains that cannot run, before anything is loaded."""
    made, task = plan.synth.provides | plan.task.provides, plan.task
    if "classes" not in task.provides:
        made -= {"targets"}  # without classes, no images of a class
    given = made | plan.quant.provides
    early = TEACHER_NEEDS | made
    late = TEACHER_NEEDS | STUDENT_NEEDS | given
    evaluators = [choice.component for choice in plan.evaluators]
    if twice := [component.name for component in evaluators if evaluators.count(component) > 1]:
        what = f"evaluator '{twice[0]}' is chosen twice, so two metrics would have the same name"
        raise PlanError(what, "--eval", "make two runs")
    if "pool" in plan.quant.needs and (reads := sorted(plan.synth.needs & STUDENT_NEEDS)):
        raise PlanError(
            f"{plan.quant} needs pool ({NEEDS['pool']}), but {plan.synth} needs {reads[0]} to make images",
            _names(plan),
            "choose a synthesizer that reads the teacher only, or a quantizer without that need",
        )
    losses = plan.losses if plan.tunes or plan.synth.needs & STUDENT_NEEDS else ()
    for choice in (plan.quant, plan.synth, *plan.calibrators, *losses, plan.tuner, *plan.evaluators, *plan.exporters):
        offered = early if choice is plan.quant else late
        if "classes" not in task.provides and (wanted := sorted({"classes", "targets"} & choice.needs - offered)):
            what = f"{choice} needs {wanted[0]} ({NEEDS[wanted[0]]}), but the teacher's task is '{task.name}'"
            raise PlanError(what, _names(plan), _serving(choice.role, task, manager))
        if missing := sorted(choice.needs - offered):
            what = f"{choice} needs {missing[0]} ({NEEDS[missing[0]]}), but no component in this chain provides it"
            raise PlanError(what, _names(plan), _givers(missing[0], manager))
    if plan.tunes and not any(loss.needs & STUDENT_NEEDS for loss in plan.losses):
        reads_ = [f"'{loss.name}' reads {', '.join(sorted(loss.needs)) or 'nothing'} only" for loss in plan.losses]
        what = f"{plan.tuner} needs student.output: a loss that reads the student's output; {'; '.join(reads_) or 'no loss is chosen'}"
        raise PlanError(what, _names(plan), "add e.g. --loss kd, or calibrate only with --tune none")


def _givers(need: str, manager: Manager) -> str:
    if need == "images":
        return "choose a synthesizer: --synth noise, or components without that need (`zsq show NAME`)"
    givers = [f for f in manager.components() if need in f.component.provides]
    return f"provided by: {', '.join(f'--{f.role} {f.component.name}' for f in givers)}" if givers else "no installed component provides it"


def _serving(role: Role, task: Choice, manager: Manager) -> str:
    """Components of a role that work with every task."""
    found = [f.component.name for f in manager.components(role) if not {"classes", "targets"} & frozenset(f.component.needs)]
    return f"these work with task '{task.name}': {', '.join(f'--{role} {name}' for name in found if name != NOTHING)}"


def _names(plan: Plan) -> str:
    return " -> ".join(f"{c.role} {c.name}" for c in (plan.synth, plan.quant, *plan.calibrators, *plan.losses, plan.tuner))


def _resolved(plan: Plan, recipe: Recipe) -> Recipe:
    """The recipe with every component and every setting."""
    run = plan.run.to_dict()
    asked = {key: run[key] for key in run if key in recipe.run or run[key] != getattr(RunOptions(), key)}
    return Recipe(
        teacher={"ref": f"{plan.teacher.name}:{plan.ref}" if plan.ref else plan.teacher.name, **plan.teacher.settings},
        synth=plan.synth.entry(),
        quant=plan.quant.entry(),
        calib=[c.entry() for c in plan.calibrators],
        loss=[c.entry() for c in plan.losses],
        tune=plan.tuner.entry(),
        eval=None if plan.default_eval else [c.entry() for c in plan.evaluators],
        export=[c.entry() for c in plan.exporters],
        log=[c.entry() for c in plan.logs] or None,
        run=asked,
        pins=recipe.pins,
        settings=tuple(s for s in recipe.settings if s[0] == "eval" and plan.default_eval),
    )


def _plain(name: str) -> str:
    return name.rpartition("/")[2]
