"""What a configuration may say, and what each mistake in one is told."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import attrs
import pytest
from attrs import field, frozen

from arf.config import schema as configuration
from arf.config.schema import (
    CHOICES,
    SECTIONS,
    Choice,
    Config,
    Noise,
    disabled_plugins,
    dump,
    is_secret_name,
    load,
)
from arf.errors import ConfigError, UsageError, nearest
from arf.plugins.registry import Plugins
from arf.types import Direction, NoiseRule, SeedMode, WorkspaceSettings

DOC = Path(__file__).parents[3] / "docs" / "configuration.md"


@frozen(kw_only=True)
class Nested:
    depth: int = 1


@frozen(kw_only=True)
class Options:
    """Of a plugin: something of each type that plugins use."""

    slots: int | None = field(default=None, validator=attrs.validators.optional(attrs.validators.ge(1)))
    rate: float = 0.5
    fast: bool = False
    label: str = "a"
    sizes: tuple[int, ...] = (1, 2)
    table: Mapping[str, float] = field(factory=dict)
    mode: Literal["dense", "sparse"] = "dense"
    direction: Direction = Direction.MIN
    folder: Path | None = None
    nested: Nested = Nested()
    anything: Any = None
    order: tuple[str, ...] | None = None


def options_class(kind: str, name: str) -> type | None:
    known = {
        "strategy": {"bayes": Options, "greedy": Options, "random": None, "other": Options},
        "agent": {"offline": None},
        "backend": {"local": Options},
        "parser": {"summary": None},
        "accept": {"evidence": None, "lower": None, "proof": None},
        "claim": {"interleaved": None, "none": None},
    }[kind]
    if name not in known:
        raise UsageError(f"there is no {kind} {name!r}", hint=nearest(name, known))
    return known[name]


Load = Callable[..., Config]


@pytest.fixture
def load_text(tmp_path: Path) -> Load:
    """Loads a text as `--config`, with more arguments of `load` by name."""

    def run(text: str | bytes = "", **more: Any) -> Config:
        path = tmp_path / "study.yaml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        more = {"detected": WorkspaceSettings(command="./train"), "options_class": options_class, **more}
        return load(config_file=path, **more)

    return run


def refused(run: Load, text: str | bytes = "", **more: Any) -> str:
    """The message of the refusal, with `FILE` for the path of the file."""
    with pytest.raises(ConfigError) as caught:
        run(text, **more)
    assert caught.value.exit_code == 2
    message = str(caught.value)
    assert "\n" not in message
    return re.sub(r"\S*/study\.yaml", "FILE", message)


# ---- What is accepted ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["", "# only a comment\n", "---\n", "{}", "\ufeff", "limits:\nstrategy:\n", "~"]
)
def test_an_empty_file_is_the_defaults(load_text: Load, text: str) -> None:
    config = load_text(text)
    assert config.strategy == Choice(name="bayes", options=Options())
    assert config.agent == Choice(name="offline")
    assert (config.limits.budget_s, config.limits.time_limit_s) == (300, 600)
    assert config.noise.replicates == 4
    assert config.warnings == ()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("8h", 28800),
        ("30m", 1800),
        ("1h30m", 5400),
        ("1h 30m", 5400),
        ("1.5d", 129600),
        ("2 h", 7200),
        ("45", 45),
        ("4.5", 4.5),
        ("1e3", 1000),
        ("'8h'", 28800),
    ],
)
def test_durations(load_text: Load, text: str, seconds: float) -> None:
    assert load_text(f"budget: {{max_time: {text}}}").budget.max_time == seconds


@pytest.mark.parametrize(
    "text", ["8x", "h", "30m8h", "1h1h", "8hours", "-5m", "1:30:00", "''", "true", "[8h]"]
)
def test_what_is_no_duration(load_text: Load, text: str) -> None:
    message = refused(load_text, f"budget: {{max_time: {text}}}")
    assert message.startswith("FILE:1: budget.max_time: expected a duration such as 90s, 30m, 8h or 1h30m")


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("1E-3", 1e-3), (".25", 0.25), ("0.1", 0.1), ("+1.0e-2", 0.01)],
)
def test_numbers_are_read_as_people_write_them(load_text: Load, text: str, value: float) -> None:
    assert load_text(f"noise: {{alpha: {text}}}").noise.alpha == value


@pytest.mark.parametrize(("text", "value"), [("1e3", 1000), ("1_000", 1000), ("010", 10), ("8.0", 8)])
def test_whole_numbers(load_text: Load, text: str, value: int) -> None:
    assert load_text(f"budget: {{max_experiments: {text}}}").budget.max_experiments == value


@pytest.mark.parametrize("text", ["off", "no", "1.10", "007", "1e3", "true", "12:30", "0x1f", "y"])
def test_text_stays_as_it_was_written_where_text_is_wanted(load_text: Load, text: str) -> None:
    """YAML 1.1 makes booleans, octal numbers and times of these."""
    config = load_text(f"strategy: {{label: {text}}}\nworkspace: {{env: {{A: {text}}}}}")
    assert config.strategy.options.label == text
    assert config.workspace.env == {"A": text}


@pytest.mark.parametrize(
    ("text", "value"), [("on", True), ("yes", True), ("True", True), ("off", False), ("no", False)]
)
def test_switches(load_text: Load, text: str, value: bool) -> None:
    assert load_text(f"strategy: {{fast: {text}}}").strategy.options.fast is value


def test_a_command_is_a_text_or_a_list(load_text: Load) -> None:
    assert load_text("workspace: {command: 'uv run train.py'}").workspace.command == "uv run train.py"
    assert load_text("workspace: {command: [uv, run, 3]}").workspace.command == ("uv", "run", "3")


def test_options_of_every_type(load_text: Load) -> None:
    config = load_text(
        """
        strategy:
          name: greedy
          slots: 3
          sizes: [4, 8]
          table: {a: 1e-3, b: 2}
          mode: sparse
          direction: max
          folder: /data
          nested: {depth: 9}
          anything: {deep: [1, x, 1e-3, null, true]}
          order: [b, a]
        """
    )
    assert config.strategy.options == Options(
        slots=3,
        sizes=(4, 8),
        table={"a": 1e-3, "b": 2.0},
        mode="sparse",
        direction=Direction.MAX,
        folder=Path("/data"),
        nested=Nested(depth=9),
        anything={"deep": [1, "x", 1e-3, None, True]},
        order=("b", "a"),
    )


def test_a_resolved_configuration_loads_to_the_same(load_text: Load) -> None:
    config = load_text(
        """
        workspace:
          command: [uv, run, train.py]
          env: {A: "1.10", B: "off", C: "1e-3", D: "null", E: "ü\\n#: '"}
        strategy: {sizes: [4], table: {a: 1e-7}, nested: {depth: 2}, folder: /x, anything: ["1e-3", "010"]}
        budget: {max_time: 8h}
        noise: {replicates: 3}
        """
    )
    text = dump(config)
    again = load_text(text + "versions: {arf: 1.0, python: [3, 11], x: {}}\n")
    assert again == config
    assert again.warnings == config.warnings != ()
    assert dump(again) == text


# ---- Layers ----------------------------------------------------------------------------------


def test_layers_lie_over_one_another(tmp_path: Path) -> None:
    workspace, study = tmp_path / "arf.yaml", tmp_path / "study.yaml"
    workspace.write_text(
        "limits: {budget_s: 10, log_mb: 1, stall_s: 5}\nworkspace: {editable: [a.py, b.py], env: {A: 1}}"
    )
    study.write_text(
        "limits: {log_mb: 2}\nworkspace: {editable: [c.py], env: {B: 2}}\nbudget: {max_experiments: 5}"
    )
    config = load(
        workspace_file=workspace,
        config_file=study,
        detected=WorkspaceSettings(command="./train"),
        flags={"budget.max_experiments": 6, "study.seed": None, "study.name": "8"},
        overrides=[("limits.stall_s", "7"), ("limits.stall_s", "8s")],
        options_class=options_class,
    )
    assert (config.limits.budget_s, config.limits.log_mb, config.limits.stall_s) == (10, 2, 8)
    assert config.workspace.editable == ("c.py",)
    assert config.workspace.env == {"A": "1", "B": "2"}
    assert config.budget.max_experiments == 6
    assert (config.study.name, config.study.seed) == ("8", 0)


def test_detected_settings_lie_under_the_files(load_text: Load) -> None:
    detected = WorkspaceSettings(command=("uv", "run", "train.py"), editable=("x.py",), seed=SeedMode.ENV)
    config = load_text("workspace: {editable: [y.py]}", detected=detected)
    assert config.workspace.command == ("uv", "run", "train.py")
    assert config.workspace.editable == ("y.py",)
    assert config.workspace.seed is SeedMode.ENV


def test_options_stay_with_the_plugin_that_they_were_given_for(load_text: Load) -> None:
    text = "strategy: {name: greedy, rate: 9}"
    assert load_text(text, flags={"strategy": "greedy"}).strategy.options.rate == 9
    assert load_text(text, flags={"strategy": "other"}).strategy == Choice(name="other", options=Options())
    assert load_text(text, overrides=[("strategy", "random")]).strategy == Choice(name="random")
    assert load_text(text, overrides=[("strategy.slots", "2")]).strategy.options == Options(rate=9, slots=2)
    assert load_text("strategy: {rate: 9}", flags={"strategy": "bayes"}).strategy.options.rate == 9
    assert load_text("strategy: {rate: 9}", flags={"strategy": "other"}).strategy.options.rate == 0.5


def test_an_override_can_hold_any_yaml(load_text: Load) -> None:
    config = load_text(overrides=[("backend", "{name: local, slots: 2}"), ("workspace.command", "[a, b]")])
    assert config.backend == Choice(name="local", options=Options(slots=2))
    assert config.workspace.command == ("a", "b")
    assert load_text("limits: {stall_s: 3}", overrides=[("limits.stall_s", "")]).limits.stall_s is None


def test_the_disabled_plugins_can_be_known_before_any_plugin_is(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("plugins: {disable: [report]}\nstrategy: {name: not-installed, x: 1}")
    assert disabled_plugins(config_file=path) == ("report",)
    assert disabled_plugins(config_file=path, overrides=[("plugins.disable", "[a, b]")]) == ("a", "b")


def test_the_expected_time_is_no_more_than_a_limit_given_alone(load_text: Load) -> None:
    assert load_text("limits: {time_limit_s: 20}").limits.budget_s == 20


# ---- What is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("limits:\n  budgets_s: 3", "FILE:2: limits.budgets_s: unknown key; did you mean 'budget_s'?"),
        ("stratgy: x", "FILE:1: stratgy: unknown key; did you mean 'strategy'?"),
        ("max_experiments: 3", "FILE:1: max_experiments: unknown key; write it as budget.max_experiments"),
        ("noise:\n  pick: last", "FILE:2: noise.pick: unknown key; write it as objective.pick"),
        ("zzz: 3", "FILE:1: zzz: unknown key; known: accept, agent, backend"),
        ("a: &x 1", "FILE:1: anchors (&) and aliases (*) are not supported"),
        (
            "a: !!python/name:os.system x",
            "FILE:1: tags (tag:yaml.org,2002:python/name:os.system) are not supported",
        ),
        ("- a\n- b", "FILE:1: expected keys with values, found a list; write key: value"),
        ("just text", "FILE:1: expected keys with values, found the text 'just text'"),
        (
            "limits:\n  log_mb: 1\n  log_mb: 2",
            "FILE:3: limits.log_mb: this key is given twice; the other one is at FILE:2",
        ),
        (
            "limits: {}\nnoise: {}\nlimits: {}",
            "FILE:3: limits: this key is given twice; the other one is at FILE:1",
        ),
        ("a: b: c", "FILE:1: not YAML: mapping values are not allowed here"),
        ("limits:\n\tlog_mb: 3", "FILE:2: not YAML: "),
        ("limits: {\n", "FILE:2: not YAML: "),
        ("a: 1\n---\nb: 2", "FILE:2: not YAML: expected a single document"),
        ("a: 1\nb: '\x01'", "FILE:2: has a control character (code 1)"),
        (b"a: 1\nb: \xff", "FILE:2: is not UTF-8 text"),
        ("a: 1".encode("utf-16"), "FILE:1: is not UTF-8 text"),
        ("[" * 5000, "FILE: nested too deeply"),
        ("? [a]\n: b", "FILE:1: a key must be plain text"),
        ("x: " + "y" * 1_100_000, "FILE: has 1,100,003 bytes, and cannot be a configuration"),
        ("limits: 3", "FILE:1: limits: expected keys with values, found the number 3"),
        ("limits: [1]", "FILE:1: limits: expected keys with values, found a list"),
        ("limits: {log_mb: '3'}", "FILE:1: limits.log_mb: expected a number, found the text '3'"),
        ("limits: {log_mb: .inf}", "FILE:1: limits.log_mb: expected a number, found the number .inf"),
        ("limits: {log_mb: .nan}", "FILE:1: limits.log_mb: expected a number, found the number .nan"),
        ("limits: {log_mb: }", "FILE:1: limits.log_mb: expected a number, found nothing"),
        ("limits:\n\n  time_limit_s: 0", "FILE:3: limits.time_limit_s: must be above 0, not 0"),
        (
            "limits: {budget_s: 900}",
            "FILE:1: limits.budget_s: the expected time is 900 s and limits.time_limit_s 600 s",
        ),
        ("limits: {diverge_factor: 1}", "FILE:1: limits.diverge_factor: must be above 1, not 1"),
        ("budget: {max_experiments: 2.5}", "FILE:1: budget.max_experiments: expected a whole number or null"),
        ("budget: {max_experiments: 0}", "FILE:1: budget.max_experiments: must be at least 1, not 0"),
        ("budget: {max_usd: true}", "FILE:1: budget.max_usd: expected a number or null, found true"),
        ("noise: {alpha: 0.5}", "FILE:1: noise.alpha: must be above 0 and below 0.5, not 0.5"),
        ("noise: {replicates: 1}", "FILE:1: noise.replicates: must be at least 2 and at most 10000, not 1"),
        ("study: {seed: -1}", "FILE:1: study.seed: must be at least 0"),
        ("study: {name: ../x}", "FILE:1: study.name: cannot be '../x': use letters"),
        ("objective: {direction: minimum}", "found the text 'minimum'; did you mean 'min'?"),
        (
            "workspace: {editable: train.py}",
            "FILE:1: workspace.editable: expected a list of texts, found the text",
        ),
        (
            "workspace:\n  editable:\n  - a\n  - [b]",
            "FILE:4: workspace.editable[1]: expected text, found a list",
        ),
        (
            "workspace: {editable: {a: b}}",
            "workspace.editable: expected a list of texts, found keys with values",
        ),
        ("workspace: {env: [A=1]}", "workspace.env: expected keys with values, found a list"),
        ("workspace: {env: {A: [1]}}", "FILE:1: workspace.env.A: expected text, found a list"),
        ("workspace:\n  env:\n    HF_TOKEN: x", "FILE:3: workspace.env.HF_TOKEN: looks like a secret"),
        ("strategy: gredy", "FILE:1: strategy.name: there is no strategy 'gredy'; did you mean 'greedy'?"),
        ("strategy: [greedy]", "FILE:1: strategy: expected a name or keys with values, found a list"),
        ("strategy: {name: [a]}", "FILE:1: strategy.name: expected the name of a plugin, found a list"),
        ("strategy:\n  rates: 3", "FILE:2: strategy.rates: unknown key; did you mean 'rate'?"),
        ("strategy:\n  slots: 0", "FILE:2: strategy.slots: must be >= 1: 0"),
        (
            "strategy: {slots: no}",
            "FILE:1: strategy.slots: expected a whole number or null, found the text 'no'",
        ),
        (
            "strategy: {sizes: [1, x]}",
            "FILE:1: strategy.sizes[1]: expected a whole number, found the text 'x'",
        ),
        ("strategy: {order: [a, [b]]}", "FILE:1: strategy.order[1]: expected text, found a list"),
        ("strategy: {table: {a: x}}", "FILE:1: strategy.table.a: expected a number, found the text 'x'"),
        (
            "strategy: {mode: spars}",
            "expected one of dense, sparse, found the text 'spars'; did you mean 'sparse'?",
        ),
        ("strategy: {nested: {dept: 3}}", "FILE:1: strategy.nested.dept: unknown key; did you mean 'depth'?"),
        ("strategy: {fast: 2}", "FILE:1: strategy.fast: expected true or false, found the number 2"),
        ("agent: {name: offline, x: 1}", "FILE:1: agent.x: unknown key: the agent 'offline' has no options"),
    ],
)
def test_a_mistake_is_told_with_its_line_and_what_is_right(
    load_text: Load, text: str | bytes, message: str
) -> None:
    assert message in refused(load_text, text)


def test_a_mistake_in_an_override_or_a_flag_is_told_as_such(load_text: Load) -> None:
    text = "noise: {alpha: 0.1}"
    assert refused(load_text, text, overrides=[("noise.alpha", "x")]).startswith(
        "-o noise.alpha=x: noise.alpha: "
    )
    assert "did you mean 'alpha'?" in refused(load_text, text, overrides=[("noise.alpah", "0.1")])
    assert refused(load_text, text, overrides=[("noise", "{alpha: 3}")]).startswith(
        "-o noise={alpha: 3}: noise.alpha"
    )
    assert "write -o key.path=value" in refused(load_text, text, overrides=[("noise..alpha", "3")])
    assert "not YAML" in refused(load_text, text, overrides=[("noise.alpha", "[")])
    assert refused(load_text, flags={"budget.max_time": "8x"}).startswith("--max-time: budget.max_time: ")
    assert refused(load_text, flags={"strategy": "gredy"}).startswith(
        "--strategy: strategy.name: there is no"
    )
    assert refused(load_text, flags={"backend.slots": 0}) == "--slots: backend.slots: must be >= 1: 0"


def test_a_workspace_needs_a_command(load_text: Load) -> None:
    message = refused(load_text, "workspace:\n  editable: [a.py]", detected=None)
    assert message == "FILE:1: workspace.command: is missing: text or a list of texts is needed"
    assert load_text("workspace: {command: make}", detected=None).workspace.command == "make"
    for empty in ('""', '" "', "[]"):
        message = refused(load_text, f"workspace: {{command: {empty}}}", detected=None)
        assert message.startswith("FILE:1: workspace.command: is empty")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path, message in ((tmp_path / "none.yaml", "no such file"), (tmp_path, "is a directory")):
        with pytest.raises(ConfigError, match=message) as caught:
            load(config_file=path, options_class=options_class)
        assert str(caught.value).startswith(str(path))


def test_a_bug_in_a_plugins_options_is_not_blamed_on_the_user(load_text: Load) -> None:
    @frozen(kw_only=True)
    class Broken:
        def __attrs_post_init__(self) -> None:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        load_text(options_class=lambda kind, name: Broken)


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("noise: {replicates: 3}", "noise.replicates is 3"),
        ("claim: none", "claim is none"),
        ("budget: {max_experiments: 4}", "budget.max_experiments is 4"),
    ],
)
def test_what_is_allowed_and_unwise_is_a_warning(load_text: Load, text: str, warning: str) -> None:
    (line,) = load_text(text).warnings
    assert line.startswith(warning)


def test_names_that_look_like_secrets() -> None:
    for name in (
        "ANTHROPIC_API_KEY",
        "HF_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_ACCESS_KEY_ID",
        "DB_PASSWORD",
        "token",
    ):
        assert is_secret_name(name), name
    for name in ("TOKENIZERS_PARALLELISM", "MAX_TOKENS", "KEYBOARD", "MONKEY", "OMP_NUM_THREADS", "PATH"):
        assert not is_secret_name(name), name


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("limits.budget_s", "1" + 400 * "0", "is too large"),
        ("noise.replicates", "1" + 400 * "0", "is too large"),
        ("budget.max_experiments", "1e30", "is too large"),
        ("objective.metric", '"val\\e[31m_bpb"', r"control character '\x1b'"),
        ("workspace.link", '["a\\0b"]', r"control character '\x00'"),
    ],
)
def test_values_that_nothing_can_hold_are_refused_where_they_stand(
    tmp_path: Path, key: str, value: str, said: str
) -> None:
    section, _, name = key.partition(".")
    settings = {"workspace": {"command": "sh a.sh", "editable": "[a.sh]"}}
    settings.setdefault(section, {})[name] = value
    text = "".join(
        f"{one}:\n" + "".join(f"  {k}: {v}\n" for k, v in keys.items()) for one, keys in settings.items()
    )
    (tmp_path / "arf.yaml").write_text(text)
    with pytest.raises(ConfigError) as raised:
        load(workspace_file=tmp_path / "arf.yaml", options_class=Plugins.load().options)
    assert key in str(raised.value)
    assert f"arf.yaml:{text[: text.index(f'  {name}:')].count(chr(10)) + 1}" in str(raised.value)
    assert said in str(raised.value)


# ---- Documentation ---------------------------------------------------------------------------


def written(value: object) -> str:
    """A default as the documentation shows it."""
    if value is None:
        return "null"
    if value == "":
        return '""'
    if isinstance(value, tuple):
        return "[" + ", ".join(map(str, value)) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def default_of(attribute: attrs.Attribute[Any]) -> object:
    default = attribute.default
    return default.factory() if isinstance(default, attrs.Factory) else default  # type: ignore[arg-type]


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_and_its_default_are_documented(section: str) -> None:
    doc = DOC.read_text()
    for attribute in attrs.fields(SECTIONS[section]):
        key = f"{section}.{attribute.name}"
        row = next((line for line in doc.splitlines() if line.startswith(f"| `{key}` |")), None)
        assert row is not None, f"docs/configuration.md lacks {key}"
        default = default_of(attribute)
        shown = "required" if default is attrs.NOTHING else f"`{written(default)}`"
        assert row.split("|")[2].strip() == shown, key
        if attribute.metadata.get("help"):
            assert attribute.metadata["help"] in row, key


@pytest.mark.parametrize("kind", CHOICES)
def test_every_kind_of_plugin_and_its_default_are_documented(kind: str) -> None:
    default = getattr(attrs.fields(Config), kind).default
    assert f"| `{kind}` | `{default.name}` |" in DOC.read_text()


def test_the_documentation_names_no_key_that_is_not_there() -> None:
    keys = {f"{section}.{f.name}" for section, cls in SECTIONS.items() for f in attrs.fields(cls)}
    documented = set(re.findall(r"^\| `(\w+\.\w+)` \|", DOC.read_text(), re.MULTILINE))
    assert documented == keys


def test_the_example_of_the_documentation_loads(load_text: Load) -> None:
    for text in re.findall(r"```yaml\n(.*?)```", DOC.read_text(), re.DOTALL):
        assert load_text(text)


def test_every_field_has_its_help() -> None:
    own = [cls for cls in SECTIONS.values() if cls.__module__ == configuration.__name__]
    assert [f.name for cls in own for f in attrs.fields(cls) if not f.metadata.get("help")] == []


def test_the_noise_section_has_the_rules_own_defaults() -> None:
    assert attrs.asdict(Noise()) == attrs.asdict(NoiseRule())


@pytest.mark.parametrize(
    ("metric", "direction", "warned"),
    [("val_acc", "min", "=max"), ("val_loss", "max", "=min"), ("val_acc", "max", ""), ("mystery", "max", "")],
)
def test_a_direction_that_the_name_of_the_metric_contradicts_is_told(
    tmp_path: Path, metric: str, direction: str, warned: str
) -> None:
    (tmp_path / "arf.yaml").write_text(
        "workspace: {command: x, editable: [t.py]}\n"
        f"objective: {{metric: {metric}, direction: {direction}}}\n"
    )
    config = load(workspace_file=tmp_path / "arf.yaml", options_class=lambda kind, name: None)
    told = [line for line in config.warnings if "objective.direction" in line]
    assert bool(told) is bool(warned)
    assert warned in "".join(told)
