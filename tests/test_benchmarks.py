"""The benchmarks run and compare like with like; no time is asserted."""

import json
import sys
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from benchmarks import episodes, sapt_sweep, throughput, throughput_rival
from benchmarks import precision as precision_benchmark
from benchmarks.reference import ReferenceLoop, ReferenceSettings, half_precision
from benchmarks.throughput_setup import build, class_names, machine_name, make_photos, photos, save_head
from benchmarks.throughput_stages import first_batch, pixels_of
from benchmarks.timing import demo_views
from lorattt.adapters.lora import LoRASpec, LoRATuner
from lorattt.clip.load import ClipSpec, load_clip
from lorattt.data.demo import DemoImages
from lorattt.methods.lora_ttt import LoRATTT
from lorattt.prompts.files import load_prompt
from lorattt.views.crops import ViewSpec
from lorattt.views.render import Views

ROOT = Path(__file__).parent.parent
# A fit of seconds: the 16 held-out compositions, an image each.
QUICK = ["--", "--data.classes", "new", "--data.shots", "1", "--data.val_shots", "1", "--data.workers", "0"]
QUICK += ["--trainer.max_epochs", "1", "--trainer.check_val_every_n_epoch", "1"]


def test_episodes_on_the_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "times.json"
    arguments = ["episodes", "--models", "demo", "--images", "2", "--repeats", "1", "--json", str(out)]
    monkeypatch.setattr(sys, "argv", arguments)
    episodes.main()
    assert "ref/ours" in capsys.readouterr().out
    (row,) = json.loads(out.read_text())["rows"]
    assert row["views"] == 64
    assert row["largest_logit_difference"] < 1e-3
    assert set(row["seconds_per_image"]) == {"plain", "ours", "reference"}
    assert row["reference_over_ours"] == row["seconds_per_image"]["reference"] / row["seconds_per_image"]["ours"]


def test_episodes_of_a_compiled_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "times.json"
    monkeypatch.setattr("lorattt.clip.vision.BACKEND", "eager")  # traced only: a compiler would take minutes
    arguments = ["episodes", "--models", "demo", "--images", "1", "--repeats", "1", "--compile", "--json", str(out)]
    monkeypatch.setattr(sys, "argv", arguments)
    episodes.main()
    table = capsys.readouterr().out
    (row,) = json.loads(out.read_text())["rows"]
    times = row["seconds_per_image"]
    assert set(times) == {"plain", "ours", "reference", "compiled"}
    assert row["reference_over_compiled"] == times["reference"] / times["compiled"]
    (line,) = [line for line in table.splitlines() if line.startswith("compiled")]
    assert line.split()[1] == f"{times['compiled']:.4f}"
    assert row["largest_difference_when_compiled"] < 1e-3
    monkeypatch.setattr(sys, "argv", ["episodes", "--method", "tlla", "--compile"])
    with pytest.raises(SystemExit, match="2"):
        episodes.main()
    assert "--compile is for --method lora_ttt" in capsys.readouterr().err


def test_episodes_in_half_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "times.json"
    arguments = ["episodes", "--models", "demo", "--images", "1", "--repeats", "1", "--dtype", "bf16"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--json", str(out)])
    episodes.main()
    table = capsys.readouterr().out
    (row,) = json.loads(out.read_text())["rows"]
    times = row["seconds_per_image"]
    assert row["dtype"] == "bf16"
    assert set(times) == {"plain", "ours", "reference", "autocast"}
    assert row["autocast_over_ours"] == times["autocast"] / times["ours"]
    (line,) = [line for line in table.splitlines() if line.startswith("autocast")]
    assert line.split()[1] == f"{times['autocast']:.4f}"
    # Cosines in bf16 times the logit scale.
    assert 0 < row["largest_logit_difference"] < 0.5
    monkeypatch.setattr(sys, "argv", ["episodes", "--method", "tlla", "--dtype", "bf16"])
    with pytest.raises(SystemExit, match="2"):
        episodes.main()
    assert "--dtype bf16 is for --method lora_ttt" in capsys.readouterr().err


def test_sweep_of_radii(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, out = ROOT / "lightning_configs" / "demo" / "sapt.yaml", tmp_path / "sweep"
    arguments = ["sweep", "-c", str(config), "--rhos", "0.3", "0", "--seeds", "1", "2", "--out", str(out), *QUICK]
    monkeypatch.setattr(sys, "argv", list(arguments))
    sapt_sweep.main()
    report = json.loads((out / "sweep.json").read_text())
    assert [row["rho"] for row in report["rows"]] == [0.0, 0.3]
    for row in report["rows"]:
        for seed, top1, loss in zip((1, 2), row["top1"], row["loss"], strict=True):
            prompt = load_prompt(out / f"rho-{row['rho']:g}-seed-{seed}" / "prompt.safetensors")
            assert top1 == pytest.approx(100 * float(prompt.notes["validation_top1"]))
            assert loss == float(prompt.notes["validation_loss"])
            assert prompt.notes["method"] == "sapt"
    assert (out / "sweep.md").read_text().count("chosen |") == 1
    monkeypatch.setattr(sys, "argv", list(arguments))
    with pytest.raises(SystemExit, match="2"):
        sapt_sweep.main()


def test_the_largest_radius_within_the_margin_is_chosen() -> None:
    values = {0.0: [99.0, 97.0], 0.1: [99.0, 98.0], 0.3: [97.5, 96.5], 0.5: [96.0, 96.0]}
    rows = [{"rho": rho, "top1": top1, "loss": [0.1, 0.1], "seconds": 1.0} for rho, top1 in values.items()]
    assert sapt_sweep.summarise(rows, [1, 2], 1.0)["chosen"] == 0.3  # 97.0 against 98.0, not the best one's 98.5
    assert sapt_sweep.summarise(rows, [1, 2], 2.0)["chosen"] == 0.5
    assert sapt_sweep.summarise(rows, [1, 2], 0.0)["chosen"] == 0.1
    assert rows[0]["deviation"] == pytest.approx(2**0.5)


def test_episodes_of_self_tpt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "times.json"
    arguments = ["episodes", "--method", "self_tpt", "--models", "demo", "--images", "2", "--repeats", "1"]
    monkeypatch.setattr(
        sys, "argv", [*arguments, "--classes", "12", "--text-chunk", "5", "--steps", "1", "--json", str(out)]
    )
    episodes.main()
    assert "v/plain" in capsys.readouterr().out
    (row,) = json.loads(out.read_text())["rows"]
    assert (row["views"], row["classes"]) == (64, 12)
    times = row["seconds_per_image"]
    assert set(times) == {"zero_shot", "self_tpt", "plain", "views", "self_tpt_v"}
    assert row["speed_of_zero_shot"] == times["zero_shot"] / times["self_tpt"]  # of one round
    assert row["stage2"]["in_parts"]["text_chunk"] == 5
    assert row["stage2"]["difference"]["context"] < 0.01 * row["stage2"]["difference"]["of_a_move_of"]
    assert row["stage2"]["by_memory"]["peak_memory_bytes"] >= row["stage2"]["in_parts"]["peak_memory_bytes"]
    monkeypatch.setattr(sys, "argv", ["episodes", "--text-chunk", "5"])
    with pytest.raises(SystemExit, match="2"):
        episodes.main()
    assert "--text-chunk is for --method self_tpt" in capsys.readouterr().err


def test_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, config = tmp_path / "precision.json", tmp_path / "several.yaml"
    clip, views = {"model": "lorattt-demo", "pretrained": "demo"}, {"number": 10, "scale": [0.5, 1.0]}
    settings = {"clip": clip, "views": views, "methods": ["zero_shot", "lora_ttt"]}
    config.write_text(json.dumps({"model": {"class_path": "Several", "init_args": settings}}), encoding="utf-8")
    tlla = ROOT / "lightning_configs" / "demo" / "tlla.yaml"
    size = ["--images", "3", "--domains", "noise", "blur", "--batch-size", "2", "--split", "val", "--json", str(out)]
    monkeypatch.setattr(sys, "argv", ["precision", "--configs", str(config), str(tlla), *size])
    precision_benchmark.main()
    report = json.loads(out.read_text())
    assert (report["images"], report["domains"]) == (6, ["noise", "blur"])
    named = [(row["config"], row["method"], row["dtype"]) for row in report["rows"]]
    assert named == [
        ("several", "before", "bf16"),
        ("several", "zero_shot", "bf16"),
        ("several", "lora_ttt", "bf16"),
        ("tlla", "before", "bf16"),
        ("tlla", "tlla", "bf16"),
    ]
    # The model's own float32 answers, one image at a time.
    model = load_clip(ClipSpec("lorattt-demo", "demo"))
    right = 0
    for domain in ("noise", "blur"):
        images = DemoImages(domain, 3, 3, "val")
        text = model.text_features(images.class_names, "single")
        for number in range(3):
            view = Views(ViewSpec(1), model.image_size)(images.read(number), number)  # (1, 3, S, S)
            feature = model.image_features(view)
            right += int((feature @ text.T).argmax()) == images.label(number)
    assert report["rows"][0]["fp32"] == pytest.approx(100 * right / 6)


def test_shares_of_equal_predictions() -> None:
    truth = torch.tensor([0, 1, 2, 3])
    whole = {"label": truth, "zero": torch.tensor([0, 1, 2, 0])}
    low = {"label": truth, "zero": torch.tensor([0, 1, 0, 1])}
    (row,) = precision_benchmark.compare("several", {"fp32": whole, "bf16": low})
    assert (row["equal"], row["fp32"], row["top1"], row["difference"]) == (50.0, 75.0, 50.0, -25.0)


def _throughput(*more: str) -> list[str]:
    sizes = ["--views", "10", "--classes", "12", "--count", "2", "--batch-size", "2", "--reference-count", "2"]
    run = ["--model", "demo", "--device", "cpu", "--repeats", "1", "--workers", "0", "--reference-workers", "0"]
    return ["throughput", *run, *sizes, *more]


def test_throughput_on_the_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results" / "machine.json"
    grown = ["--growth-views", "12", "8", "--growth-classes", "5", "--growth-episodes", "3"]
    grown += ["--growth-methods", "lora_ttt", "tpt"]
    arguments = _throughput("--methods", "zero_shot", "mta", "lora_ttt", *grown, "--out", str(out))
    monkeypatch.setattr(throughput, "_MADE", 3)
    monkeypatch.setattr(sys, "argv", arguments)
    throughput.main()
    report = json.loads(out.read_text())
    assert report["photos"].startswith("3 photo-like")
    assert report["machine"]["cores"] >= 1
    zero, mta, lora = report["rows"]
    assert [(row["method"], row["views"]) for row in report["rows"]] == [
        ("zero_shot", 1),
        ("mta", 10),
        ("lora_ttt", 10),
    ]
    assert (zero["end_to_end"]["images"], mta["end_to_end"]["images"]) == (32, 2)
    for row in (zero, mta):  # nothing in them is random
        assert row["reference"]["same"] == row["reference"]["compared"] == row["end_to_end"]["images"]
    for row in report["rows"]:
        speeds, run, stages = row["images_per_second"], row["end_to_end"], row["stages"]
        assert set(speeds) == {"decode", "views", "encode", "adapt", "plain"}
        assert all(value > 0 for value in speeds.values())
        assert speeds["encode"] == pytest.approx(1 / stages["seconds"]["encode"])
        assert run["fallbacks"] == run["not_finite"] == 0
        assert set(run["stages"]) >= {"decode", "encode", "adapt", "write"}
        used = run["later_images_per_second"] or run["images_per_second"]
        assert row["ours_over_reference"] == used / row["reference"]["images_per_second"]
        # No stage is counted twice: together they take less than the whole.
        assert sum(run["stages"].values()) < 1.05 * run["images"] / run["images_per_second"]
    assert zero["end_to_end"]["later_images_per_second"] is not None  # 16 batches; of 2 images there is one
    assert mta["end_to_end"]["later_images_per_second"] is None
    assert zero["images_per_second"]["decode"] == lora["images_per_second"]["decode"]
    points = [(p["grows"], p["method"], p["views"], p["images_at_once"], p["classes"]) for p in report["growth"]]
    assert points == [
        ("views", "lora_ttt", 8, 1, 12),
        ("views", "lora_ttt", 12, 1, 12),
        ("images at once", "lora_ttt", 10, 3, 12),
        ("classes", "lora_ttt", 10, 1, 5),
        ("classes", "tpt", 10, 1, 5),
    ]
    text = out.with_suffix(".md").read_text()
    assert text in capsys.readouterr().out
    assert text.count("| lora_ttt |") == 5
    # 232,085 images at the measured speed, on one device and on eight.
    monkeypatch.setattr(sys, "argv", ["throughput", "--project", str(out)])
    throughput.main()
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| mta |"))
    hours = 232_085 / mta["end_to_end"]["images_per_second"] / 3600
    _, _, _, one, eight, _ = (cell.strip() for cell in line.split("|"))
    for printed, value in ((one, hours), (eight, hours / 8)):  # two digits after the point, one above ten hours
        assert float(printed.replace(",", "")) == pytest.approx(value, abs=0.051 if value > 10 else 0.0051)


def test_projection_with_augmix_for_the_fine_grained_sets() -> None:
    def report(augmix: bool, speed: float) -> dict[str, object]:
        settings = {"augmix": augmix, "dtype": "bf16", "views": 64}
        row = {"method": "tpt", "end_to_end": {"images_per_second": speed}}
        return {"machine": {"gpu": "A", "cpu": "B"}, "settings": settings, "rows": [row]}

    text = throughput.projection([report(True, 50.0), report(False, 100.0)], [1, 2])
    seconds = 148_389 / 100 + 83_696 / 50
    assert f"| tpt | {232_085 / seconds:.1f} | {seconds / 3600:.2f} | {seconds / 7200:.2f} |" in text
    assert "AugMix for the ten fine-grained sets" in text
    assert "Projection, not a measurement" in text


def test_reference_rules_are_the_methods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plain loops, which share no rule with the product, give what it gives on the same views."""
    loops: list[ReferenceSettings] = []

    class Seen(ReferenceLoop):
        def __init__(self, visual: Any, initial: Any, settings: ReferenceSettings) -> None:
            loops.append(settings)
            super().__init__(visual, initial, settings)

    monkeypatch.setattr(throughput_rival, "ReferenceLoop", Seen)
    parser = throughput._parser()
    settings = throughput.settings_of(parser.parse_args(_throughput("--batch-size", "4", "--views", "16")[1:]))
    make_photos(tmp_path, 4)
    names = class_names(settings.classes)
    clip, source = settings.clip(), photos(tmp_path, 4, names)
    head = save_head(clip.clip, tmp_path)
    for row in throughput.METHODS:
        method = build(row, clip, settings, head)
        method.use_classes(names)
        batch = first_batch(method, source, settings)
        pixels = pixels_of(method, batch)
        answer = method.predictions(batch)[""]
        rule = throughput_rival.rule_of(row, clip.clip, method, names)
        found = torch.stack([rule(views) for views in pixels]).detach()
        before, after = answer["before"], answer["after"]
        if row in ("mean_of_views", "tlla"):  # logarithms of these probabilities
            torch.testing.assert_close(found, after.exp(), atol=1e-4, rtol=0)
        elif row == "mta":
            torch.testing.assert_close(clip.clip.logit_scale * found, after, atol=2e-3, rtol=0)
        elif row == "zero":
            assert found.argmax(-1).tolist() == after.argmax(-1).tolist()
        elif row == "lora_ttt_mem":  # other dropout: nearly the same step
            moved = (after - before).norm(dim=-1)
            assert ((found - after).norm(dim=-1) < 0.2 * moved).all()
        elif row == "lora_ttt":  # other masks, so another step: of the same objective
            engine, used = cast("LoRATTT", method).engine, loops[0]
            assert (used.mem, used.reconstruction, used.mask_ratio) == (1.0, 16.0, 0.75)
            assert (used.mem, used.reconstruction) == (engine.loss.mem, engine.loss.reconstruction)
            assert (used.lr, used.weight_decay) == (engine.optimiser.lr, engine.optimiser.weight_decay)
            assert (used.selected, used.multiplier) == (1, LoRASpec().multiplier)
            assert (found - before).abs().max() > 0.01
        else:
            torch.testing.assert_close(found, after, atol=2e-3, rtol=0)
            assert row != "tpt" or (after - before).abs().max() > 0.01


def test_vote_of_the_reference() -> None:
    """By hand: classes 0 and 1 tie with a vote each; the first of the next most confident views for one decides."""
    p = torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.1, 0.1, 0.8], [0.3, 0.6, 0.1], [0.9, 0.1, 0.0]])
    vote, order = throughput_rival._vote, torch.tensor([0, 1, 2, 4, 3])
    assert vote(p, order, 2).tolist() == [1, 0, 0]  # view 4; by number it would be view 3
    assert vote(p, torch.arange(5), 2).tolist() == [0, 1, 0]
    assert vote(p[:3], order[:3], 2).tolist() == [1, 0, 0]  # nobody decides: 1.1 to 0.9


def test_machine_name() -> None:
    found = {"gpu": None, "cpu": "Intel(R) Xeon(R) CPU @ 2.20GHz", "cores": 2}
    assert machine_name(found) == "intel-xeon-cpu-2-20ghz-2-cores"
    assert machine_name({**found, "gpu": "NVIDIA H200", "cores": 16}) == "nvidia-h200-16-cores"


def test_mistakes_in_throughput(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for more, message in (
        (["--views", "4"], "--views 4: must be at least 5"),
        (["--batch-size", "0"], "--batch-size 0: must be at least 1"),
        (["--images", str(tmp_path)], f"--images {tmp_path}: no such folder, or no images in it"),
        (["--images", str(tmp_path / "none")], "no such folder"),
        (["--project", str(tmp_path / "none.json")], "none.json cannot be read"),
    ):
        monkeypatch.setattr(sys, "argv", _throughput(*more))
        with pytest.raises(SystemExit, match=message.replace("(", r"\(")):
            throughput.main()


def test_reference_loop_in_half_precision_adapts_as_in_float32() -> None:
    clip = load_clip(ClipSpec("lorattt-demo", "demo"))
    pixels = clip.normalise(demo_views(clip, 1))[0]
    text = clip.text_features(DemoImages("noise", 3, 1, "test").class_names, "single")
    initial = LoRATuner(clip.vit, LoRASpec(), seed=0).initial
    kept = torch.arange(0, clip.vit.patches, 4).expand(1, len(pixels), -1)
    loop = ReferenceLoop(clip.model.visual, initial, ReferenceSettings(multiplier=40.0, dropout=0.0))
    moved = {}
    for dtype in (None, torch.bfloat16):
        with half_precision(pixels.device, dtype):
            before, after, _ = loop.episode(pixels, text, clip.logit_scale, kept)
        moved[dtype] = after.float() - before.float()
    assert moved[None].norm() > 1
    # AdamW's first step is the gradient's sign, which rounding turns where it is near zero; with the adapters as they
    # were before the step, no logit would move by more than the rounding.
    assert moved[torch.bfloat16].norm() > 0.5 * moved[None].norm()
    assert torch.cosine_similarity(moved[torch.bfloat16], moved[None], dim=0) > 0.5
