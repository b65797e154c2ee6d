"""Names of parameters, as data: ours, those of diffusers' folders, those of the original single files.

A row holds the name of one layer (or, where the last part differs, of one parameter) in each of the three.
`{i}`, `{j}`, `{k}` stand for numbers and `{c}` for "encoder" or "decoder"; the other fields are computed
from them (`ldm.checkpoints.names`), because the original files number the U-Net's blocks from end to end:

    {entry}  = 1 + i (layers + 1) + j    input block of residual block j on the way down
    {halved} = (i + 1) (layers + 1)      input block that halves level i
    {exit}   = i (layers + 1) + j        output block of residual block j on the way up
    {last}   = i (layers + 1) + layers   output block that doubles level i ...
    {place}  = 1, or 2 behind attention  ... and where in it the convolution stands
    {r}      = levels - 1 - i            level of the decoder, counted from the full resolution
"""

Row = tuple[str, str, str]
OURS, DIFFUSERS, ORIGINAL = 0, 1, 2


def within(place: Row, rows: tuple[Row, ...]) -> tuple[Row, ...]:
    """The rows of a block that stands at a place."""
    return tuple((f"{place[0]}.{a}", f"{place[1]}.{b}", f"{place[2]}.{c}") for a, b, c in rows)


UNET_RESNET: tuple[Row, ...] = (
    ("norm1", "norm1", "in_layers.0"),
    ("conv1", "conv1", "in_layers.2"),
    ("embed", "time_emb_proj", "emb_layers.1"),
    ("norm2", "norm2", "out_layers.0"),
    ("conv2", "conv2", "out_layers.3"),
    ("skip", "conv_shortcut", "skip_connection"),
)
TRANSFORMER: tuple[Row, ...] = (
    ("norm", "norm", "norm"),
    ("proj_in", "proj_in", "proj_in"),
    ("proj_out", "proj_out", "proj_out"),
    *within(
        ("blocks.{k}", "transformer_blocks.{k}", "transformer_blocks.{k}"),
        (
            ("norm1", "norm1", "norm1"),
            ("norm2", "norm2", "norm2"),
            ("norm3", "norm3", "norm3"),
            ("attn1.to_q", "attn1.to_q", "attn1.to_q"),
            ("attn1.to_k", "attn1.to_k", "attn1.to_k"),
            ("attn1.to_v", "attn1.to_v", "attn1.to_v"),
            ("attn1.to_out", "attn1.to_out.0", "attn1.to_out.0"),
            ("attn2.to_q", "attn2.to_q", "attn2.to_q"),
            ("attn2.to_k", "attn2.to_k", "attn2.to_k"),
            ("attn2.to_v", "attn2.to_v", "attn2.to_v"),
            ("attn2.to_out", "attn2.to_out.0", "attn2.to_out.0"),
            ("ff.0.proj", "ff.net.0.proj", "ff.net.0.proj"),
            ("ff.1", "ff.net.2", "ff.net.2"),
        ),
    ),
)
UNET: tuple[Row, ...] = (
    ("time_embed.0", "time_embedding.linear_1", "time_embed.0"),
    ("time_embed.2", "time_embedding.linear_2", "time_embed.2"),
    ("guidance_embed", "time_embedding.cond_proj", "time_embed.cond_proj"),
    ("conv_in", "conv_in", "input_blocks.0.0"),
    *within(("down.{i}.resnets.{j}", "down_blocks.{i}.resnets.{j}", "input_blocks.{entry}.0"), UNET_RESNET),
    *within(
        ("down.{i}.attentions.{j}", "down_blocks.{i}.attentions.{j}", "input_blocks.{entry}.1"), TRANSFORMER
    ),
    ("down.{i}.resample.conv", "down_blocks.{i}.downsamplers.0.conv", "input_blocks.{halved}.0.op"),
    *within(("mid.resnets.0", "mid_block.resnets.0", "middle_block.0"), UNET_RESNET),
    *within(("mid.attentions.0", "mid_block.attentions.0", "middle_block.1"), TRANSFORMER),
    *within(("mid.resnets.1", "mid_block.resnets.1", "middle_block.2"), UNET_RESNET),
    *within(("up.{i}.resnets.{j}", "up_blocks.{i}.resnets.{j}", "output_blocks.{exit}.0"), UNET_RESNET),
    *within(("up.{i}.attentions.{j}", "up_blocks.{i}.attentions.{j}", "output_blocks.{exit}.1"), TRANSFORMER),
    ("up.{i}.resample.conv", "up_blocks.{i}.upsamplers.0.conv", "output_blocks.{last}.{place}.conv"),
    ("norm_out", "conv_norm_out", "out.0"),
    ("conv_out", "conv_out", "out.2"),
)

VAE_RESNET: tuple[Row, ...] = (
    ("norm1", "norm1", "norm1"),
    ("conv1", "conv1", "conv1"),
    ("norm2", "norm2", "norm2"),
    ("conv2", "conv2", "conv2"),
    ("skip", "conv_shortcut", "nin_shortcut"),
)
VAE_ATTENTION: tuple[Row, ...] = (
    ("norm", "group_norm", "norm"),
    ("attention.to_q", "to_q", "q"),
    ("attention.to_k", "to_k", "k"),
    ("attention.to_v", "to_v", "v"),
    ("attention.to_out", "to_out.0", "proj_out"),
)
VAE: tuple[Row, ...] = (
    ("quant_conv", "quant_conv", "quant_conv"),
    ("post_quant_conv", "post_quant_conv", "post_quant_conv"),
    ("{c}.conv_in", "{c}.conv_in", "{c}.conv_in"),
    *within(
        ("encoder.down.{i}.{j}", "encoder.down_blocks.{i}.resnets.{j}", "encoder.down.{i}.block.{j}"),
        VAE_RESNET,
    ),
    (
        "encoder.down.{i}.{j}.conv",
        "encoder.down_blocks.{i}.downsamplers.0.conv",
        "encoder.down.{i}.downsample.conv",
    ),
    *within(("{c}.mid.resnet1", "{c}.mid_block.resnets.0", "{c}.mid.block_1"), VAE_RESNET),
    *within(("{c}.mid.attention", "{c}.mid_block.attentions.0", "{c}.mid.attn_1"), VAE_ATTENTION),
    *within(("{c}.mid.resnet2", "{c}.mid_block.resnets.1", "{c}.mid.block_2"), VAE_RESNET),
    *within(
        ("decoder.up.{i}.{j}", "decoder.up_blocks.{i}.resnets.{j}", "decoder.up.{r}.block.{j}"), VAE_RESNET
    ),
    ("decoder.up.{i}.{j}.conv", "decoder.up_blocks.{i}.upsamplers.0.conv", "decoder.up.{r}.upsample.conv"),
    ("{c}.norm_out", "{c}.conv_norm_out", "{c}.norm_out"),
    ("{c}.conv_out", "{c}.conv_out", "{c}.conv_out"),
)
# Names of the VAE's attention that are met in either format: those of diffusers before 0.18, those since, and
# the original ones. Converters mixed them.
VAE_ATTENTION_NAMES = (
    {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"},
    {"q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"},
    {"norm": "group_norm"},
)
# Linear layers of ours (and diffusers') that are 1x1 convolutions in the original files.
POINTWISE = (".attn_1.q.weight", ".attn_1.k.weight", ".attn_1.v.weight", ".attn_1.proj_out.weight")

# The third column has open_clip's names, as original files of 2.x; those of 1.x have the second column's.
TEXT: tuple[Row, ...] = (
    ("tower.token_embedding", "embeddings.token_embedding", "token_embedding"),
    ("tower.positional_embedding", "embeddings.position_embedding.weight", "positional_embedding"),
    *within(
        ("tower.transformer.resblocks.{i}", "encoder.layers.{i}", "transformer.resblocks.{i}"),
        (
            ("ln_1", "layer_norm1", "ln_1"),
            ("attn.in_proj_weight", "self_attn.{qkv}_proj.weight", "attn.in_proj_weight"),
            ("attn.in_proj_bias", "self_attn.{qkv}_proj.bias", "attn.in_proj_bias"),
            ("attn.out_proj", "self_attn.out_proj", "attn.out_proj"),
            ("ln_2", "layer_norm2", "ln_2"),
            ("mlp.c_fc", "mlp.fc1", "mlp.c_fc"),
            ("mlp.c_proj", "mlp.fc2", "mlp.c_proj"),
        ),
    ),
    ("tower.ln_final", "final_layer_norm", "ln_final"),
)

# Where components stand in a single file. The text tower of 1.x is transformers', that of 2.x open_clip's.
PREFIXES = {
    "backbone": "model.diffusion_model.",
    "autoencoder": "first_stage_model.",
    "text_encoder_1": "cond_stage_model.transformer.text_model.",
    "text_encoder_2": "cond_stage_model.model.",
}
# What single files hold beside the model, apart from scalars: schedules, EMA weights, losses, the rest of
# CLIP, the state of training and of textual inversion.
UNUSED = (
    r"(betas|alphas_cumprod(_prev)?|sqrt_.*|log_one_minus_.*|posterior_.*|lvlb_weights|logvar|scale_factor)",
    r"(denoiser\.)?(sigmas|log_sigmas)",
    r"(first_stage_model\.)?((model_)?ema|loss|discriminator)\..*",
    r"cond_stage_model\.(model\.visual|transformer\.vision_model|transformer\.visual_projection)\..*",
    r"(.*\.)?embeddings\.position_ids",
    r"(.*\.)?(logit_scale|text_projection(\.weight)?|attn_mask)",
    r"safety_checker\..*",
    r"(embedding_manager|optimizer|lr_scheduler|metrics?)\..*",
    r"(global_step|epoch|v_pred|ztsnr)",
)
