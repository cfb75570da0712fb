"""Dataclasses as flags and as TOML; every mistake names its flag, or its file and field."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from stageflow.options import OptionError, add_flags, from_file, from_flags


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    loss_weight: float = field(default=1.0, metadata={"help": "of the softmax loss, 0 to 100%"})
    low: int = 1
    high: int = 5

    def __post_init__(self) -> None:
        if self.loss_weight < 0:
            raise ValueError(f"loss_weight is {self.loss_weight}: give 0 or more")
        if self.low > self.high:
            raise ValueError(f"low is {self.low}: give at most high, {self.high}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    data: str = "scenes"
    seeds: int = field(default=3, metadata={"help": "repetitions"})
    rate: float = 0.1
    flip: bool = True
    weight: Literal["w", "w_prime", "product"] = "product"
    bits: Literal[8, 16] = 8
    scales: tuple[float, ...] = (1.0, 0.5)
    size: tuple[int, int] = (320, 640)
    names: tuple[str, ...] | None = None
    threshold: float | None = None
    mode: Literal["a", "b"] | None = None
    recam: Training = field(default_factory=Training)

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise ValueError(f"seeds is {self.seeds}: give 1 or more")


def parsed(*arguments: str, config: Any = None) -> Options:
    """Options from a command line, the way the commands do it."""
    parser = argparse.ArgumentParser(exit_on_error=False, allow_abbrev=False)
    start = config or Options()
    add_flags(parser.add_argument_group("options"), start)
    result: Options = from_flags(start, vars(parser.parse_args(arguments)))
    return result


class TestFlags:
    @pytest.mark.parametrize(
        ("arguments", "name", "value"),
        [
            (("--data", "voc2012:/data"), "data", "voc2012:/data"),
            (("--data", ""), "data", ""),
            (("--seeds", "5"), "seeds", 5),
            (("--rate", "1"), "rate", 1.0),
            (("--rate=-1e-3",), "rate", -0.001),
            (("--flip", "no"), "flip", False),
            (("--flip", "TRUE"), "flip", True),
            (("--flip", "0"), "flip", False),
            (("--weight", "w_prime"), "weight", "w_prime"),
            (("--bits", "16"), "bits", 16),
            (("--scales", "1,0.5,2"), "scales", (1.0, 0.5, 2.0)),
            (("--scales", "1"), "scales", (1.0,)),
            (("--scales", ""), "scales", ()),
            (("--size", "10,20"), "size", (10, 20)),
            (("--names", "cat,dog"), "names", ("cat", "dog")),
            (("--names", "none"), "names", None),
            (("--threshold", "0.5"), "threshold", 0.5),
            (("--threshold", "none"), "threshold", None),
            (("--mode", "b"), "mode", "b"),
            (("--mode", "none"), "mode", None),
        ],
    )
    def test_values(self, arguments: tuple[str, ...], name: str, value: object) -> None:
        found = getattr(parsed(*arguments), name)
        assert found == value
        assert type(found) is type(value)

    def test_nothing_given(self) -> None:
        assert parsed() == Options()
        start = Options(seeds=9, recam=Training(low=2))
        assert parsed(config=start) == start

    def test_nested(self) -> None:
        found = parsed("--recam.loss-weight", "0.5", "--seeds", "2")
        assert found == Options(seeds=2, recam=Training(loss_weight=0.5))

    def test_values_that_hang_together(self) -> None:
        """They are checked when all are set: on the way, low would be above high."""
        expected = Options(recam=Training(low=7, high=9))
        for flags in (("low", "7", "high", "9"), ("high", "9", "low", "7")):
            found = parsed(f"--recam.{flags[0]}", flags[1], f"--recam.{flags[2]}", flags[3])
            assert found == expected

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--seeds", "2.5"), "--seeds is '2.5': it takes INTEGER"),
            (("--seeds", "many"), "--seeds is 'many': it takes INTEGER"),
            (("--seeds", ""), "--seeds is '': it takes INTEGER"),
            (("--rate", "nan"), "--rate is 'nan': it takes NUMBER"),
            (("--rate", "inf"), "--rate is 'inf': it takes NUMBER"),
            (("--flip", "maybe"), "--flip is 'maybe': it takes yes|no"),
            (("--weight", "v"), "--weight is 'v': choose from w, w_prime, product"),
            (("--bits", "12"), "--bits is '12': choose from 8, 16"),
            (("--scales", "1,x"), "--scales is 'x': it takes NUMBER"),
            (("--size", "1"), "--size has 1 values: it takes 2"),
            (("--size", "1,2,3"), "--size has 3 values: it takes 2"),
            (("--seeds", "none"), "--seeds is 'none': it takes INTEGER"),
            (("--threshold", "low"), "--threshold is 'low': it takes NUMBER"),
            (("--mode", "c"), "--mode is 'c': choose from a, b"),
            (("--seeds", "0"), "--seeds: seeds is 0: give 1 or more"),
            (
                ("--recam.loss-weight=-1",),
                "--recam.loss-weight: loss_weight is -1.0: give 0 or more",
            ),
            (
                ("--recam.low", "7", "--recam.high", "6"),
                "--recam.low, --recam.high: low is 7: give at most high, 6",
            ),
        ],
    )
    def test_mistakes(self, arguments: tuple[str, ...], message: str) -> None:
        with pytest.raises(OptionError) as caught:
            parsed(*arguments)
        assert str(caught.value) == message

    def test_help(self) -> None:
        """It says what a flag takes and what holds without it: the defaults of this experiment."""
        parser = argparse.ArgumentParser(prog="sweep")
        add_flags(parser.add_argument_group("options"), Options(seeds=7, recam=Training(low=2)))
        text = " ".join(parser.format_help().split())
        assert "--seeds INTEGER repetitions (default: 7)" in text
        assert "--recam.loss-weight NUMBER of the softmax loss, 0 to 100% (default: 1.0)" in text
        assert "--recam.low INTEGER (default: 2)" in text
        assert "--weight w|w_prime|product (default: product)" in text
        assert "--scales NUMBER,... (default: 1.0,0.5)" in text
        assert "--size INTEGER,INTEGER (default: 320,640)" in text
        assert "--names TEXT,...|none (default: none)" in text
        assert "--flip yes|no (default: True)" in text


class TestFile:
    def load(self, folder: Path, text: str) -> Options:
        (folder / "run.toml").write_text(text)
        return from_file(Options(), folder / "run.toml")

    def test_values(self, tmp_path: Path) -> None:
        found = self.load(
            tmp_path,
            """
            data = "voc2012:/data"
            seeds = 5
            rate = 1
            flip = false
            bits = 16
            scales = [1, 0.5, 2.0]
            size = [10, 20]
            names = ["cat"]
            threshold = 0.5
            mode = "none"
            [recam]
            loss_weight = 0.5
            low = 7
            high = 9
            """,
        )
        assert found == Options(
            data="voc2012:/data",
            seeds=5,
            rate=1.0,
            flip=False,
            bits=16,
            scales=(1.0, 0.5, 2.0),
            size=(10, 20),
            names=("cat",),
            threshold=0.5,
            recam=Training(loss_weight=0.5, low=7, high=9),
        )
        assert type(found.rate) is float

    def test_flags_win(self, tmp_path: Path) -> None:
        loaded = self.load(tmp_path, "seeds = 5\nrate = 0.5\nrecam.low = 2")
        found = parsed("--seeds", "6", "--recam.high", "7", config=loaded)
        assert found == Options(seeds=6, rate=0.5, recam=Training(low=2, high=7))

    def test_empty(self, tmp_path: Path) -> None:
        assert self.load(tmp_path, "") == self.load(tmp_path, "[recam]") == Options()

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("sed = 3", "sed: Options has no field 'sed'; did you mean seeds?"),
            ("recam.loss_wight = 3", "recam.loss_wight: Training has no field 'loss_wight'; did y"),
            ("[recan]\nlow = 3", "recan: Options has no field 'recan'; did you mean recam?"),
            ("zzz = 3", "zzz: Options has no field 'zzz'; there are data, seeds, rate, flip"),
            ("seeds = 2.7", "seeds is 2.7: it takes INTEGER"),
            ("seeds = true", "seeds is True: it takes INTEGER"),
            ("seeds = '3'", ""),
            ("seeds = [3]", "seeds is [3]: it takes INTEGER"),
            ("data = 3", "data is 3: it takes TEXT"),
            ("rate = nan", "rate is nan: it takes NUMBER"),
            ("rate = 1979-05-27", "rate is datetime.date(1979, 5, 27): it takes NUMBER"),
            ("flip = 'maybe'", "flip is 'maybe': it takes yes|no"),
            ("scales = 1.0", "scales is 1.0: it takes NUMBER,..."),
            ("scales = [1, 'x']", "scales is 'x': it takes NUMBER"),
            ("size = [1, 2, 3]", "size has 3 values: it takes 2"),
            ("weight = 'v'", "weight is 'v': choose from w, w_prime, product"),
            ("recam = 3", "recam is a table, not a value: set recam.loss_weight, recam.low, reca"),
            ("seeds.x = 3", "seeds is {'x': 3}: it takes INTEGER"),
            ("seeds = 0", "seeds: seeds is 0: give 1 or more"),
            ("recam.low = 6", "recam.low: low is 6: give at most high, 5"),
        ],
    )
    def test_mistakes(self, tmp_path: Path, text: str, message: str) -> None:
        if not message:
            assert self.load(tmp_path, text).seeds == 3
            return
        with pytest.raises(OptionError) as caught:
            self.load(tmp_path, text)
        assert str(caught.value).startswith(f"{tmp_path}/run.toml: {message}")
        assert "\n" not in str(caught.value)

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(OptionError, match=r"absent\.toml: No such file or directory$"):
            from_file(Options(), tmp_path / "absent.toml")
        with pytest.raises(OptionError, match=r": Is a directory$"):
            from_file(Options(), tmp_path)

    @pytest.mark.parametrize("data", [b"seeds = ", b"[recam\n", b"\xff\xfe", b"a = 1\na = 2"])
    def test_no_toml(self, tmp_path: Path, data: bytes) -> None:
        (tmp_path / "run.toml").write_bytes(data)
        with pytest.raises(OptionError, match=r"run\.toml is not TOML: ") as caught:
            from_file(Options(), tmp_path / "run.toml")
        assert "\n" not in str(caught.value)
