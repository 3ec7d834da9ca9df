"""Latency of folded networks: equal to that of the network without the blocks within its interval.

    python benchmarks/folded_latency.py --backbones mobilenetv3_small_050 seresnet18

All attention of a network with made-up constant gates is folded. The folded network, a copy of the network without
attention (A/A) and the network with attention are each measured against the network without attention.
"""

import argparse

import torch
from torch import nn

from se_search import SEConfig, create_model, find_sites
from se_search.deployment.deployment import Deployment
from se_search.latency.meter import LatencyMeter, Ratio
from se_search.network.folding import fold_gates
from se_search.network.sites import find_places


def main() -> None:
    """Print each ratio and how many intervals contain 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", default=["mobilenetv3_small_050", "seresnet18"])
    parser.add_argument("--times", type=int, default=5, help="measurements of the folded network and of the copy")
    parser.add_argument("--limit", type=float, default=10.0, help="seconds per measurement")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    deployment = Deployment(threads=arguments.threads)
    for backbone in arguments.backbones:
        attended, folded, without = make_networks(backbone)
        found: dict[str, list[Ratio]] = {"folded": [], "copy": []}
        for seed in range(arguments.times):
            meter = LatencyMeter(without, deployment, limit=arguments.limit, seed=seed)
            for name, network in (("folded", folded), ("copy", without)):
                found[name].append(meter.measure(network))
                print(f"{backbone}, {name}: {show(found[name][-1])}", flush=True)
        print(f"{backbone}, with attention: {show(meter.measure(attended))}")
        for name, ratios in found.items():
            within = sum(ratio.low <= 1 <= ratio.high for ratio in ratios)
            print(f"{backbone}, {name}: {within} of {len(ratios)} intervals contain 1", flush=True)


def make_networks(backbone: str) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Create a network with attention, the same with its gates folded, and one without attention."""
    torch.manual_seed(0)
    sites = find_sites(backbone, position="existing")
    places = find_places(backbone)
    attended = create_model(SEConfig(backbone)).eval()
    gates = {places[site].host: 0.3 + 0.7 * torch.rand(site.channels) for site in sites}
    without = create_model(SEConfig(backbone, removed=sites)).eval()
    return attended, fold_gates(attended, gates).eval(), without


def show(ratio: Ratio) -> str:
    """Format a ratio with its interval and the conditions that matter."""
    busy = "" if ratio.interruptions is None else f", {ratio.interruptions:.0f} interruptions a second"
    return f"{ratio.median:.4f} [{ratio.low:.4f}, {ratio.high:.4f}], {ratio.rounds} rounds{busy}"


if __name__ == "__main__":
    main()
