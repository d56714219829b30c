"""Prints what PyTorch's AdamW does to five numbers in four steps: the table in adamw.rs.

    python adamw.py

Gradients are scaled before the step, as clipping does. Computed in f64.
"""

import torch

START = [0.5, -1.25, 0.0, 3.0, -0.001]
STEPS = [
    # learning rate, gradient scale, gradients
    (0.01, 1.0, [0.1, -0.2, 0.3, -4.0, 1e-6]),
    (0.02, 0.25, [0.5, 0.0, -0.7, 11.0, -2e-6]),
    (0.005, 1.0, [-0.3, 0.9, 0.0, -0.5, 3e-6]),
    (0.03, 0.5, [0.02, -0.4, 1.3, 6.0, 5e-6]),
]

for decay in [0.0, 0.1]:
    p = torch.nn.Parameter(torch.tensor(START, dtype=torch.float64))
    optimizer = torch.optim.AdamW([p], betas=(0.9, 0.999), eps=1e-8, weight_decay=decay)
    for rate, scale, gradient in STEPS:
        optimizer.param_groups[0]["lr"] = rate
        p.grad = torch.tensor(gradient, dtype=torch.float64) * scale
        optimizer.step()
    state = optimizer.state[p]
    for values in [p, state["exp_avg"], state["exp_avg_sq"]]:
        print(decay, [float(f"{x:.12g}") for x in values.tolist()])
