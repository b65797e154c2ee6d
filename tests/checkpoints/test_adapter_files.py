"""Files of adapters: where they are looked for, and what is refused; parity is in tests/parity."""

import logging

import pytest
import torch
from safetensors.torch import save_file

from ldm.checkpoints.adapter_files import FILE, adapter_files, read_adapters
from ldm.checkpoints.adapter_names import Place

G = torch.Generator().manual_seed(0)
QUERY, CONV = Place("backbone", "q.weight"), Place("backbone", "conv.weight")
PLACES = {
    **{f"{prefix}q.weight": QUERY for prefix in ("unet.", "lora_unet_", "base_model.model.")},
    "unet.q.bias": Place("backbone", "q.bias"),
    "unet.conv.weight": CONV,
}
W, KERNEL = torch.randn(6, 4, generator=G), torch.randn(6, 4, 3, 3, generator=G)


def randn(*shape):
    return torch.randn(shape, generator=G)


A, B = randn(2, 4), randn(6, 2)
DOWN, UP = {"unet.q.lora_A.weight": A}, {"unet.q.lora_B.weight": B}


def write(path, tensors):
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".safetensors":
        save_file({k: v.contiguous() for k, v in tensors.items()}, path)
    else:
        torch.save(tensors, path)
    return path


def delta(path, place=QUERY, weight=W):
    return sum(formula.delta(weight) for formula in read_adapters(path, PLACES)[place])


@pytest.mark.parametrize(
    "names",
    [
        ["pytorch_lora_weights.safetensors"],
        ["pytorch_lora_weights.bin"],
        ["adapter_model.safetensors"],
        ["adapter_model.bin"],
        ["my style.pt"],
    ],
)
def test_a_folder_is_as_its_file(names, tmp_path):
    for name in names:
        write(tmp_path / "a" / name, DOWN | UP)
    torch.testing.assert_close(delta(tmp_path / "a"), B @ A)
    assert adapter_files(tmp_path / "a") == [tmp_path / "a" / names[0]]


def test_the_name_of_diffusers_comes_first_and_folders_of_both_nets_are_read(tmp_path):
    for name in ("checkpoint.safetensors", FILE):
        write(tmp_path / "a" / name, DOWN | UP)
    assert adapter_files(tmp_path / "a") == [tmp_path / "a" / FILE]
    files = [write(tmp_path / part / "adapter_model.bin", {}) for part in ("unet", "text_encoder")]
    assert adapter_files(tmp_path) == files


def test_folders_without_a_file_or_with_several_are_refused(tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(FileNotFoundError, match="no file of adapters"):
        adapter_files(tmp_path / "none")
    for name in ("a.safetensors", "b.safetensors"):
        write(tmp_path / "two" / name, DOWN | UP)
    with pytest.raises(ValueError, match=r"several files \(a\.safetensors, b\.safetensors"):
        adapter_files(tmp_path / "two")


LOHA = {
    "hada_w1_a": randn(6, 2),
    "hada_w1_b": randn(2, 4),
    "hada_w2_a": randn(6, 2),
    "hada_w2_b": randn(2, 4),
}
LOKR = {"lokr_w1_a": randn(3, 2), "lokr_w1_b": randn(2, 2), "lokr_w2": randn(2, 2)}


def flat(tensors, **more):
    return {f"lora_unet_q.{role}": value for role, value in (tensors | more).items()}


@pytest.mark.parametrize(
    ("tensors", "expected"),
    [
        (DOWN | UP, B @ A),
        (DOWN | UP | {"unet.q.alpha": torch.tensor([6])}, 3.0 * B @ A),
        (
            flat(LOHA, alpha=torch.tensor(4.0)),
            2.0 * (LOHA["hada_w1_a"] @ LOHA["hada_w1_b"]) * (LOHA["hada_w2_a"] @ LOHA["hada_w2_b"]),
        ),
        (
            flat(LOKR, alpha=torch.tensor(4.0)),
            2.0 * torch.kron(LOKR["lokr_w1_a"] @ LOKR["lokr_w1_b"], LOKR["lokr_w2"]),
        ),
        (flat({"w_norm": W, "lora_down.weight": A, "lora_up.weight": B}), W + B @ A),
    ],
)
def test_formulas_are_read_with_their_scale(tensors, expected, tmp_path):
    torch.testing.assert_close(delta(write(tmp_path / FILE, tensors)), expected)


def test_cores_of_loha_and_lokr_are_tucker_products(tmp_path):
    def convolution(core, a, b):  # (rank, out), (rank, in)
        return torch.einsum("ijkl,ip,jr->prkl", core, a, b)

    t1, t2, a, b = randn(2, 2, 3, 3), randn(2, 2, 3, 3), randn(2, 6), randn(2, 4)
    loha = {"t1": t1, "w1_a": a, "w1_b": b, "t2": t2, "w2_a": a + 1, "w2_b": b - 1}
    write(tmp_path / "a.pt", {f"unet.conv.hada_{role}": value for role, value in loha.items()})
    expected = convolution(t1, a, b) * convolution(t2, a + 1, b - 1)
    torch.testing.assert_close(delta(tmp_path / "a.pt", CONV, KERNEL), expected)
    first, a, b = randn(3, 2), randn(2, 2), randn(2, 2)
    lokr = {"w1": first, "t2": t2, "w2_a": a, "w2_b": b}
    write(tmp_path / "b.pt", {f"unet.conv.lokr_{role}": value for role, value in lokr.items()})
    expected = torch.kron(first[:, :, None, None], convolution(t2, a, b).contiguous())
    torch.testing.assert_close(delta(tmp_path / "b.pt", CONV, KERNEL), expected)


def test_a_bias_may_be_added_or_belong_to_a_factor(tmp_path):
    bias, place = randn(6), Place("backbone", "q.bias")
    write(tmp_path / "a.pt", {"unet.q.diff_b": bias})
    torch.testing.assert_close(delta(tmp_path / "a.pt", place, bias), bias)
    more = {"unet.q.lora_B.bias": bias, "unet.q.alpha": torch.tensor(4.0)}
    write(tmp_path / "b.pt", DOWN | UP | more)
    torch.testing.assert_close(delta(tmp_path / "b.pt", place, bias), 2.0 * bias)


def changed(name, value):
    return DOWN | UP | {name: value}


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({}, "holds no adapter"),
        ({"string_to_param": {"*": W}, "name": "x"}, "holds no adapter"),
        ([A, B], "holds no adapter"),
        ({"lora": DOWN | UP}, "holds no adapter"),
        ({"<cat>": randn(4)}, "<cat>; it is a textual inversion"),
        (DOWN, r"one half of its adapter: up is missing"),
        (flat({"hada_w1_a": A, "hada_w1_b": A, "hada_w2_a": A}), "hada_w2_b is missing"),
        (flat({"lokr_w1": A}), "lokr_w2_a, lokr_w2_b is missing"),
        ({"unet.q.alpha": torch.tensor(1.0)}, "nothing that it multiplies"),
        ({"unet.q.dora_scale": randn(6, 1)}, "a magnitude and one update"),
        (DOWN | UP | {"lora_unet_q.diff": W}, "are of one layer"),
        (changed("unet.other.lora_A.weight", A), r"1 tensors belong to no layer of this model: unet\.other"),
        (changed("unet.q.alpha", torch.ones(2)), "alpha must be one number"),
        (changed("unet.q.alpha", torch.tensor(torch.inf)), "alpha holds NaN or infinite values in the file"),
        (
            changed("unet.q.lora_B.weight", B * torch.nan),
            r"lora_B\.weight holds NaN or infinite",
        ),
        (changed("unet.q.lora_B.weight", B + 1j), "must be of real numbers, got complex64"),
        (changed("unet.q.lora_B.weight", B.int()), "must be of real numbers, got int32"),
        (
            {"unet.q.lora_A.weight": A[:0], "unet.q.lora_B.weight": B[:, :0]},
            r"\(0, 4\): .* of rank 0",
        ),
        (flat(LOHA | {"hada_w1_b": torch.tensor(1.0)}), "q is of factors"),
        ({"unet.q.lora_embedding_A": randn(4), "unet.q.lora_embedding_B": A}, "must have factors"),
    ],
)
def test_what_is_no_adapter_of_the_model_is_refused_in_a_line_that_names_the_file(tensors, says, tmp_path):
    path = write(tmp_path / "a.pt", tensors)
    with pytest.raises(ValueError, match=says) as error:
        read_adapters(path, PLACES)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_a_file_of_peft_without_its_settings_is_read_with_a_warning(tmp_path, caplog):
    names = {f"base_model.model.q.lora_{half}.weight": value for half, value in (("A", A), ("B", B))}
    path = write(tmp_path / "adapter_model.safetensors", names)
    with caplog.at_level(logging.WARNING):
        torch.testing.assert_close(delta(path), B @ A)
    assert "alpha is taken to be the rank" in caplog.text


def test_dora_in_the_settings_needs_magnitudes(tmp_path):
    names = {f"base_model.model.q.lora_{half}.weight": value for half, value in (("A", A), ("B", B))}
    path = write(tmp_path / "adapter_model.bin", names)
    (tmp_path / "adapter_config.json").write_text('{"use_dora": true}')
    with pytest.raises(ValueError, match="must have a magnitude"):
        read_adapters(path, PLACES)
