"""The embedded model: the files that were promised, and that it is a fair patient."""

from __future__ import annotations

import hashlib
import json
import math

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from mipo_mlx import tiny
from mipo_mlx.models import chat_template
from mipo_mlx.models.load import load_model
from mipo_mlx.tiny import dialogues, pretrain, world

PROVENANCE = json.loads((tiny.MODEL_DIR / "PROVENANCE.json").read_text())


def test_the_folder_is_small_and_its_hash_is_the_recorded_one() -> None:
    assert sum(path.stat().st_size for path in tiny.MODEL_DIR.iterdir()) <= 8 * 2**20
    weights = (tiny.MODEL_DIR / "model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == PROVENANCE["sha256"]
    assert "mipo_mlx.tiny.pretrain" in PROVENANCE["command"]


def test_stock_mlx_lm_opens_it() -> None:
    from mlx_lm import generate, load

    model, tokenizer = load(str(tiny.MODEL_DIR))[:2]
    count = sum(array.size for _, array in tree_flatten(model.parameters()))
    assert 0.9e6 <= count <= 3e6
    prompt = tokenizer.apply_chat_template(
        [
            {"role": "system", "content": "About me: town Riga, pet gecko."},
            {"role": "user", "content": "Where do I live?"},
        ],
        add_generation_prompt=True,
    )
    assert generate(model, tokenizer, prompt, max_tokens=20) == "You live in Riga."


def test_the_template_is_what_it_was_pretrained_on() -> None:
    lm = load_model("embedded")
    messages = [
        {"role": "system", "content": "About me: town Riga."},
        {"role": "user", "content": "Where do I live?"},
    ]
    given, answer = dialogues.render(
        ("About me: town Riga.", [("Where do I live?", "You live in Riga.")])
    )
    ids = chat_template.prompt_ids(lm.tokenizer, messages, enable_thinking=False)
    assert lm.tokenizer.decode(list(ids)) == given
    said = chat_template.response_ids(
        lm.tokenizer, messages, "You live in Riga.", enable_thinking=False
    )
    assert lm.tokenizer.decode(list(said)) == answer


def test_every_text_of_the_world_survives_the_tokenizer() -> None:
    tokenizer = load_model("embedded").tokenizer
    for user in world.make_users(30, 0, held_out=True):
        text = world.write_context(user, 0)
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
    odd = "Ünïcödé 語 🙂 <b> 12,345"
    assert tokenizer.decode(tokenizer.encode(odd, add_special_tokens=False)) == odd


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("own", 0.40, 0.60),
        ("generic", 0.35, 0.55),
        ("wrong", 0.0, 0.05),
        ("sums_form", 0.95, 1.0),
        ("sums_accuracy", 0.40, 0.80),
        ("choices_form", 0.95, 1.0),
        ("choices_accuracy", 0.40, 0.80),
    ],
)
def test_the_recorded_rates_leave_room_to_learn(name: str, low: float, high: float) -> None:
    assert low <= PROVENANCE["held_out_rates"][name] <= high


def test_a_fresh_sample_agrees_with_the_recorded_rates() -> None:
    rates = pretrain.measure(tiny.MODEL_DIR, count=240, problems=64, seed=77)
    recorded = PROVENANCE["held_out_rates"]
    assert recorded["n"] >= 1000
    for name in ("own", "wrong", "generic", "sums_form", "sums_accuracy", "choices_accuracy"):
        p, n = recorded[name], 64 if "_" in name else rates["n"]
        slack = 4 * math.sqrt(p * (1 - p) / n) + 0.02
        assert abs(rates[name] - p) <= slack, name


def test_pretraining_makes_a_folder_that_opens(tmp_path: object, capsys: object) -> None:
    """A few steps of the real script; the full run takes minutes."""
    mx.random.seed(0)
    folder = pretrain.Path(str(tmp_path))
    tokenizer = pretrain.make_tokenizer(folder, 0)
    vocabulary = math.ceil(len(tokenizer) / 64) * 64
    model = pretrain.build(vocabulary, 0)
    source = pretrain.batches(tokenizer, pretrain.random.Random(0), 1, 2)
    before = pretrain.loss_fn(model, *next(source)).item()
    assert before == pytest.approx(math.log(vocabulary), rel=0.15)
    pretrain.fit(model, tokenizer, 0, [(1, 2), (3, 2), (dialogues.POLISH, 2)], 2, 2e-3)
    pretrain.save(model, folder, vocabulary)
    assert load_model(str(folder)).max_tokens == pretrain.CONFIG["max_position_embeddings"]
