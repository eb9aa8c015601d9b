"""One training step of a U-Net (forward, backward, Adam) at equal parameters and operations: against two peers.

diffusers' UNet2DModel with three resolutions of 32, 64, 64 channels and attention at the two coarser ones, and
denoising-diffusion-pytorch's Unet of width 32 with its own attention.  Ours takes the widths that come within 5 % of each in
parameters and in counted operations; both are printed.  The time of a step is the least of several, in CPU seconds, so that a
busy machine disturbs little; memory is what steps of 32 images add to a process that has taken one of one image.  bf16 is
autocast, for the peers too.
"""

import time

METRIC, HIGHER = "images_per_second", True
PEERS = ("diffusers", "denoising_diffusion_pytorch")
VARIANTS = [{"against": p, "side": s, "precision": q} for p in PEERS for s in (28, 32) for q in ("32", "bf16-mixed")]
BATCH, STEPS, WIDTHS = 32, 12, (32, 64, 64)


def prepare(folder, data):
    """Nothing: the images are noise."""


def attention_formulas():
    """Operations of torch's attention on a CPU, which torch's own counter leaves out."""
    import torch

    def forward(q, k, *_, **__):
        return 4 * q[0] * q[1] * q[2] * k[2] * q[3]

    def backward(grad, q, k, *_, **__):
        return 8 * q[0] * q[1] * q[2] * k[2] * q[3]

    ops = torch.ops.aten
    return {
        ops._scaled_dot_product_flash_attention_for_cpu: forward,
        ops._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }


def measure(build, side, precision):
    """Images per second of the fastest of `STEPS` steps, with parameters, operations of one image and memory."""
    import math
    import resource

    import torch
    from torch.utils.flop_counter import FlopCounterMode

    torch.manual_seed(0)
    net, call = build()
    x, t, target = torch.randn(BATCH, 1, side, side), torch.rand(BATCH), torch.randn(BATCH, 1, side, side)
    optimiser = torch.optim.Adam(net.parameters(), 1e-4, fused=True)

    def step(rows=BATCH):
        optimiser.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision != "32"):
            out = call(x[:rows], t[:rows])
        (out.float() - target[:rows]).square().mean().backward()
        optimiser.step()

    step(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def seconds():
        begin = time.process_time()
        step()
        return time.process_time() - begin

    best = min([seconds() for _ in range(STEPS)][2:])
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    with FlopCounterMode(display=False, custom_mapping=attention_formulas()) as counter:
        step()
    return {
        "images_per_second": BATCH / best,
        "parameters": sum(p.numel() for p in net.parameters()),
        "gflop_per_image": counter.get_total_flops() / BATCH / 1e9,
        "peak_mib": peak if peak > 0 else math.nan,  # some kernels do not count it
    }


def ours(folder, against, side, precision):
    from likeli.cli.objects import keep_freed_memory
    from likeli.nn.unet import UNet

    keep_freed_memory()  # as `likeli fit` does
    options = {"diffusers": (WIDTHS, 1, 2), "denoising_diffusion_pytorch": ((32, 64, 56), 2, 4)}
    widths, blocks, shrink = options[against]

    def build():
        net = UNet((1, side, side), widths, attention=(side // shrink) ** 2, blocks=blocks)
        return net, net

    return measure(build, side, precision)


def peer(folder, against, side, precision):
    return measure({"diffusers": diffusers, "denoising_diffusion_pytorch": lucid}[against](side), side, precision)


def diffusers(side):
    """A builder of diffusers' network."""
    from diffusers import UNet2DModel

    def build():
        net = UNet2DModel(
            sample_size=side,
            in_channels=1,
            out_channels=1,
            block_out_channels=WIDTHS,
            layers_per_block=1,
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            norm_num_groups=8,
        )
        return net, lambda x, t: net(x, t * 1000).sample

    return build


def lucid(side):
    """A builder of denoising-diffusion-pytorch's network."""
    from benchmarks._stand_ins import stand_in

    stand_in("torchvision")
    from denoising_diffusion_pytorch import Unet

    def build():
        net = Unet(dim=32, dim_mults=(1, 2, 2), channels=1, flash_attn=False)
        return net, lambda x, t: net(x, t * 1000)

    return build
