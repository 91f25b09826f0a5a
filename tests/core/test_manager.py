"""The phone book: what is found, what is imported when, and that nothing that is wrong with one plugin reaches another."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from zsq import __version__
from zsq._component import Role
from zsq._manager import Manager, known_plugins
from zsq._plugin import Plugin
from zsq.errors import ComponentError, FileError
from zsq.events import Message
from zsq.testing import FakeDist

Fake = Callable[..., FakeDist]

HEAD = "from zsq import Component, hookimpl\n"


def yields(name: str, hook: str = "zsq_losses") -> str:
    """An entry module with one component."""
    return f"{HEAD}@hookimpl\ndef {hook}():\n    yield Component({name!r}, 'nowhere_at_all:Thing')\n"


def manager(*fakes: FakeDist, **named: object) -> Manager:
    return Manager.discover(distributions=[fake.distribution for fake in fakes], **named)  # type: ignore[arg-type]


def by_name(found: Manager) -> dict[str, Plugin]:
    return {plugin.name: plugin for plugin in found.plugins()}


def refusal(found: Manager, role: str, name: str) -> str:
    with pytest.raises(ComponentError) as caught:
        found.get(role, name)
    message = str(caught.value)
    assert len(message.splitlines()) <= 3
    return message


@pytest.fixture
def zoo_of_broken_ones(fake_dist: Fake) -> list[FakeDist]:
    return [
        fake_dist("zsq-import", "import a_module_that_nobody_has\n" + yields("a")),
        fake_dist("zsq-exit", "import sys\nsys.exit(3)\n"),
        fake_dist("zsq-signature", f"{HEAD}@hookimpl\ndef zsq_losses(view):\n    yield Component('c', 'x:Y')\n"),
        fake_dist("zsq-misspelt", yields("d") + yields("e", "zsq_synthesisers")),
        fake_dist("zsq-version", yields("f"), group="zsq.v9"),
        fake_dist("zsq-twin", yields("good"), entry_points={"good": "zsq_twin"}),
        fake_dist("zsq-descriptor", yields("g") + f"{HEAD}@hookimpl\ndef zsq_tuners():\n    yield Component('h', 'no colon')\n"),
        fake_dist("zsq-raises", f"{HEAD}@hookimpl\ndef zsq_losses():\n    raise RuntimeError('out of\\norder')\n    yield\n"),
        fake_dist("zsq-type", f"{HEAD}@hookimpl\ndef zsq_losses():\n    yield 'kd'\n"),
        fake_dist("zsq-repeats", f"{HEAD}@hookimpl\ndef zsq_losses():\n    yield Component('i', 'x:Y')\n    yield Component('i', 'x:Y')\n"),
        fake_dist("zsq-suggests", f"{HEAD}@hookimpl\ndef zsq_losses():\n    yield Component('j', 'x:Y', suggests={{'clib': ['ema']}})\n"),
        fake_dist("zsq-unread", f"{HEAD}@hookimpl\ndef zsq_losses():\n    yield Component('k', 'x:Y', suggests={{'teacher': 'zoo:x'}})\n"),
        fake_dist("zsq-object", "", entry_points={"object": "zsq_object:absent"}),
        fake_dist("zsq-good", yields("good") + yields("better", "zsq_tuners"), entry_points={"good": "zsq_good"}),
    ]


def test_each_broken_plugin_is_listed_with_its_reason_and_the_others_work(zoo_of_broken_ones: list[FakeDist]) -> None:
    found = manager(*zoo_of_broken_ones)
    broken = {p.name: p for p in found.plugins() if p.status == "broken"}
    words = {
        "import": "No module named 'a_module_that_nobody_has'",
        "exit": "sys.exit(3)",
        "signature": "zsq_losses(view)",
        "misspelt": "no hook 'zsq_synthesisers'; did you mean 'zsq_synthesizers'?",
        "version": "written for plugin API 9, but this zsq has 1",
        "descriptor": "zsq_tuners failed: TypeError: component 'h'",
        "raises": "zsq_losses failed: RuntimeError: out of order",
        "type": "yields str, not zsq.Component",
        "repeats": "yields 'i' twice",
        "suggests": "unknown section 'clib'",
        "unread": "suggests 'teacher', which is ignored",
        "object": "cannot be imported",
    }
    assert set(broken) == set(words)
    for name, plugin in broken.items():
        assert words[name] in plugin.reason and "\n" not in plugin.reason
        assert (plugin.distribution, plugin.version, plugin.components) == (f"zsq-{name}", "0.1.0", [])
        assert name == "version" or "Traceback" in plugin.trace
    assert found.get("tune", "better").provider == "zsq-good 0.1.0"
    assert found.get("quant", "uniform4").values == {"weight_bits": 4, "act_bits": 4}
    thirds = {f.component.name for f in found.components() if not f.provider.startswith("zsq ")}
    assert thirds == {"good", "better"}, "something of a broken plugin is still there"


def test_a_name_of_two_plugins_is_refused_and_reached_under_its_qualified_name(zoo_of_broken_ones: list[FakeDist]) -> None:
    found = manager(*zoo_of_broken_ones)
    assert refusal(found, "loss", "good") == (
        "loss 'good' is provided by zsq-good 0.1.0 and zsq-twin 0.1.0\nwrite zsq-good/good or zsq-twin/good"
    )
    assert found.get("loss", "zsq-twin/good").provider == "zsq-twin 0.1.0"
    assert found.get("loss", "zsq_good/good").provider == "zsq-good 0.1.0"
    twins = [p for p in found.plugins() if p.name == "good"]
    assert [p.distribution for p in twins] == ["zsq-good", "zsq-twin"], "both are listed"
    assert [p.status for p in twins] == ["ok", "ok"]
    assert "also provided by zsq-twin 0.1.0: use zsq-good/good" in twins[0].reason


def test_a_built_in_cannot_be_taken_over(fake_dist: Fake) -> None:
    found = manager(fake_dist("zsq-kd", yields("kd")))
    assert found.get("loss", "kd").provider == f"zsq {__version__}"
    assert found.get("loss", "zsq-kd/kd").provider == "zsq-kd 0.1.0"
    assert "use zsq-kd/kd" in by_name(found)["kd"].reason


def test_a_broken_provider_is_named_with_its_reason(zoo_of_broken_ones: list[FakeDist]) -> None:
    message = refusal(manager(*zoo_of_broken_ones), "loss", "import")
    assert "zsq-import 0.1.0 is broken" in message and "a_module_that_nobody_has" in message and "zsq plugins list" in message
    assert "is broken" in refusal(manager(*zoo_of_broken_ones), "loss", "zsq-signature/c")


def test_keyboard_interrupt_is_not_swallowed(fake_dist: Fake) -> None:
    found = manager(fake_dist("zsq-stop", "raise KeyboardInterrupt\n"))
    with pytest.raises(KeyboardInterrupt):
        found.plugins()


def test_only_what_is_needed_is_imported(fake_dist: Fake) -> None:
    found = manager(fake_dist("zsq-one", yields("one")), fake_dist("zsq-two", yields("two")), fake_dist("zsq-three", yields("other")))

    def imported() -> list[str]:
        return sorted({"zsq_one", "zsq_two", "zsq_three"} & set(sys.modules))

    assert imported() == []
    found.get(Role.QUANT, "uniform4")
    assert imported() == [], "a built-in needs no plugin"
    found.get(Role.LOSS, "two")
    assert imported() == ["zsq_two"], "the plugin of that name is enough"
    found.get(Role.LOSS, "other")
    assert imported() == ["zsq_one", "zsq_three", "zsq_two"], "on a miss, all"


def test_the_manager_and_its_lists_import_no_torch() -> None:
    code = (
        "import sys; from zsq._manager import Manager; m = Manager.discover(); m.plugins(); m.components(); print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_presets_carry_their_values() -> None:
    found = Manager.discover(third_party=False)
    three = found.get("quant", "uniform3")
    assert (three.component.name, three.preset, three.values) == ("uniform", "uniform3", {"weight_bits": 3, "act_bits": 3})
    plain = found.get("quant", "zsq/uniform")
    assert (plain.component, plain.preset, plain.values) == (three.component, None, {})


def test_an_unknown_name_gets_the_nearest_of_its_role() -> None:
    found = Manager.discover(third_party=False)
    assert refusal(found, "quant", "unifrom4") == "quantizer 'unifrom4' not found\ndid you mean 'uniform4'?"
    assert refusal(found, "calib", "kd") == "calibrator 'kd' not found\n'kd' is a loss: --loss kd"
    assert refusal(found, "synth", "zzz") == "synthesizer 'zzz' not found\nthere are: noise, none"
    assert refusal(found, "quant", "zsq-elsewhere/uniform4").endswith("did you mean 'zsq/uniform4'?")


def test_a_known_plugin_that_is_not_installed_is_named_with_its_command() -> None:
    registry = known_plugins()
    key, name = next((key, entry["provides"]["synthesizers"][0]) for key, entry in registry.items() if "synthesizers" in entry["provides"])
    found = Manager.discover(distributions=[])
    assert refusal(found, "synth", name).endswith(f"known but not installed: zsq plugins install {key}")
    assert f"zsq plugins install {key}" in refusal(found, "synth", f"{name}x")


def test_only_restricts_by_plugin_or_distribution(fake_dist: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes = [fake_dist("zsq-one", yields("one")), fake_dist("zsq-two", yields("two")), fake_dist("zsq-three", yields("three"))]
    monkeypatch.setenv("ZSQ_PLUGINS", "one, Zsq_Two")
    assert {n: p.status for n, p in by_name(manager(*fakes)).items()} == {"one": "ok", "two": "ok", "three": "blocked"}
    assert "not named in ZSQ_PLUGINS" in refusal(manager(*fakes), "loss", "three")
    assert {p.status for p in manager(*fakes, only=["three"]).plugins()} == {"ok", "blocked"}, "the argument outranks the environment"
    assert {p.status for p in manager(*fakes, third_party=False).plugins()} == {"blocked"}


def test_a_minus_leaves_a_plugin_out(fake_dist: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes = [fake_dist("zsq-one", yields("one")), fake_dist("zsq-two", yields("two")), fake_dist("zsq-three", yields("three"))]
    monkeypatch.setenv("ZSQ_PLUGINS", "-zsq_two")
    assert {n: p.status for n, p in by_name(manager(*fakes)).items()} == {"one": "ok", "two": "blocked", "three": "ok"}
    assert "left out in ZSQ_PLUGINS" in refusal(manager(*fakes), "loss", "two")
    assert {n: p.status for n, p in by_name(manager(*fakes, only=["one", "-two"])).items()} == {
        "one": "ok",
        "two": "blocked",
        "three": "blocked",
    }


def test_blocked_plugins_are_never_imported(fake_dist: Fake) -> None:
    found = manager(fake_dist("zsq-one", "raise SystemExit(1)"), third_party=False)
    found.plugins()
    found.components()
    found.emit(Message(0.0, "x"))
    assert "zsq_one" not in sys.modules and by_name(found)["one"].status == "blocked"


def test_the_first_distribution_of_a_name_hides_later_ones(fake_dist: Fake, tmp_path: Path) -> None:
    from zsq.testing import write_fake_dist

    old = write_fake_dist(tmp_path / "old", "zsq_One", yields("one"), version="0.0.1")
    found = manager(fake_dist("zsq-one", yields("one")), old)
    assert [(p.distribution, p.version) for p in found.plugins()] == [("zsq-one", "0.1.0")]


def test_metadata_that_cannot_be_read_is_a_broken_plugin(fake_dist: Fake) -> None:
    bad, good = fake_dist("zsq-bad", yields("bad")), fake_dist("zsq-good", yields("good"))
    (bad.path / "zsq_bad-0.1.0.dist-info" / "entry_points.txt").write_bytes(b"[zsq.v1]\nname = \xff\xfe")
    found = manager(bad, good)
    assert sorted(p.status for p in found.plugins()) == ["broken", "ok"]
    assert found.get("loss", "good").provider == "zsq-good 0.1.0"


def test_a_file_is_a_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "my_one_off_loss.py"
    path.write_text(yields("mine").replace("nowhere_at_all:Thing", "my_one_off_loss:Mine") + "class Mine:\n    pass\n")
    found = Manager.discover(third_party=False, files=[path]).get("loss", "mine")
    try:
        assert found.provider == "my_one_off_loss.py"
        assert found.component.implementation().__name__ == "Mine"
    finally:
        del sys.modules["my_one_off_loss"]


def test_files_that_are_no_plugins(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="not found"):
        Manager.discover(files=[tmp_path / "absent.py"])
    (tmp_path / "json.py").write_text(yields("mine"))
    (tmp_path / "faulty_one_off.py").write_text("1 +")
    found = by_name(Manager.discover(third_party=False, files=[tmp_path / "json.py", tmp_path / "faulty_one_off.py"]))
    assert found["json"].status == "broken" and "rename the file" in found["json"].reason
    assert found["faulty_one_off"].status == "broken" and "SyntaxError" in found["faulty_one_off"].reason
    assert "faulty_one_off" not in sys.modules


def test_a_broken_file_is_named_whatever_was_asked_for(tmp_path: Path) -> None:
    (tmp_path / "faulty_one_off.py").write_text("1 +")
    found = Manager.discover(third_party=False, files=[tmp_path / "faulty_one_off.py"])
    message = refusal(found, "synth", "noisy")
    assert "faulty_one_off.py is broken" in message and "SyntaxError" in message
    assert found.get("synth", "noise").component.name == "noise"


def test_events_reach_everyone_and_a_failing_listener_is_reported_once(fake_dist: Fake, caplog: pytest.LogCaptureFixture) -> None:
    hears = f"{HEAD}heard = []\n@hookimpl\ndef zsq_event(event):\n    heard.append(event.text)\n"
    fails = f"{HEAD}@hookimpl\ndef zsq_event():\n    raise SystemExit('no')\n"
    found = manager(fake_dist("zsq-a", fails), fake_dist("zsq-b", hears), fake_dist("zsq-c", yields("c")), fake_dist("zsq-d", "1/0"))
    with caplog.at_level(logging.WARNING, "zsq"):
        for text in ("one", "two"):
            found.emit(Message(0.0, text))
    assert sys.modules["zsq_b"].heard == ["one", "two"]
    (record,) = caplog.records
    assert "plugin 'a' (zsq-a 0.1.0) failed on Message" in record.getMessage()


def test_an_entry_point_may_name_a_class_of_which_every_manager_makes_its_own(fake_dist: Fake) -> None:
    source = f"{HEAD}class Ears:\n    def __init__(self):\n        self.heard = []\n    @hookimpl\n    def zsq_event(self, event):\n"
    source += "        self.heard.append(event.text)\n        everything.append(self.heard)\neverything = []\n"
    fake = fake_dist("zsq-ears", source, entry_points={"ears": "zsq_ears:Ears"})
    for text in ("one", "two"):
        found = manager(fake)
        found.emit(Message(0.0, text))
        found.emit(Message(0.0, f"{text} again"))
    first, *_, last = sys.modules["zsq_ears"].everything
    assert first == ["one", "one again"] and last == ["two", "two again"]


def test_trace_prints_what_hooks_do(fake_dist: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fake = fake_dist("zsq-one", yields("first"))
    manager(fake).plugins()
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("ZSQ_TRACE", "1")
    manager(fake).plugins()
    assert "one.zsq_losses -> first" in capsys.readouterr().err
