"""What each training method costs, as multiples of a plain step in the same run.

    python benchmarks/training.py --device cpu --out benchmarks/results/training-cpu.json
    python benchmarks/training.py --device cuda --backbone resnet50 --side 224 --batch 256 \
        --precision bf16 --out benchmarks/results/training-gpu.json

Measured for each method: FLOPs (torch.utils.flop_counter), wall clock (medians of interleaved
rounds, so that a busy machine slows all methods alike), peak memory (CUDA's own count; on a CPU
the high-water mark of live tensors, see ``MEMORY_DEFINITION``), images/s. Memory and wall clock are
those of a whole step as the training loop does it, optimiser included; FLOPs those of its passes.
Then the training loop: images/s and the share of time the device waits for data, from memory and
from the patch store; and 1 to 2 processes. Needs torch and timm only, where no patch store can be
written (``--no-loop``).
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from pathology_scaat.scaat import METHODS, make_method
from pathology_scaat.scaat.method import Method, StepLosses, Visit

MEMORY_DEFINITION = {
    "peak_bytes": (
        "most bytes held at once in a whole step as the training loop does it (gradients set to "
        "None, passes, clipping, optimiser): network, AdamW's two moments, batch, gradients, "
        "activations, temporaries; what a method keeps on the host between steps is left out"
    ),
    "peak_bytes_of_passes": "the same for the forward and backward passes alone",
}


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """High-water mark of the bytes of live tensors, for CPUs.

    Follows storages by weak reference; kernels' own scratch is not seen.

    Parameters
    ----------
    held : iterable of Tensor
        What is there before; without it, a batch would count for those methods only that take
        a view of it.
    """

    def __init__(self, held: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.peak = 0
        self._known: set[int] = set()
        for tensor in held:
            self._follow(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor):
                self._follow(tensor)
        return result

    def _follow(self, tensor: Tensor) -> None:
        import weakref

        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)

        def gone(key: int = key, size: int = size) -> None:
            self._known.discard(key)
            self.now -= size

        weakref.finalize(storage, gone)


class NoModules:
    """Stands in for the FLOP counter's module tracker, whose hooks forbid autograd.grad."""

    parents = frozenset({"Global"})

    def __enter__(self) -> None: ...

    def __exit__(self, *args: object) -> None: ...


class Normalising(nn.Module):
    """A backbone with its normalisation in front, as the trainer's networks are.

    Theirs is :class:`pathology_scaat.training.backbones.Classifier`; this one needs torch alone.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.register_buffer("mean", torch.full((1, 3, 1, 1), 0.5))
        self.register_buffer("std", torch.full((1, 3, 1, 1), 0.25))

    def forward(self, images: Tensor) -> Tensor:
        return self.backbone((images - self.mean) / self.std)  # type: ignore[no-any-return]


def make_network(name: str, side: int, device: torch.device) -> nn.Module:
    """A network with random weights, channels last, as it is trained."""
    torch.manual_seed(0)
    model: nn.Module
    if name == "scaat-small":
        from pathology_scaat.training.small_cnn import SmallNet

        model = SmallNet(2)
    else:
        import timm

        size: dict[str, Any] = (
            {"img_size": side} if name.startswith(("vit", "deit", "swin")) else {}
        )
        model = timm.create_model(name, pretrained=False, num_classes=2, **size)
    model = Normalising(model)
    return model.to(device).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload, no-any-return]


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Bench:
    """One network, one batch, all methods."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.device = torch.device(args.device)
        self.model = make_network(args.backbone, args.side, self.device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        dtype = torch.bfloat16 if args.precision == "bf16" else None
        network = torch.compile(self.model) if args.compile else self.model
        self.methods: dict[str, Method] = {
            name: make_method(name, network, autocast_dtype=dtype)  # type: ignore[arg-type]
            for name in args.methods
            if not (args.compile and name == "gradient-penalty")  # differentiates twice
        }
        for method in self.methods.values():
            method.keep_perturbed = False  # as the trainer
        self.images = torch.rand(args.batch, 3, args.side, args.side, device=self.device)
        self.images = self.images.contiguous(memory_format=torch.channels_last)
        self.labels = torch.arange(args.batch, device=self.device) % 2
        self.visit = Visit(torch.arange(args.batch), torch.arange(args.batch) % 8)

    def period(self, name: str) -> int:
        """Steps after which a method's steps cost the same again."""
        return int(getattr(getattr(self.methods[name], "options", None), "every", 1))

    def passes(self, name: str) -> StepLosses:
        """Forward and backward passes of one step."""
        return self.methods[name].training_step(self.images, self.labels, visit=self.visit)

    def step(self, name: str) -> StepLosses:
        """One step as the training loop does it; what it returns lives until it is over."""
        self.optimizer.zero_grad(set_to_none=True)
        losses = self.passes(name)
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return losses

    def held(self) -> Iterator[Tensor]:
        """Tensors that outlive a step: network, optimiser and batch."""
        yield from self.model.parameters()
        yield from self.model.buffers()
        for state in self.optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, Tensor))
        yield from (self.images, self.labels)

    def flops(self, name: str) -> float:
        """Mean over a period of steps."""
        counter = FlopCounterMode(display=False)
        counter.mod_tracker = NoModules()  # type: ignore[assignment]
        with counter:
            for _ in range(self.period(name)):
                self.optimizer.zero_grad(set_to_none=True)
                self.passes(name)
        return float(counter.get_total_flops() / self.period(name))

    def seconds(self, name: str) -> float:
        synchronize(self.device)
        begin = perf_counter()
        for _ in range(self.period(name)):
            self.step(name)
        synchronize(self.device)
        return (perf_counter() - begin) / self.period(name)

    def peak_bytes(self, name: str, run: Callable[[str], StepLosses]) -> int:
        """Most bytes held at once while ``run`` runs (``MEMORY_DEFINITION``), over a period."""
        peaks = []
        for _ in range(self.period(name)):
            self.optimizer.zero_grad(set_to_none=True)
            if self.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(self.device)
                run(name)
                synchronize(self.device)
                peaks.append(torch.cuda.max_memory_allocated(self.device))
            else:
                with LiveBytes(self.held()) as live:
                    run(name)
                peaks.append(live.peak)
        return max(peaks)


def print_kernels(bench: Bench, names: Iterable[str]) -> None:
    """Where the device's time goes in one step of some methods."""
    from torch.profiler import ProfilerActivity, profile

    for name in names:
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
            bench.step(name)
            synchronize(bench.device)
        order = "self_cuda_time_total" if bench.device.type == "cuda" else "self_cpu_time_total"
        table = seen.key_averages().table(sort_by=order, row_limit=30, max_name_column_width=60)
        print(f"\n{name}\n{table}", flush=True)


def measure_steps(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Cost of each method's step."""
    bench = Bench(args)
    torch.backends.cudnn.benchmark = True  # as the trainer does where it need not be repeatable
    names = list(bench.methods)
    for name in names:  # fills stores, caches and compiled graphs
        for _ in range(2):
            bench.step(name)
    flops = {} if args.compile else {name: bench.flops(name) for name in names}
    memory = {name: bench.peak_bytes(name, bench.step) for name in names}
    of_passes = {name: bench.peak_bytes(name, bench.passes) for name in names}
    rows: dict[str, dict[str, float]] = {
        name: {
            "peak_bytes": memory[name],
            "memory_multiple": round(memory[name] / memory["plain"], 3),
            "peak_bytes_of_passes": of_passes[name],
            "memory_multiple_of_passes": round(of_passes[name] / of_passes["plain"], 3),
        }
        for name in names
    }
    for name, cost in flops.items():
        rows[name]["flop_multiple"] = round(cost / flops["plain"], 4)
    if args.profile:
        print_kernels(bench, [name for name in ("plain", "scaat") if name in names])
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(args.rounds):
        for name in names:
            times[name].append(bench.seconds(name))
    for name in names if args.rounds else ():
        median = statistics.median(times[name])
        # each round's own ratio, so that what disturbs the machine disturbs both
        ratios = [t / p for t, p in zip(times[name], times["plain"], strict=True)]
        rows[name]["wall_multiple"] = round(statistics.median(ratios), 3)
        rows[name]["seconds_per_step"] = round(median, 5)
        rows[name]["images_per_s"] = round(args.batch / median, 1)
    return rows


def measure_loop(args: argparse.Namespace) -> dict[str, Any]:
    """images/s and waiting of the whole training loop, and its scaling over processes."""
    import numpy as np

    from pathology_scaat.geometry import PatchGrid, SizePx
    from pathology_scaat.patches.schema import PatchStoreMeta, SlideGeometry
    from pathology_scaat.patches.writer import write_patch_store
    from pathology_scaat.training import TrainConfig, TrainingSlide, train_model

    side, n = args.side, args.loop_patches
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        slides = []
        for split, count in (("train", n), ("val", 32)):
            index = np.stack([np.arange(count) % 16, np.arange(count) // 16], 1)
            meta = PatchStoreMeta(
                slide_id=split, slide_fingerprint="0" * 64, fingerprint=split,
                slide=SlideGeometry(SizePx(16 * side, count * side), 0.5, "manifest"),
                grid=PatchGrid(0.0, 0.0, 1.0, side, side, 16, -(-count // 16)),
                requested_mpp=0.5, effective_mpp=0.5, level_read=0, class_names=("a", "b"),
            )  # fmt: skip
            patches = (rng.integers(0, 255, (side, side, 3), dtype=np.uint8) for _ in range(count))
            write_patch_store(
                folder / f"{split}.zarr", meta, patches,
                grid_index=index, label=np.arange(count) % 2,
            )  # fmt: skip
            slides.append(TrainingSlide(folder / f"{split}.zarr", split, split, split))

        def loop(method: str, **settings: Any) -> dict[str, float]:
            settings = {"deterministic": args.device == "cpu"} | settings
            config = TrainConfig(
                backbone=args.backbone, method=method, epochs=3, patience=9, monitor_images=0,
                batch_size=args.batch, precision=args.precision, compile=args.compile, **settings,
            )  # fmt: skip
            seen: list[dict[str, float]] = []
            on_progress: Callable[[Any], None] = lambda p: (  # noqa: E731
                seen.append(p.metrics) if p.epoch_fraction == 0 and p.metrics else None
            )
            train_model(
                slides, folder / f"model-{method}-{len(settings)}", config,
                device=args.device, overwrite=True, progress=on_progress,
            )  # fmt: skip
            best = max(seen[1:], key=lambda row: row["images_per_s"])
            return {
                "images_per_s": round(best["images_per_s"], 1),
                "wait_share": round(best["wait_share"], 4),
            }

        found = {
            "plain, from memory": loop("plain"),
            "scaat, from memory": loop("scaat"),
            "scaat, from the store": loop("scaat", cache_bytes=0),
        }
        if args.device != "cpu":
            found["scaat, repeatable"] = loop("scaat", deterministic=True)
        if args.processes:
            # On a CPU two processes share the cores that one had: beside one with its half.
            threads = torch.get_num_threads()
            if args.device == "cpu":
                torch.set_num_threads(max(1, threads // 2))
                found["scaat, 1 process with half the threads"] = loop("scaat")
                torch.set_num_threads(threads)
            found["scaat, 2 processes"] = loop("scaat", devices=2)
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7, help="0: FLOPs and memory only")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--methods", nargs="+", default=list(METHODS.names))
    parser.add_argument("--loop-patches", type=int, default=512)
    parser.add_argument("--no-loop", dest="loop", action="store_false")
    parser.add_argument("--processes", action="store_true", help="also time 2 processes")
    parser.add_argument("--profile", action="store_true", help="print a step's operations")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if "plain" not in args.methods:
        args.methods.insert(0, "plain")
    device = torch.device(args.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    report: dict[str, Any] = {
        "device": name,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "backbone": args.backbone,
        "side_px": args.side,
        "batch": args.batch,
        "precision": args.precision,
        "compile": args.compile,
        "memory": MEMORY_DEFINITION,
        "steps": measure_steps(args),
    }
    write(report, args.out)
    if args.loop:
        report["loop"] = measure_loop(args)
        write(report, args.out)
    print(json.dumps(report, indent=1))


def write(report: dict[str, Any], out: Path | None) -> None:
    """Keep what there is so far."""
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
