"""Which precision a processor is fast in: some have no fast way to multiply bfloat16."""

import time


def fastest():
    """`bf16-mixed` where products of bfloat16 matrices take less time here than those of float32, else `32`."""
    import torch

    seconds = {}
    for precision, dtype in (("32", torch.float32), ("bf16-mixed", torch.bfloat16)):
        a = torch.randn(512, 512).to(dtype)
        took = []
        for _ in range(5):
            begin = time.process_time()
            a @ a
            took.append(time.process_time() - begin)
        seconds[precision] = min(took)
    return min(seconds, key=seconds.__getitem__)
