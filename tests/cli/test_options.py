"""Flags come from the fields of a configuration, and a configuration gives its flags back."""

import dataclasses
import re
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from npk.cli.options import configured, folder_of, words
from npk.studies import CompareConfig, Scale, StudyConfig
from npk.studies.settings import check_ranges, configuration, setting, setting_of


@configuration
class Tea:
    """How tea is made."""

    leaf: str = setting(dataclasses.MISSING, "Which.", among=("green", "black"))
    grams: float = setting(2.5, "Of leaves.", "Leaves", above=0, most=9)
    minutes: int = setting(3, "In the pot.", "Water", least=1, late=1)
    is_hot: bool = setting(True, "Or cold.", "Water", flag="hot")
    cups: tuple[int, ...] | None = setting(None, "Sizes.", none="one of any size", least=1)
    herbs: tuple[str, ...] | None = setting(None, "May be repeated.", flag="herb")
    pot: int = setting(1, "Only here.", hidden=True)
    plain: int | None = None

    def __post_init__(self):
        check_ranges(self)


def asked(config, *arguments):
    """The configuration that a command gets, or its exit code and error."""
    got = []

    def command(config: config, more: int = 0) -> None:
        got.append(config)

    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(configured(command))
    result = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "120", "TERM": "dumb"})
    return got[0] if got else (result.exit_code, result.output)


FULL = Tea("green", 1.5, 4, False, (1, 2), ("mint", "sage"), plain=7)


def test_a_float_without_bounds_must_be_finite_and_a_tuple_must_hold_something():
    about = setting(1.0, "Any.").metadata["setting"]
    assert about.refusal(float("-inf")) == "must be finite, got -inf." and about.refusal(1e300) is None
    for kind, name in ((CompareConfig, "widths"), (Scale, "networks")):
        with pytest.raises(ValueError, match=f"^{name} must be at least one, got none"):
            kind(**{name: ()})


def test_every_field_is_a_flag_of_its_type_and_default():
    assert asked(Tea, "--leaf", "black") == Tea("black")
    flags = "--leaf green --grams 1.5 --minutes 4 --no-hot --cups 1,2 --herb mint --herb sage --plain 7".split()
    assert asked(Tea, *flags) == FULL
    assert asked(Tea)[0] == 2 and asked(Tea, "--leaf", "black", "--pot", 2)[0] == 2
    assert asked(Tea, "--leaf", "black", "--minutes", "long")[0] == 2


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (FULL, Tea),
        (StudyConfig(dataset="digits:4,7", width=8, use_bias=True, learning_rate=0.01, regimes=False), StudyConfig),
        (CompareConfig(widths=(8, 16, 32), flow_step=0.5, gates_width=3), CompareConfig),
        (Scale(share=0.5, networks=("mlp", "c4gap"), samples=300), Scale),
    ],
)
def test_the_flags_of_a_configuration_make_it_again(config, kind):
    assert asked(kind, *words(config)) == config


def test_defaults_need_no_flags():
    assert words(StudyConfig()) == words(CompareConfig()) == words(Scale()) == []


@pytest.mark.parametrize(
    ("config", "folder"),
    [
        (FULL, "tea-green-grams1.5-minutes4-no-hot-cups1-2-herb-mint-herb-sage-plain7"),
        (StudyConfig(), "tea"),
        (StudyConfig(width=64, seed=1), "tea-width64-seed1"),
    ],
)
def test_a_folder_is_named_by_what_is_not_the_default(config, folder):
    named = ("leaf",) if isinstance(config, Tea) else ()
    assert folder_of(f"tea:{config.leaf}" if named else "tea", config, named) == Path("runs") / folder


def test_long_names_of_folders_are_cut_and_still_told_apart():
    one, two = (folder_of("tea", Tea("black", cups=(8,) * count)).name for count in (100, 101))
    assert one != two and all(name.startswith("tea-leaf-black-cups8-8-8-") and len(name) < 140 for name in (one, two))


def test_help_and_documentation_say_what_a_field_says():
    code, text = asked(Tea, "--help")
    assert code == 0
    assert re.search(r"─ Leaves ─.*--grams .*Of leaves\..*─ Water ─", text, re.DOTALL)
    assert text.index("--hot") < text.index("--minutes"), "late ones come last"
    assert "[default: (one of any size)]" in text and "--pot" not in text
    assert Tea.__doc__.startswith("How tea is made.")
    assert "    cups: Sizes. None: one of any size." in Tea.__doc__.splitlines()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--minutes", 0], "Error: --minutes must be at least 1, got 0."),
        (["--grams", 0], "Error: --grams must be more than 0 and at most 9, got 0.0."),
        (["--grams", 10], "Error: --grams must be more than 0 and at most 9, got 10.0."),
        (["--grams", "nan"], "Error: --grams must be more than 0 and at most 9, got nan."),
        (["--cups", "1,-3"], "Error: --cups must be at least 1, got -3."),
        (["--leaf", "oak"], "Error: --leaf must be one of green, black, got 'oak'."),
        (
            ["--cups", "1,many"],
            "Error: --cups must be whole numbers with commas between, as in 64,128,256; got '1,many'.",
        ),
    ],
)
def test_what_a_configuration_refuses_is_one_line(flags, message):
    code, text = asked(Tea, "--leaf", "black", *flags)
    assert code == 1 and text.strip() == message


def numbers_of(kind):
    fields = [field for field in dataclasses.fields(kind) if re.search("int|float", str(field.type))]
    return [pytest.param(kind, field, id=f"{kind.__name__}-{field.name}") for field in fields]


@pytest.mark.parametrize(
    ("kind", "field"), [p for kind in (StudyConfig, CompareConfig, Scale) for p in numbers_of(kind)]
)
def test_every_number_has_a_range_that_its_flag_and_its_field_answer_with(kind, field):
    about = setting_of(field)
    wrong = (-3,) if "tuple" in str(field.type) else float(-3) if "float" in str(field.type) else -3
    with pytest.raises(ValueError, match=f"^{field.name} must be .*, got -3") as refused:
        kind(**{field.name: wrong})
    for other in ("8", True, 8j, [8]):
        with pytest.raises(ValueError, match=f"^{field.name} must be of type .*, got {re.escape(repr(other))}"):
            kind(**{field.name: other})
    if "float" in str(field.type):
        for endless in (float("inf"), float("nan")):
            with pytest.raises(ValueError, match=f"^{field.name} must be .*, got {endless}"):
                kind(**{field.name: endless})
    if about.hidden:
        return
    flag = about.flag or field.name.replace("_", "-")
    said = str(refused.value).removeprefix(field.name)
    assert asked(kind, f"--{flag}", -3) == (1, f"Error: --{flag}{said}\n")
