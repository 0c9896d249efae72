"""``/metrics``: the counts of the scheduler and of HTTP as Prometheus reads them."""

from __future__ import annotations

from collections import Counter

from hantune.infer.scheduler import Histogram, Stats

TYPE = "text/plain; version=0.0.4; charset=utf-8"


def render(stats: Stats, answered: Counter[tuple[str, int]], in_house: int) -> str:
    """The text of all metrics; ``answered``: (route, status) -> requests."""
    lines: list[str] = []

    def add(name: str, kind: str, words: str, *samples: tuple[str, float]) -> None:
        lines.append(f"# HELP hantune_{name} {words}")
        lines.append(f"# TYPE hantune_{name} {kind}")
        lines.extend(f"hantune_{name}{suffix} {value:.15g}" for suffix, value in samples)

    add("up", "gauge", "1 while the scheduler lives.", ("", stats.is_alive))
    add("requests_running", "gauge", "Answers being generated.", ("", stats.running))
    add("requests_queued", "gauge", "Answers waiting for a place.", ("", stats.queued))
    add("http_requests_in_progress", "gauge", "HTTP requests in the house.", ("", in_house))
    add("answers_submitted_total", "counter", "Answers asked for.", ("", stats.submitted))
    finished = [(f'{{reason="{reason}"}}', count) for reason, count in sorted(stats.finished.items())]
    add("answers_finished_total", "counter", "Answers that ended, by how.", *finished)
    add("prompt_tokens_total", "counter", "Prompt tokens of ended answers.", ("", stats.prompt_tokens))
    add("cached_prompt_tokens_total", "counter", "Those that were not computed again.", ("", stats.cached_tokens))
    add("completion_tokens_total", "counter", "Tokens of ended answers.", ("", stats.completion_tokens))
    codes = [(f'{{route="{route}",status="{status}"}}', n) for (route, status), n in sorted(answered.items())]
    add("http_requests_total", "counter", "HTTP requests, by route and status.", *codes)
    for name, histogram, words in (
        ("queue_seconds", stats.queue_seconds, "Wait for a place."),
        ("time_to_first_token_seconds", stats.first_token_seconds, "From arrival to the first token."),
        ("time_between_tokens_seconds", stats.token_seconds, "Between two tokens of an answer."),
        ("request_seconds", stats.request_seconds, "From arrival to the end of an answer."),
    ):
        add(name, "histogram", words, *_buckets(histogram))
    return "\n".join(lines) + "\n"


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Cumulative counts up to each bound, the sum and the count."""
    samples: list[tuple[str, float]] = []
    total = 0
    for bound, count in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
        total += count
        samples.append((f'_bucket{{le="{"+Inf" if bound == float("inf") else f"{bound:g}"}"}}', total))
    return [*samples, ("_sum", histogram.sum), ("_count", total)]
