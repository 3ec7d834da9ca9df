"""Hand-made labels of the residual additions in some timm architectures.

The labels come from reading the source of timm 1.0.31, not from any discovery code. The rule: an addition inside the
forward of one block is residual if one operand, the shortcut, is the block's stream, and the other, the branch, comes
from that stream through a convolution or linear layer that the shortcut lacks. The stream is the block's input or the
sum of an earlier addition in the block, possibly reshaped or through one projection. Not residual: position embedding
tables, rotary embeddings, attention biases, sums inside attention or another token mixer, parallel branches to be
reparameterized, fusion of resolutions, handling of the class token, the mean of two heads.

`block` is the module whose forward contains the addition. If that module has several additions, `block` is the last
direct child on the branch with a convolution or linear layer; norms, layer scales and drop paths after it do not count.
`channels` and `layout` are those of both operands. Additions are in forward order.
"""

from collections.abc import Sequence
from typing import NamedTuple


class Addition(NamedTuple):
    block: str
    channels: int
    layout: str  # NCHW, NHWC, NLC or NCL


Children = tuple[tuple[str, str], ...]  # suffix of the block's name and layout, for each addition of a block

ONE: Children = (("", "NCHW"),)
ATTN_MLP: Children = ((".attn", "NLC"), (".mlp", "NLC"))


def _stages(
    name: str,
    depths: Sequence[int],
    channels: Sequence[int],
    children: Children = ONE,
    *,
    first_stage: int = 0,
    first_block: int = 0,
    skip: int = 0,
) -> tuple[Addition, ...]:
    """List the additions of each stage's blocks; the first `skip` blocks of each stage have none."""
    return tuple(
        Addition(name.format(stage=stage, block=first_block + block) + child, width, layout)
        for stage, (depth, width) in enumerate(zip(depths, channels, strict=True), start=first_stage)
        for block in range(skip, depth)
        for child, layout in children
    )


RESIDUAL_ADDITIONS: dict[str, tuple[Addition, ...]] = {
    # resnet.Bottleneck.forward
    "resnet26d": _stages("layer{stage}.{block}", (2, 2, 2, 2), (256, 512, 1024, 2048), first_stage=1),
    # res2net.Bottle2neck.forward
    # Arguable: `sp + spx[i]` joins different channel groups inside the branch, so it is not residual.
    "res2net50_26w_4s": _stages("layer{stage}.{block}", (3, 4, 6, 3), (256, 512, 1024, 2048), first_stage=1),
    # convnext.ConvNeXtBlock.forward; NCHW throughout, as conv_mlp=True (and at the addition also without it)
    "convnext_atto": _stages("stages.{stage}.blocks.{block}", (2, 2, 6, 2), (40, 80, 160, 320)),
    # vision_transformer.Block.forward
    "vit_tiny_patch16_224": _stages("blocks.{block}", (12,), (192,), ATTN_MLP),
    # vision_transformer.Block.forward, built by deit.VisionTransformerDistilled
    "deit_tiny_distilled_patch16_224": _stages("blocks.{block}", (12,), (192,), ATTN_MLP),
    # swin_transformer.SwinTransformerBlock.forward; flattened to tokens between its two additions
    "swin_tiny_patch4_window7_224": _stages(
        "layers.{stage}.blocks.{block}",
        (2, 2, 6, 2),
        (96, 192, 384, 768),
        ((".attn", "NHWC"), (".mlp", "NLC")),
    ),
    # swin_transformer_v2_cr.SwinTransformerV2CrBlock.forward; flattened to tokens between its two additions
    # Arguable: the branches end in norm1 and norm2; these are no convolution or linear layer, so attn and mlp count.
    "swinv2_cr_tiny_ns_224": _stages(
        "stages.{stage}.blocks.{block}",
        (2, 2, 6, 2),
        (96, 192, 384, 768),
        ((".attn", "NHWC"), (".mlp", "NLC")),
    ),
    # _efficientnet_blocks.InvertedResidual.forward; each stage's first block changes stride or width
    "mobilenetv2_100": _stages("blocks.{stage}.{block}", (1, 2, 3, 4, 3, 3, 1), (16, 24, 32, 64, 96, 160, 320), skip=1),
    # _efficientnet_blocks.InvertedResidual.forward; each stage's first block changes stride or width
    "mobilenetv3_small_100": _stages("blocks.{stage}.{block}", (1, 2, 3, 2, 3, 1), (16, 24, 40, 48, 96, 576), skip=1),
    # _efficientnet_blocks.InvertedResidual.forward; each stage's first block changes stride or width
    "efficientnet_b0": _stages(
        "blocks.{stage}.{block}",
        (1, 2, 2, 3, 3, 4, 1),
        (16, 24, 40, 80, 112, 192, 320),
        skip=1,
    ),
    # regnet.Bottleneck.forward
    "regnety_002": _stages("s{stage}.b{block}", (1, 1, 4, 7), (24, 56, 152, 368), first_stage=1, first_block=1),
    # cait.LayerScaleBlock.forward, then cait.LayerScaleBlockClassAttn.forward
    # Arguable: the last two blocks add to the class token alone; it is their input stream, so they are residual.
    "cait_xxs24_224": (
        *_stages("blocks.{block}", (24,), (192,), ATTN_MLP),
        *_stages("blocks_token_only.{block}", (2,), (192,), ATTN_MLP),
    ),
    # mlp_mixer.MixerBlock.forward
    "mixer_s32_224": _stages("blocks.{block}", (8,), (512,), ((".mlp_tokens", "NLC"), (".mlp_channels", "NLC"))),
    # mlp_mixer.ResBlock.forward
    "resmlp_12_224": _stages("blocks.{block}", (12,), (384,), ((".linear_tokens", "NLC"), (".mlp_channels", "NLC"))),
    # nfnet.NormFreeBlock.forward
    "nf_resnet26": _stages("stages.{stage}.{block}", (2, 2, 2, 2), (256, 512, 1024, 2048)),
    # dpn.DualPathBlock.forward, `x_s1 + out1`; its other channels are concatenated
    "dpn68": _stages("features.conv{stage}_{block}", (3, 4, 12, 3), (64, 128, 256, 512), first_stage=2, first_block=1),
    # rexnet.LinearBottleneck.forward; only the first in_chs channels are added to, the others are concatenated
    "rexnet_100": tuple(
        Addition(f"features.{block}", in_chs, "NCHW")
        for block, in_chs in (
            (2, 27),
            (4, 50),
            *((6, 72), (7, 84)),
            *((8, 95), (9, 106), (10, 117)),
            *((12, 140), (13, 151), (14, 162), (15, 174)),
        )
    ),
    # hgnet.HighPerfGpuBlock.forward; only stage3 has a second block
    "hgnetv2_b0": _stages("stages.{stage}.blocks.{block}", (1, 1, 2, 1), (64, 256, 512, 1024), skip=1),
    # eva.EvaBlock.forward
    "eva02_tiny_patch14_224": _stages("blocks.{block}", (12,), (192,), ATTN_MLP),
    # mvitv2.MultiScaleBlock.forward; residual pooling, `x + q`, is inside the attention
    # Arguable: where the width grows the shortcut is a linear layer of the normed input; that is its one projection.
    "mvitv2_tiny": _stages("stages.{stage}.blocks.{block}", (1, 2, 5, 2), (96, 192, 384, 768), ATTN_MLP),
    # levit.LevitBlock.forward and levit.LevitDownsample.forward
    # Arguable: LevitDownsample adds to its attention's output, not its input; that output is the stream, so residual.
    "levit_128s": (
        *_stages("stages.{stage}.blocks.{block}", (2,), (128,), ATTN_MLP),
        Addition("stages.1.downsample", 256, "NLC"),
        *_stages("stages.{stage}.blocks.{block}", (3,), (256,), ATTN_MLP, first_stage=1),
        Addition("stages.2.downsample", 384, "NLC"),
        *_stages("stages.{stage}.blocks.{block}", (4,), (384,), ATTN_MLP, first_stage=2),
    ),
    # metaformer.MetaFormerBlock.forward
    # Arguable: the pooling branch has no convolution or linear layer; residual all the same, named after the mixer.
    "poolformer_s12": _stages(
        "stages.{stage}.blocks.{block}",
        (2, 2, 6, 2),
        (64, 128, 320, 512),
        ((".token_mixer", "NCHW"), (".mlp", "NCHW")),
    ),
    # xcit.XCABlock.forward, then xcit.ClassAttentionBlock.forward
    # Arguable: the latter's weighted layers see only the class token, and norm2 is on its shortcut; still residual.
    "xcit_nano_12_p16_224": (
        *_stages("blocks.{block}", (12,), (128,), ((".attn", "NLC"), (".local_mp", "NLC"), (".mlp", "NLC"))),
        *_stages("cls_attn_blocks.{block}", (2,), (128,), ATTN_MLP),
    ),
    # pvt_v2.Block.forward
    "pvt_v2_b0": _stages("stages.{stage}.blocks.{block}", (2, 2, 2, 2), (32, 64, 160, 256), ATTN_MLP),
    # davit.SpatialBlock.forward (block 0 of each pair), davit.ChannelBlock.forward (block 1), davit.ConvPosEnc.forward
    # Arguable: ConvPosEnc encodes positions, but as `x + conv(x)` and not from a table, so it is residual.
    "davit_tiny": _stages(
        "stages.{stage}.blocks.{block}",
        (1, 1, 3, 1),
        (96, 192, 384, 768),
        tuple(
            (f".{kind}.{child}", layout)
            for kind in (0, 1)
            for child, layout in (("cpe1", "NCHW"), ("attn", "NLC"), ("cpe2", "NCHW"), ("mlp", "NLC"))
        ),
    ),
    # ghostnet.GhostBottleneck.forward
    # Arguable: a projecting shortcut is a depthwise and a pointwise convolution; together they are one projection.
    "ghostnet_100": tuple(
        Addition(f"blocks.{stage}.{block}", width, "NCHW")
        for stage, widths in enumerate(
            ((16,), (24,), (24,), (40,), (40,), (80,), (80, 80, 80, 112, 112), (160,), (160, 160, 160, 160))
        )
        for block, width in enumerate(widths)
    ),
    # vgg.VGG: a plain chain
    "vgg11": (),
    # densenet.DenseLayer.forward and DenseBlock.forward: concatenation only
    "densenet121": (),
    # inception_v3.InceptionA.forward to InceptionE.forward: concatenation only
    "inception_v3": (),
    # byobnet.RepVggBlock.forward: parallel convolutions and a norm (identity), merged by reparameterization
    "repvgg_a0": (),
}

# The number of modules that only scale the channels of their input and run in the forward.
ATTENTION: dict[str, int] = {
    "mobilenetv3_small_100": 1 + 3 + 2 + 3,  # mobilenetv3._gen_mobilenet_v3: blocks with se0.25; none in stage 1
    "efficientnet_b0": 1 + 2 + 2 + 3 + 3 + 4 + 1,  # efficientnet._gen_efficientnet: every block
    "regnety_002": 1 + 1 + 4 + 7,  # regnet.Bottleneck: every block, se_ratio=0.25
    "seresnet50": 3 + 4 + 6 + 3,  # resnet.Bottleneck: every block
    "ese_vovnet19b_dw": 4,  # vovnet.OsaStage: each stage's last block
    "eca_resnet33ts": 2 + 3 + 3 + 2,  # byobnet.BottleneckBlock: every block
    "gcresnet33ts": 2 + 3 + 3 + 2,  # byobnet.BottleneckBlock: every block; scale only, no fuse_add
    "rexnet_100": 2 + 3 + 3 + 5,  # rexnet._block_cfg: all blocks but the first 1 + 2
    "ghostnet_100": 2 + 2 + 1 + 2,  # ghostnet._create_ghostnet: stages 3, 4 and 5 (first block, then the others)
}
