"""The token-level tower against open_clip's own forward, in float64."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorattt.clip.attention import Adapter, Projection, layer_norm, run_block
from lorattt.clip.vision import ImageTower, VisionTower, wrap_tower
from lorattt.errors import UserError
from tiny_models import tiny_clip


@pytest.fixture(scope="module", params=[{}, {"no_ln_pre": True}, {"ls_init_value": 0.5}], ids=str)
def tower(request: pytest.FixtureRequest) -> VisionTower:
    found = wrap_tower(tiny_clip(**request.param).visual, "tiny")
    assert isinstance(found, VisionTower)
    return found


@pytest.fixture
def pixels() -> Tensor:
    return torch.randn(5, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_features_equal_open_clip(tower: VisionTower, pixels: Tensor) -> None:
    torch.testing.assert_close(tower.features(pixels), tower.visual(pixels), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("split", range(5))
def test_trunk_and_head_are_the_whole(tower: VisionTower, pixels: Tensor, split: int) -> None:
    tokens = tower.blocks(tower.embed(pixels), 0, split)
    whole = tower.project(tower.class_token(tokens, split))
    torch.testing.assert_close(whole, tower.visual(pixels), rtol=1e-10, atol=1e-10)


def test_all_patches_kept_in_order_is_the_whole(tower: VisionTower, pixels: Tensor) -> None:
    every = torch.arange(tower.patches).expand(5, -1)
    torch.testing.assert_close(tower.embed(pixels, every), tower.embed(pixels), rtol=0, atol=0)


def test_dropped_patches_against_open_clip_layers(tower: VisionTower, pixels: Tensor) -> None:
    kept = torch.stack([torch.randperm(16, generator=torch.Generator().manual_seed(i))[:6] for i in range(5)])
    visual = tower.visual
    x = visual.conv1(pixels).flatten(2).transpose(1, 2) + visual.positional_embedding[1:]
    rows = []
    for image, places in zip(x, kept.tolist(), strict=True):
        rows.append(torch.stack([visual.class_embedding + visual.positional_embedding[0], *image[places]]))
    expected = visual.ln_post(visual.transformer(visual.ln_pre(torch.stack(rows))))[:, 0]
    ours = tower.class_token(tower.embed(pixels, kept), 0)
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)


def test_order_of_kept_patches_does_not_matter(tower: VisionTower, pixels: Tensor) -> None:
    kept = torch.tensor([[3, 9, 12, 0]]).expand(5, -1)
    one = tower.class_token(tower.embed(pixels, kept), 0)
    other = tower.class_token(tower.embed(pixels, kept.flip(1)), 0)
    torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


class _Constant(Adapter):
    """An adapter that adds a constant matrix's product, as a merged weight would."""

    def __init__(self, deltas: dict[tuple[int, Projection], Tensor]) -> None:
        self.deltas = deltas

    def add(self, block: int, projection: Projection, x: Tensor, base: Tensor) -> Tensor:
        matrix = self.deltas.get((block, projection))
        return base if matrix is None else base + x @ matrix.T


@pytest.mark.parametrize("projection", ["q", "k", "v", "out"])
@pytest.mark.parametrize("block", [2, 3])
def test_an_adapter_adds_to_its_projection(block: int, projection: Projection, pixels: Tensor) -> None:
    model = tiny_clip()
    tower = VisionTower(model.visual, "tiny")
    matrix = torch.randn(64, 64, dtype=torch.float64) * 0.1
    adapted = tower.class_token(tower.embed(pixels), 0, _Constant({(block, projection): matrix}))
    attn = model.visual.transformer.resblocks[block].attn
    if projection == "out":
        attn.out_proj.weight += matrix
    else:
        start = 64 * ("q", "k", "v").index(projection)
        attn.in_proj_weight[start : start + 64] += matrix
    torch.testing.assert_close(adapted, tower.class_token(tower.embed(pixels), 0), rtol=1e-10, atol=1e-10)
    assert not torch.allclose(tower.visual(pixels), tiny_clip().visual(pixels))


def test_the_first_tokens_alone_equal_those_of_the_whole_block() -> None:
    block = tiny_clip().visual.transformer.resblocks[1]
    tokens = torch.randn(5, 17, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for queries in (1, 3):
        leaf = tokens.clone().requires_grad_()
        whole = run_block(block, leaf)[:, :queries]
        part = run_block(block, leaf, queries=queries)
        torch.testing.assert_close(part, whole, rtol=1e-10, atol=1e-10)
        expected, found = (torch.autograd.grad(out.square().sum(), leaf)[0] for out in (whole, part))
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_layer_norm_with_one_affine_pair_per_episode() -> None:
    x = torch.randn(6, 7, 8, dtype=torch.float64)  # 3 episodes of 2
    weights, biases = torch.randn(2, 3, 8, dtype=torch.float64)
    expected = torch.cat([F.layer_norm(x[2 * e : 2 * e + 2], (8,), weights[e], biases[e]) for e in range(3)])
    found = layer_norm(x, nn.LayerNorm(8).double(), (weights, biases))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_layer_norm_keeps_a_low_precision_stream(pixels: Tensor) -> None:
    norm = nn.LayerNorm(8)
    assert layer_norm(torch.randn(1, 2, 8, dtype=torch.bfloat16), norm).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradient_of_a_block_in_half_precision(dtype: torch.dtype) -> None:
    """Against open_clip's own block in float64 on the same rounded numbers, to one rounding."""
    generator = torch.Generator().manual_seed(2)
    low = tiny_clip().visual.transformer.resblocks[0].to(dtype)
    exact = deepcopy(low).double()
    x, weights = torch.randn(2, 6, 9, 64, generator=generator).to(dtype)
    found_at = x.clone().requires_grad_()
    expected_at = x.double().requires_grad_()
    found, expected = run_block(low, found_at), exact(expected_at)
    (found * weights).sum(dtype=torch.float32).backward()
    (expected * weights).sum().backward()
    bound = torch.finfo(dtype).eps
    assert found.dtype == dtype
    for ours, theirs in ((found, expected), (found_at.grad, expected_at.grad)):
        assert ours is not None
        assert theirs is not None
        assert (ours.double() - theirs).norm() < bound * theirs.norm()


@pytest.mark.parametrize(
    ("dtype", "grad", "expected"),
    [
        (torch.bfloat16, True, torch.float32),
        (torch.float16, True, torch.float32),
        (torch.bfloat16, False, torch.bfloat16),
        (torch.float32, True, torch.float32),
        (torch.float64, True, torch.float64),
    ],
)
def test_attention_with_a_graph_is_in_float32_or_wider_on_a_cpu(
    dtype: torch.dtype, grad: bool, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    fused, seen = F.scaled_dot_product_attention, []

    def noted(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        seen.append({q.dtype, k.dtype, v.dtype})
        return fused(q, k, v)

    monkeypatch.setattr(F, "scaled_dot_product_attention", noted)
    with torch.set_grad_enabled(grad):
        out = run_block(tiny_clip().visual.transformer.resblocks[0].to(dtype), torch.randn(2, 5, 64).to(dtype))
    assert seen == [{expected}]
    assert out.dtype == dtype


@pytest.mark.parametrize(
    ("blocks", "expected"), [((-2, -1), (2, 3)), ((3, 0), (0, 3)), ((-4,), (0,)), ((1, 2, 3), (1, 2, 3))]
)
def test_blocks_by_number(blocks: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert VisionTower(tiny_clip().visual, "tiny").resolve_blocks(blocks) == expected


@pytest.mark.parametrize("blocks", [(4,), (-5,), (), (3, -1), (1, 1)])
def test_wrong_blocks_are_refused(blocks: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="blocks"):
        VisionTower(tiny_clip().visual, "tiny").resolve_blocks(blocks)


@pytest.mark.parametrize(
    "config", [{"pool_type": "avg"}, {"attentional_pool": True}, {"block_type": "custom"}], ids=str
)
def test_other_towers_give_features_only(config: dict[str, object], pixels: Tensor) -> None:
    visual = tiny_clip(**config).visual
    tower = wrap_tower(visual, "other")
    assert type(tower) is ImageTower
    assert torch.equal(tower.features(pixels), visual(pixels))
