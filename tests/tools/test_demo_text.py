"""The second stage of the demo's model: captions, the loss, and the file it leaves."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from lorattt.demo import CHECKPOINT, CLASS_NAMES, COLOURS, HELD_OUT, SEEN, SHAPES
from tools import demo_text
from tools.demo_captions import SHARES, Picture, Shares, caption

PLAIN = Picture(SEEN[0], 60.0, 0.1, 0.0, 0.5)  # with no size, place or background to tell


def captions(count: int, shares: Shares = SHARES) -> list[str]:
    rng = np.random.default_rng(0)
    return [caption(PLAIN._replace(label=SEEN[index % len(SEEN)]), rng, shares) for index in range(count)]


def test_captions_are_a_function_of_the_generator_and_never_the_prompt() -> None:
    texts = captions(2000)
    assert texts == captions(2000)
    assert not any("photo" in text for text in texts)
    held_out = {CLASS_NAMES[label] for label in HELD_OUT}
    assert not any(name in text for text in texts for name in held_out)
    rare_colours, rare_shapes = ({words[1] for words in table.values()} for table in (COLOURS, SHAPES))
    for text in texts:
        words = set(text.replace(",", " ").replace("!", " ").split())
        assert not (words & rare_colours and words & rare_shapes), "never both"


def test_the_first_source_alone_calls_things_by_their_names() -> None:
    nothing = Shares(*[0.0] * 9)
    for index, text in enumerate(captions(200, nothing)):
        colour, shape = CLASS_NAMES[SEEN[index % len(SEEN)]].split()
        assert colour in text
        assert shape in text
    swapped = captions(200, nothing._replace(second=1.0, other_colour=1.0))
    renamed = [CLASS_NAMES[SEEN[index % len(SEEN)]].split()[0] not in text for index, text in enumerate(swapped)]
    assert 0.5 < sum(renamed) / 200 < 1, "all but those that would name a held-out composition"


def test_class_aware_loss_is_that_of_a_plain_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    images, texts = F.normalize(torch.randn(2, 5, 7, generator=generator, dtype=torch.float64), dim=-1)
    labels = [0, 1, 0, 2, 1]
    total = 0.0
    for first, second in ((images, texts), (texts, images)):
        for i in range(5):
            scores = [float(torch.exp(9 * first[i] @ second[j])) for j in range(5)]
            total -= np.log(sum(s for s, label in zip(scores, labels, strict=True) if label == labels[i]) / sum(scores))
    ours = demo_text.class_aware_loss(images, texts, torch.tensor(labels), torch.tensor(9.0, dtype=torch.float64))
    assert float(ours) == pytest.approx(total / 10, rel=1e-12)


def test_the_program_trains_the_text_tower_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_text, "_BATCH", 16)
    file = tmp_path / "deep" / "clip.safetensors"
    small = ["--steps", "3", "--pool", "48", "--batches", "2", "--validation", "64"]
    monkeypatch.setattr("sys.argv", ["demo_text", "--checkpoint", str(file), *small])
    demo_text.main()
    before, after = load_file(CHECKPOINT), load_file(file)
    assert before.keys() == after.keys()
    for name, value in after.items():
        assert value.isfinite().all()
        assert torch.equal(value, before[name]) == name.startswith("visual."), name
