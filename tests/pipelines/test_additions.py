"""What is added to a pipeline's nets can be taken away again."""

import pytest
import torch
from safetensors.torch import save_file

from ldm import Text2ImagePipeline
from ldm.checkpoints.lora import save_lora
from ldm.models.lora import LoRA
from ldm.models.text_encoder import NullTextEncoder

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def model(stable_diffusion):
    return stable_diffusion("sd1", 0)


@pytest.fixture
def pipeline(model):
    made = Text2ImagePipeline(**model.components, config=model.config)
    yield made
    made.unload_lora().unload_textual_inversion()


@pytest.fixture
def files(model, tmp_path):
    """Two files of adapters."""
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for i, path in enumerate(paths):
        torch.manual_seed(i)
        lora = LoRA(model.components["backbone"], rank=2, alpha=1.0, targets=["to_q"])
        for p in lora.parameters():
            torch.nn.init.normal_(p)
        save_lora(path, lora.updates(), model.config["backbone"])
    return paths


def weights(pipeline):
    return {key: value.clone() for key, value in pipeline.backbone.state_dict().items()}


def same(a, b):
    return all(torch.equal(value, b[key]) for key, value in a.items())


def test_adapters_are_taken_out_bit_for_bit(pipeline, files):
    """Loaded at once, in turn or by another pipeline of the same nets; also after a cast."""
    before = weights(pipeline)
    assert pipeline.load_lora(files, [0.5, 2.0]) is pipeline
    merged = weights(pipeline)
    assert not same(before, merged)
    assert same(before, weights(pipeline.unload_lora()))
    assert same(merged, weights(pipeline.load_lora(files[0], 0.5).load_lora(files[1], 2.0)))
    other = Text2ImagePipeline(
        pipeline.autoencoder, pipeline.text_encoder, pipeline.backbone, config=pipeline.config
    )
    assert same(before, weights(other.unload_lora()))
    assert same(before, weights(pipeline.unload_lora()))
    pipeline.load_lora(files[0]).to(dtype=torch.float64)
    pipeline.unload_lora().to(dtype=torch.float32)
    assert same(before, weights(pipeline))


def test_a_bad_file_among_several_leaves_the_nets_as_they_are(pipeline, files, tmp_path):
    before = weights(pipeline)
    save_file({"<cat>": torch.zeros(4)}, tmp_path / "c.safetensors")
    with pytest.raises(ValueError, match=r"c\.safetensors: .* textual inversion"):
        pipeline.load_lora([*files, tmp_path / "c.safetensors"])
    assert same(before, weights(pipeline))


@pytest.fixture
def word(pipeline, tmp_path):
    """A file of diffusers with two vectors for <cat>."""
    vectors = torch.randn(2, pipeline.text_encoder.context_dim, generator=torch.Generator().manual_seed(0))
    save_file({"<cat>": vectors}, tmp_path / "word.safetensors")
    return tmp_path / "word.safetensors"


def states(pipeline, prompt="a <cat>"):
    return pipeline.text_encoder.encode([prompt]).tokens


def test_words_are_learned_renamed_written_and_forgotten(pipeline, word, tmp_path):
    before = states(pipeline)
    assert pipeline.load_textual_inversion(word) is pipeline
    learned = states(pipeline)
    assert not torch.equal(before, learned)
    pipeline.load_textual_inversion(word, "my cat")
    torch.testing.assert_close(states(pipeline, "a my cat"), learned)
    pipeline.save_textual_inversion(tmp_path / "out.safetensors", ["my cat"])
    pipeline.unload_textual_inversion(["<cat>", "my cat"])
    assert torch.equal(states(pipeline), before)
    pipeline.load_textual_inversion(tmp_path / "out.safetensors")
    torch.testing.assert_close(states(pipeline, "a my cat"), learned)
    with pytest.raises(ValueError, match=r"must be one of the learned words \['my cat'\]"):
        pipeline.save_textual_inversion(tmp_path / "out.safetensors", ["<cat>"])


def test_words_that_do_not_fit_are_refused_with_their_file_and_none_is_added(pipeline, word, tmp_path):
    save_file({"<dog>": torch.zeros(1, 5)}, tmp_path / "dog.safetensors")
    with pytest.raises(ValueError, match=r"dog\.safetensors: the vectors of '<dog>' must be 32 wide"):
        pipeline.load_textual_inversion([word, tmp_path / "dog.safetensors"])
    assert not pipeline.text_encoder.learned.vectors
    with pytest.raises(ValueError, match="word must be left out for several files"):
        pipeline.load_textual_inversion([word, word], "x")
    pipeline.load_textual_inversion(word)
    with pytest.raises(ValueError, match=r"word\.safetensors: the word '<cat>' is there already"):
        pipeline.load_textual_inversion(word)


def test_text_encoders_that_learn_no_words_are_named(pipeline, word):
    encoder = NullTextEncoder()
    other = Text2ImagePipeline(pipeline.autoencoder, encoder, pipeline.backbone, config=pipeline.config)
    with pytest.raises(ValueError, match="embeddings must be left out for NullTextEncoder"):
        other.load_textual_inversion(word)
