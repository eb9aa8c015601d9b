"""One training step of a U-Net (forward, backward, Adam): against diffusers' UNet2DModel of the same widths and attention.

Three resolutions of 32, 64, 64 channels, attention at the two coarser ones; parameters agree within 2 % and counted operations
within 1 %, and both numbers are printed.
"""

import time

METRIC, HIGHER = "images_per_second", True
VARIANTS = [{"side": s, "precision": p} for s in (28, 32) for p in ("32", "bf16-mixed")]
BATCH, STEPS, WIDTHS = 32, 12, (32, 64, 64)


def prepare(folder, data):
    """Nothing: the images are noise."""


def measure(net, call, side, precision):
    """Images per second of `STEPS` steps after three to warm up, with parameters and operations of one image."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    torch.manual_seed(0)
    x, t, target = torch.randn(BATCH, 1, side, side), torch.rand(BATCH), torch.randn(BATCH, 1, side, side)
    optimiser = torch.optim.Adam(net.parameters(), 1e-4)

    def step():
        optimiser.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision != "32"):
            out = call(x, t)
        (out.float() - target).square().mean().backward()
        optimiser.step()

    with FlopCounterMode(display=False) as counter:
        step()
    for _ in range(2):
        step()
    begin = time.perf_counter()
    for _ in range(STEPS):
        step()
    seconds = time.perf_counter() - begin
    return {
        "images_per_second": BATCH * STEPS / seconds,
        "parameters": sum(p.numel() for p in net.parameters()),
        "gflop_per_image": counter.get_total_flops() / BATCH / 1e9,
    }


def ours(folder, side, precision):
    from likeli.nn.unet import UNet

    net = UNet((1, side, side), WIDTHS, attention=(side // 2) ** 2, blocks=1)
    return measure(net, net, side, precision)


def peer(folder, side, precision):
    from diffusers import UNet2DModel

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
    return measure(net, lambda x, t: net(x, t * 1000).sample, side, precision)
