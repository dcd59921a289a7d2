"""The layers of diffusion transformers (and of Stable Cascade), as tables; see `lib_resize.names.table_reader`.

Names and shapes were compared with diffusers' own classes and converters, and with the single-file layouts that
ComfyUI and the trainers read; tests repeat this. Each family has the numbers of its known sizes, the largest first,
because that one has every name.
"""

from __future__ import annotations

from collections.abc import Mapping

from .table_reader import Numbers

Sizes = Mapping[str, Numbers]
"""Name of a size -> its numbers."""

_FLUX_EDGES = """
[|] EDGE
img_in | x_embedder | w channels
txt_in | context_embedder | w context
final_layer.linear | proj_out | channels w
"""

_FLUX_BLOCKS = """
[double_blocks.{double} | transformer_blocks.{double}] D
img_attn.qkv | attn.to_q + attn.to_k + attn.to_v | 3w w | processor.qkv_lora1
img_attn.proj | attn.to_out.0 | w w | processor.proj_lora1
txt_attn.qkv | attn.add_q_proj + attn.add_k_proj + attn.add_v_proj | 3w w | processor.qkv_lora2
txt_attn.proj | attn.to_add_out | w w | processor.proj_lora2
"""

_FLUX_FEED_FORWARD = """
[double_blocks.{double} | transformer_blocks.{double}] D
img_mlp.0 | ff.net.0.proj | f w
img_mlp.2 | ff.net.2 | w f
txt_mlp.0 | ff_context.net.0.proj | f w
txt_mlp.2 | ff_context.net.2 | w f
[single_blocks.{single} | single_transformer_blocks.{single}] S
linear1 | attn.to_q + attn.to_k + attn.to_v + 4 proj_mlp | 3w+f w
linear1_qkv: linear1[0:3/7] | | 3w w | processor.qkv
linear2 | proj_out | w w+f | processor.proj
"""

FLUX = f"""
{_FLUX_EDGES.strip()}
final_layer.adaLN_modulation.1 | ~norm_out.linear | 2w w
time_in.in_layer | time_text_embed.timestep_embedder.linear_1 | w 256
time_in.out_layer | time_text_embed.timestep_embedder.linear_2 | w w
vector_in.in_layer | time_text_embed.text_embedder.linear_1 | w pooled
vector_in.out_layer | time_text_embed.text_embedder.linear_2 | w w
[|] EDGE ?guidance
guidance_in.in_layer | time_text_embed.guidance_embedder.linear_1 | w 256
guidance_in.out_layer | time_text_embed.guidance_embedder.linear_2 | w w
{_FLUX_BLOCKS.strip()}
img_mod.lin | norm1.linear | 6w w
txt_mod.lin | norm1_context.linear | 6w w
{_FLUX_FEED_FORWARD.strip()}
modulation.lin | norm.linear | 3w w
"""

_FLUX_NUMBERS = {"w": 3072, "f": 12288, "channels": 64, "context": 4096, "pooled": 768, "double": 19, "single": 38}
FLUX_SIZES: Sizes = {"dev": {**_FLUX_NUMBERS, "guidance": 1}, "schnell": {**_FLUX_NUMBERS, "guidance": 0}}

CHROMA = f"""
{_FLUX_EDGES.strip()}
[distilled_guidance_layer | distilled_guidance_layer] EDGE
in_proj | = | h channels
out_proj | = | w h
[distilled_guidance_layer.layers.{{guides}} | distilled_guidance_layer.layers.{{guides}}] G
in_layer | linear_1 | h h
out_layer | linear_2 | h h
{_FLUX_BLOCKS.strip()}
{_FLUX_FEED_FORWARD.strip()}
"""
CHROMA_SIZES: Sizes = {"1": {**_FLUX_NUMBERS, "h": 5120, "guides": 5}}

FLUX2 = f"""
{_FLUX_EDGES.strip()}
final_layer.adaLN_modulation.1 | ~norm_out.linear | 2w w
time_in.in_layer | time_guidance_embed.timestep_embedder.linear_1 | w 256
time_in.out_layer | time_guidance_embed.timestep_embedder.linear_2 | w w
double_stream_modulation_img.lin | double_stream_modulation_img.linear | 6w w
double_stream_modulation_txt.lin | double_stream_modulation_txt.linear | 6w w
single_stream_modulation.lin | single_stream_modulation.linear | 3w w
[|] EDGE ?guidance
guidance_in.in_layer | time_guidance_embed.guidance_embedder.linear_1 | w 256
guidance_in.out_layer | time_guidance_embed.guidance_embedder.linear_2 | w w
{_FLUX_BLOCKS.strip()}
img_mlp.0 | ff.linear_in | 2f w
img_mlp.2 | ff.linear_out | w f
txt_mlp.0 | ff_context.linear_in | 2f w
txt_mlp.2 | ff_context.linear_out | w f
[single_blocks.{{single}} | single_transformer_blocks.{{single}}] S
linear1 | attn.to_qkv_mlp_proj | 3w+2f w
linear2 | attn.to_out | w w+f
"""
FLUX2_SIZES: Sizes = {
    "dev": {"w": 6144, "f": 18432, "channels": 128, "context": 15360, "double": 8, "single": 48, "guidance": 1},
    "klein 9B": {"w": 4096, "f": 12288, "channels": 128, "context": 12288, "double": 8, "single": 24, "guidance": 0},
    "klein 4B": {"w": 3072, "f": 9216, "channels": 128, "context": 7680, "double": 5, "single": 20, "guidance": 0},
}

SD3 = """
[|] EDGE
x_embedder.proj | pos_embed.proj | w 16 2 2
context_embedder | = | w 4096
t_embedder.mlp.0 | time_text_embed.timestep_embedder.linear_1 | w 256
t_embedder.mlp.2 | time_text_embed.timestep_embedder.linear_2 | w w
y_embedder.mlp.0 | time_text_embed.text_embedder.linear_1 | w 2048
y_embedder.mlp.2 | time_text_embed.text_embedder.linear_2 | w w
final_layer.linear | proj_out | 64 w
final_layer.adaLN_modulation.1 | ~norm_out.linear | 2w w
[joint_blocks.{depth} | transformer_blocks.{depth}] B
x_block.attn.qkv | attn.to_q + attn.to_k + attn.to_v | 3w w
x_block.attn.proj | attn.to_out.0 | w w
x_block.mlp.fc1 | ff.net.0.proj | 4w w
x_block.mlp.fc2 | ff.net.2 | w 4w
context_block.attn.qkv | attn.add_q_proj + attn.add_k_proj + attn.add_v_proj | 3w w
[joint_blocks.{dual} | transformer_blocks.{dual}] B
x_block.attn2.qkv | attn2.to_q + attn2.to_k + attn2.to_v | 3w w
x_block.attn2.proj | attn2.to_out.0 | w w
x_block.adaLN_modulation.1 | norm1.linear | 9w w
[joint_blocks.{dual:depth} | transformer_blocks.{dual:depth}] B
x_block.adaLN_modulation.1 | norm1.linear | 6w w
[joint_blocks.{last} | transformer_blocks.{last}] B
context_block.attn.proj | attn.to_add_out | w w
context_block.mlp.fc1 | ff_context.net.0.proj | 4w w
context_block.mlp.fc2 | ff_context.net.2 | w 4w
context_block.adaLN_modulation.1 | norm1_context.linear | 6w w
[joint_blocks.{last:depth} | transformer_blocks.{last:depth}] B
context_block.adaLN_modulation.1 | ~norm1_context.linear | 2w w
"""
SD3_SIZES: Sizes = {
    "3.5 large": {"w": 2432, "depth": 38, "last": 37, "dual": 0},
    "3.5 medium": {"w": 1536, "depth": 24, "last": 23, "dual": 13},
    "3 medium": {"w": 1536, "depth": 24, "last": 23, "dual": 0},
}

HUNYUAN_VIDEO = """
[|] EDGE
img_in.proj | x_embedder.proj | w 16 1 2 2
time_in.in_layer | time_text_embed.timestep_embedder.linear_1 | w 256 | time_in.mlp.0
time_in.out_layer | time_text_embed.timestep_embedder.linear_2 | w w | time_in.mlp.2
vector_in.in_layer | time_text_embed.text_embedder.linear_1 | w 768
vector_in.out_layer | time_text_embed.text_embedder.linear_2 | w w
guidance_in.in_layer | time_text_embed.guidance_embedder.linear_1 | w 256 | guidance_in.mlp.0
guidance_in.out_layer | time_text_embed.guidance_embedder.linear_2 | w w | guidance_in.mlp.2
final_layer.linear | proj_out | 64 w
final_layer.adaLN_modulation.1 | ~norm_out.linear | 2w w
[txt_in | context_embedder] EDGE
input_embedder | proj_in | w 4096
t_embedder.in_layer | time_text_embed.timestep_embedder.linear_1 | w 256 | t_embedder.mlp.0
t_embedder.out_layer | time_text_embed.timestep_embedder.linear_2 | w w | t_embedder.mlp.2
c_embedder.in_layer | time_text_embed.text_embedder.linear_1 | w 4096 | c_embedder.linear_1
c_embedder.out_layer | time_text_embed.text_embedder.linear_2 | w w | c_embedder.linear_2
[txt_in.individual_token_refiner.blocks.{refiner} | context_embedder.token_refiner.refiner_blocks.{refiner}] R
self_attn.qkv | attn.to_q + attn.to_k + attn.to_v | 3w w | self_attn_qkv
self_attn.proj | attn.to_out.0 | w w | self_attn_proj
mlp.0 | ff.net.0.proj | f w | mlp.fc1
mlp.2 | ff.net.2 | w f | mlp.fc2
adaLN_modulation.1 | norm_out.linear | 2w w
[double_blocks.{double} | transformer_blocks.{double}] D
img_mod.lin | norm1.linear | 6w w | img_mod.linear
img_attn.qkv | attn.to_q + attn.to_k + attn.to_v | 3w w | img_attn_qkv
img_attn.proj | attn.to_out.0 | w w | img_attn_proj
img_mlp.0 | ff.net.0.proj | f w | img_mlp.fc1
img_mlp.2 | ff.net.2 | w f | img_mlp.fc2
txt_mod.lin | norm1_context.linear | 6w w | txt_mod.linear
txt_attn.qkv | attn.add_q_proj + attn.add_k_proj + attn.add_v_proj | 3w w | txt_attn_qkv
txt_attn.proj | attn.to_add_out | w w | txt_attn_proj
txt_mlp.0 | ff_context.net.0.proj | f w | txt_mlp.fc1
txt_mlp.2 | ff_context.net.2 | w f | txt_mlp.fc2
[single_blocks.{single} | single_transformer_blocks.{single}] S
linear1 | attn.to_q + attn.to_k + attn.to_v + 4 proj_mlp | 3w+f w
linear2 | proj_out | w w+f
modulation.lin | norm.linear | 3w w | modulation.linear
"""
HUNYUAN_VIDEO_SIZES: Sizes = {"13B": {"w": 3072, "f": 12288, "refiner": 2, "double": 20, "single": 40}}

WAN = """
[|] EDGE
patch_embedding | = | w channels 1 2 2
text_embedding.0 | condition_embedder.text_embedder.linear_1 | w 4096
text_embedding.2 | condition_embedder.text_embedder.linear_2 | w w
time_embedding.0 | condition_embedder.time_embedder.linear_1 | w 256
time_embedding.2 | condition_embedder.time_embedder.linear_2 | w w
time_projection.1 | condition_embedder.time_proj | 6w w
head.head | proj_out | out w
[|] EDGE ?image
img_emb.proj.1 | condition_embedder.image_embedder.ff.net.0.proj | 1280 1280
img_emb.proj.3 | condition_embedder.image_embedder.ff.net.2 | w 1280
[blocks.{depth} | blocks.{depth}] B
self_attn.q | attn1.to_q | w w
self_attn.k | attn1.to_k | w w
self_attn.v | attn1.to_v | w w
self_attn.o | attn1.to_out.0 | w w
cross_attn.q | attn2.to_q | w w
cross_attn.k | attn2.to_k | w w
cross_attn.v | attn2.to_v | w w
cross_attn.o | attn2.to_out.0 | w w
ffn.0 | ffn.net.0.proj | f w
ffn.2 | ffn.net.2 | w f
[blocks.{image} | blocks.{image}] B
cross_attn.k_img | attn2.add_k_proj | w w
cross_attn.v_img | attn2.add_v_proj | w w
"""
WAN_SIZES: Sizes = {
    "14B from images": {"w": 5120, "f": 13824, "channels": 36, "out": 64, "depth": 40, "image": 40},
    "14B": {"w": 5120, "f": 13824, "channels": 16, "out": 64, "depth": 40, "image": 0},
    "1.3B": {"w": 1536, "f": 8960, "channels": 16, "out": 64, "depth": 30, "image": 0},
    "2.2 5B": {"w": 3072, "f": 14336, "channels": 48, "out": 192, "depth": 30, "image": 0},
}

QWEN_IMAGE = """
[|] EDGE
img_in | = | w 64
txt_in | = | w 3584
time_text_embed.timestep_embedder.linear_1 | = | w 256
time_text_embed.timestep_embedder.linear_2 | = | w w
norm_out.linear | = | 2w w
proj_out | = | 64 w
[transformer_blocks.{depth} | transformer_blocks.{depth}] B
img_mod.1 | = | 6w w
txt_mod.1 | = | 6w w
attn.to_q | = | w w
attn.to_k | = | w w
attn.to_v | = | w w
attn.to_out.0 | = | w w
attn.add_q_proj | = | w w
attn.add_k_proj | = | w w
attn.add_v_proj | = | w w
attn.to_add_out | = | w w
img_mlp.net.0.proj | = | 4w w
img_mlp.net.2 | = | w 4w
txt_mlp.net.0.proj | = | 4w w
txt_mlp.net.2 | = | w 4w
"""
QWEN_IMAGE_SIZES: Sizes = {"20B": {"w": 3072, "depth": 60}}

_Z_IMAGE_BLOCK = """
attention.qkv | attention.to_q + attention.to_k + attention.to_v | 3w w
attention.out | attention.to_out.0 | w w
feed_forward.w1 | = | f w
feed_forward.w2 | = | w f
feed_forward.w3 | = | f w
"""
Z_IMAGE = f"""
[|] EDGE
x_embedder | all_x_embedder.2-1 | w 64
final_layer.linear | all_final_layer.2-1.linear | 64 w
final_layer.adaLN_modulation.1 | all_final_layer.2-1.adaLN_modulation.1 | w 256
t_embedder.mlp.0 | = | 1024 256
t_embedder.mlp.2 | = | 256 1024
cap_embedder.1 | = | w 2560
[noise_refiner.{{refiner}} | noise_refiner.{{refiner}}] NR
{_Z_IMAGE_BLOCK.strip()}
adaLN_modulation.0 | = | 4w 256
[context_refiner.{{refiner}} | context_refiner.{{refiner}}] CR
{_Z_IMAGE_BLOCK.strip()}
[layers.{{depth}} | layers.{{depth}}] B
{_Z_IMAGE_BLOCK.strip()}
adaLN_modulation.0 | = | 4w 256
"""
Z_IMAGE_SIZES: Sizes = {"6B": {"w": 3840, "f": 10240, "refiner": 2, "depth": 30}}

_LUMINA2_BLOCK = """
attention.qkv | 3 attn.to_q + attn.to_k + attn.to_v | w+2kv w
attention.out | attn.to_out.0 | w w
feed_forward.w1 | feed_forward.linear_1 | f w
feed_forward.w2 | feed_forward.linear_2 | w f
feed_forward.w3 | feed_forward.linear_3 | f w
"""
LUMINA2 = f"""
[|] EDGE
x_embedder | = | w 64
t_embedder.mlp.0 | time_caption_embed.timestep_embedder.linear_1 | 1024 256
t_embedder.mlp.2 | time_caption_embed.timestep_embedder.linear_2 | 1024 1024
cap_embedder.1 | time_caption_embed.caption_embedder.1 | w caption
final_layer.linear | norm_out.linear_2 | 64 w
final_layer.adaLN_modulation.1 | norm_out.linear_1 | w 1024
[noise_refiner.{{refiner}} | noise_refiner.{{refiner}}] NR
{_LUMINA2_BLOCK.strip()}
adaLN_modulation.1 | norm1.linear | 4w 1024
[context_refiner.{{refiner}} | context_refiner.{{refiner}}] CR
{_LUMINA2_BLOCK.strip()}
[layers.{{depth}} | layers.{{depth}}] B
{_LUMINA2_BLOCK.strip()}
adaLN_modulation.1 | norm1.linear | 4w 1024
"""
LUMINA2_SIZES: Sizes = {"2B": {"w": 2304, "kv": 768, "f": 9216, "caption": 2304, "refiner": 2, "depth": 26}}

AURAFLOW = """
[|] EDGE
init_x_linear | pos_embed.proj | w 16
cond_seq_linear | context_embedder | w 2048
t_embedder.mlp.0 | time_step_proj.linear_1 | w 256
t_embedder.mlp.2 | time_step_proj.linear_2 | w w
final_linear | proj_out | 16 w
modF.1 | ~norm_out.linear | 2w w
[double_layers.{double} | joint_transformer_blocks.{double}] D
attn.w2q | attn.to_q | w w
attn.w2k | attn.to_k | w w
attn.w2v | attn.to_v | w w
attn.w2o | attn.to_out.0 | w w
attn.w1q | attn.add_q_proj | w w
attn.w1k | attn.add_k_proj | w w
attn.w1v | attn.add_v_proj | w w
attn.w1o | attn.to_add_out | w w
mlpX.c_fc1 | ff.linear_1 | f w
mlpX.c_fc2 | ff.linear_2 | f w
mlpX.c_proj | ff.out_projection | w f
mlpC.c_fc1 | ff_context.linear_1 | f w
mlpC.c_fc2 | ff_context.linear_2 | f w
mlpC.c_proj | ff_context.out_projection | w f
modX.1 | norm1.linear | 6w w
modC.1 | norm1_context.linear | 6w w
[single_layers.{single} | single_transformer_blocks.{single}] S
attn.w1q | attn.to_q | w w
attn.w1k | attn.to_k | w w
attn.w1v | attn.to_v | w w
attn.w1o | attn.to_out.0 | w w
mlp.c_fc1 | ff.linear_1 | f w
mlp.c_fc2 | ff.linear_2 | f w
mlp.c_proj | ff.out_projection | w f
modCX.1 | norm1.linear | 6w w
"""
AURAFLOW_SIZES: Sizes = {"7B": {"w": 3072, "f": 8192, "double": 4, "single": 32}}

PIXART = """
[|] EDGE
x_embedder.proj | pos_embed.proj | w 4 2 2
t_embedder.mlp.0 | adaln_single.emb.timestep_embedder.linear_1 | w 256
t_embedder.mlp.2 | adaln_single.emb.timestep_embedder.linear_2 | w w
t_block.1 | adaln_single.linear | 6w w
y_embedder.y_proj.fc1 | caption_projection.linear_1 | w 4096
y_embedder.y_proj.fc2 | caption_projection.linear_2 | w w
final_layer.linear | proj_out | 32 w
[|] EDGE ?size
csize_embedder.mlp.0 | adaln_single.emb.resolution_embedder.linear_1 | size 256
csize_embedder.mlp.2 | adaln_single.emb.resolution_embedder.linear_2 | size size
ar_embedder.mlp.0 | adaln_single.emb.aspect_ratio_embedder.linear_1 | size 256
ar_embedder.mlp.2 | adaln_single.emb.aspect_ratio_embedder.linear_2 | size size
[blocks.{depth} | transformer_blocks.{depth}] B
attn.qkv | attn1.to_q + attn1.to_k + attn1.to_v | 3w w
attn.proj | attn1.to_out.0 | w w
cross_attn.q_linear | attn2.to_q | w w
cross_attn.kv_linear | attn2.to_k + attn2.to_v | 2w w
cross_attn.proj | attn2.to_out.0 | w w
mlp.fc1 | ff.net.0.proj | 4w w
mlp.fc2 | ff.net.2 | w 4w
"""
PIXART_SIZES: Sizes = {
    "alpha": {"w": 1152, "depth": 28, "size": 384},
    "sigma": {"w": 1152, "depth": 28, "size": 0},
}


def _cascade_level(blocks: str, count: str, joined: int = 0) -> str:
    """Return one level of Stable Cascade's stage C: convolution, time step and attention in turn.

    The first `joined` members read their own level and the one before it.
    """
    return f"""
[{blocks}.{{0:{joined}}} | {blocks}.{{0:{joined}}}] B
channelwise.0 | = | 4w 2w
[{blocks}.{{{3 * joined}:{count}:3}} | {blocks}.{{{3 * joined}:{count}:3}}] B
channelwise.0 | = | 4w w
[{blocks}.{{0:{count}:3}} | {blocks}.{{0:{count}:3}}] B
depthwise | = | w 1 3 3
channelwise.4 | = | w 4w
[{blocks}.{{1:{count}:3}} | {blocks}.{{1:{count}:3}}] B
mapper | = | 2w 64
mapper_sca | = | 2w 64
mapper_crp | = | 2w 64
[{blocks}.{{2:{count}:3}} | {blocks}.{{2:{count}:3}}] B
attention.attn.in_proj | attention.attn.to_q=attention.to_q + attention.attn.to_k=attention.to_k \
+ attention.attn.to_v=attention.to_v | 3w w
attention.attn.out_proj | attention.to_out.0 | w w
kv_mapper.1 | = | w w
""".strip()


CASCADE = f"""
[|] EDGE
embedding.1 | = | w 16 1 1
clip_txt_mapper | = | w 1280
clip_txt_pooled_mapper | = | 4w 1280
clip_img_mapper | = | 4w 768
down_downscalers.1.1.blocks.0 | = | w w 1 1
up_upscalers.0.1.blocks.1 | = | w w 1 1
clf.1 | = | 16 w 1 1
{_cascade_level("down_blocks.0", "outer")}
{_cascade_level("down_blocks.1", "inner")}
{_cascade_level("up_blocks.0", "inner")}
{_cascade_level("up_blocks.1", "outer", joined=1)}
"""
CASCADE_SIZES: Sizes = {
    "stage C": {"w": 2048, "outer": 24, "inner": 72},
    "stage C lite": {"w": 1536, "outer": 12, "inner": 36},
}

LTX = """
[|] EDGE
patchify_proj | proj_in | w 128
adaln_single.emb.timestep_embedder.linear_1 | time_embed.emb.timestep_embedder.linear_1 | w 256
adaln_single.emb.timestep_embedder.linear_2 | time_embed.emb.timestep_embedder.linear_2 | w w
adaln_single.linear | time_embed.linear | 6w w
caption_projection.linear_1 | = | w 4096
caption_projection.linear_2 | = | w w
proj_out | = | 128 w
[transformer_blocks.{depth} | transformer_blocks.{depth}] B
attn1.to_q | = | w w
attn1.to_k | = | w w
attn1.to_v | = | w w
attn1.to_out.0 | = | w w
attn2.to_q | = | w w
attn2.to_k | = | w w
attn2.to_v | = | w w
attn2.to_out.0 | = | w w
ff.net.0.proj | = | 4w w
ff.net.2 | = | w 4w
"""
LTX_SIZES: Sizes = {"13B": {"w": 4096, "depth": 48}, "2B": {"w": 2048, "depth": 28}}


def _experts(name: str) -> str:
    """Return a mixture of experts: one that is always used, four that are used in turns, and their gate."""
    wide = [f"{name}.experts.{index}" for index in range(4)]
    lines = [f"{name}.gate | = | 4 w"]
    for expert, width in ((f"{name}.shared_experts", "half"), *((expert, "f") for expert in wide)):
        lines += [f"{expert}.w1 | = | {width} w", f"{expert}.w2 | = | w {width}", f"{expert}.w3 | = | {width} w"]
    return "\n".join(lines)


HIDREAM = f"""
[|] EDGE
t_embedder.timestep_embedder.linear_1 | = | w 256
t_embedder.timestep_embedder.linear_2 | = | w w
p_embedder.pooled_embedder.linear_1 | = | w 2048
p_embedder.pooled_embedder.linear_2 | = | w w
x_embedder.proj | = | w 64
final_layer.linear | = | 64 w
final_layer.adaLN_modulation.1 | = | 2w w
[caption_projection.{{captions}} | caption_projection.{{captions}}] C
linear | = | w 4096
[double_stream_blocks.{{double}}.block | double_stream_blocks.{{double}}.block] D
adaLN_modulation.1 | = | 12w w
attn1.to_q | = | w w
attn1.to_k | = | w w
attn1.to_v | = | w w
attn1.to_out | = | w w
attn1.to_q_t | = | w w
attn1.to_k_t | = | w w
attn1.to_v_t | = | w w
attn1.to_out_t | = | w w
ff_t.w1 | = | f w
ff_t.w2 | = | w f
ff_t.w3 | = | f w
{_experts("ff_i")}
[single_stream_blocks.{{single}}.block | single_stream_blocks.{{single}}.block] S
adaLN_modulation.1 | = | 6w w
attn1.to_q | = | w w
attn1.to_k | = | w w
attn1.to_v | = | w w
attn1.to_out | = | w w
{_experts("ff_i")}
"""
HIDREAM_SIZES: Sizes = {"17B": {"w": 2560, "f": 6912, "half": 3584, "captions": 49, "double": 16, "single": 32}}

_KREA2_BLOCK = """
attn.wq | attn.to_q | {q} {w}
attn.wk | attn.to_k | {kv} {w}
attn.wv | attn.to_v | {kv} {w}
attn.wo | attn.to_out.0 | {w} {q}
attn.gate | attn.to_gate | {q} {w}
mlp.gate | ff.gate | {f} {w}
mlp.up | ff.up | {f} {w}
mlp.down | ff.down | {w} {f}
"""
_KREA2_TEXT = _KREA2_BLOCK.format(w="text", q="text", kv="text", f="text_f").strip()
KREA2 = f"""
[|] EDGE
first | img_in | w 64
last.linear | final_layer.linear | 64 w
tmlp.0 | time_embed.linear_1 | w 256
tmlp.2 | time_embed.linear_2 | w w
tproj.1 | time_mod_proj | 6w w
txtmlp.1 | txt_in.linear_1 | w text
txtmlp.3 | txt_in.linear_2 | w w
txtfusion.projector | text_fusion.projector | 1 12
[txtfusion.layerwise_blocks.{{fusion}} | text_fusion.layerwise_blocks.{{fusion}}] T
{_KREA2_TEXT}
[txtfusion.refiner_blocks.{{fusion}} | text_fusion.refiner_blocks.{{fusion}}] TR
{_KREA2_TEXT}
[blocks.{{depth}} | transformer_blocks.{{depth}}] B
{_KREA2_BLOCK.format(w="w", q="w", kv="kv", f="f").strip()}
"""
KREA2_SIZES: Sizes = {"2": {"w": 6144, "kv": 1536, "f": 16384, "text": 2560, "text_f": 6912, "fusion": 2, "depth": 28}}
