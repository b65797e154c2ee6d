"""Prompts against transformers and diffusers: weights and chunks by the web UI's rule, learned words."""

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file

from ldm import Text2ImagePipeline
from ldm.checkpoints.converter import write_checkpoint
from ldm.diffusion import random

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
SIZE = {"height": 64, "width": 64, "num_inference_steps": 4, "guidance_scale": 5.0}
LONG = ", ".join(f"a {animal} on a hill" for animal in ("cat", "dog", "bird", "horse", "fox") * 4)
# Prompts with the parts that their brackets mean.
WEIGHTED = {
    "a (cat:1.4) on a [mat]": [("a ", 1.0), ("cat", 1.4), (" on a ", 1.0), ("mat", 1 / 1.1)],
    r"((red)) \(heart\)": [("red", 1.21), (" (heart)", 1.0)],
    f"({LONG}:0.8), a (tree:1.3)": [(LONG, 0.8), (", a ", 1.0), ("tree", 1.3)],
}


@pytest.fixture(scope="module")
def folder(stable_diffusion, tmp_path_factory):
    """A model with 77 tokens, as a folder of diffusers."""
    model = stable_diffusion("sd1", 7, f8=True)
    assert model.config["text_encoder"]["max_length"] == 77
    path = tmp_path_factory.mktemp("base") / "sd"
    write_checkpoint(model, path, "diffusers")
    return path


@pytest.fixture(scope="module")
def theirs(folder):
    return StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)


@pytest.fixture
def ours(folder):
    return Text2ImagePipeline.from_pretrained(folder)


@torch.no_grad()
def web_ui(pipeline, parts):
    """The rule of the web UI by transformers' nets: (1, 77 k, d).

    75 tokens each, moving what follows a comma among the last 20 tokens to the next chunk; states times
    weights, then times the ratio of the means of a chunk before and after.
    """
    tokenizer, encoder = pipeline.tokenizer, pipeline.text_encoder
    comma, end = tokenizer(",").input_ids[1], tokenizer.eos_token_id
    rest = [(i, w) for text, w in parts for i in tokenizer(text, truncation=False).input_ids[1:-1]]
    states = []
    while rest or not states:
        size = min(75, len(rest))
        if len(rest) > 75 and rest[75][0] != comma:
            commas = [i for i in range(55, 75) if rest[i][0] == comma]
            size = commas[-1] + 1 if commas else 75
        chunk, rest = rest[:size], rest[size:]
        padding = [(end, 1.0)] * (76 - size)
        ids, weights = zip((tokenizer.bos_token_id, 1.0), *chunk, *padding, strict=True)
        z = encoder(torch.tensor([ids])).last_hidden_state
        w = z * torch.tensor(weights)[None, :, None]
        states.append(w * (z.mean() / w.mean()))
    return torch.cat(states, dim=1)


@pytest.mark.parametrize("prompt", WEIGHTED)
def test_states_of_prompts_are_those_of_the_web_uis_rule(prompt, ours, theirs):
    expected = web_ui(theirs, WEIGHTED[prompt])
    found = ours.text_encoder.encode([prompt], prompt_weights=True, long_prompts="chunks").tokens
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_images_of_prompts_in_chunks_are_those_of_diffusers_with_the_same_states(ours, theirs):
    prompt, negative = list(WEIGHTED)[2], f"{LONG} (in the rain:1.2)"
    states = web_ui(theirs, WEIGHTED[prompt]), web_ui(theirs, [(f"{LONG} ", 1.0), ("in the rain", 1.2)])
    x_t = random.normal(3, "x_T", torch.zeros(1, dtype=torch.int64), 0, (4, 8, 8))
    given = {"prompt_embeds": states[0], "negative_prompt_embeds": states[1], "latents": x_t}
    expected = torch.from_numpy(theirs(**given, output_type="np", **SIZE).images).movedim(-1, 1)
    image = ours(prompt, negative_prompt=negative, seed=3, output="tensor", **SIZE) / 2 + 0.5
    assert (image - expected).abs().max() < 1 / 255
    plain = {"prompt_weights": False, "long_prompts": "cut"}
    other = ours(prompt, negative_prompt=negative, seed=3, output="tensor", **SIZE, **plain) / 2 + 0.5
    assert (other - expected).abs().max() > 5 / 255


def test_an_image_does_not_depend_on_the_length_of_the_prompts_beside_it(ours):
    """Nor is a negative prompt of another length padded."""
    prompts = ["a cat", LONG]
    both = ours(prompts, seed=1, output="latent", negative_prompt="rain", **SIZE)
    for i, prompt in enumerate(prompts):
        alone = ours(prompt, seed=1, numbers=[i], output="latent", negative_prompt="rain", **SIZE)
        torch.testing.assert_close(both[i : i + 1], alone, rtol=1e-4, atol=1e-4)


def test_learned_words_are_those_of_diffusers(ours, theirs, folder, tmp_path):
    """One and several vectors, in files of both programs, within a prompt with weights."""
    width = ours.text_encoder.context_dim
    vectors = torch.randn(3, width, generator=torch.Generator().manual_seed(0)) * 0.1
    save_file({"<cat-toy>": vectors[0]}, tmp_path / "learned_embeds.safetensors")
    param = {"string_to_token": {"*": 265}, "string_to_param": {"*": vectors[1:]}, "name": "<my-style>"}
    torch.save(param, tmp_path / "style.pt")
    other = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    ours.load_textual_inversion([tmp_path / "learned_embeds.safetensors", tmp_path / "style.pt"])
    other.load_textual_inversion(tmp_path / "learned_embeds.safetensors")
    other.load_textual_inversion(tmp_path / "style.pt")
    prompt = "a <cat-toy> in <my-style>, a cat"
    embedded, _ = other.encode_prompt(prompt, "cpu", 1, False)
    torch.testing.assert_close(ours.text_encoder.encode([prompt]).tokens, embedded, rtol=1e-4, atol=1e-5)
    plain, _ = theirs.encode_prompt(prompt, "cpu", 1, False)
    assert (embedded - plain).abs().max() > 0.1
    by_name = ours.text_encoder.encode(["a <cat-toy> in style, a cat"]).tokens
    torch.testing.assert_close(by_name, embedded, rtol=1e-4, atol=1e-5)
    weighted = ours.text_encoder.encode(["(<my-style>:1.5)"], prompt_weights=True).tokens
    assert not torch.allclose(weighted, ours.text_encoder.encode(["<my-style>"]).tokens)

    written = tmp_path / "written.safetensors"
    ours.save_textual_inversion(written, ["<my-style>"])
    again = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    again.load_textual_inversion(written)
    states = [p.encode_prompt("in <my-style>", "cpu", 1, False)[0] for p in (again, other)]
    torch.testing.assert_close(*states, rtol=1e-4, atol=1e-5)
