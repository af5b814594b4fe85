"""What the code of whole frames costs in the engine: milliseconds a frame on one ONNX Runtime thread.

python tests/bench/code_cost.py --grid 16 --rank 128
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import onnxruntime
import torch
from dualkd.train.frame_code import FrameCode

WIDTH, GROUPS, REPEATS = 384, 2, 50


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--grid", type=int, default=16, help="patches a side")
    parser.add_argument("--rank", type=int, default=128)
    arguments = parser.parse_args()
    code = FrameCode(arguments.rank, arguments.grid**2, WIDTH).eval()
    torch.nn.init.orthogonal_(code.directions)
    tokens = torch.randn(1, GROUPS, arguments.grid**2, WIDTH)
    program = torch.onnx.export(code, (tokens, tokens.flip(2)), dynamo=True, input_names=["tokens", "known"])
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), options)
    feed = {"tokens": tokens.numpy(), "known": tokens.flip(2).numpy()}
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        session.run(None, feed)
        times.append(1e3 * (time.perf_counter() - started))
    print(f"median {np.median(times):.1f} ms, least {min(times):.1f} ms")


if __name__ == "__main__":
    main()
