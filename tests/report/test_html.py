"""The page: what it holds, that nothing in it can be run, and how it behaves in a real browser."""

import base64
import csv
import hashlib
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from browser import Browser, find_browser
from PIL import Image
from run_files import COLUMNS, write_ranked, write_run

from conftest import CPU, Cli
from lorattt.data.images import UnreadableImageError
from lorattt.report.command import main
from lorattt.report.html import page_environment
from lorattt.report.image_browser import choose_pictured, choose_rows, movement
from lorattt.report.pictures import Pictures, thumbnail
from lorattt.report.predictions import read_predictions
from lorattt.report.runs import find_runs

HOSTILE = [
    "</script><script>window.injected = 1</script>",
    "<!--<script>",
    "<img src=x onerror='window.injected = 1'>",
    '"><svg onload=window.injected=1>',
    "' onmouseover='window.injected = 1",
    "javascript:window.injected=1",
    "{{script}} {{data}} ${window.injected = 1} `",
    "\\u003cscript\\u003ewindow.injected=1\\u003c/script\\u003e",
    "\\input{/etc/passwd} $x^2$ 100% #1 & _a_",
    '=SUM(A1),"quoted";\tx',
    "line\nbreak\r\nand more",
    "\u05e9\u05dc\u05d5\u05dd \u202eturned | \u0645\u0631\u062d\u0628\u0627",
    "\u2028\u2029\x01\x1b[31m \ud800",
    "__proto__",
    "constructor",
    "x" * 500,
    "",
    "   ",
    "&lt;b&gt; &amp;amp;",
    "\u732b \U0001f600",
]


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.blocks: dict[str, str] = {}
        self.code: dict[str, str] = {}
        self.text = ""
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        own = dict(attrs)
        self._inside = str(own.get("id") or tag) if tag in ("script", "style") else ""

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if not self._inside:
            self.text += data
        elif self._inside in ("script", "style"):
            self.code[self._inside] = self.code.get(self._inside, "") + data
        else:
            self.blocks[self._inside] = self.blocks.get(self._inside, "") + data

    def data(self, name: str) -> Any:
        return json.loads(self.blocks[name])


def _write_hostile(folder: Path) -> Path:
    """A run whose every name is hostile; with the image number its name's number."""
    n = len(HOSTILE)
    write_run(folder, n=n, classes=n, method=HOSTILE[0], dataset=HOSTILE[2], backbone=HOSTILE[3])
    with (folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with (folder / "predictions.csv").open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        for row, name in zip(rows, HOSTILE, strict=True):
            row["path"] = name
            row["name_before"], row["name_after"] = (
                HOSTILE[int(row["prediction_before"])],
                HOSTILE[int(row["prediction_after"])],
            )
            table.writerow(row)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["notes"] = [name for name in HOSTILE if name.isprintable()]
    (folder / "config.yaml").write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
    return folder


def _page(folder: Path, *options: str, out: Path) -> Path:
    assert main([str(folder), "--out", str(out), "--no-plots", "--format", "html", *options]) == 0
    return out / "report.html"


@pytest.mark.parametrize("name", HOSTILE)
def test_a_block_ends_where_it_should(name: str) -> None:
    module: Any = page_environment().get_template("macros.html").module
    page = _Page(f"<body>{module.block('names', {'name': name, name: [name]})}<p>after</p></body>")
    assert [tag for tag, _ in page.elements] == ["body", "script", "p"]
    assert page.text.strip() == "after"
    assert page.data("names") == {"name": name, name: [name]}
    assert page.blocks["names"].isascii()
    assert not set("<>&") & set(page.blocks["names"])


def test_nothing_but_its_own_script_and_style(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "b", method="mta", dataset="dtd")
    _write_hostile(tmp_path / "runs" / "a")
    assert main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0  # with plots
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    page = _Page(text)
    for tag, attributes in page.elements:
        assert tag not in ("iframe", "object", "embed", "base", "svg", "foreignobject"), tag
        assert not any(name.startswith("on") or name == "style" for name in attributes), (tag, attributes)
        for name in ("src", "href", "action", "srcset", "data"):
            assert str(attributes.get(name) or "#").startswith(("#", "data:")), attributes
    scripts = [attributes for tag, attributes in page.elements if tag == "script"]
    assert sum("type" not in attributes for attributes in scripts) == 1
    policy = next(
        str(own["content"]) for tag, own in page.elements if own.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'; img-src data:; ")
    assert "unsafe" not in policy
    for kind in ("script", "style"):
        digest = base64.b64encode(hashlib.sha256(page.code[kind].encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "fetch(", "XMLHttpRequest"):
        assert word not in page.code["script"]
    assert sum(tag == "figure" for tag, _ in page.elements) >= 4
    labels = {own.get("for") for tag, own in page.elements if tag == "label"}
    for tag, own in page.elements:
        if tag in ("input", "select"):
            assert own["id"] in labels or own.get("aria-label"), own
        assert tag != "img" or own.get("alt"), own


def test_columns_are_those_of_the_predictions(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", n=30)
    random = np.random.default_rng(0)
    probabilities = random.dirichlet(np.ones(7), 30)
    write_ranked(run, probabilities, [number % 5 for number in range(30)], 3)
    page = _Page(_page(run, out=tmp_path / "out").read_text(encoding="utf-8"))
    data, images, about = page.data("run-0"), page.data("images-0"), page.data("about")
    with (run / "predictions.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [images["paths"][image] for image in data["image"]] == [row["path"] for row in rows]
    for mine, theirs in (("label", "label"), ("before", "prediction_before"), ("after", "prediction_after")):
        assert data[mine] == [int(row[theirs]) for row in rows]
    assert data["sureAfter"] == [round(1e4 * float(row["confidence_after"])) for row in rows]
    assert data["listed"] == 3
    order = np.argsort(-probabilities, axis=1)[:, :3]
    assert data["listBefore"] == order.reshape(-1).tolist()
    shares = 1e4 * np.take_along_axis(probabilities, order, 1).reshape(-1)
    assert np.allclose(data["shareBefore"], shares, atol=0.51)
    assert about["runs"][0]["names"]["0"] in ("a", "b", "c0")
    assert about["runs"][0]["n"] == 30


def test_which_images(tmp_path: Path) -> None:
    before = [number % 4 < 2 for number in range(200)]
    right = [not each if number % 9 == 0 else each for number, each in enumerate(before)]
    found = read_predictions(write_run(tmp_path / "run", before=before, right=right) / "predictions.csv")
    moved = movement(found)
    for row in range(200):
        signs = [1 if found.prediction[when][row] == found.label[row] else -1 for when in ("before", "after")]
        sure = [found.confidence[when][row] for when in ("before", "after")]
        assert moved[row] == pytest.approx(signs[1] * sure[1] - signs[0] * sure[0])
    changed = set(range(0, 200, 9))
    chosen = choose_pictured(found, 8).tolist()
    assert set(chosen) <= changed
    assert sum(right[row] for row in chosen) == 4, "as many won as lost"
    for gained in (True, False):
        mine = sorted((row for row in changed if right[row] == gained), key=lambda row: -abs(moved[row]))[:4]
        assert set(mine) <= set(chosen)
    assert choose_rows(found, 200).tolist() == list(range(200))
    assert choose_rows(found, 5).tolist() == sorted(choose_pictured(found, 5).tolist())
    some = choose_rows(found, 60).tolist()
    assert len(set(some)) == 60
    assert changed <= set(some)
    assert max(np.diff(some)) < 12, "the others are evenly spread"


def test_fewer_rows_than_images(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "a", n=60, method="mta")
    write_run(tmp_path / "runs" / "b", n=60, method="zero", draw=3)
    page = _Page(
        _page(tmp_path / "runs", "--rows", "40", "--images", "3", out=tmp_path / "out").read_text(encoding="utf-8")
    )
    paths = page.data("images-0")["paths"]
    for number in (0, 1):
        data = page.data(f"run-{number}")
        assert 20 <= len(data["index"]) <= 23
        assert [paths[image] for image in data["image"]] == [f"demo-noise/{index:06d}.png" for index in data["index"]]
    assert page.data("about")["runs"][0]["n"] == 60
    assert len(paths) < 60


def _with_data(run: Path, kind: str, **arguments: Any) -> Path:
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"] = {"class_path": f"lorattt.data.some.{kind}", "init_args": arguments}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    return run


def test_pictures_from_a_folder(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", dataset="mine", n=4, before=[True] * 4, right=[False] * 4)
    images = tmp_path / "images" / "mine"
    images.mkdir(parents=True)
    Image.new("RGB", (600, 300), (200, 10, 10)).save(images / "000000.png")
    (images / "000001.png").write_bytes(b"no image")
    Image.new("RGB", (20, 10)).save(tmp_path / "secret.png")
    text = (run / "predictions.csv").read_text().replace("mine/000003.png", "../secret.png")
    (run / "predictions.csv").write_text(text)
    _with_data(run, "ImageFolderData", root=str(tmp_path / "images"))
    page = _Page(_page(run, out=tmp_path / "out").read_text(encoding="utf-8"))
    found = page.data("images-0")
    pictures = {found["paths"][int(place)]: picture for place, picture in found["pictures"].items()}
    kind, _, content = pictures["mine/000000.png"]["address"].partition(",")
    assert kind == "data:image/jpeg;base64"
    file = tmp_path / "small.jpg"
    file.write_bytes(base64.b64decode(content))
    with Image.open(file) as small:
        assert small.size == (256, 128)
        assert np.abs(np.asarray(small).reshape(-1, 3).mean(0) - (200, 10, 10)).max() < 4
    assert "problem" in pictures["mine/000001.png"]
    assert "No such file" in pictures["mine/000002.png"]["problem"]
    assert pictures["../secret.png"] == {"problem": "its path leaves the folder of the images"}


def test_pictures_of_the_demo_are_drawn(tmp_path: Path) -> None:
    from lorattt.demo import draw

    (run,) = find_runs([str(_with_data(write_run(tmp_path / "run"), "DemoData"))])
    source = Pictures(run)
    expected, _ = draw(7, domain="noise", severity=2, split="val", seed=3)
    assert source.read("noise-2/val-3/000007").tobytes() == expected.tobytes()
    for path in ("noise-9/val/000007", "none-2/val/000007", "noise-2/val", "../x", ""):
        with pytest.raises(UnreadableImageError):
            source.read(path)
    assert thumbnail(expected).startswith("data:image/jpeg;base64,")


def test_pictures_without_a_configuration_and_with_a_corruption(tmp_path: Path) -> None:
    corruption = {"name": "fog", "severity": 3, "of": "x"}
    write_run(tmp_path / "a" / "run", corruption=corruption)
    run = write_run(tmp_path / "b" / "run")
    (run / "config.yaml").unlink()
    for folder, part in (("a", "without the corruption (fog 3)"), ("b", "")):
        page = _Page(_page(tmp_path / folder, out=tmp_path / folder / "out").read_text(encoding="utf-8"))
        assert part in page.data("about")["runs"][0]["note"]
        problems = {picture["problem"] for picture in page.data("images-0")["pictures"].values()}
        assert problems == {"the run's configuration does not say where its images are"}


def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run")
    cases = {("--images", "-1"): "--images -1: must be at least 0", ("--rows", "0"): "--rows 0: must be at least 1"}
    cases[("--views", "--format", "latex")] = "--views: only the page shows views"
    for options, part in cases.items():
        assert main([str(run), *options]) == 2
        error = capsys.readouterr().err
        assert part in error
        assert error.count("\n") == 1
    (run / "predictions.jsonl").write_text('{"index": 0}\n')
    assert main([str(run), "--no-plots"]) == 2
    error = capsys.readouterr().err
    assert "predictions.jsonl line 1: damaged" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "report").exists()


def test_page_is_not_written_over_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run")
    page = _page(run, out=tmp_path / "out")
    first = page.read_bytes()
    assert _page(run, out=tmp_path / "out").read_bytes() == first, "the same page each time"
    page.write_text("<!DOCTYPE html>\n<p>mine")
    assert main([str(run), "--no-plots", "--out", str(tmp_path / "out")]) == 2
    assert "report.html: is not a report of lorattt" in capsys.readouterr().err


def test_views_are_those_that_the_method_takes(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept views against what each engine itself gathers; and nothing is shown that does not fit the files."""
    model = ["--model", "Several", "--model.methods", "[zero_shot, mean_of_views, mta, zero, lora_ttt, tpt]"]
    model += ["--model.clip.model", "lorattt-demo", "--model.clip.pretrained", "demo", "--model.views.number", "16"]
    model += ["--model.options", "{mean_of_views: {selection: 0.25}, zero: {zero: {gamma: 0.5}}}"]
    data = ["--data", "DemoData", "--data.images", "6", "--data.workers", "0", "--data.domain", "contrast"]
    run = cli("test", *model, *data, *CPU)
    assert run.code == 0, run.err

    from lorattt.methods import lora_ttt_engine, mean_of_views, tpt, zero
    from lorattt.report import views

    taken: list[list[int]] = []
    for module in (lora_ttt_engine, mean_of_views, tpt, zero):
        own = module.gather_views

        def spy(x: Any, selected: Any, own: Any = own) -> Any:
            taken.append(selected[0].tolist())
            return own(x, selected)

        monkeypatch.setattr(module, "gather_views", spy)
    runs = {each.method: each for each in find_runs([str(run.cwd / "runs")])}
    for name in ("mean_of_views", "zero", "lora_ttt", "tpt"):
        taken.clear()
        sheets, problem = views.view_sheets(runs[name], np.array([0, 3]))
        assert problem == ""
        assert len(sheets) == 2
        for sheet in sheets.values():
            kept = [int(number) for number in sheet["about"].rpartition("by rank: ")[2].removesuffix(".").split(", ")]
            assert kept in taken, name
            assert sheet["address"].startswith("data:image/jpeg")
    sheets, _ = views.view_sheets(runs["mta"], np.array([1]))
    assert "no rule that keeps some" in sheets[1]["about"]
    assert views.view_sheets(runs["zero_shot"], np.array([1])) == ({}, "its method reads the plain view alone")
    file = runs["zero"].folder / "predictions.csv"
    rows = list(csv.DictReader(file.open(encoding="utf-8")))
    for row in rows:
        row["confidence_before"] = "0.123456"
    with file.open("w", newline="", encoding="utf-8") as opened:
        table = csv.DictWriter(opened, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    (zero_run,) = find_runs([str(runs["zero"].folder)])
    sheets, _ = views.view_sheets(zero_run, np.array([1]))
    assert "address" not in sheets[1]
    assert "the prediction before is not the one that the run wrote down" in sheets[1]["about"]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = find_browser()
    if program is None:
        pytest.skip("no Chromium is installed")
    opened = Browser(program, tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


def _rows(browser: Browser) -> list[list[str]]:
    found = browser.run(
        "Array.from(document.querySelectorAll('#rows tr'), (tr) => Array.from(tr.cells, (td) => td.textContent))"
    )
    assert isinstance(found, list)
    return found


def _set(browser: Browser, name: str, value: str) -> None:
    kind = "checked" if value in ("true", "false") else "value"
    shown = value if kind == "checked" else json.dumps(value)
    browser.run(
        f"(() => {{ const e = document.getElementById('{name}'); e.{kind} = {shown};"
        "e.dispatchEvent(new Event('change')); e.dispatchEvent(new Event('input')); })()"
    )


def _count(browser: Browser) -> int:
    text = str(browser.run("document.getElementById('count').textContent"))
    return int(text.split(" of ")[0].replace(",", ""))


def _clean(browser: Browser, page: Path) -> None:
    """No error so far, and nothing asked of the network but the page."""
    assert browser.errors == []
    assert {each for each in browser.requests if not each.startswith("data:")} == {page.resolve().as_uri()}
    browser.requests.clear()


def test_filters_in_a_browser(browser: Browser, tmp_path: Path) -> None:
    before = [number % 4 < 2 for number in range(120)]
    right = [not each if number % 10 == 0 else each for number, each in enumerate(before)]
    run = _with_data(write_run(tmp_path / "run", before=before, right=right), "DemoData")
    file = run / "predictions.csv"
    text = file.read_text().replace(",a,b", ",,")  # no file names the classes
    file.write_text(re.sub(r"demo-noise/(\d+)\.png", r"noise-3/test/\1", text))
    with file.open(encoding="utf-8") as opened:
        rows = list(csv.DictReader(opened))
    write_run(tmp_path / "other", method="zero", dataset="dtd", n=7)
    page = tmp_path / "out" / "report.html"
    assert main([str(run), str(tmp_path / "other"), "--out", str(page.parent), "--images", "10", "--no-plots"]) == 0
    browser.look(1280, 900)
    browser.open(page)
    assert _count(browser) == 120
    assert len(_rows(browser)) == 25
    won = [row for row, a, b in zip(rows, before, right, strict=True) if b and not a]
    lost = [row for row, a, b in zip(rows, before, right, strict=True) if a and not b]
    for value, expected in (("0", won), ("1", lost)):
        _set(browser, "outcome", value)
        assert _count(browser) == len(expected)
        numbers = {int(each[1].rpartition(" ")[2]) for each in _rows(browser)}
        assert numbers == {int(row["index"]) for row in expected}
    shown = [float(each[6].replace("\u2212", "-")) for each in _rows(browser)]
    assert shown == sorted(shown), "of the lost, the largest change stands first"
    assert all(value < 0 for value in shown)
    _set(browser, "outcome", "")
    _set(browser, "below", "40")
    _set(browser, "low", "true")
    assert _count(browser) == sum(float(row["confidence_after"]) < 0.4 for row in rows)
    _set(browser, "class", "3")
    assert _count(browser) == sum(float(row["confidence_after"]) < 0.4 and row["label"] == "3" for row in rows)
    browser.run("document.querySelector('#filters button[type=reset]').click()")
    browser.wait_for("document.getElementById('count').textContent.startsWith('120 ')")
    _set(browser, "pictured", "true")
    assert _count(browser) == 10
    assert browser.run("Array.from(document.querySelectorAll('#rows img')).every((img) => img.naturalWidth > 0)")
    assert browser.run("document.querySelectorAll('#rows img').length") == 10
    _set(browser, "pictured", "false")
    _set(browser, "search", "TEST/00007")
    browser.wait_for("document.getElementById('count').textContent.startsWith('10 ')")
    _set(browser, "search", "class 4")
    expected = sum("4" in (row["label"], row["prediction_before"], row["prediction_after"]) for row in rows)
    browser.wait_for(f"document.getElementById('count').textContent.startsWith('{expected} ')", 10)
    _set(browser, "search", "nothing has this")
    browser.wait_for("document.getElementById('count').textContent.startsWith('0 ')")
    assert "No image" in browser.run("document.getElementById('case').textContent")
    browser.run("document.querySelector('#filters button[type=reset]').click()")
    browser.wait_for("document.getElementById('count').textContent.startsWith('120 ')")
    # Sorting, either way, and pages.
    for first, last in ((0, 119), (119, 0)):
        browser.run("document.querySelector('#cases th button[value=index]').click()")
        assert _rows(browser)[0][1].endswith(f"number {first}")
        browser.run("document.getElementById('last').click()")
        assert _rows(browser)[-1][1].endswith(f"number {last}")
        assert len(_rows(browser)) == 20
    assert browser.run("document.querySelectorAll('#cases th[aria-sort=descending]').length") == 1
    # By keyboard: a row's button opens the image, with its probabilities.
    browser.run("document.getElementById('first').click(); document.querySelectorAll('#rows button')[2].focus()")
    browser.press("Enter", 13)
    shown_case = str(browser.run("document.getElementById('case').textContent"))
    assert "noise-3/test/000117" in shown_case
    row = rows[117]
    assert f"{100 * float(row['confidence_after']):.2f} %" in shown_case
    assert browser.run("document.activeElement.closest('#case') !== null")
    browser.run(
        "Array.from(document.querySelectorAll('#case button')).find((b) => b.textContent === 'Next image').click()"
    )
    assert "noise-3/test/000116" in browser.run("document.getElementById('case').textContent")
    # Another run, on other images.
    assert browser.run("document.querySelectorAll('#run option').length") == 2
    _set(browser, "run", "0" if browser.run("document.getElementById('run').value") == "1" else "1")
    assert _count(browser) == 7
    for width in (360, 1280):
        for dark in (False, True):
            browser.look(width, 800, dark=dark)
            assert browser.run("document.documentElement.scrollWidth") <= width, "nothing hangs over the edge"
            assert len(browser.screenshot()) > 5000
    _clean(browser, page)


def test_hostile_names_in_a_browser(browser: Browser, tmp_path: Path) -> None:
    run = _with_data(_write_hostile(tmp_path / "run"), "ImageFolderData", root=str(tmp_path / "</script><b>"))
    assert main([str(run), "--out", str(tmp_path / "out")]) == 0
    page = tmp_path / "out" / "report.html"
    browser.open(page)
    assert _count(browser) == len(HOSTILE)
    elements = browser.run("document.querySelectorAll('script:not([type]), svg, iframe, [onerror], [onload]').length")
    assert elements == 1
    _set(browser, "search", "")
    seen = set()
    for place in range(len(HOSTILE)):
        browser.run(f"document.querySelectorAll('#rows button')[{place}].click()")
        seen.add(browser.run("document.querySelector('#case h3 bdi').textContent"))
        assert browser.run("document.querySelectorAll('#case bdi').length") >= 4
    assert HOSTILE[0] in seen
    assert "\\u003cscript\\u003ewindow.injected=1\\u003c/script\\u003e" in seen
    assert "x" * 500 in seen
    assert "__proto__" in seen
    assert any("[U+202E]" in each for each in seen)
    assert not any("\u202e" in each or "\n" in each for each in seen)
    assert "window.injected = 1" in browser.run("document.getElementById('class').textContent")
    assert browser.run("typeof window.injected") == "undefined"
    assert browser.run("Object.prototype.hasOwnProperty.call({}, 'injected')") is False
    browser.look(360, 800)
    assert browser.run("document.documentElement.scrollWidth") <= 360
    assert browser.run("document.querySelectorAll('figure img').length") >= 4
    browser.wait_for("Array.from(document.images).every((img) => img.complete && img.naturalWidth > 0)")
    _clean(browser, page)
    # What would have been injected is stopped by the policy as well.
    browser.run(
        "(() => { const s = document.createElement('script'); s.textContent = 'window.injected = 2';"
        "document.body.append(s); const i = new Image(); i.src = 'http://127.0.0.1:9/x.png';"
        "document.body.append(i); })()"
    )
    assert browser.run("typeof window.injected") == "undefined"
    assert len(browser.errors) >= 2
    assert all("Content Security Policy" in error for error in browser.errors)
    browser.errors.clear()
    browser.requests.clear()


def test_fifty_thousand_rows_in_a_browser(browser: Browser, tmp_path: Path) -> None:
    """Wall times depend on what else the machine does: the bound is generous, 3 s being the aim of a quiet one."""
    run = write_run(tmp_path / "run", n=50_000, classes=1000, dataset="imagenet")
    random = np.random.default_rng(0)
    share = np.sort(random.dirichlet(np.ones(8), 50_000), axis=1)[:, ::-1]
    with (run / "predictions.jsonl").open("w", encoding="utf-8") as file:
        for number in range(50_000):
            listed = [
                {
                    "class": f"c{(number + j) % 1000}",
                    "label": (number + j) % 1000,
                    "probability": float(share[number, j]),
                }
                for j in range(5)
            ]
            file.write(json.dumps({"index": number, "label": number % 1000, "before": listed, "after": listed}) + "\n")
    page = _page(run, "--images", "0", out=tmp_path / "out")
    assert page.stat().st_size < 12_000_000
    browser.look(1280, 900)
    browser.open(page)
    assert _count(browser) == 50_000
    script, ready = (int(browser.run(f"document.documentElement.dataset.{name}")) for name in ("script", "ready"))
    spent = browser.run(
        "(() => { const t = performance.now(); const e = document.getElementById('outcome'); e.value = '0';"
        "e.dispatchEvent(new Event('change')); return performance.now() - t; })()"
    )
    print(f"50,000 rows: script {script} ms, drawn after {ready} ms, a filter {spent:.0f} ms")
    assert ready < 10_000
    assert spent < 3_000
    assert 0 < _count(browser) < 50_000
    assert browser.run("document.querySelectorAll('#rows tr').length") == 25
    _clean(browser, page)
