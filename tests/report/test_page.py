from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgecompile.checks import limits
from edgecompile.report import CheckReport, page, words
from edgecompile.report.files import write_reports
from edgecompile.report.plots import (
    attention,
    bytes,
    frontier,
    latency,
    layers,
    png,
    shares,
    stages,
)
from tests.report.reports import BROKEN, COSINE, DIRTY, KL, OPEN, SIZE, report, row

EXPLAINED: dict[str, Any] = {
    "manifest_sha256": "ab" * 32,
    "divergence": {"what": "KL", "unit": "nats", "value": 0.1},
    "change": {"toml": "[quantize]", "bytes": 100, "why": "", "bits": {}},
    "layers": [{"layer": "a", "scheme": "int4-g32", "alone_db": 20.0, "cumulative_db": None}],
    "restored": [{"name": "a", "kind": "layer", "gain": 0.1, "measured": True,
                  "bytes_float16": 10, "bytes_int8": 5}],
    "attention": {"divergence": [[0.1, 0.2]], "queries": 3, "tokens": ["<b>", "c"],
                  "maps": [{"layer": 0, "head": 1, "divergence": 0.2,
                            "source": [[1.0]], "found": [[0.5]]}]},
    "saliency": {"source": [0.4, 0.6], "found": [0.5, 0.5], "correlation": 1.0, "tokens": []},
    "notes": ["a note"],
}  # fmt: skip
MANIFEST: dict[str, Any] = {
    "tensors": [{"name": "model.layers.0.self_attn.q_proj.weight", "scheme": "int4-g32",
                 "shape": [64, 64]}],
    "floats": [{"name": "model.norm.weight", "dtype": "float32", "shape": [64]}],
    "files": [{"path": "model/a.onnx", "bytes": 4096}, {"path": "tokenizer/t.json", "bytes": 10}],
    "passes": [{"name": "quantize_rtn", "layers": [
        {"name": f"model.layers.{n}.self_attn.q_proj.weight", "action": "changed",
         "detail": "int4-g32", "error": error, "nearest": 0.2, "of": "outputs"}
        for n, error in ((0, 0.1), (10, 0.05), (2, 0.02))
    ]}],
}  # fmt: skip
STAGES = [
    {"stage": stage, "metric": "kl_mean", "value": value, "samples": 256}
    for stage, value in (("pruned", 0.1), ("distilled", 0.05), ("quantized", 0.5), ("graph", 0.5))
]


def html(found: CheckReport, **more: Any) -> str:
    return page.render(page.Found(found, **more))


def test_the_verdict_is_the_title() -> None:
    assert "<title>m-cpu: fail</title>" in html(report(KL))


def test_what_did_not_pass_is_in_the_banner_with_its_reason() -> None:
    banner = html(report(COSINE, OPEN)).partition("</header>")[0]
    assert "accuracy_ratio" in banner
    assert "256 samples leave [0.96, 0.99]" in banner
    assert "cosine_mean" not in banner


def test_the_culprit_is_named_in_the_banner() -> None:
    banner = html(report(KL), extra={"culprit": "quantized: a.weight"}).partition("</header>")[0]
    assert "At fault: quantized: a.weight." in banner


def test_names_from_a_model_are_text() -> None:
    text = html(report(DIRTY), explained=EXPLAINED)
    assert "&lt;/script&gt;&lt;b&gt;" in text
    assert "<b>&|" not in text


def test_it_has_no_script_and_names_no_other_place() -> None:
    text = html(report(), manifest=MANIFEST, explained=EXPLAINED, extra={"stages": STAGES})
    assert "<script" not in text
    assert not re.search(r"https?://|@import|url\(|src=\"(?!data:)|href=", text)


def test_a_report_alone_is_drawn() -> None:
    assert "All measurements" in html(report())


@pytest.mark.parametrize("key", sorted(EXPLAINED))
def test_an_explanation_may_lack_any_part(key: str) -> None:
    part = {name: value for name, value in EXPLAINED.items() if name != key}
    assert "Explained" in html(report(), explained=part)


@pytest.mark.parametrize("key", sorted(set(EXPLAINED) - {"manifest_sha256"}))
def test_a_part_of_another_shape_does_not_stop_the_page(key: str) -> None:
    for strange in ([1], {"value": "x", "divergence": 1, "tokens": 3}, 7, [[{}]]):
        assert "All measurements" in html(report(), explained=EXPLAINED | {key: strange})


def test_an_explanation_of_other_bytes_is_not_shown(tmp_path: Path) -> None:
    folder = tmp_path / "m-cpu.report"
    folder.mkdir()
    (folder / "explain.json").write_text(json.dumps(EXPLAINED | {"manifest_sha256": "cd" * 32}))
    write_reports(report(), folder)
    assert not (folder / "explain.json").exists()


def test_an_explanation_of_the_same_bytes_stays(tmp_path: Path) -> None:
    folder = tmp_path / "m-cpu.report"
    folder.mkdir()
    (folder / "explain.json").write_text(json.dumps(EXPLAINED))
    write_reports(report(), folder)
    assert "<h2>Explained</h2>" in (folder / "report.html").read_text("utf-8")


def test_a_new_report_is_drawn_in_those_beside_it(tmp_path: Path) -> None:
    for name in ("m-cpu", "m-gguf"):
        write_reports(replace(report(SIZE, COSINE), bundle=name), tmp_path / f"{name}.report")
    assert "m-gguf" in (tmp_path / "m-cpu.report" / "report.html").read_text("utf-8")


def test_another_models_report_is_not_compared() -> None:
    other = replace(report(SIZE, COSINE), model="other")
    assert frontier.frontier(report(SIZE, COSINE), [other]) is None


def test_better_is_up_whichever_way_the_metric_points() -> None:
    for name, good, bad, better in (("cosine_mean", 0.99, 0.9, "higher"),
                                    ("kl_mean", 0.1, 0.2, "lower")):  # fmt: skip
        mine, other = (report(SIZE, row(name, value, None, better)) for value in (good, bad))
        found = frontier.frontier(mine, [other])
        assert found is not None
        high, low = sorted(found.points, key=lambda point: point.top)
        assert (high.quality.value, low.quality.value) == (good, bad)


def test_the_limit_is_a_share_of_one() -> None:
    assert shares.share(COSINE, 0.99) == pytest.approx(1.0)
    assert shares.share(COSINE, 0.999) == pytest.approx(0.1)
    assert shares.share(row("perplexity_ratio", 1.1, 1.2), 1.1) == pytest.approx(0.5)
    assert shares.share(row("decode_speed", 50.0, 25.0, "higher"), 50.0) == pytest.approx(0.5)


def test_an_interval_lies_around_its_dot() -> None:
    found = shares.quality([COSINE, KL, BROKEN])
    assert found is not None
    assert [one.row.metric for one in found.rows] == ["kl_mean", "cosine_mean"]
    assert all(one.low <= one.at <= one.high for one in found.rows)  # type: ignore[operator]


def test_the_stage_that_lost_most_is_marked() -> None:
    (found,) = stages.waterfalls(STAGES, [KL])
    assert [step.stage for step in found.steps if step.most] == ["quantized"]
    assert [step.stage for step in found.steps if not step.worse] == ["distilled"]


def test_stages_that_are_not_numbers_are_left_out() -> None:
    strange = [{"stage": "pruned"}, 3, {"stage": "graph", "metric": "a", "value": None}]
    assert stages.waterfalls(strange, []) == []


def test_every_call_is_in_a_bar() -> None:
    found = latency.latencies([1.0, 2.0, 2.0, 3.0, 10.0, float("nan")])
    assert found is not None
    assert sum(bar.count for bar in found.bars) == found.calls == 5
    assert found.median.text == "2"


def test_one_slow_call_does_not_stretch_the_axis() -> None:
    found = latency.latencies([10.0 + n / 10 for n in range(150)] + [900.0])
    assert found is not None
    assert (found.beyond, found.slowest) == (1, 900.0)
    assert sum(bar.count for bar in found.bars) == 151
    assert found.median.at > 30
    assert "and more" in found.bars[-1].text


def test_the_99th_percentile_needs_a_hundred_calls() -> None:
    few, many = (latency.latencies([float(n) for n in range(1, count)]) for count in (100, 101))
    assert few is not None
    assert many is not None
    assert few.tail is None
    assert many.tail is not None
    assert many.tail.text == "99"


def test_a_decoder_has_a_distribution_of_first_tokens_and_of_the_others() -> None:
    times = {"first_tokens_ms": [5.0] * 5, "tokens_ms": [1.0, 1.2] * 40, "latencies_ms": []}
    assert [one.name for one in latency.distributions(times)] == [
        "the first token", "a token after the first",
    ]  # fmt: skip


def test_a_few_calls_are_no_distribution() -> None:
    assert latency.latencies([1.0, 2.0, 3.0]) is None


def test_blocks_come_in_their_order() -> None:
    (found,) = layers.layer_errors(MANIFEST["passes"])
    assert [bar.block for bar in found.kinds[0].bars] == ["0", "2", "10"]
    assert found.kinds[0].name == "model.layers.*.self_attn.q_proj"
    assert found.kinds[0].worst.block == "0"


def test_the_parts_add_up_to_the_files() -> None:
    parts = bytes.parts(MANIFEST)
    assert sum(part.bytes for part in parts) == 4096 + 10
    assert {part.name for part in parts} == {"attention", "norms", "graph and layout", "tokenizer"}


@pytest.mark.parametrize(
    ("name", "group"),
    [("model.embed_tokens.weight", "embedding"), ("blk.0.attn_norm.weight", "norms"),
     ("encoder.layer.0.attention.output.dense.weight", "attention"),
     ("encoder.layer.0.output.dense.weight", "mlp"), ("lm_head.weight", "head"),
     ("_blocks.0._bn0.weight", "norms"), ("something", "other tensors")],
)  # fmt: skip
def test_a_tensor_is_in_the_group_that_its_name_says(name: str, group: str) -> None:
    assert bytes.group_of(name) == group


def test_a_matrix_is_a_picture_of_its_shape() -> None:
    from base64 import b64decode
    from io import BytesIO

    from PIL import Image

    uri = png.data_uri([[0.0, 0.5, 1.0], [1.0, 0.0, float("nan")]], 1.0)
    image = Image.open(BytesIO(b64decode(uri.partition(",")[2])))
    assert (image.size, image.mode) == ((3, 2), "LA")
    assert [pixel[1] for pixel in image.getdata()] == [0, 128, 255, 255, 0, 0]


def test_what_is_no_matrix_is_no_picture() -> None:
    assert png.data_uri([[1.0], [1.0, 2.0]], 1.0) == png.data_uri([], 1.0) == ""


def test_every_metric_that_has_a_limit_is_explained() -> None:
    metrics = {*limits.TABLE, *limits.EXPORT, *limits.COSTS}
    assert {metric for metric in metrics if not words.meaning(metric)} == set()


def test_a_model_without_attention_says_why() -> None:
    found = attention.attention({"attention": {"why": "it shows none"}})
    assert found is not None
    assert found.why == "it shows none"


def test_a_model_whose_tokens_are_not_weighed_says_why() -> None:
    text = html(report(), explained=EXPLAINED | {"saliency": {"why": "it reads none"}})
    assert "it reads none" in text


def test_each_part_that_attends_has_its_name_and_its_own_tokens() -> None:
    one = EXPLAINED["attention"] | {"name": "cross-attention", "keys": ["<d>"]}
    two = EXPLAINED["attention"] | {"name": "encoder self-attention", "keys": ["<b>", "c"]}
    text = html(report(), explained=EXPLAINED | {"attention": {"parts": [two, one]}})
    assert "<h3>encoder self-attention</h3>" in text
    assert "To the right: <code>&lt;d&gt;</code>" in text
    assert text.count("To the right") == 1


def test_an_answers_tokens_are_told_from_the_texts() -> None:
    part = EXPLAINED["saliency"] | {"answer": 1}
    assert "the last 1: the answer so far" in html(report(), explained={"saliency": part})
