"""Counts as text."""

from __future__ import annotations

from collections import Counter

from hantune.infer.scheduler import Stats
from hantune.serve.metrics import render


def test_large_counts_are_exact_and_buckets_add_up() -> None:
    stats = Stats(prompt_tokens=123_456_789_012, finished={"stop": 2})
    for seconds in (0.001, 0.03, 0.03, 7.0, 1000.0):
        stats.request_seconds.seen(seconds)
    lines = render(stats, Counter({("/health", 200): 3}), 5).splitlines()
    assert "hantune_prompt_tokens_total 123456789012" in lines
    assert 'hantune_http_requests_total{route="/health",status="200"} 3' in lines
    assert "hantune_http_requests_in_progress 5" in lines
    buckets = [line for line in lines if line.startswith("hantune_request_seconds_bucket")]
    counts = [int(line.rpartition(" ")[2]) for line in buckets]
    assert counts == sorted(counts)
    assert 'hantune_request_seconds_bucket{le="0.05"} 3' in buckets
    assert buckets[-1] == 'hantune_request_seconds_bucket{le="+Inf"} 5'
    assert "hantune_request_seconds_sum 1007.061" in lines
    assert "hantune_request_seconds_count 5" in lines
