"""Files beside the code that other programs read: the citation and GitHub's forms."""

import re
from pathlib import Path

import pytest
import yaml

import lorattt

ROOT = Path(__file__).parents[1]
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
# What GitHub asks of each kind of field.
FIELDS = {"textarea", "input", "dropdown", "checkboxes", "markdown"}


def test_the_citation_is_of_this_version_and_licence() -> None:
    found = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    # Required by version 1.2.0 of the format.
    assert {"cff-version", "message", "title", "authors"} <= set(found)
    assert found["cff-version"] == "1.2.0"
    assert found["version"] == lorattt.__version__
    assert f'license = "{found["license"]}"' in project
    papers = set(re.findall(r"arXiv (\d{4}\.\d{5})", (ROOT / "README.md").read_text(encoding="utf-8")))
    cited = {each["value"] for reference in found["references"] for each in reference["identifiers"]}
    assert cited == {f"arXiv:{number}" for number in papers}
    for reference in found["references"]:
        assert {"type", "title", "authors"} <= set(reference)


def test_there_are_forms() -> None:
    assert {path.stem for path in FORMS} >= {"bug", "feature"}


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_issue_forms(path: Path) -> None:
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert {"name", "description", "body"} <= set(form)
    names = [field["id"] for field in form["body"]]
    assert len(set(names)) == len(names)
    for field in form["body"]:
        assert field["type"] in FIELDS
        assert field["attributes"]["label"]
