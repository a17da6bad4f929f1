"""One of two processes that train together, as ``python -m rank_of_two train|average ...``."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

import torch

from pathology_scaat.training import TrainConfig, TrainingSlide, train_model


def train(named: str, out: str, config: str) -> None:
    """Train as a launcher's process does, and print the model's fingerprint."""
    slides = [TrainingSlide(Path(s[0]), *s[1:]) for s in json.loads(named)]
    result = train_model(slides, out, TrainConfig.model_validate_json(config), device="cpu")
    sys.stdout.write(f"{result.model_fingerprint}\n")


def average(job: str, address: str, rank: str, out: str) -> None:
    """Train a pickled job together with the other process and keep this one's weights."""
    import torch.distributed as dist

    from pathology_scaat.training.trainer import Trainer

    dist.init_process_group("gloo", init_method=address, rank=int(rank), world_size=2)
    trainer = Trainer(pickle.loads(Path(job).read_bytes()), None)
    trainer.run()
    torch.save(trainer.model.state_dict(), out)
    dist.destroy_process_group()


if __name__ == "__main__":
    if sys.argv[1] == "train":
        train(*sys.argv[2:])
    else:
        average(*sys.argv[2:])
