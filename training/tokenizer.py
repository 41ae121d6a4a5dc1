"""The character tokenizer, written as a tokenizer.json that Hugging Face's tokenizers can load."""

from __future__ import annotations

from typing import Any

SPECIAL = ("<pad>", "<s>", "</s>")
CHARACTERS = "0123456789+-*%()=;:?A"
VOCABULARY = {token: i for i, token in enumerate((*SPECIAL, *CHARACTERS))}
PAD, BOS, EOS = 0, 1, 2


def encode(text: str) -> list[int]:
    return [VOCABULARY[char] for char in text]


def tokenizer_json() -> dict[str, Any]:
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": VOCABULARY[token],
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for token in SPECIAL
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": "."},
            "behavior": "Isolated",
            "invert": False,
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "<s>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [
                {"Sequence": {"id": "A", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 1}},
            ],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [BOS], "tokens": ["<s>"]}},
        },
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": VOCABULARY, "unk_token": "<pad>"},
    }
