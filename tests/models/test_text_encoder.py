from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from ldm.models.text_encoder import (
    ClassEncoder,
    NullTextEncoder,
    TinyTextEncoder,
)
from ldm.models.tokenizer import CLIP_VOCABULARY
from ldm.utils.construct import construct

CONF = Path(__file__).parents[2] / "conf" / "text_encoder"
START, END = 49_406, 49_407
CAPTIONS = ["red heart", "", "smiling face with sunglasses on a light blue background", "pizza"]


def tiny(**changes: Any) -> TinyTextEncoder:
    torch.manual_seed(0)
    options = {"width": 16, "layers": 2, "num_heads": 2, "max_length": 8, "token_dim": 4}
    return TinyTextEncoder(**options | changes)


@pytest.mark.parametrize("name", sorted(path.stem for path in CONF.glob("*.yaml")))
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_config_encodes_on_the_meta_device(name: str):
    with torch.device("meta"):
        encoder = construct(OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml")), "text_encoder")()
    cond = encoder.encode(CAPTIONS)
    shape = None if encoder.context_dim is None else (4, encoder.max_length, encoder.context_dim)
    assert (cond.tokens is None and shape is None) or cond.tokens.shape == shape
    pooled = None if encoder.pooled_dim is None else (4, encoder.pooled_dim)
    assert (cond.pooled is None and pooled is None) or cond.pooled.shape == pooled


def test_an_encoding_does_not_depend_on_the_batch():
    encoder = tiny()
    together = encoder.encode(CAPTIONS)
    for i, caption in enumerate(CAPTIONS):
        alone = encoder.encode([caption])
        assert torch.allclose(alone.tokens[0], together.tokens[i], atol=1e-5)
        assert torch.allclose(alone.pooled[0], together.pooled[i], atol=1e-5)


def test_training_and_evaluation_encode_alike():
    encoder = tiny()
    trained = encoder.train().encode(CAPTIONS).tokens
    with torch.no_grad():
        assert torch.allclose(encoder.eval().encode(CAPTIONS).tokens, trained, atol=1e-5)


def test_captions_are_told_apart():
    pooled = tiny().encode([*CAPTIONS, "heart red"]).pooled
    assert torch.pdist(pooled).min() > 1e-3


def test_long_captions_are_cut_and_keep_their_end():
    encoder = tiny()
    ids = encoder.tokenize(
        ["one two three four five six seven eight nine ten", "one two three four five six other"]
    )
    assert ids.shape == (2, 8)
    assert ids[:, 0].tolist() == [START] * 2
    assert ids[:, -1].tolist() == [END] * 2
    assert torch.equal(ids[0], ids[1])


def test_pooled_is_the_mean_over_the_caption_without_padding():
    cond = tiny().encode(["red heart", ""])  # start, red, heart, end and start, end
    assert torch.allclose(cond.pooled[0], cond.tokens[0, :4].mean(0), atol=1e-6)
    assert torch.allclose(cond.pooled[1], cond.tokens[1, :2].mean(0), atol=1e-6)


def test_tiny_trains_every_parameter():
    encoder = tiny()
    cond = encoder.encode(CAPTIONS)
    (cond.tokens.square().sum() + cond.pooled.sin().sum()).backward()
    assert encoder.trainable
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


def test_a_vocabulary_of_its_own_changes_no_known_word():
    full, own = tiny(), tiny(vocabulary_size=32)
    own.learn_vocabulary(lambda: ["red heart", "pizza on a light blue background"])
    known = own.vocabulary[own.vocabulary < CLIP_VOCABULARY]
    state = full.state_dict() | {"vocabulary": own.vocabulary}
    state["token.weight"] = torch.zeros_like(own.token.weight)
    state["token.weight"][: len(known)] = full.token.weight[known]
    own.load_state_dict(state)
    captions = ["blue pizza", "red background on a heart", ""]
    theirs = full.encode(captions)
    assert torch.equal(own.encode(captions).tokens, theirs.tokens)
    assert torch.equal(own.encode(captions).pooled, theirs.pooled)


def test_words_outside_the_vocabulary_say_nothing():
    encoder = tiny(vocabulary_size=16)
    encoder.learn_vocabulary(lambda: ["red heart"])
    tokens = encoder.encode(["red penguin", "red zebra", "red heart"]).tokens
    assert torch.equal(tokens[0], tokens[1])
    assert not torch.equal(tokens[0], tokens[2])
    assert sorted(encoder.unknown_words(["red penguin", "zebra heart", "red"])) == ["penguin", "zebra"]
    assert tiny().unknown_words(["red penguin"]) == []


def test_a_vocabulary_that_is_too_small_says_how_many_words_there_are():
    message = r"vocabulary_size must be at least 5 .*, got 4; .*"
    with pytest.raises(ValueError, match=message):  # red, heart, start, end and padding
        tiny(vocabulary_size=4).learn_vocabulary(lambda: ["red heart"])


def test_without_a_vocabulary_of_its_own_no_captions_are_asked_for():
    for encoder in (tiny(), NullTextEncoder()):
        encoder.learn_vocabulary(lambda: pytest.fail("asked for captions"))


def test_null_gives_no_condition():
    cond = NullTextEncoder().encode(CAPTIONS)
    assert cond.tokens is None
    assert cond.pooled is None


def test_class_encoder_knows_its_captions_and_takes_others_for_none():
    encoder = ClassEncoder(["a cat", "a dog"], width=4)
    pooled = encoder.encode(["a dog", "", "a cat", "a bird"]).pooled
    assert pooled.shape == (4, 4)
    assert torch.equal(pooled[1], pooled[3])
    assert torch.pdist(pooled[:3]).min() > 0
    assert torch.equal(encoder.encode(["a cat"]).pooled[0], pooled[2])
