"""How figures, limits and intervals are spelled, and what a metric's name means to a person."""
from __future__ import annotations

import math

from edgecompile.report import Row

SIGNS = {"pass": "✓", "fail": "✕", "unproven": "?", "measured": "·"}
KEPT = "kept_"
MEANING = {
    "accuracy_ratio": "accuracy on the labels, as a share of the source's",
    "alone_error": "one input's answer alone beside its answer among others",
    "audio_error": "how far prepared sound is from the source's own preparation",
    "calibration_error": "confidence beside accuracy, over bins",
    "chat_template_differing": "chats that the template spells otherwise",
    "class_agreement": "inputs that get the class that the source gives",
    "codes_differing": "tensors whose sealed codes or scales are not those chosen",
    "context_kl": "KL divergence at the end of a window as long as the context, mean",
    "cosine_mean": "cosine between the bundle's and the source's vectors, mean",
    "cosine_p1": "the cosine that 1 % of the vectors are worse than",
    "decode_gap": "log p of the likeliest token less that of the one generated, mean",
    "decode_kl": "KL divergence of logits step by step from those at once, mean",
    "decode_speed": "tokens generated a second, after the first",
    "duplicate_tensors": "tensors stored more than once",
    "export_cosine_min": "least cosine to the same codes in torch: what the engine adds",
    "export_kl_mean": "KL divergence from the same codes in torch: what the engine adds",
    "export_length_error": "length of the vectors beside the same codes in torch",
    "export_relative_error": "error beside the same codes in torch: what the engine adds",
    "f1_ratio": "macro F1 on the labels, as a share of the source's",
    "facts_differing": "numbers of the architecture that the file has otherwise",
    "first_token": "time until the first token",
    "floats_differing": "tensors in floats that are not the source's",
    "golden_differing": "shipped golden inputs that get another answer",
    "group_error": "worst group of codes beside the source's weights",
    "greedy_prefix": "share of the generated tokens before the source would take another",
    "kl_mean": "KL divergence of the next token's distribution from the source's, mean",
    "kl_p999": "the KL divergence that one token in 1,000 exceeds",
    "kl_max": "the largest KL divergence of a token",
    "kl_p99": "the KL divergence that one token in 100 exceeds",
    "latency": "time of one call, median",
    "load_time": "time to open the bundle, hashes checked",
    "macro_f1": "F1, the mean over classes",
    "matrix_error": "worst matrix behind a calibrating pass, beside plain rounding",
    "peak_memory": "the process at its largest",
    "perplexity": "perplexity of the bundle",
    "perplexity_ratio": "perplexity, as a multiple of the source's",
    "perplexity_source": "perplexity of the source",
    "picture_error": "how far prepared pixels are from the source's own preparation",
    "rank_correlation": "rank correlation of similarities with the source's",
    "real_time_factor": "seconds of computing a second of sound",
    "recall_at_10": "of the source's ten nearest, those among the bundle's ten",
    "refusal_change": "requests that only one of bundle and source declines",
    "relative_error": "error of the outputs beside the source's",
    "repetition": "runs of generated tokens that came before in the same text",
    "retrieval_recall_ratio": "recall of captions, as a share of the source's",
    "sampler_differing": "draws of the shipped sampler that are not as its options say",
    "schemes_differing": "tensors on another scheme than the recorded options give",
    "settings_differing": "settings of the manifest that the source has otherwise",
    "size": "all files of the bundle",
    "size_vs_float16": "the model's files beside 2 bytes a parameter",
    "source_floats_differing": "tensors in floats whose digest is not the source's",
    "tensors_missing": "tensors of the source that the bundle lacks",
    "tokenizer_differences": "texts that the tokenizer cuts otherwise",
    "top1_agreement": "tokens that the source would also have put first",
    "top5_agreement": "of the source's five likeliest tokens, those among the bundle's five",
    "toxic_rate": "insults a word of the answers to our own safety set",
    "transcript_difference": "words that differ from the source's transcript",
    "weights_digest_differing": "whether the sealed weights are others than those chosen",
    "worst_class_recall": "share found again of the class that is found least",
    "written_differing": "generated texts that are not what their ids say",
    "word_accuracy_ratio": "words recognized, as a share of the source's",
}


def meaning(metric: str) -> str:
    """What a metric measures, for a person; empty where its name has to do."""
    told = MEANING.get(metric.removeprefix(KEPT), "")
    if told and metric.startswith(KEPT):
        return f"{told} (the model before it was made smaller)"
    return told


def number(value: float | None, digits: int = 5) -> str:
    """A figure to that many significant digits; `none` where there is none."""
    if value is None or not math.isfinite(value):
        return "none"
    if abs(value) >= 10**digits:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def valued(row: Row, digits: int = 5) -> str:
    """The value with its unit; to as many decimals as its interval, where those are more."""
    shown, decimals = number(row.value, digits), _decimals(row)
    if math.isfinite(row.value) and decimals > len(shown.partition(".")[2]) and "e" not in shown:
        shown = f"{row.value:,.{decimals}f}"
    return f"{shown} {row.unit}".strip()


def limited(row: Row) -> str:
    """`≥ 0.99`, empty without a limit."""
    if row.limit is None:
        return ""
    return f"{'≥' if row.better == 'higher' else '≤'} {number(row.limit, 6)}"


def interval(row: Row, between: str = " to ") -> str:
    """`0.9912 to 0.9953`: two digits of their distance; empty where samples bound nothing."""
    decimals = _decimals(row)
    return between.join(f"{end:,.{decimals}f}" for end in _ends(row))


def _ends(row: Row) -> tuple[float, ...]:
    if row.low is None or row.high is None or not math.isfinite(row.high - row.low):
        return ()
    return row.low, row.high


def _decimals(row: Row) -> int:
    """Those that show two digits of the interval's width; 0 without an interval."""
    ends = _ends(row)
    if not ends:
        return 0
    width = abs(ends[1] - ends[0]) or abs(ends[1]) or 1.0
    return min(max(1 - math.floor(math.log10(width)), 0), 9)


def needs(row: Row) -> str:
    """How many samples would prove half of what the limit allows; empty where these do."""
    if not row.needed:
        return ""
    return f"{row.needed:,}"


def megabytes(count: float) -> str:
    """Bytes in MB (10^6)."""
    return f"{count / 1e6:,.3g} MB" if count < 1e9 else f"{count / 1e6:,.0f} MB"
