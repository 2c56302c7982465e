"""Work that is repeated on tensors that stay where they are: on CUDA one captured graph, replayed.

A step of this network is some sixty kernels of a few microseconds each; launched one by one they
cost more than they compute. A graph launches them together. Elsewhere than on CUDA the same work is
done by calling it, so that one path serves both and is tested on both.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

WARM_UP = 3  # calls before the capture: cuDNN chooses its algorithms, optimizers make their state


class Captured:
    """Calls work that takes and returns nothing and reads nothing on the host: always the same.

    Every call does the work once, also those before the capture. What it draws comes from the
    device's default generator and from `generator`. `capture` False: it is called on CUDA too.
    The work is not kept: it would keep whoever owns this, and their memory, in a circle.
    """

    def __init__(self, generator: torch.Generator, capture: bool = True) -> None:
        self.generator = generator
        self.capture = capture and generator.device.type == "cuda"
        self.calls = 0
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, work: Callable[[], None]) -> None:
        if not self.capture:
            work()
            return
        self.calls += 1
        if self.calls <= WARM_UP:
            self._aside(work)
            return
        if self.graph is None:
            self.graph = torch.cuda.CUDAGraph()
            self.graph.register_generator_state(self.generator)
            with torch.cuda.graph(self.graph):
                work()  # is recorded, not done
        self.graph.replay()

    def _aside(self, work: Callable[[], None]) -> None:
        """On another stream, as a capture must be: what is allocated there is not mixed up."""
        stream = torch.cuda.Stream(self.generator.device)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            work()
        torch.cuda.current_stream().wait_stream(stream)
