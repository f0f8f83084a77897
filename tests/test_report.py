"""The report: everything of a result is in it, nothing of a result can act in it, and no personal data unless asked for."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.report import SCHEMA, check, mask, plain, render, write
from zkaudit.attacks.report.quantities import decimal, duration, moment, sentence, size

VOID = {"meta", "br", "wbr", "link", "img", "path", "use", "rect", "line", "circle"}
HOSTILE = """<script>alert(1)</script>"'&$\\frac{_x"""


def share(value: float, half: float = 0.03) -> dict[str, float]:
    return {"value": value, "low": max(0.0, value - half), "high": min(1.0, value + half)}


def token_metrics(recall: float, at_n: float, auc: float) -> dict[str, Any]:
    return {
        "token_recall": share(recall),
        "token_precision": share(min(1.0, recall + 0.05)),
        "token_f1": share(min(1.0, recall + 0.02)),
        "recall_at_n": share(at_n),
        "auc": share(auc, 0.01),
        "token_chance": {"value": 0.021, "low": None, "high": None},
        "position_accuracy": share(0.8 * recall),
        "exact_match": share(0.7 * recall),
        "rouge1": share(0.95 * recall + 0.02),
        "rouge2": share(0.85 * recall),
        "rougeL": share(0.9 * recall),
        "batch_exact": share(0.4 * recall, 0.1),
        "record_success": share(0.5 * recall, 0.1),
    }


def evidence(rank: int, dimension: int, noise: float) -> dict[str, Any]:
    """What a span test on random data looks like."""
    edges = np.linspace(0, 1, 61)
    draw = np.random.default_rng(0)
    far = np.sqrt(stats.beta.rvs((dimension - rank) / 2, rank / 2, size=2000, random_state=1))
    near = np.abs(draw.normal(0, noise, 40))
    spectrum = np.concatenate([np.geomspace(3, 0.02, rank), np.geomspace(1e-7, 1e-9, 12)])
    return {
        "singular_values": spectrum.tolist(),
        "rank": rank,
        "distances": {
            "edges": edges.tolist(),
            "vocabulary": np.histogram(np.concatenate([far, near]), edges)[0].tolist(),
            "true": np.histogram(near, edges)[0].tolist(),
            "null": np.diff(stats.beta.cdf(edges**2, (dimension - rank) / 2, rank / 2)).tolist(),
        },
        "stages": {"candidates": 2000, "tokens_kept": 41, "sequences": 4},
    }


def pii(base: float) -> dict[str, Any]:
    kinds = {"phone": 12, "email": 9, "address": 7, "card": 10, "birth": 8}
    return {
        kind: {
            "records": count,
            "exact": share(max(0.0, base - 0.07 * place), 0.12),
            "normalised": share(max(0.0, base + 0.05 - 0.07 * place), 0.12),
            "edit_distance": {"value": 1.5 + place, "low": 1.0 + place, "high": 2.2 + place},
            "linked": share(max(0.0, base - 0.1 - 0.07 * place), 0.12),
        }
        for place, (kind, count) in enumerate(kinds.items())
    }


def defence(
    name: str,
    perplexity: float,
    static: float,
    adaptive: float,
    front: bool = False,
    epsilon: float | None = None,
    explanation: str = "",
) -> dict[str, Any]:
    return {
        "name": name,
        "explanation": explanation,
        "utility": {"name": "perplexity", "value": perplexity, "better": "lower"},
        "static": share(static),
        "adaptive": share(adaptive),
        "epsilon": epsilon,
        "static_only": static < 0.3 and adaptive > 0.7,
        "front": front,
    }


def synthetic_result() -> dict[str, Any]:
    """A result with every part, invented for these tests."""
    ranks, tokens = [1, 2, 4, 8, 16, 32, 64], [8, 16, 32, 64, 128, 256]
    site = "base_model.model.model.layers.{}.self_attn.{}"
    return {
        "schema": 1,
        "zkaudit": "0.1.0",
        "created": "2026-03-14T15:09:26+00:00",
        "seconds": 424.2,
        "memory_bytes": 1_310_000_000,
        "title": "Customer letters, adapter of rank 16",
        "config": {
            "model": {"source": "micro-llama", "seed": 0},
            "federated": {"optimiser": "sgd", "local_steps": 1, "batch": 4, "longest": 40, "cohort": 1, "learning_rate": 0.01},
            "peft": {"type": "lora", "rank": 16, "target_modules": ["q_proj", "k_proj", "v_proj"]},
        },
        "threat": {
            "name": "passive",
            "capabilities": ["update"],
            "description": "An honest-but-curious server that sees single updates.",
        },
        "environment": {"python": "3.11.2", "torch": "2.13.0", "transformers": "5.24.0", "peft": "0.21.0"},
        "hashes": {"model": "5f" * 32, "config": "a1" * 32, "update 0": "0b" * 32},
        "seeds": {"model": 0, "data": 1, "attacks": 2},
        "verdict": {
            "level": "exposed",
            "sentences": [
                "94% of the distinct tokens of a batch were recovered with certainty (dager).",
                "66% of the records were recovered word for word (dager).",
                "Against an attacker who adapts, these defences help most: DP-SGD.",
            ],
        },
        "meter": {
            "tokens": 38,
            "verdict": "exposed",
            "reason": "the inputs of layer 0 depend on the token alone and n/K is 0.79",
            "groups": [
                {
                    "site": site.format(0, "q_proj"),
                    "dependence": "token",
                    "kinds": ["LoRA A", "LoRA A", "LoRA A"],
                    "capacity": 48,
                    "ratio": 0.79,
                    "regime": "exact",
                },
                {
                    "site": site.format(1, "q_proj"),
                    "dependence": "prefix",
                    "kinds": ["LoRA A"],
                    "capacity": 16,
                    "ratio": 2.4,
                    "regime": "soft",
                },
                {
                    "site": site.format(2, "o_proj"),
                    "dependence": "sequence",
                    "kinds": ["LoRA B"],
                    "capacity": 2,
                    "ratio": 19.0,
                    "regime": "weak",
                },
                {
                    "site": "base_model.model.model.norm",
                    "dependence": "sequence",
                    "kinds": ["bias"],
                    "capacity": 0,
                    "ratio": None,
                    "regime": "none",
                },
            ],
            "tensors": [
                {
                    "name": f"{site.format(layer, part)}.lora_{ab}.default.weight",
                    "shape": [16, 256],
                    "kind": f"LoRA {ab}",
                    "explanation": f"rows lie in the span of {'the inputs' if ab == 'A' else 'A times the inputs'}",
                    "capacity": 16,
                }
                for layer in range(3)
                for part in ("q_proj", "v_proj")
                for ab in "AB"
            ],
            "findings": [
                {"severity": "low", "sentence": "Updates are sent in float32.", "remedy": "Send bfloat16."},
                {
                    "severity": "high",
                    "sentence": "Adapters sit on layer 0, whose inputs are functions of one token.",
                    "remedy": "Leave the first layers without adapters.",
                },
                {
                    "severity": "medium",
                    "sentence": "One client's update is seen by itself.",
                    "remedy": "Add up updates of 16 clients or more.",
                },
            ],
        },
        "attacks": [
            {
                "name": "dager",
                "role": "attack",
                "summary": "search for whole records",
                "claimed": 41,
                "needs": ["update"],
                "seconds": 12.3,
                "memory_bytes": 210_000_000,
                "error": None,
                "metrics": token_metrics(0.94, 0.97, 0.998),
                "pii": pii(0.72),
                "evidence": evidence(38, 256, 0.02),
                "examples": [
                    {
                        "true": "Mary Miller signed up for the newsletter and left the number 555-867-5309.",
                        "recovered": "Mary Miller signed up for the letter and left the number 555-867-5399.",
                        "masked": False,
                        "values": ["Mary Miller", "555-867-5309"],
                    },
                    {
                        "true": "Please send the invoice of █████ █████ to █████@█████ before the end of the month.",
                        "recovered": "Please send the invoice of █████ █████ before the end of month the.",
                        "masked": True,
                        "note": "order lost at the end",
                    },
                ],
            },
            {
                "name": "span test",
                "role": "attack",
                "needs": ["update"],
                "seconds": 0.8,
                "memory_bytes": 80_000_000,
                "error": None,
                "metrics": {
                    k: v for k, v in token_metrics(0.9, 0.95, 0.99).items() if k.startswith(("token", "recall", "auc"))
                },
                "evidence": evidence(16, 64, 0.15),
            },
            {
                "name": "recit",
                "role": "attack",
                "needs": ["update", "auxiliary", "base_model"],
                "seconds": 93.0,
                "memory_bytes": 640_000_000,
                "error": None,
                "metrics": token_metrics(0.61, 0.66, 0.93),
                "pii": pii(0.5),
                "examples": [
                    {"true": "Call 0151 2345678 now", "recovered": "", "masked": False},
                ],
            },
            {
                "name": "lamp",
                "role": "attack",
                "needs": ["update"],
                "seconds": 3.0,
                "error": "the update holds no trained embedding",
            },
            {
                "name": "lm_only",
                "role": "control",
                "needs": [],
                "seconds": 1.4,
                "error": None,
                "metrics": token_metrics(0.22, 0.3, 0.71),
                "pii": pii(0.0),
            },
            {"name": "random", "role": "control", "metrics": token_metrics(0.02, 0.02, 0.5)},
            {"name": "dager, order known", "role": "oracle", "metrics": token_metrics(0.97, 0.98, 0.999)},
        ],
        "funnel": [
            {"stage": "tokens", "share": 0.94},
            {"stage": "positions", "share": 0.75},
            {"stage": "sentences", "share": 0.66},
            {"stage": "PII", "share": 0.47},
        ],
        "phase": {
            "ranks": ranks,
            "tokens": tokens,
            "recall": [[min(1.0, (rank / count) ** 0.6) for count in tokens] for rank in ranks],
            "here": {"rank": 48, "tokens": 38},
        },
        "defences": [
            defence("none", 18.2, 0.94, 0.95),
            defence("bfloat16", 18.2, 0.12, 0.94, explanation="Updates are rounded to bfloat16."),
            defence("int8", 18.3, 0.02, 0.92, explanation="Updates are rounded to 256 levels."),
            defence("clip only", 18.25, 0.93, 0.94, explanation="Clipping rescales errors and leaves the span as it is."),
            defence("noise 0.1", 18.9, 0.05, 0.61, explanation="Gaussian noise of 0.1 times the root mean square."),
            defence("top-k 10 %", 19.6, 0.04, 0.35, front=True, explanation="Only the largest entries are sent."),
            defence(
                "DP-SGD, z = 1",
                24.0,
                0.02,
                0.03,
                front=True,
                epsilon=3.2,
                explanation="Per-example clipping, noise, accountant.",
            ),
            defence("secure sum of 16", 18.2, 0.1, 0.4, front=True, explanation="The server sees sums over 16 clients."),
        ],
        "screen": {
            "verdict": "the base model does not look poisoned",
            "score": 0.14,
            "signals": [
                {
                    "name": "note_gap",
                    "value": 0.12,
                    "threshold": 0.5,
                    "explanation": "Loss on notes with personal data against other text.",
                },
                {"name": "near_equal_rows", "value": 0.61, "threshold": 0.4, "explanation": "Rows of a weight that repeat."},
            ],
            "roc": {"false_positive": [0, 0, 0.1, 0.3, 1], "true_positive": [0, 0.7, 0.9, 0.97, 1], "auc": 0.95},
        },
        "exposure_curves": {
            "batch": {
                "x": [1, 2, 4, 8, 16],
                "recall": [1, 1, 0.94, 0.7, 0.42],
                "low": [1, 0.97, 0.9, 0.62, 0.35],
                "high": [1, 1, 0.97, 0.77, 0.5],
            },
            "length": {"x": [8, 16, 24, 32, 40], "recall": [1, 1, 0.99, 0.97, 0.94]},
            "local_steps": {"x": [1, 2, 4, 8], "recall": [0.94, 0.9, 0.82, 0.66], "lm_only": [0.22, 0.22, 0.22, 0.22]},
            "cohort": {"x": [1, 2, 4, 8, 16], "recall": [0.94, 0.71, 0.48, 0.3, 0.18]},
        },
    }


class Page(HTMLParser):
    """What a browser would make of a page: its elements, texts and whether tags match."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> does not match"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


@pytest.fixture(scope="module")
def full() -> str:
    return render(synthetic_result())


def small_result() -> dict[str, Any]:
    """With one plot of each kind of axes, and a table."""
    whole = synthetic_result()
    return {key: whole[key] for key in ("schema", "verdict", "meter", "phase", "funnel")}


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every place in a result, containers before what they hold."""
    if path:
        yield path, value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from leaves(item, (*path, key))


def changed(result: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    result = copy.deepcopy(result)
    place: Any = result
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return result


def without(result: dict[str, Any], path: tuple[Any, ...]) -> dict[str, Any]:
    result = copy.deepcopy(result)
    place: Any = result
    for key in path[:-1]:
        place = place[key]
    del place[path[-1]]
    return result


PLACES = [path for path, _ in leaves(synthetic_result())]


def test_every_element_is_closed_and_every_id_is_its_own(full: str) -> None:
    page = Page(full)
    assert page.open == []
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_contents_lead_to_every_section(full: str) -> None:
    page = Page(full)
    sections = [attributes["id"] for attributes in page.of("section")]
    links = [attributes["href"] for attributes in page.of("a") if attributes.get("class") != "skip"]
    assert links == [f"#{name}" for name in sections]
    assert len(sections) == 12


def test_page_needs_nothing_else(full: str) -> None:
    page = Page(full)
    assert not {name for name, _ in page.elements} & {"script", "link", "img", "iframe", "object", "image"}
    for _, attributes in page.elements:
        assert not {"src", "srcset", "data"} & set(attributes)
        assert not any(name.startswith("on") for name in attributes)
        for name in ("href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#")
    assert "@import" not in full
    assert all(address.startswith("#") for address in re.findall(r"url\(([^)]*)\)", full))
    assert not re.search("https?://", full)


def test_references_within_plots_lead_somewhere(full: str) -> None:
    page = Page(full)
    ids = {attributes.get("id") for _, attributes in page.elements}
    used = {(a.get("xlink:href") or "")[1:] for a in page.of("use")} | set(re.findall(r"url\(#([^)]*)\)", full))
    assert used
    assert used <= ids


def test_every_colour_of_the_page_is_defined(full: str) -> None:
    assert set(re.findall(r"var\((--\w[\w-]*)\)", full)) <= set(re.findall(r"(--\w[\w-]*):", full))
    assert not re.search(r"#0[1-4]0[1-4]0[1-4]\b", full)  # a stand-in that was left


def test_plots_and_tables_can_be_read_aloud(full: str) -> None:
    page = Page(full)
    plots = page.of("svg")
    assert len(plots) == 11
    assert all(plot["role"] == "img" and plot["aria-label"] for plot in plots)
    assert page.of("th")
    assert all(cell["scope"] in ("col", "row", "rowgroup") for cell in page.of("th"))
    assert len(page.of("caption")) == len(page.of("table"))
    assert len(page.of("h1")) == len(page.of("main")) == 1
    assert page.of("html")[0]["lang"] == "en"


def test_same_result_gives_same_bytes() -> None:
    result = small_result()
    before = copy.deepcopy(result)
    assert render(result) == render(json.loads(json.dumps(result)))
    assert result == before


def test_text_of_a_result_never_becomes_markup(full: str) -> None:
    kept = {"level", "severity", "role", "better", "created"}

    def spoiled(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {key: spoiled(item, key) for key, item in value.items()}
        if isinstance(value, list):
            return [spoiled(item) for item in value]
        return HOSTILE if isinstance(value, str) and key not in kept else value

    result = spoiled(synthetic_result())
    for part in ("config", "hashes", "seeds", "environment", "exposure_curves"):
        result[part][HOSTILE] = result[part].pop(next(iter(result[part])))
    result["attacks"][0]["pii"][HOSTILE] = result["attacks"][0]["pii"].pop("phone")
    result["attacks"][0]["metrics"][HOSTILE] = share(0.5)
    result["attacks"][0]["evidence"]["stages"][HOSTILE] = 3
    page = Page(render(result, show_values=True))
    assert page.open == []
    assert {name for name, _ in page.elements} <= {name for name, _ in Page(full).elements}
    assert page.text.count(HOSTILE) > 60
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)


@pytest.mark.parametrize("text", ["\x00\x1b", "\ud800", "$\\frac{", "_hidden", "", "漢字 \u202e", "a\nb" * 40])
def test_odd_names_can_be_drawn(text: str, tmp_path: Path) -> None:
    result = {"funnel": [{"stage": text, "share": 0.5}], "attacks": [{"name": text, "metrics": {"auc": 0.5}}], "title": text}
    write(result, tmp_path / "report.html")
    assert Page((tmp_path / "report.html").read_text(encoding="utf-8")).open == []


def test_empty_result_has_a_page() -> None:
    page = Page(render({}))
    assert page.open == []
    assert not {name for name, _ in page.elements} & {"section", "nav"}


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_part_may_be_missing(data: st.DataObject) -> None:
    """One part of the result at a time, with some of the things in it taken out, for as long as the schema allows."""
    whole = synthetic_result()
    part = data.draw(st.sampled_from(sorted(whole)))
    result = {part: whole[part]}
    for _ in range(data.draw(st.integers(1, 4))):
        places = [path for path, _ in leaves(result)]
        if places:
            smaller = without(result, data.draw(st.sampled_from(places)))
            if jsonschema.Draft202012Validator(SCHEMA).is_valid(smaller):
                result = smaller
    assert Page(render(result)).open == []


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(PLACES),
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats(-2, 2)
    | st.text(max_size=3)
    | st.just([])
    | st.just({})
    | st.just([None]),
)
def test_schema_is_judged_as_jsonschema_judges_it(path: tuple[Any, ...], value: Any) -> None:
    result = changed(synthetic_result(), path, value)
    valid = jsonschema.Draft202012Validator(SCHEMA).is_valid(result)
    try:
        check(result)
    except AuditError:
        assert not valid
    else:
        assert valid


def test_schema_is_a_schema_and_the_whole_result_follows_it() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(synthetic_result(), SCHEMA)
    check(synthetic_result())


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("verdict", "level"), "fine", "the result's verdict.level is none of exposed, partly exposed, no leak found"),
        (("attacks", 1, "metrics", "auc"), "0.9", "the result's attacks[1].metrics.auc is not a number or an object or null"),
        (("attacks", 2), {"role": "attack"}, "the result's attacks[2] lacks 'name'"),
        (("funnel", 0, "share"), 1.5, "the result's funnel[0].share is above 1"),
        (("phase", "recall", 3, 2), float("nan"), "the result's phase.recall[3][2] is not a finite number"),
        (("schema",), 2, "the result's schema is not 1"),
    ],
)
def test_wrong_place_is_named(path: tuple[Any, ...], value: Any, message: str) -> None:
    with pytest.raises(AuditError) as error:
        check(changed(synthetic_result(), path, value))
    assert str(error.value) == message


def test_result_that_is_no_object_is_refused() -> None:
    with pytest.raises(AuditError, match="the result's top level is not an object"):
        check([])


def test_plain_is_json_of_the_same_values() -> None:
    value = {1: (np.float32(0.5), np.array([[1, 2]])), "p": Path("a/b"), "s": {"b", "a"}, "n": [float("nan"), float("inf")]}
    assert plain(value) == {"1": [0.5, [[1, 2]]], "p": "a/b", "s": ["a", "b"], "n": [None, None]}
    assert plain(synthetic_result()) == synthetic_result()
    with pytest.raises(AuditError, match="cannot hold a complex"):
        plain({"z": 1j})


def test_unmeasured_numbers_are_shown_as_such() -> None:
    page = Page(render({"attacks": [{"name": "a", "metrics": {"auc": float("nan"), "token_f1": 0.25}}]}))
    assert "AUC" not in page.text
    assert "a 0.25" in page.text


def test_unwritable_place_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match=r"cannot write .*: No such file or directory"):
        write({}, tmp_path / "missing" / "report.html")


def test_personal_data_are_hidden_unless_asked_for() -> None:
    attack = synthetic_result()["attacks"][0]
    result = {"attacks": [{"name": attack["name"], "examples": attack["examples"]}]}
    hidden, shown = render(result), render(result, show_values=True)
    for value in ("Mary", "Miller", "5309", "5399"):
        assert value not in hidden
        assert value in shown
    assert render({**result, "config": {"report": {"show_values": True}}}).count("Mary") == 2
    assert "in the clear" in Page(shown).text
    assert "in the clear" not in Page(hidden).text
    assert "###-###-####" in hidden


@settings(deadline=None)
@given(st.text(max_size=60))
def test_masked_text_stays_masked(text: str) -> None:
    masked = mask(text)
    assert mask(masked) == masked
    assert not re.search(r"[0-9]{3}", masked)


@settings(deadline=None)
@given(st.lists(st.from_regex(r"[A-Za-z]{3,8}|[0-9]{1,6}", fullmatch=True), min_size=1, max_size=4), st.data())
def test_no_word_of_a_known_value_is_left(words: list[str], data: st.DataObject) -> None:
    text = " ".join(data.draw(st.permutations([*words, "and", "then"])))
    left = mask(text.upper(), [" ".join(words)]).lower().split()
    assert not {word.lower() for word in words} & set(left)


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("call 555-867-5309 now", "call ###-###-#### now"),
        ("call +49 (0) 151 2345678", "call +## (#) ### #######"),
        ("digits 5 5 5 8 6 7", "digits # # # # # #"),
        ("card 4000 1234 5678 9010.", "card #### #### #### ####."),
        ("born 1980-02-03", "born ####-##-##"),
        ("to ada.l@example.org today", "to █████@█████ today"),
        ("to ada . l @ example . org", "to ada . █████@█████ . org"),
        ("in 12 days, at 7 of 9", "in 12 days, at 7 of 9"),
    ],
)
def test_what_looks_like_personal_data_is_hidden(text: str, hidden: str) -> None:
    assert mask(text) == hidden


def test_gain_is_over_the_language_model_alone() -> None:
    attacks = [
        {"name": "a", "metrics": {"rougeL": share(0.8)}},
        {"name": "random", "role": "control", "metrics": {"rougeL": share(0.1)}},
        {"name": "lm_only", "role": "control", "metrics": {"rougeL": share(0.3)}},
    ]
    text = Page(render({"attacks": attacks})).text
    assert "gain over the control lm_only" in text
    assert "▲ +0.50" in text
    assert "No control was run" in Page(render({"attacks": attacks[:1]})).text


def test_attack_that_is_no_better_than_the_control_is_said_to_be_so() -> None:
    control = {"name": "lm_only", "role": "control", "metrics": {"recall_at_n": share(0.4)}}
    worse, better = ({"name": "a", "metrics": {"recall_at_n": share(value)}} for value in (0.1, 0.5))
    said = "no attack reaches more than lm_only"
    assert said in Page(render({"attacks": [worse, control]})).text
    assert "▼ −0.30" in Page(render({"attacks": [worse, control]})).text
    assert said not in Page(render({"attacks": [better, control]})).text


def test_recall_without_precision_is_a_warning() -> None:
    attack = {"name": "names_all", "metrics": {"token_recall": 1.0, "token_precision": 0.04}}
    assert "names_all (precision 0.04)" in Page(render({"attacks": [attack]})).text
    attack["metrics"]["token_precision"] = 0.9
    assert "(precision" not in Page(render({"attacks": [attack]})).text


def test_attacks_that_recover_nothing_are_named() -> None:
    attack = {"name": "idle", "metrics": {"rouge1": share(0, 0)}, "pii": {"phone": {"records": 3, "exact": 0.0}}}
    text = Page(render({"attacks": [attack]})).text
    assert "Sentences and records: nothing at all (0.00 everywhere) from idle." in text
    assert "Personal data: nothing at all (0.00 everywhere) from idle." in text


def test_oracle_and_control_are_set_apart() -> None:
    attacks = [{"name": name, "role": name, "metrics": {"auc": 0.5}} for name in ("oracle", "control", "attack")]
    page = render({"attacks": attacks})
    text = Page(page).text
    assert text.index("Attacks attack") < text.index("Controls: no use of the update") < text.index("Oracles: upper bounds")
    assert re.search(r'<tr class="oracle"><th scope="row">oracle</th>', page)


def test_win_against_a_static_attacker_alone_is_a_warning() -> None:
    honest = [defence("noise", 20.0, 0.4, 0.5)]
    assert "Static-only win" not in Page(render({"defences": honest})).text
    text = Page(render({"defences": [*honest, defence("int8", 18.0, 0.0, 0.9)]})).text
    assert "Static-only win. An attacker who knows of them recovers far more than one who does not" in text


def test_failed_attack_is_reported_with_its_reason() -> None:
    text = Page(render({"attacks": [{"name": "lamp", "error": "the update is too small"}]})).text
    assert "▲ the update is too small" in text
    assert "1, 1 did not apply" in text


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (decimal(0.9999), "> 0.99"),
        (decimal(1.0), "1.00"),
        (decimal(0.0), "0.00"),
        (decimal(0.001), "< 0.01"),
        (decimal(None), "–"),
        (duration(0.01), "< 0.1 s"),
        (duration(59.7), "1 min"),
        (duration(3725), "1 h 2 min"),
        (size(512), "512 B"),
        (size(1.5 * 2**30), "1.5 GiB"),
        (moment("2026-03-14T16:09:26+01:00"), "2026-03-14 15:09 UTC"),
        (moment("yesterday"), "yesterday"),
        (sentence("it leaks"), "It leaks."),
        (sentence("Does it?"), "Does it?"),
    ],
)
def test_quantities_read_well(shown: str, expected: str) -> None:
    assert shown == expected
