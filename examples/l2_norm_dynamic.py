"""Dynamic token pruning by the L2 norm: what a threshold saves, on the set-up of a published table.

The set-up: an encoder of 2 layers, d_model 512, 8 heads, a batch of 16 x 128 tokens, threshold 13.0 on a token's norm.
Published: 12.908 GFLOPs before and 8.874 after (-31.2 %), and -20.2 % time. The published weights and data are not
to be had, so that accuracy is that of a small synthetic task, described at `draw`.

Run it with `python examples/l2_norm_dynamic.py`; under two minutes on two cores. `--json` prints the figures alone.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from pomt_edge.measure.environment import device_name
from pomt_edge.measure.paired import compare
from pomt_edge.measure.timing import median_interval
from pomt_edge.reduce.dynamic import RaggedTokens, saliency

LAYERS, CHANNELS, HEADS, HIDDEN, CLASSES = 2, 512, 8, 2048, 2
BATCH, TOKENS = 16, 128
THRESHOLD = 13.0
PUBLISHED_GFLOPS = (12.908, 8.874)
LEFT = 88
"""Tokens that stay in every image according to the published figures, see `explain`."""

Keep = Callable[[RaggedTokens], Tensor]
"""From tokens [B, N, C] to which of them stay [B, N]."""


class Encoder(nn.Module):
    """PyTorch's pre-norm encoder layers, and a linear classifier of each token whose answers are averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                CHANNELS, HEADS, HIDDEN, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(LAYERS)
        )
        self.head = nn.Linear(CHANNELS, CLASSES)

    def forward(self, tokens: Tensor, keep: Keep | None = None, packed: bool = True) -> Tensor:
        """Tokens [B, N, C] to logits [B, classes]; `keep` prunes before the first layer.

        `packed` moves an image's tokens together and cuts the batch to the longest image; without it the dropped tokens
        are computed and ignored.
        """
        ragged = RaggedTokens.full(tokens)
        if keep is not None:
            kept = keep(ragged)
            ragged = ragged.keep(kept) if packed else RaggedTokens(tokens, kept.sum(dim=1), kept)
        padding = None if ragged.present is None else ~ragged.present
        stream = ragged.tokens
        for layer in self.layers:
            stream = layer(stream, src_key_padding_mask=padding)
        answers = self.head(stream)
        if padding is not None:
            answers = answers.masked_fill(padding.unsqueeze(-1), 0.0)
        return answers.sum(dim=1) / ragged.counts.unsqueeze(1)


def draw(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Synthetic images and their classes.

    40 to 92 of an image's 128 tokens, at random places, are foreground, of norm 14 +- 0.6; the others 12 +- 0.6.
    A token is a random direction with a little of its class's direction in it, in the background half as much. So
    the threshold 13.0 separates the two nearly, the number of salient tokens differs from image to image, and
    what is pruned is worth less and not nothing.
    """
    towards = torch.randn(CHANNELS, generator=torch.Generator().manual_seed(1))
    towards /= towards.norm()
    labels = torch.randint(CLASSES, (count,), generator=generator)
    foreground = torch.randint(40, 93, (count, 1), generator=generator)
    salient = torch.rand(count, TOKENS, generator=generator).argsort(dim=1) < foreground
    share = SIGNAL * (2.0 * labels - 1).unsqueeze(1) * torch.where(salient, 1.0, 0.5)
    direction = torch.randn(count, TOKENS, CHANNELS, generator=generator) + share.unsqueeze(-1) * towards
    norm = torch.where(salient, 14.0, 12.0) + 0.6 * torch.randn(count, TOKENS, generator=generator)
    return direction * (norm / direction.norm(dim=-1)).unsqueeze(-1), labels


SIGNAL = 0.25


def train(model: Encoder, steps: int, generator: torch.Generator) -> None:
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, total_steps=max(steps, 2))
    model.train()
    for _ in range(steps):
        images, labels = draw(BATCH, generator)
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimiser.step()
        schedule.step()
    model.eval()


def above(threshold: float) -> Keep:
    """Dynamic: the tokens whose norm is not below a threshold."""
    return lambda ragged: ragged.salient(threshold, prefix=0)


def top(count: int) -> Keep:
    """Static: so many tokens of every image, those of the largest norms."""

    def keep(ragged: RaggedTokens) -> Tensor:
        best = saliency(ragged.tokens).argsort(dim=1, descending=True, stable=True)[:, :count]
        return torch.zeros(ragged.tokens.shape[:2], dtype=torch.bool).scatter(1, best, True)

    return keep


@dataclass
class Row:
    """One way to run the batch of 16 images."""

    name: str
    fewest: int
    """Tokens that an image of the batch keeps, at least."""
    mean: float
    most: int
    gflops: float
    """Every product, attention's included; a multiplication and an addition are two."""
    published_gflops: float
    """As the published figures count, see `explain`."""
    ms: tuple[float, float, float] = (math.nan,) * 3
    """Median and its 95 % interval."""
    ratio: tuple[float, float, float] = (math.nan,) * 3
    """To the baseline of the same round."""
    peak_mib: float = math.nan
    accuracy_percent: float = math.nan
    points_lost: tuple[float, float, float] = (0.0,) * 3
    """Against the baseline, paired over the same images, with its 95 % interval."""


@dataclass(frozen=True)
class Way:
    name: str
    keep: Keep | None = None
    packed: bool = True
    one_by_one: bool = False

    def run(self, model: Encoder, images: Tensor) -> Tensor:
        if self.one_by_one:
            return torch.cat([model(image, self.keep, self.packed) for image in images.split(1)])
        return model(images, self.keep, self.packed)


def timed_batch(images: Tensor) -> Tensor:
    """16 images of which the one with most salient tokens has as many as the published FLOPs imply."""
    counts = (saliency(images) >= THRESHOLD).sum(dim=1)
    (longest,) = (counts == LEFT).nonzero()[:1, 0].tolist()
    others = [index for index in (counts <= LEFT).nonzero()[:, 0].tolist() if index != longest]
    return images[[longest, *others[: BATCH - 1]]]


def count_flops(run: Callable[[], object]) -> tuple[float, float]:
    """GFLOPs of everything, and as the published figures count."""

    def normalised(shape: Sequence[int], *_: Any, **__: Any) -> int:
        return 5 * math.prod(shape)

    aten = torch.ops.aten
    counter = FlopCounterMode(display=False, custom_mapping={aten.native_layer_norm: normalised})
    # The plain kernel: its products are counted by every version of PyTorch, a fused kernel's are not.
    with sdpa_kernel(SDPBackend.MATH), counter:
        run()
    by_operation = counter.get_flop_counts()["Global"]
    norms = by_operation.pop(aten.native_layer_norm, 0)
    linear = by_operation.get(aten.mm, 0) + by_operation.get(aten.addmm, 0)
    return sum(by_operation.values()) / 1e9, (linear / 2 + norms) / 1e9


class PeakMemory(TorchDispatchMode):
    """The most bytes alive at once in the results of operations: activations, without weights, input and workspaces."""

    def __init__(self, known: Sequence[Tensor]) -> None:
        super().__init__()
        self._known = {tensor.untyped_storage()._cdata for tensor in known}
        self._live: dict[int, int] = {}
        self.peak_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(results):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                key = storage._cdata
                if key not in self._known and key not in self._live:
                    self._live[key] = storage.nbytes()
                    weakref.finalize(storage, self._live.pop, key, None)
        self.peak_bytes = max(self.peak_bytes, sum(self._live.values()))
        return results


def describe(way: Way, model: Encoder, images: Tensor) -> Row:
    counts = torch.full((len(images),), TOKENS)
    if way.keep is not None:
        counts = way.keep(RaggedTokens.full(images)).sum(dim=1)
    gflops, published = count_flops(lambda: way.run(model, images))
    with PeakMemory([images, *model.parameters()]) as memory:
        way.run(model, images)
    row = Row(way.name, int(counts.min()), float(counts.float().mean()), int(counts.max()), gflops, published)
    row.peak_mib = memory.peak_bytes / 2**20
    return row


def time_interleaved(ways: Sequence[Way], rows: Sequence[Row], model: Encoder, images: Tensor, rounds: int) -> None:
    """Every way once a round, in random order: each is compared with the baseline of its own round.

    Warm already: to count operations and bytes every way was run twice.
    """
    order = random.Random(0)
    samples: dict[str, list[float]] = {way.name: [] for way in ways}
    for _ in range(rounds):
        for way in order.sample(ways, len(ways)):
            start = time.perf_counter()
            way.run(model, images)
            samples[way.name].append(1e3 * (time.perf_counter() - start))
    for row in rows:
        pairs = zip(samples[row.name], samples[ways[0].name], strict=True)
        row.ms = median_interval(tuple((ms,) for ms in samples[row.name]))
        row.ratio = median_interval(tuple((ms / baseline,) for ms, baseline in pairs))


def judge(ways: Sequence[Way], rows: Sequence[Row], model: Encoder, images: Tensor, labels: Tensor) -> None:
    """Accuracy. Packed, masked or one by one the answers are the same, so that each selection is run once."""
    right: dict[Keep | None, Any] = {}
    for way, row in zip(ways, rows, strict=True):
        if way.keep not in right:
            logits = torch.cat([model(batch, way.keep) for batch in images.split(BATCH)])
            right[way.keep] = (logits.argmax(dim=1) == labels).numpy()
        point = compare(round(row.mean), right[None], right[way.keep])
        row.accuracy_percent = point.percent
        row.points_lost = (point.drop, point.drop_low, point.drop_high)


def explain() -> list[dict[str, Any]]:
    """Set-ups that could stand behind the published figures, and what they give, in G multiply-adds.

    What fits to the digit: multiply-adds (not two operations each) of the linear layers, 5 operations per
    element of a layer norm, a linear layer from each token to 2 numbers; attention's own products not counted.
    """

    def counted(attention: Sequence[int], mlp: Sequence[int], out: int) -> float:
        a_token = CHANNELS * (4 * CHANNELS + 5), CHANNELS * (2 * HIDDEN + 5)
        parts = sum(attention) * a_token[0] + sum(mlp) * a_token[1] + out * CHANNELS * CLASSES
        return BATCH * parts / 1e9

    def setup(name: str, attention: Sequence[int], mlp: Sequence[int]) -> dict[str, Any]:
        return {"setup": name, "gflops": counted(attention, mlp, mlp[-1])}

    return [
        setup("baseline, 128 tokens in both layers", (128, 128), (128, 128)),
        setup("88 of 128 tokens left before layer 1", (88, 88), (88, 88)),
        setup("48 of 128 tokens left before layer 2", (128, 48), (128, 48)),
        setup("80 left between attention and MLP of layer 1", (128, 80), (80, 80)),
    ]


def measure(quick: bool) -> dict[str, Any]:
    started = time.perf_counter()
    torch.manual_seed(0)
    # PyTorch's fused encoder layer would run the rows without a mask by other code than those with one.
    torch.backends.mha.set_fastpath_enabled(False)
    generator = torch.Generator().manual_seed(2)
    model = Encoder()
    train(model, 1 if quick else 24, generator)
    seen, _ = draw(256, generator)
    images, labels = draw(16 if quick else 320, generator)
    batch = timed_batch(draw(256, generator)[0])
    dropped = 1 - LEFT / TOKENS
    quantile = float(saliency(seen).quantile(dropped))
    fixed = above(THRESHOLD)
    ways = [
        Way("baseline"),
        Way(f"fixed {THRESHOLD}, packed", fixed),
        Way(f"fixed {THRESHOLD}, masked only", fixed, packed=False),
        Way(f"quantile ({quantile:.2f}), packed", above(quantile)),
        Way(f"static top {LEFT}", top(LEFT)),
        Way("baseline, one by one", one_by_one=True),
        Way(f"fixed {THRESHOLD}, one by one", fixed, one_by_one=True),
    ]
    with torch.no_grad():
        rows = [describe(way, model, batch) for way in ways]
        answers = [way.run(model, batch) for way in ways if way.keep is fixed]
        time_interleaved(ways, rows, model, batch, 1 if quick else 12)
        judge(ways, rows, model, images, labels)
    norms = saliency(seen)
    return {
        "machine": device_name("cpu"),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "rows": [asdict(row) for row in rows],
        "explained": explain(),
        "quantile": {"dropped": dropped, "threshold": quantile, "kept": _range((norms >= quantile).sum(dim=1))},
        "fixed_keeps": {name: _mean_kept(scale * norms) for name, scale in (("fixed", 1.0), ("smaller", 0.9))},
        "same_answers_within": float(max((answer - answers[0]).abs().max() for answer in answers)),
        "test_images": len(labels),
        "seconds": time.perf_counter() - started,
    }


def _mean_kept(norms: Tensor) -> float:
    return float((norms >= THRESHOLD).sum(dim=1).float().mean())


def _range(counts: Tensor) -> list[float]:
    return [int(counts.min()), float(counts.float().mean()), int(counts.max())]


def show(result: dict[str, Any]) -> None:
    rows = result["rows"]
    print(f"{result['machine']}, {result['threads']} threads, PyTorch {result['torch']}, float32")
    print(f"{LAYERS} layers, d_model {CHANNELS}, {HEADS} heads, MLP {HIDDEN}, batch {BATCH} x {TOKENS} tokens\n")
    print(f"{'':24} {'tokens kept':>13}  GFLOPs  as published {'time':>19}  {'against baseline':>19}  peak  accuracy")
    print(f"{'':24} {'min mean max':>13} {'':>21} {'ms (95 %)':>19}  {'(95 %)':>19}   MiB  % (points lost, 95 %)")
    for row in rows:
        less = 100 * (row["published_gflops"] / rows[0]["published_gflops"] - 1)
        kept = f"{row['fewest']} {row['mean']:.1f} {row['most']}"
        ms = "{:.0f} ({:.0f} to {:.0f})".format(*row["ms"])
        ratio = "{:.2f} ({:.2f} to {:.2f})".format(*row["ratio"])
        lost = "{:.1f}, {:.1f} to {:.1f}".format(*row["points_lost"])
        print(
            f"{row['name']:24} {kept:>13}  {row['gflops']:6.2f} {row['published_gflops']:6.3f} {less:+5.1f}% {ms:>19}  "
            f"{ratio:>19}  {row['peak_mib']:4.1f}  {row['accuracy_percent']:.1f} ({lost})"
        )
    print(f"\n{TEXT_OF_TABLE.format(**result)}")
    for setup in result["explained"]:
        print(f"  {setup['gflops']:6.3f}  {setup['setup']}")
    fewest, mean, most = result["quantile"]["kept"]
    shares = {"fewest": fewest, "mean": mean, "most": most, "tokens": TOKENS, "left": LEFT, **result["fixed_keeps"]}
    print(f"\n{CHANGES.format(**shares)}")


TEXT_OF_TABLE = """\
GFLOPs: all products, attention's included, a multiply-add is 2. As published: see below. Time: every row once a round,
rounds in random order. Peak: bytes of the results of operations that are alive at once; no weights, no workspaces.
Accuracy: {test_images} synthetic images that training never saw. Packed, masked and one by one the fixed threshold
answers the same (logits of the batch within {same_answers_within:.0e}), so that its accuracy was measured once.

The published 12.908 and 8.874 are G multiply-adds, one each, of the linear layers, and 5 operations per element of a
layer norm, with a linear layer from each token to 2 numbers; attention's own products are not counted:"""

CHANGES = """\
What an adaptive threshold changes:
- The number of tokens varies from image to image, and latency with it. At the calibrated threshold an image keeps
  {fewest} to {most} of {tokens} tokens, {mean:.1f} on average. Only the average can be planned; the worst case is the
  baseline, plus the norms and the sorting.
- The images of a batch must be equally long. Masked, nothing is saved: dropped tokens are computed and ignored.
  Packed, a batch costs what its longest image costs, so that the same average share ({left} of {tokens}) costs more
  than the static form. The full saving comes one image at a time (against the baseline one at a time).
- A fixed threshold is in the unit of the norms: with tokens a tenth smaller, 13.0 keeps {smaller:.1f} of {tokens}
  tokens on average, and not {fixed:.1f}. A quantile calibrated on sample images fits the threshold to model and data;
  when the data drift afterwards, the share drifts with them.
- A quantile taken of each batch as it comes would hold the batch's budget, and would make an image's answer depend on
  its neighbours. A quantile of each image is the static top n.
- Shapes depend on the data, so that no threshold exports or runs in a CUDA graph. The static top n does both."""


def main() -> None:
    parser = argparse.ArgumentParser(description="L2-norm token pruning: fixed, calibrated and static, measured.")
    parser.add_argument("--json", action="store_true", help="print the figures alone, as JSON")
    parser.add_argument("--quick", action="store_true", help="hardly train or measure: for a test of the script")
    options = parser.parse_args()
    result = measure(options.quick)
    if options.json:
        json.dump(result, sys.stdout, indent=2)
        print()
    else:
        show(result)


if __name__ == "__main__":
    main()
