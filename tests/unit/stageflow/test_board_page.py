import re
from base64 import b64encode
from html.parser import HTMLParser

import pytest

from stageflow.board import Picture, Row, published_row
from stageflow.board_page import page

VOID = {"meta", "img", "br"}
CURVE = Picture("figures", "0123abcd", "curve.png", "attempt", "0" * 64)


class Reader(HTMLParser):
    """Collects tags, attributes and visible text, and checks that every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += data

    def values(self, tag: str, name: str) -> list[str]:
        return [value for t, n, value in self.attributes if (t, n) == (tag, name)]


def ours(*values: float, **fields: object) -> Row:
    given = {
        "task": "CAM seed",
        "split": "voc2012 train (608)",
        "method": "ReCAM",
        "values": values,
        "seeds": tuple(range(len(values))),
        "keys": tuple(f"key{seed}" for seed in range(len(values))),
        "oracle": False,
        "crf": False,
    }
    return Row(**(given | fields))


def theirs(**fields: object) -> Row:
    given = {
        "task": "CAM seed",
        "split": "voc2012 train (1464)",
        "method": "ReCAM",
        "value": 54.8,
        "source": "paper's abstract",
        "url": "https://arxiv.org/abs/2203.00962",
    }
    return published_row(**(given | fields))


def test_page_tells_everything_about_a_row() -> None:
    row = ours(
        50.0,
        54.0,
        variant="product",
        weights="ResNet-50",
        note="a note",
        comparable="fewer images",
        config_key="c0f1",
        commits=("abc123",),
        data={"d4ta": "voc2012"},
        classes={"cat": 61.25, "cow": None},
        wall_seconds=840.0,
        gpu_seconds=300.0,
    )
    text = Reader(page([row, theirs()], {})).text
    for told in (
        "product",
        "52.0",
        "± 2.8",
        "label-free",
        "ResNet-50",
        "a note",
        "not comparable: fewer images",
        "seed 0: 50.00 key0",
        "seed 1: 54.00 key1",
        row.key,
        "c0f1",
        "abc123",
        "voc2012 d4ta",
        "14 min; GPU 5 min",
        "absent",
        "published: paper's abstract",
        "1 of our results beside 1 published",
    ):
        assert told in text, told
    assert re.search(r"cat\s*61\.2", text)


def test_page_tells_whose_number_a_row_is_held_against() -> None:
    reader = Reader(page([ours(50.0, method="CAM", reference="ReCAM"), theirs()], {}))
    assert "not comparable to ReCAM: other images" in reader.text
    assert "held againstReCAM" in reader.text


def test_every_text_is_escaped() -> None:
    evil = "<script>alert(1)</script>\"'&"
    texts = "task split method reference variant weights note comparable metric".split()
    row = ours(
        50.0,
        **dict.fromkeys(texts, evil),
        keys=(evil,),
        config_key=evil,
        commits=(evil,),
        data={evil: evil},
        classes={evil: 1.0},
        pictures=(Picture(evil, evil, evil, evil, evil),),
    )
    published = theirs(method=evil, variant=evil, source=evil, url=f"https://{evil}")
    clean = page([ours(50.0, pictures=(CURVE,)), theirs(variant="v")], {CURVE: b"png"})
    for pictures in ({}, {row.pictures[0]: b"png"}):
        text = page([row, published], pictures)
        assert text.count("<script") == clean.count("<script") == 1
        assert evil in Reader(text).text


def test_only_https_addresses_become_links() -> None:
    assert Reader(page([theirs()], {})).values("a", "href") == ["https://arxiv.org/abs/2203.00962"]
    unsafe = Reader(page([theirs(url="javascript:alert(1)")], {}))
    assert unsafe.values("a", "href") == []
    assert "javascript:alert(1)" in unsafe.text


def test_pictures_are_inside_and_missing_ones_are_told() -> None:
    rows = [ours(50.0, pictures=(CURVE,))]
    found = Reader(page(rows, {CURVE: b"PNG bytes"}))
    assert found.values("img", "src") == [
        f"data:image/png;base64,{b64encode(b'PNG bytes').decode()}"
    ]
    lost = Reader(page(rows, {}))
    assert lost.values("img", "src") == []
    assert "figures/0123abcd/curve.png is not in the store any more" in lost.text


def test_page_loads_nothing_from_elsewhere() -> None:
    text = page([ours(50.0, pictures=(CURVE,))], {CURVE: b"x"})
    reader = Reader(text)
    assert not reader.values("script", "src") + reader.values("link", "href")
    assert "default-src 'none'" in " ".join(reader.values("meta", "content"))
    assert "url(" not in text
    assert "@import" not in text


def test_one_seed_is_flagged() -> None:
    flag = '<span class="tag warn">1 only</span>'
    assert flag in page([ours(50.0)], {})
    assert flag not in page([ours(50.0, 51.0), theirs()], {})


def test_marks_lie_on_the_scale_of_their_group() -> None:
    rows = [ours(51.0, 53.0), theirs(value=58.5)]
    text = page(rows, {})
    assert '<span class="scale"><span>50</span><span>60</span></span>' in text
    assert re.findall(r"left:([\d.]+)%", text) == ["85.0", "10.0", "30.0", "20.0"]


@pytest.mark.parametrize(
    ("column", "values"), [("score", ["55.0000", "54.8000"]), ("cost", ["90.0", ""])]
)
def test_cells_carry_plain_values_to_sort_by(column: str, values: list[str]) -> None:
    text = page([ours(55.0, wall_seconds=90.0), theirs()], {})
    assert re.findall(rf'<td class="{column}" [^>]*data-sort="([^"]*)"', text) == values


def test_empty_board_is_a_page() -> None:
    assert "0 of our results" in Reader(page([], {})).text
