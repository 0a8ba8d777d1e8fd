"""Times several ways of doing the same thing on one GPU, turn and turn about.

A contender is a list of calls, one for each set of buffers; sets are as many as it takes to leave
the L2 cache behind. Its calls become one CUDA graph, replayed between two events. A round replays
every contender once, in order, the next round in reverse (ABBA), so that a drift of the clock meets
all alike.
"""
import math
import statistics

import torch

SAMPLE_US = 400  # at least this long is a sample, so that an event's 0.5 us resolution is 0.1 %


def sets_beyond_cache(bytes_moved, most=64):
    """Sets of buffers that hold three times the L2 cache of the current device."""
    cache = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
    return min(most, max(1, math.ceil(3 * cache / max(1, bytes_moved))))


def capture(calls, repeats):
    """A graph of every call in turn, `repeats` times. What calls return is kept, or the graph's
    memory pool would give one set's outputs the addresses of another's, still warm."""
    graph, kept = torch.cuda.CUDAGraph(), []
    with torch.cuda.graph(graph):
        for _ in range(repeats):
            kept = [call() for call in calls]
    return graph, kept


def replay_us(graph):
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    graph.replay()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) * 1e3


def samples_us(contenders, rounds):
    """{name: rounds samples of microseconds a call} of {name: calls}, interleaved."""
    for calls in contenders.values():
        for call in calls:  # what a first call compiles, loads or tunes
            call()
    torch.cuda.synchronize()
    first = {name: capture(calls, 1) for name, calls in contenders.items()}
    sets = {name: len(calls) for name, calls in contenders.items()}
    quickest = min(min(replay_us(graph) for _ in range(3)) for graph, _ in first.values())
    repeats = max(1, math.ceil(SAMPLE_US / max(quickest, 1.0)))
    del first
    graphs = {name: capture(calls, repeats) for name, calls in contenders.items()}
    for graph, _ in graphs.values():
        graph.replay()

    samples = {name: [] for name in contenders}
    for turn in range(rounds):
        order = list(graphs) if turn % 2 == 0 else list(graphs)[::-1]
        events = {}
        torch.cuda._sleep(400_000)  # 0.2 ms: the host gets ahead, so that no sample holds a launch
        for name in order:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            graphs[name][0].replay()
            end.record()
            events[name] = (begin, end)
        torch.cuda.synchronize()
        for name, (begin, end) in events.items():
            samples[name].append(begin.elapsed_time(end) * 1e3 / (sets[name] * repeats))
    return samples


def ratio(numerator, denominator):
    """(ratio of the medians, 5 % and 95 % quantile of the ratios of each round)."""
    each = sorted(a / b for a, b in zip(numerator, denominator))
    quantile = lambda q: each[min(len(each) - 1, int(q * len(each)))]
    medians = statistics.median(numerator) / statistics.median(denominator)
    return medians, quantile(0.05), quantile(0.95)
