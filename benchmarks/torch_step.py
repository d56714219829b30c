"""PyTorch's side of `cargo bench -p stage -p millstream --bench step -- --against PYTHON`: eager, scaled dot product
attention, AdamW and clipping on a Llama-shaped model, random tokens. Answers every line of its input
with a line of numbers:

  product   GFLOP/s of a 2048-cubed f32 product, the middle of several
  step      seconds of a training step, and its loss
  memory    growth of the process's peak over what it had before the model was made, in MB

usage: python torch_step.py HIDDEN LAYERS HEADS KV_HEADS FF VOCABULARY TOKENS ROWS THREADS wall|cpu
"""
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

HIDDEN, LAYERS, HEADS, KV_HEADS, FF, VOCABULARY, TOKENS, ROWS, THREADS = map(int, sys.argv[1:10])
HEAD_DIM = HIDDEN // HEADS
now = {"wall": time.perf_counter, "cpu": time.process_time}[sys.argv[10]]
torch.set_num_threads(THREADS)
torch.manual_seed(0)


def status_mb(line):
    with open("/proc/self/status") as status:
        return next(int(text.split()[1]) / 1e3 for text in status if text.startswith(line))


def product_gflops():
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    seconds = []
    for _ in range(9):
        begin = now()
        a @ b
        seconds.append(now() - begin)
    return 2e-9 * 2048**3 / statistics.median(seconds)


def rotated(x, cos, sin):
    left, right = x.chunk(2, -1)
    return x * cos + torch.cat([-right, left], -1) * sin


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        linear = lambda inputs, outputs: nn.Linear(inputs, outputs, bias=False)
        self.attention_norm, self.mlp_norm = nn.RMSNorm(HIDDEN), nn.RMSNorm(HIDDEN)
        self.q, self.o = linear(HIDDEN, HIDDEN), linear(HIDDEN, HIDDEN)
        self.k, self.v = linear(HIDDEN, KV_HEADS * HEAD_DIM), linear(HIDDEN, KV_HEADS * HEAD_DIM)
        self.gate, self.up, self.down = linear(HIDDEN, FF), linear(HIDDEN, FF), linear(FF, HIDDEN)

    def forward(self, x, cos, sin):
        rows, tokens, _ = x.shape
        n = self.attention_norm(x)
        q, k, v = (p(n).view(rows, tokens, -1, HEAD_DIM).transpose(1, 2) for p in (self.q, self.k, self.v))
        q, k = rotated(q, cos, sin), rotated(k, cos, sin)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=HEADS != KV_HEADS)
        x = x + self.o(y.transpose(1, 2).reshape(rows, tokens, HIDDEN))
        n = self.mlp_norm(x)
        return x + self.down(F.silu(self.gate(n)) * self.up(n))


class Trainer:
    def __init__(self):
        self.embedding = nn.Embedding(VOCABULARY, HIDDEN)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm, self.head = nn.RMSNorm(HIDDEN), nn.Linear(HIDDEN, VOCABULARY, bias=False)
        parts = (self.embedding, self.layers, self.norm, self.head)
        self.parameters = [p for part in parts for p in part.parameters()]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-4)
        frequencies = 10000 ** (-torch.arange(0, HEAD_DIM, 2) / HEAD_DIM)
        angles = torch.arange(TOKENS)[:, None] * frequencies[None].repeat(1, 2)
        self.cos, self.sin = angles.cos(), angles.sin()
        self.ids = (torch.arange(ROWS * TOKENS) * 7919 % VOCABULARY).view(ROWS, TOKENS)

    def step(self):
        self.optimizer.zero_grad()
        hidden = self.embedding(self.ids)
        for layer in self.layers:
            hidden = layer(hidden, self.cos, self.sin)
        loss = F.cross_entropy(self.head(self.norm(hidden)).view(-1, VOCABULARY), self.ids.view(-1))
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        return loss.item()


at_start_mb, trainer = status_mb("VmRSS:"), None
for line in sys.stdin:
    match line.strip():
        case "product":
            answer = [product_gflops()]
        case "memory":
            answer = [status_mb("VmHWM:") - at_start_mb]
        case "step":
            trainer = trainer or Trainer()
            begin = now()
            loss = trainer.step()
            answer = [now() - begin, loss]
    print(*answer, flush=True)
