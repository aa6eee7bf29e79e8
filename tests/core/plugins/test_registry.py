"""Finding, checking, disabling, making and telling plugins, with real distributions on `sys.path`."""

import asyncio
import json
import logging
import os
import subprocess
import sys
import textwrap
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points as metadata_entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest

from arf.errors import PluginError, UsageError
from arf.hooks import Declaration, hookimpl
from arf.plugins import registry
from arf.plugins.entry_points import entry_points
from arf.plugins.registry import PluginInfo, Plugins, PluginState
from arf.study import Study
from arf.testing import fakes
from arf.types import Ask

Install = Callable[..., None]

STRATEGY = """
from arf.hooks import Declaration, hookimpl
from arf.interfaces import Strategy

class Mine(Strategy):
    def decide(self, study, free):
        return []

@hookimpl
def arf_register_strategies():
    return [Declaration(name={name!r}, summary="mine", implementation=__name__ + ":Mine")]
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs a distribution with one module and one plugin, as pip would leave it."""
    site = tmp_path / "site-packages"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    before = set(sys.modules)

    def install(module: str, source: str, *, plugin: str = "", dist: str = "", value: str = "") -> None:
        dist = dist or module.replace("_", "-")
        (site / f"{module}.py").write_text(textwrap.dedent(source))
        info = site / f"{dist.replace('-', '_')}-1.2.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: 1.2\n\nName: no\n")
        with (info / "entry_points.txt").open("a") as file:
            file.write(f"[console_scripts]\nx = y:z\n\n[arf]\n{plugin or module} = {value or module}\n")

    yield install
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", "") or "").startswith(str(site)):
            del sys.modules[name]


def info(plugins: Plugins, name: str) -> PluginInfo:
    return next(info for info in plugins.describe() if info.name == name)


# ---- Finding ------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", ["arf", "console_scripts", "pytest11", "no-such-group"])
def test_finds_what_importlib_metadata_finds(group: str) -> None:
    ours = {(point.distribution, point.name, point.value, point.version) for point in entry_points(group)}
    theirs = {
        (point.dist.metadata["Name"], point.name, point.value.partition("[")[0].strip(), point.dist.version)
        for point in metadata_entry_points(group=group)
        if point.dist is not None
    }
    assert ours == theirs


def test_a_distribution_in_a_zip_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / "z.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("z-3.dist-info/METADATA", "Name: z\nVersion: 3\n")
        file.writestr("z-3.dist-info/entry_points.txt", "[arf]\nzipped = z_module\n")
    monkeypatch.syspath_prepend(str(archive))
    assert ("zipped", "z_module", "z", "3") in {attrs.astuple(point) for point in entry_points("arf")}


def test_the_first_of_two_copies_of_a_distribution_counts(install: Install, tmp_path: Path) -> None:
    install("arf_twice", STRATEGY.format(name="first"))
    other = tmp_path / "other" / "arf_twice-9.dist-info"
    other.mkdir(parents=True)
    (other / "entry_points.txt").write_text("[arf]\narf_twice = elsewhere\nmore = elsewhere\n")
    (other / "METADATA").write_text("Name: Arf_Twice\nVersion: 9\n")
    sys.path.append(str(other.parent))
    try:
        found = [point for point in entry_points("arf") if point.distribution.lower().startswith("arf")]
    finally:
        sys.path.remove(str(other.parent))
    assert [(p.name, p.version) for p in found if p.distribution != "arf-research"] == [("arf_twice", "1.2")]


def test_an_installed_plugin_is_there_with_its_distribution(install: Install) -> None:
    install("arf_mine", STRATEGY.format(name="mine"), dist="Arf-Mine")
    plugins = Plugins.load()
    assert "mine" in plugins.names("strategy")
    assert plugins.make("strategy", "mine").decide(Study(name="s", base="0", base_tree="1"), {}) == []
    found = plugins.provider("strategy", "mine")
    assert (found.distribution, found.version, found.state) == ("Arf-Mine", "1.2", PluginState.OK)
    assert [d.name for d in found.declarations["strategy"]] == ["mine"]
    assert found.hooks == ("arf_register_strategies",)
    assert not plugins.broken.keys() & {"arf_mine"}


def test_an_entry_point_may_name_an_object_in_a_module(install: Install) -> None:
    source = (
        STRATEGY.format(name="held") + "\nclass outer:\n    inner = __import__('sys').modules[__name__]\n"
    )
    install("arf_held", source, value="arf_held:outer.inner [extra]")
    assert "held" in Plugins.load().names("strategy")


def test_built_ins_come_first_and_then_the_order_is_by_distribution(install: Install) -> None:
    install("arf_b", STRATEGY.format(name="b"), dist="bbb")
    install("arf_a", STRATEGY.format(name="a"), dist="aaa")
    names = [(info.distribution, info.name) for info in Plugins.load().describe()]
    ours = [name for name in names if name[0] == "arf-research"]
    assert names[: len(ours)] == ours == sorted(ours)
    assert names[len(ours) :] == sorted(names[len(ours) :])


ONE_FILE = '''
from attrs import field, frozen
from arf.hooks import Declaration, hookimpl
from arf.interfaces import Strategy
class Mine(Strategy):
    """Does nothing at all.

    Never.
    """
    @frozen
    class Options:
        n: int = 3
    def decide(self, study, free):
        return [] if self.options.n == 3 else None
@hookimpl
def arf_register_strategies():
    return [Declaration(name="mine", implementation=Mine, aliases=("yours",))]
'''


def test_a_declaration_may_hold_the_class_with_its_options_and_its_docstring(install: Install) -> None:
    install("arf_one_file", ONE_FILE)
    plugins = Plugins.load()
    found = plugins.declaration("strategy", "mine")
    assert (found.summary, found.path) == ("Does nothing at all", "arf_one_file:Mine")
    made = plugins.make("strategy", "mine")
    assert made.decide(Study(name="s", base="0", base_tree="1"), {}) == []
    assert plugins.options("strategy", "mine") is type(made.options)


def test_a_former_name_still_works_and_is_listed_nowhere(install: Install) -> None:
    install("arf_one_file", ONE_FILE)
    plugins = Plugins.load()
    assert plugins.declaration("strategy", "yours") is plugins.declaration("strategy", "mine")
    assert "mine" in plugins.names("strategy")
    assert "yours" not in plugins.names("strategy")
    assert plugins.make("agent", "dice")  # a study of 0.1.0


# ---- Broken plugins -----------------------------------------------------------------------------

HEAD = "from arf.hooks import Declaration, hookimpl\n"

BROKEN = {
    "syntax": ("def (", "SyntaxError"),
    "import": ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
    "raises": ("raise ValueError('two\\nlines')", "ValueError: two lines"),
    "exits": ("raise SystemExit(3)", "SystemExit: 3"),
    "empty": ("", "implements no hook"),
    "hook_raises": (HEAD + "@hookimpl\ndef arf_register_agents():\n    1 / 0", "ZeroDivisionError"),
    "none": (HEAD + "@hookimpl\ndef arf_register_agents():\n    pass", "returned None"),
    "one": (
        HEAD + "@hookimpl\ndef arf_register_agents():\n"
        "    return Declaration(name='a', summary='s', implementation='m:C')",
        "returned a Declaration where a list",
    ),
    "generator": (HEAD + "@hookimpl\ndef arf_register_agents():\n    yield 1", "returned a generator"),
    "strings": (HEAD + "@hookimpl\ndef arf_register_agents():\n    return ['a']", "a str among"),
    "misspelt": (HEAD + "@hookimpl\ndef arf_register_agent():\n    return []", "'arf_register_agents'?"),
    "unknown_argument": (
        HEAD + "@hookimpl\ndef arf_study_started(study, folder):\n    pass",
        "arf_study_started has arguments that the hook does not give: 'folder'",
    ),
    "unmarked": (HEAD + "def arf_register_agents():\n    return []", "arf_register_agents is not marked"),
    "wrapper": (HEAD + "@hookimpl(wrapper=True)\ndef arf_study_started():\n    yield", "wrapper"),
    "coroutine": (HEAD + "@hookimpl\nasync def arf_study_started():\n    pass", "coroutine"),
    "half": (
        STRATEGY.format(name="half") + "\n@hookimpl\ndef arf_register_agents():\n    raise OSError('no')",
        "OSError: no",
    ),
}


@pytest.mark.parametrize(("source", "reason"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_plugin_is_left_out_whole_and_named(install: Install, source: str, reason: str) -> None:
    install("arf_broken", source)
    install("arf_good", STRATEGY.format(name="good"))
    plugins = Plugins.load()
    assert reason in plugins.broken["arf_broken"]
    assert "\n" not in plugins.broken["arf_broken"]
    found = info(plugins, "arf_broken")
    assert (found.state, found.declarations, found.hooks) == (PluginState.BROKEN, {}, ())
    assert "good" in plugins.names("strategy")
    assert "half" not in plugins.names("strategy")


def test_an_attribute_that_is_missing_is_named(install: Install) -> None:
    install("arf_broken", "", value="arf_broken:plugin")
    assert "arf_broken has no plugin" in Plugins.load().broken["arf_broken"]


@attrs.frozen
class Needy:
    size: int


class NotAttrs:
    pass


def declare(**changes: object) -> SimpleNamespace:
    """A plugin with one declaration of a strategy."""
    settings: dict[str, Any] = {"name": "x", "summary": "s", "implementation": "m:C", **changes}

    @hookimpl
    def arf_register_strategies() -> list[Declaration]:
        return [Declaration(**settings)]

    return SimpleNamespace(arf_register_strategies=arf_register_strategies)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "Two Words"}, "lower case"),
        ({"name": "a_b"}, "lower case"),
        ({"name": ""}, "lower case"),
        ({"name": "-a"}, "lower case"),
        ({"name": 3}, "a int, not a text"),
        ({"summary": ""}, "one line"),
        ({"summary": "a\nb"}, "one line"),
        ({"implementation": "m"}, "package.module:Name"),
        ({"implementation": "m.C:"}, "package.module:Name"),
        ({"implementation": "os; import x:C"}, "package.module:Name"),
        ({"options": NotAttrs}, "not an attrs class"),
        ({"options": {}}, "a dict, not an attrs class"),
        ({"options": Needy}, "'size' has no default"),
        ({"extra": None}, "None, not a text"),
    ],
)
def test_a_malformed_declaration_is_refused(changes: Mapping[str, object], message: str) -> None:
    plugins = Plugins()
    with pytest.raises(PluginError, match=message):
        plugins.register(declare(**changes), "mine")
    assert plugins.describe() == []
    plugins.register(declare(), "mine")


def test_what_a_plugin_prints_does_not_get_into_the_data(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install("arf_loud", "print('hello')\n" + STRATEGY.format(name="loud"))
    Plugins.load()
    assert capsys.readouterr() == ("", "hello\n")


def test_an_optional_hook_of_another_arf_is_no_mistake() -> None:
    @hookimpl(optionalhook=True)
    def arf_register_dashboards() -> list[Declaration]:
        return []

    plugin = declare()
    plugin.arf_register_dashboards = arf_register_dashboards
    plugins = Plugins()
    plugins.register(plugin, "mine")
    assert plugins.names("strategy") == ["x"]


# ---- Names --------------------------------------------------------------------------------------


def test_a_name_that_is_taken_keeps_the_later_plugin_out_and_both_are_named(install: Install) -> None:
    install("arf_aaa", STRATEGY.format(name="same"))
    install("arf_zzz", STRATEGY.format(name="same"))
    plugins = Plugins.load()
    assert plugins.provider("strategy", "same").name == "arf_aaa"
    reason = plugins.broken["arf_zzz"]
    assert "arf_aaa (of arf-aaa 1.2)" in reason
    assert "arf_zzz (of arf-zzz 1.2)" in reason
    assert "ARF_DISABLE_PLUGINS=arf_aaa" in reason


def test_a_third_party_takes_the_name_of_a_disabled_built_in(install: Install) -> None:
    source = STRATEGY.replace("strategies", "metric_parsers").replace("Strategy", "MetricParser")
    install(
        "arf_other", source.replace("decide(self, study, free)", "parse(self, line)").format(name="summary")
    )
    assert "arf_other" in Plugins.load().broken
    plugins = Plugins.load(disable=["metrics_summary"])
    assert plugins.provider("parser", "summary").name == "arf_other"
    assert plugins.make("parser", "summary").parse("val_bpb: 1") == []


def test_two_distributions_with_one_entry_point_name_are_told_apart(install: Install) -> None:
    install("arf_one", STRATEGY.format(name="one"), plugin="plugin")
    install("arf_two", STRATEGY.format(name="two"), plugin="plugin")
    plugins = Plugins.load()
    assert "one" in plugins.names("strategy")
    assert plugins.broken["plugin@arf-two"] == "its entry point has the name of plugin (of arf-one 1.2)"


def test_an_unknown_name_gets_the_nearest_right_one_and_who_was_left_out(install: Install) -> None:
    install("arf_mine", STRATEGY.format(name="simulated-annealing"))
    install("arf_broken", "1 / 0")
    with pytest.raises(UsageError) as caught:
        Plugins.load(disable=["report", "compare"]).declaration("strategy", "simulated-anealing")
    said = str(caught.value)
    assert (
        "did you mean 'simulated-annealing'?; the plugin arf_broken (of arf-broken 1.2) is left out: Zero"
        in said
    )
    assert said.endswith("; disabled: compare, report")


# ---- Disabling ----------------------------------------------------------------------------------


def test_a_disabled_plugin_is_not_even_imported(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("arf_mine", "1 / 0")
    install("arf_yours", STRATEGY.format(name="yours"))
    monkeypatch.setenv("ARF_DISABLE_PLUGINS", " arf_mine ,, ")
    plugins = Plugins.load(disable=["arf_yours"])
    assert info(plugins, "arf_mine").state is PluginState.DISABLED
    assert info(plugins, "arf_yours").state is PluginState.DISABLED
    assert not {"arf_mine", "arf_yours"} & sys.modules.keys()
    assert plugins.names("strategy") == [name for name in plugins.names("strategy") if name != "yours"]


def test_every_built_in_can_be_disabled() -> None:
    ours = [point.name for point in entry_points("arf") if point.distribution == "arf-research"]
    plugins = Plugins.load(disable=ours)
    states = {info.state for info in plugins.describe() if info.distribution == "arf-research"}
    assert states == {PluginState.DISABLED}


def test_disabling_what_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="'metric_summary' to disable; did you mean 'metrics_summary'"):
        Plugins.load(disable=["metric_summary"])
    monkeypatch.setenv("ARF_DISABLE_PLUGINS", "nope")
    with pytest.raises(UsageError, match="ARF_DISABLE_PLUGINS: there is no plugin 'nope'"):
        Plugins.load()


# ---- Making -------------------------------------------------------------------------------------


def test_options_are_the_defaults_unless_given(arf_plugins: Plugins) -> None:
    options_class = arf_plugins.options("parser", "jsonl")
    assert options_class is not None
    assert arf_plugins.make("parser", "jsonl").options == options_class()
    assert arf_plugins.make("parser", "jsonl", options_class(step="it")).options.step == "it"
    assert arf_plugins.options("parser", "summary") is None


def test_a_backend_gets_its_directory(tmp_path: Path) -> None:
    plugins = Plugins()
    plugins.register(fakes, "fakes")
    assert plugins.make("backend", "fake", None, tmp_path).directory == tmp_path


IMPLEMENTATIONS = {
    "missing_module": ("", "arf_impl.nowhere:C", "No module named 'arf_impl.nowhere'"),
    "missing_class": ("", "arf_impl:C", "arf_impl has no C"),
    "no_class": ("C = 3", "arf_impl:C", "arf_impl:C is no Strategy"),
    "wrong_class": ("class C: pass", "arf_impl:C", "arf_impl:C is no Strategy"),
    "abstract": (
        "from arf.interfaces import Strategy\nclass C(Strategy): pass",
        "arf_impl:C",
        "does not implement decide",
    ),
    "raises": ("raise ValueError('no')", "arf_impl:C", "ValueError: no"),
    "constructor": (
        "from arf.interfaces import Strategy\nclass C(Strategy):\n"
        "    def decide(self, study, free): return []\n"
        "    def __init__(self, options): raise KeyError('k')",
        "arf_impl:C",
        "KeyError: 'k'",
    ),
    "dependency": ("import no_such_sdk", "arf_impl:C", "No module named 'no_such_sdk'"),
}


@pytest.mark.parametrize(
    ("source", "implementation", "reason"), IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS.keys()
)
def test_a_broken_implementation_is_named_with_its_distribution(
    install: Install, source: str, implementation: str, reason: str
) -> None:
    install("arf_impl", source)
    plugins = Plugins()
    plugins.register(declare(implementation=implementation), "mine", distribution="mine-dist", version="4")
    with pytest.raises(PluginError) as caught:
        plugins.make("strategy", "x")
    assert reason in str(caught.value)
    assert "the strategy 'x' of the plugin mine (of mine-dist 4) is broken" in str(caught.value)


@pytest.mark.parametrize(
    "source",
    [
        "import no_such_sdk",
        "from json import no_such_name",
        "from arf.interfaces import Strategy\nclass C(Strategy):\n"
        "    def decide(self, study, free): return []\n"
        "    def __init__(self, options): import no_such_sdk",
    ],
    ids=["module", "name", "constructor"],
)
def test_a_missing_dependency_names_the_pip_command(install: Install, source: str) -> None:
    install("arf_impl", source)
    plugins = Plugins()
    plugins.register(declare(implementation="arf_impl:C", extra="arf-research[sdk]"), "mine")
    with pytest.raises(PluginError, match=r"pip install 'arf-research\[sdk\]'"):
        plugins.make("strategy", "x")


def test_a_missing_module_of_its_own_is_no_missing_dependency(install: Install) -> None:
    install("arf_impl", "import arf_impl.nowhere")
    plugins = Plugins()
    plugins.register(declare(implementation="arf_impl:C", extra="arf-research[sdk]"), "mine")
    with pytest.raises(PluginError, match="is broken"):
        plugins.make("strategy", "x")


def test_what_a_plugin_says_about_its_options_is_passed_on(install: Install) -> None:
    install(
        "arf_impl",
        "from arf.errors import UsageError\nfrom arf.interfaces import Strategy\nclass C(Strategy):\n"
        "    def decide(self, study, free): return []\n"
        "    def __init__(self, options): raise UsageError('too small')",
    )
    plugins = Plugins()
    plugins.register(declare(implementation="arf_impl:C"), "mine")
    with pytest.raises(UsageError, match=r"^too small$"):
        plugins.make("strategy", "x")


def test_a_command_is_a_click_command(install: Install) -> None:
    install("arf_impl", "import click\n@click.command()\ndef hello(): click.echo('hello')\nnot_one = 3")

    class Plugin:
        @hookimpl
        def arf_register_commands(self) -> list[Declaration]:
            return [
                Declaration(name="hello", summary="says hello", implementation="arf_impl:hello"),
                Declaration(name="not-one", summary="is none", implementation="arf_impl:not_one"),
            ]

    plugins = Plugins()
    plugins.register(Plugin(), "mine")
    assert plugins.command("hello").name == "hello"
    with pytest.raises(PluginError, match="arf_impl:not_one is no click command"):
        plugins.command("not-one")
    with pytest.raises(UsageError, match="'hello'"):
        plugins.command("helo")


def test_a_bug_in_a_command_is_its_plugins(install: Install, tmp_path: Path) -> None:
    source = STRATEGY.replace("strategies", "commands").format(name="burst")
    install("arf_burst", "import click\n" + source + "\n@click.command()\ndef Mine():\n    1 / 0\n")
    path = os.pathsep.join([str(tmp_path / "site-packages"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", "from arf.cli import main; main()", "burst"],
        env={**os.environ, "PYTHONPATH": path.rstrip(os.pathsep)},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
    assert "arf: a bug in the plugin arf_burst (of arf-burst 1.2): please report it" in done.stderr


def test_a_command_of_arfs_own_cannot_be_taken(install: Install) -> None:
    source = STRATEGY.replace("strategies", "commands").format(name="run")
    install("arf_taker", source)
    plugins = Plugins.load(own_commands=["run"])
    assert "the command 'run', which is arf's own" in plugins.broken["arf_taker"]


# ---- Events -------------------------------------------------------------------------------------


class Listener:
    def __init__(self, error: BaseException | None = None) -> None:
        self.heard: list[bool] = []
        self.error = error

    @hookimpl
    def arf_study_started(self, resumed: bool) -> None:
        """Takes only the argument that it wants."""
        self.heard.append(resumed)
        if self.error is not None:
            raise self.error


@pytest.mark.parametrize("error", [RuntimeError("oh no"), SystemExit(1)], ids=["error", "exit"])
def test_what_an_event_raises_is_logged_and_the_others_are_told(
    error: BaseException, arf_study: Study, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plugins = Plugins()
    listeners = [Listener(), Listener(error), Listener()]
    for number, listener in enumerate(listeners):
        plugins.register(listener, f"listener-{number}")
    with caplog.at_level(logging.WARNING):
        for resumed in (False, True):
            plugins.events.arf_study_started(study=arf_study, directory=tmp_path, resumed=resumed)
    assert [listener.heard for listener in listeners] == [[False, True]] * 3
    (record,) = caplog.records
    assert "listener-1" in record.getMessage()
    assert str(error) in record.getMessage()


def test_a_hook_that_gives_a_coroutine_is_told(
    arf_study: Study, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Late:
        @hookimpl
        def arf_study_started(self) -> object:
            return asyncio.sleep(0)

    plugins = Plugins()
    plugins.register(Late(), "late", distribution="late-dist", version="2")
    plugins.events.arf_study_started(study=arf_study, directory=tmp_path, resumed=False)
    assert "plugin late (of late-dist 2): arf_study_started: it gave a coroutine" in caplog.text


def test_a_listener_that_the_study_waits_for_is_named_once(
    arf_study: Study, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow:
        @hookimpl
        def arf_ask_opened(self, number: int) -> None:
            time.sleep(0.02)

    monkeypatch.setattr(registry, "SLOW_S", 0.01)
    plugins = Plugins()
    plugins.register(Slow(), "slow")
    for number in (1, 2):
        plugins.events.arf_ask_opened(study=arf_study, number=number, ask=Ask(base="b"))
    (record,) = caplog.records
    assert "plugin slow: arf_ask_opened took" in record.getMessage()


def test_an_interrupt_is_never_dropped(arf_study: Study, tmp_path: Path) -> None:
    plugins = Plugins()
    plugins.register(Listener(KeyboardInterrupt()), "listener")
    with pytest.raises(KeyboardInterrupt):
        plugins.events.arf_study_started(study=arf_study, directory=tmp_path, resumed=False)


def test_nobody_needs_to_listen(arf_study: Study, tmp_path: Path) -> None:
    events = Plugins().events
    events.arf_study_started(study=arf_study, directory=tmp_path, resumed=False)
    events.arf_study_finished(study=arf_study, directory=tmp_path, summary={})


def test_calls_can_be_traced(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arf_study: Study, tmp_path: Path
) -> None:
    monkeypatch.setenv("ARF_TRACE_HOOKS", "1")
    plugins = Plugins.load()
    plugins.register(Listener(), "listener")
    plugins.make("parser", "summary")
    plugins.events.arf_study_started(study=arf_study, directory=tmp_path, resumed=False)
    out, err = capsys.readouterr()
    assert out == ""
    lines = [line.split() for line in err.splitlines()]
    assert all(line[:2] == ["arf:", "hook:"] and line[-1] == "ms" for line in lines)
    calls = [(line[2], line[3]) for line in lines]
    assert ("load", "metrics_summary") in calls
    assert ("arf_register_metric_parsers", "metrics_summary") in calls
    assert ("import", "arf_plugins.metrics_summary.parser:SummaryParser") in calls
    assert ("make", "arf_plugins.metrics_summary.parser:SummaryParser") in calls
    assert ("arf_study_started", "listener") in calls


def test_threads_that_a_plugin_leaves_running_do_not_keep_arf() -> None:
    code = """
import sys, threading, arf.cli
arf.cli.LEAVE_S = 0.05
threading.Thread(target=threading.Event().wait, name="forever").start()
sys.argv[1:] = ["--version"]
arf.cli.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0
    assert done.stdout.startswith("arf ")
    assert done.stderr == "arf: left although threads of a plugin go on: forever\n"


# ---- Start-up -----------------------------------------------------------------------------------


def test_loading_all_plugins_imports_nothing_heavy() -> None:
    heavy = ["asyncio", "pygit2", "yaml", "cattrs", "rich", "scipy", "numpy", "torch", "pynvml", "sqlite3"]
    heavy += ["importlib.metadata", "email", "arf.interfaces", "matplotlib"]
    code = f"""
import json, sys
from arf.plugins.registry import Plugins
plugins = Plugins.load()
print(json.dumps([name for name in {heavy!r} if name in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
