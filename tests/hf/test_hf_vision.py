"""What the vision tower shows of tokens: the same by other ways for each family, and nothing left behind."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
import transformers as hf
from choosing import keep_all
from families import (
    FAMILIES,
    IMAGE,
    LAYOUTS,
    THW,
    VIDEO,
    Case,
    llava,
    llava_next,
    llava_next_video,
    llava_onevision,
    noise,
    prompts,
    qwen2_5_vl,
    ready,
    text_config,
    token_types,
    vision_config,
)
from leftovers import marks
from packaging.version import Version
from patchwork import attentions_of, embedded, made_of, recorded, tower_of
from test_hf_clean import _but_rope
from test_hf_layout import tokens_of
from torch import Tensor
from transformers import AttentionInterface

import prunekit as pk
from prunekit import PrunekitError, Signal, TextAttention, TokenBatch, UnsupportedModel
from prunekit import VisionAttention as Attention
from prunekit import VisionKeys as Keys
from prunekit.hf import Cut, attach
from prunekit.hf.vision import Sight

OLDER = Version(hf.__version__) < Version("5.23")

CLASS_TOKEN = {"llava", "llava_next", "llava_next_video", "internvl", "vipllava"}
NOT_OF_PATCHES = {"ovis2", "llava_with_class_token"}


def llava_siglip(implementation: str) -> Case:
    config = hf.LlavaConfig(
        vision_config=vision_config(hf.SiglipVisionConfig, vision_use_head=False),
        text_config=text_config(hf.LlamaConfig),
        image_token_index=IMAGE,
        image_seq_length=16,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    model = ready(hf.LlavaForConditionalGeneration(config), implementation)
    return Case(model, prompts([[16, 16], [16]]) | {"pixel_values": noise(3, 3, 32, 32)})


def padded_idefics(implementation: str) -> Case:
    """The second tile is padded: its right half is no part of the image."""
    case = LAYOUTS["idefics3"](implementation)
    mask = torch.ones(2, 3, 64, 64, dtype=torch.bool)
    mask[0, 1, :, 32:] = False
    return Case(case.model, case.inputs | {"pixel_attention_mask": mask})


CASES: dict[str, Callable[[str], Case]] = {
    name: family for name, family in LAYOUTS.items() if name not in NOT_OF_PATCHES
} | {"llava_siglip": llava_siglip}

SIGNALS = [Attention(), Attention(layer=0), Attention(query="mean", layer=-1), Keys(layer=-1), Keys(layer=0)]


def check(tokens: TokenBatch, case: Case, signals: list[Any], *, class_token: bool) -> None:
    """Every signal is the mean over the patches of a token, 0 for tokens of none and for padding."""
    parts = made_of(case)
    layers = {signal.layer: recorded(case, signal.layer) for signal in signals}
    for signal in signals:
        query = "mean" if isinstance(signal, Keys) or signal.query == "mean" or not class_token else "cls"
        found = tokens.signals[signal]
        patches = layers[signal.layer].values(case.model, signal, query)
        expected = torch.zeros_like(found)
        for row, made in enumerate(parts):
            for token, own in enumerate(made):
                if own:
                    expected[row, ..., token] = sum(patches[patch] for patch in own) / len(own)
        assert expected.any()
        torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_signals_are_those_of_the_patches(name: str) -> None:
    case = CASES[name]("sdpa")
    tokens = tokens_of(case, needs=SIGNALS)
    check(tokens, case, SIGNALS, class_token=name in CLASS_TOKEN)


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "idefics3", "pixtral"])
def test_eager_attention_shows_the_same(name: str) -> None:
    case = CASES[name]("sdpa")
    sdpa = tokens_of(case, needs=SIGNALS)
    case.model.set_attn_implementation("eager")
    eager = tokens_of(case, needs=SIGNALS)
    for signal in SIGNALS:
        torch.testing.assert_close(sdpa.signals[signal], eager.signals[signal], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["llava", "internvl"])
def test_attention_is_what_the_tower_puts_out(name: str) -> None:
    """`output_attentions` itself, where the class token can be told from patches by eye."""
    case = FAMILIES[name]("eager")
    found = tokens_of(case, needs=[Attention(query="cls", layer=-2)]).signals[
        Attention(query="cls", layer=-2)
    ]
    with torch.no_grad():
        maps = tower_of(case.model)(case.inputs["pixel_values"], output_attentions=True).attentions[-2]
    rows = maps[:, :, 0, 1:]
    if name == "internvl":  # 8 × 8 patches, 2 × 2 a token
        rows = rows.unflatten(-1, (4, 2, 4, 2)).mean((-3, -1)).flatten(-2)
        assert torch.allclose(found[1, :, :16], rows[3], atol=1e-6)
        rows = rows[:3]
        assert torch.allclose(found[0], torch.cat(list(rows), -1), atol=1e-6)
    else:
        assert torch.allclose(found[0], torch.cat([rows[0], rows[1]], -1), atol=1e-6)
        assert torch.allclose(found[1, :, :16], rows[2], atol=1e-6)
        assert not found[1, :, 16:].any()


def test_keys_are_those_of_the_projection() -> None:
    case = llava("sdpa")
    keys: list[Tensor] = []
    hook = attentions_of(case.model)[1].k_proj.register_forward_hook(lambda *given: keys.append(given[2]))
    found = tokens_of(case, needs=[Keys()]).signals[Keys()]
    hook.remove()
    own = keys[0][:, 1:].unflatten(-1, (4, 8)).permute(0, 2, 3, 1)
    assert torch.equal(found[0], torch.cat([own[0], own[1]], -1))
    assert torch.equal(found[1, ..., :16], own[2])


@pytest.mark.parametrize("name", [*CASES, "llava_with_class_token"])
def test_features_go_through_the_projector_to_what_enters_the_decoder(name: str) -> None:
    if OLDER and name == "paligemma":
        pytest.skip("this release of transformers scales what leaves the projector")
    case = (CASES | LAYOUTS)[name]("sdpa")
    tokens = tokens_of(case, features="vision")
    sight = Sight.of(case.model, [], features=True)
    assert sight is not None
    if sight.projection is None:
        check_canvas(tokens, case)
        return
    entering, projected = embedded(case.model, case.inputs)[case.visual], sight.projection(tokens.features)
    torch.testing.assert_close(projected[tokens.present], entering, atol=1e-5, rtol=1e-5)
    assert not tokens.features[~tokens.present].any()


def check_canvas(tokens: TokenBatch, case: Case) -> None:
    """Where tiles are put together: each feature is its patch's, a newline has none."""
    rows: list[Tensor] = []
    projector = case.model.base_model.multi_modal_projector
    hook = projector.register_forward_hook(lambda module, given, output: rows.append(given[0]))
    embedded(case.model, case.inputs)
    hook.remove()
    newlines = 0
    for row, made in enumerate(made_of(case)):
        for token, own in enumerate(made):
            newlines += not own
            expected = rows[0][own[0]] if own else torch.zeros(32)
            assert torch.equal(tokens.features[row, token], expected)
    assert newlines


def test_a_shrunk_canvas_is_shrunk_alike() -> None:
    """Attention and a feature of the same number everywhere stay that number, whatever is interpolated."""
    case = llava_onevision("sdpa")
    case.model.config.vision_aspect_ratio = "anyres_max_1"
    with torch.no_grad():
        sizes = [len(part) for part in case.model.model.get_image_features(
            **{name: case.inputs[name] for name in ("pixel_values", "image_sizes", "batch_num_images")}
        ).pooler_output]  # fmt: skip
    inputs = {
        name: value for name, value in case.inputs.items() if name not in ("input_ids", "attention_mask")
    }
    small = Case(case.model, prompts([sizes[:2], sizes[2:]]) | inputs)
    assert small.visual.sum() < case.visual.sum()
    attention = attentions_of(case.model)[1]
    torch.nn.init.zeros_(attention.q_proj.weight)
    torch.nn.init.zeros_(attention.q_proj.bias)
    found = tokens_of(small, needs=[Attention()])
    values = found.signals[Attention()].movedim(1, -1)[found.present]
    alike = torch.isclose(values, torch.tensor(1 / 16)).all(-1)
    assert (alike | (values == 0).all(-1)).all()
    assert (~alike).sum() == (made_newlines(small))


def made_newlines(case: Case) -> int:
    return sum(not own for row in made_of(case) for own in row)


def test_padded_patches_neither_get_nor_give_attention() -> None:
    case = padded_idefics("sdpa")
    signal = Attention(query="mean", layer=0)
    found = tokens_of(case, needs=[signal]).signals[signal]
    weights = recorded(case, 0).calls[0][0]
    real = torch.ones(8, 8, dtype=torch.bool)
    real[:, 4:] = False
    own = weights[1][:, real.flatten()].mean(1)
    expected = (own * real.flatten()).unflatten(-1, (4, 2, 4, 2)).mean((-3, -1)).flatten(-2)
    torch.testing.assert_close(found[0, :, 16:32], expected, atol=2e-6, rtol=1e-5)
    assert not found[0, :, 16:32].unflatten(-1, (4, 4))[..., 2:].any()


def test_a_row_without_pictures() -> None:
    case = llava("sdpa")
    alone = tokens_of(case, needs=SIGNALS, features="vision")
    rows = Case(case.model, case.inputs | prompts([[16, 16], [], [16]]))
    together = tokens_of(rows, needs=SIGNALS, features="vision")
    for signal in SIGNALS:
        assert torch.equal(together.signals[signal][[0, 2]], alone.signals[signal])
        assert not together.signals[signal][1].any()
    assert torch.equal(together.features[[0, 2]], alone.features)


def generated(case: Case, needs: list[Signal], **more: Any) -> TokenBatch:
    seen: list[TokenBatch] = []

    def look(tokens: TokenBatch) -> Any:
        seen.append(tokens)
        return keep_all(tokens)

    with torch.no_grad(), attach(case.model, Cut(look, layer=2, needs=needs, features="vision")):
        case.model.generate(**case.inputs, max_new_tokens=2, **more)
    assert len(seen) == 1
    return seen[0]


@pytest.mark.parametrize(
    "more", [{}, {"num_beams": 3}, {"num_return_sequences": 2, "do_sample": True}, {"use_cache": False}]
)
@pytest.mark.parametrize("name", ["llava", "llava_next", "qwen2_5_vl", "smolvlm", "paligemma"])
def test_generate_shows_what_a_forward_does(name: str, more: dict[str, Any]) -> None:
    if OLDER and {"num_beams", "num_return_sequences"} & more.keys():
        pytest.skip("this release of transformers gives the copies of a row with two images wrong ones")
    case = FAMILIES[name]("sdpa")
    plain = tokens_of(case, needs=SIGNALS, features="vision")
    found = generated(case, SIGNALS, **more)
    copies = more.get("num_beams", more.get("num_return_sequences", 1))
    for signal in SIGNALS:
        assert torch.equal(found.signals[signal], plain.signals[signal].repeat_interleave(copies, 0))
    assert torch.equal(found.features, plain.features.repeat_interleave(copies, 0))


def test_a_second_turn_shows_its_own_picture() -> None:
    case = llava("sdpa", [[16]])
    later = noise(1, 3, 32, 32, seed=9)
    seen: list[TokenBatch] = []

    def look(tokens: TokenBatch) -> Any:
        seen.append(tokens)
        return keep_all(tokens)

    settings = {"max_new_tokens": 3, "do_sample": False, "return_dict_in_generate": True}
    with torch.no_grad(), attach(case.model, Cut(look, layer=2, needs=SIGNALS, features="vision")):
        first = case.model.generate(**case.inputs, **settings)
        words = torch.tensor([[31, *[IMAGE] * 16, 33, 34]])
        ids = torch.cat([first.sequences, words], 1)
        case.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=later,
            past_key_values=first.past_key_values,
            **settings,
        )
    alone = tokens_of(
        Case(case.model, case.inputs | {"pixel_values": later}), needs=SIGNALS, features="vision"
    )
    assert len(seen) == 2
    for signal in SIGNALS:
        assert torch.equal(seen[1].signals[signal], alone.signals[signal])
        assert not torch.equal(seen[0].signals[signal], alone.signals[signal])
    assert torch.equal(seen[1].features, alone.features)


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_images_and_videos_in_turns(name: str) -> None:
    """Each token is what the model's projector makes of its features, in the order of the prompt."""
    case = LAYOUTS[name]("sdpa")
    side = case.inputs["pixel_values"].shape[1]
    video = torch.tensor([[2, 4, 4]])
    # Qwen3-VL wants a run of tokens for each frame.
    frames = [(VIDEO, 4)] * 2 if name == "qwen3_vl" else [(VIDEO, 8)]
    inputs = prompts([[12, *frames, 8], [16]]) | {
        "pixel_values": case.inputs["pixel_values"],
        "image_grid_thw": THW,
        "pixel_values_videos": noise(32, side, seed=4),
        "video_grid_thw": video,
    }
    inputs |= token_types(case.model, inputs["input_ids"])
    both = Case(case.model, inputs)
    tokens = tokens_of(both, needs=SIGNALS, features="vision")
    ids = inputs["input_ids"]
    visual = (ids == IMAGE) | (ids == VIDEO)
    sight = Sight.of(case.model, [], features=True)
    assert sight is not None
    assert sight.projection is not None
    with torch.no_grad():
        torch.testing.assert_close(
            sight.projection(tokens.features)[tokens.present], embedded(case.model, inputs)[visual]
        )
    images = tokens_of(case, needs=SIGNALS)
    for signal in SIGNALS:
        found = tokens.signals[signal]
        assert torch.equal(
            torch.cat([found[0, ..., :12], found[0, ..., 20:28]], -1), images.signals[signal][0]
        )
        assert found[0, ..., 12:20].any()


def test_half_precision() -> None:
    case = llava("sdpa")
    exact = tokens_of(case, needs=SIGNALS, features="vision")
    case.model.to(torch.bfloat16)
    case.inputs["pixel_values"] = case.inputs["pixel_values"].bfloat16()
    found = tokens_of(case, needs=SIGNALS, features="vision")
    assert found.features.dtype == torch.bfloat16
    for signal in SIGNALS:
        wide = isinstance(signal, Attention)
        assert found.signals[signal].dtype == (torch.float32 if wide else torch.bfloat16)
        error = (found.signals[signal].float() - exact.signals[signal]).abs().max()
        assert error < 0.05 * exact.signals[signal].abs().max() + 0.02


@pytest.mark.skipif(OLDER, reason="this release of transformers does otherwise")
@pytest.mark.parametrize("name", ["qwen2_5_vl", "pixtral"])
def test_flash_attention_keeps_its_packed_sequences(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tower still packs sequences as for flash; each is seen by itself."""

    def stand_in(
        module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **settings: Any
    ) -> Any:
        ends = settings["cu_seq_lens_q"].tolist()
        assert ends[-1] == query.shape[2]
        lengths = [stop - start for start, stop in pairwise(ends)]
        parts = zip(*(part.split(lengths, 2) for part in (query, key, value)), strict=True)
        out = [torch.nn.functional.scaled_dot_product_attention(*part) for part in parts]
        return torch.cat(out, 2).transpose(1, 2), None

    monkeypatch.setitem(AttentionInterface._global_mapping, "flash_in_pieces", stand_in)
    case = LAYOUTS[name]("sdpa")
    expected = tokens_of(case, needs=SIGNALS, features="vision")
    tower_of(case.model).config._attn_implementation_internal = "flash_in_pieces"
    found = tokens_of(case, needs=SIGNALS, features="vision")
    for signal in SIGNALS:
        torch.testing.assert_close(found.signals[signal], expected.signals[signal], atol=1e-5, rtol=1e-5)


def warm(family: Callable[[str], Case]) -> Case:
    case = family("sdpa")
    with torch.no_grad():
        case.model(**case.inputs)
    return case


def raising(tokens: TokenBatch) -> Any:
    raise ZeroDivisionError


@pytest.mark.parametrize("name", ["llava", "llava_next", "qwen2_5_vl", "smolvlm", "aya_vision"])
def test_nothing_is_left_after_a_block(name: str) -> None:
    case = warm(CASES[name])
    untouched = _but_rope(marks(case.model))
    with torch.no_grad():
        before = case.model(**case.inputs).logits
        with attach(case.model, Cut(keep_all, layer=2, needs=SIGNALS, features="vision")):
            assert torch.equal(case.model(**case.inputs).logits, before)
        assert _but_rope(marks(case.model)) == untouched
        with (
            pytest.raises(ZeroDivisionError),
            attach(case.model, Cut(raising, layer=2, needs=SIGNALS, features="vision")),
        ):
            case.model(**case.inputs)
    assert _but_rope(marks(case.model)) == untouched


def test_the_block_goes_on_after_an_error_in_the_tower() -> None:
    case = warm(llava_next)
    seen: list[TokenBatch] = []

    def look(tokens: TokenBatch) -> Any:
        seen.append(tokens)
        return keep_all(tokens)

    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    with torch.no_grad(), attach(case.model, Cut(look, layer=2, needs=SIGNALS)):
        handle = case.model.base_model.multi_modal_projector.register_forward_pre_hook(fail)
        with pytest.raises(ZeroDivisionError):
            case.model(**case.inputs)
        handle.remove()
        case.model(**case.inputs)
    plain = tokens_of(case, needs=SIGNALS)
    for signal in SIGNALS:
        assert torch.equal(seen[0].signals[signal], plain.signals[signal])


def test_where_nobody_asks_the_tower_is_left_alone() -> None:
    case = warm(llava)
    assert Sight.of(case.model, [TextAttention()], features=False) is None
    tower = tower_of(case.model)
    untouched = marks(tower)
    with attach(case.model, Cut(keep_all, layer=2, needs=[TextAttention()])):
        assert marks(tower) == untouched
        assert "get_image_features" not in case.model.base_model.__dict__


def test_only_the_layers_asked_for_are_tapped(monkeypatch: pytest.MonkeyPatch) -> None:
    case = warm(llava)
    own = [id(attention.config) for attention in attentions_of(case.model)]
    with attach(case.model, Cut(keep_all, layer=2, needs=[Attention(), Keys()])):
        inside = [id(attention.config) for attention in attentions_of(case.model)]
    assert [a == b for a, b in zip(own, inside, strict=True)] == [True, False, True]


def test_what_was_seen_is_let_go_of() -> None:
    case = llava("sdpa")
    attachment = attach(case.model, Cut(keep_all, layer=2, needs=SIGNALS, features="vision"))
    sight = attachment._chooser.sight
    assert sight is not None
    with torch.no_grad(), attachment:
        case.model(**case.inputs)
        assert not sight._noted
        case.model.get_image_features(case.inputs["pixel_values"])
        assert sight._noted
    assert not sight._noted


@pytest.mark.parametrize(
    ("family", "needs", "message"),
    [
        (llava_siglip, [Attention(query="cls")], "no class token.*'mean'"),
        (llava, [Attention(layer=3)], "from -3 to 2"),
        (llava, [Keys(layer=-4)], r"VisionKeys\(layer=-4\).*from -3 to 2"),
        (LAYOUTS["ovis2"], [Attention()], "'ovis2'.*It knows those of: aya_vision"),
    ],
)
def test_what_a_model_cannot_show_is_refused_at_once(family: Any, needs: Any, message: str) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        attach(family("sdpa").model, Cut(keep_all, layer=2, needs=needs))


def test_attention_past_the_interface_is_refused_at_once() -> None:
    case = llava("sdpa")
    attentions_of(case.model)[1].config._attn_implementation_internal = "unheard_of"
    with pytest.raises(UnsupportedModel, match=r"unheard_of.*attention interface"):
        attach(case.model, Cut(keep_all, layer=2, needs=[Attention()]))


def test_a_model_without_a_tower_is_refused_at_once() -> None:
    case = llava("sdpa")
    del case.model.model.vision_tower
    with pytest.raises(UnsupportedModel, match="no vision tower"):
        attach(case.model, Cut(keep_all, layer=2, features="vision"))
    with pytest.raises(UnsupportedModel, match="'decoder' or 'vision'"):
        attach(case.model, Cut(keep_all, layer=2, features="pixels"))  # pyright: ignore


def test_videos_that_are_pooled_are_refused() -> None:
    case = llava_next_video("sdpa")
    inputs = prompts([[(VIDEO, 8)]]) | {"pixel_values_videos": noise(1, 2, 3, 32, 32)}
    with (
        torch.no_grad(),
        attach(case.model, Cut(keep_all, layer=2, needs=[Attention()])),
        pytest.raises(UnsupportedModel, match="videos in LlavaNextVideoModel"),
    ):
        case.model(**inputs)


def test_pictures_that_were_looked_at_before_are_refused() -> None:
    case = qwen2_5_vl("sdpa")
    names = ("pixel_values", "image_grid_thw")
    inputs = {name: value for name, value in case.inputs.items() if name != "pixel_values"}
    with torch.no_grad():
        early = case.model.model.get_image_features(**{name: case.inputs[name] for name in names})
        if "mm_encoder_outputs" not in case.model.forward.__wrapped__.__code__.co_varnames:
            pytest.skip("this release of transformers does not take encoder outputs")
        with (
            attach(case.model, Cut(keep_all, layer=2, needs=[Attention()])),
            pytest.raises(PrunekitError, match=r"36 tokens of images.*showed 0"),
        ):
            case.model(**inputs, mm_encoder_outputs={"image": early})


def test_a_pipeline_keeps_what_the_class_token_looks_at() -> None:
    case = llava("sdpa", [[16], [16, 16]])
    scorer = {"use": "vision_attention", "heads": "sum", "layer": -1}
    pipeline = pk.load("fastv").swap(importance=scorer, bias=None, budget=0.25)
    with torch.no_grad(), pipeline.attach(case.model) as pruning:
        case.model(**case.inputs)
    tower = tower_of(case.model)
    tower.set_attn_implementation("eager")
    with torch.no_grad():
        maps = tower(case.inputs["pixel_values"], output_attentions=True).attentions
    seen = maps[-1][:, :, 0, 1:].sum(1)
    best = [seen[:1].flatten().topk(4).indices, seen[1:].flatten().topk(8).indices]
    kept = pruning.selections[0].indices
    assert kept[0, :4].tolist() == best[0].sort().values.tolist()
    assert kept[1].tolist() == best[1].sort().values.tolist()
