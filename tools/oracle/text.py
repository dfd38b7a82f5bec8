"""Goldens of tokenisation: a small BART-style tokenizer.json and the ids transformers gives for it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import BartTokenizerFast, PreTrainedTokenizerFast

from .model import VOCAB_SIZE

SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
MASK = AddedToken("<mask>", lstrip=True, special=True)
# X-VLA's own length, and one short enough that most sentences are cut.
LENGTHS = (50, 12)

CORPUS = (
    "pick up the red cube and place it in the bowl",
    "put the white mug on the left plate and the yellow mug on the right plate",
    "open the top drawer and put the bowl inside",
    "close the bottom drawer of the cabinet",
    "turn on the stove and put the moka pot on it",
    "fold the towel in half, then in half again",
    "push the plate to the front of the stove",
    "move the spoon next to the blue towel",
    "stack the green block on the yellow block",
    "pour the water from the bottle into the cup",
    "hand the screwdriver to the other gripper",
    "wipe the table with the sponge",
    "Lift the lid. Put the carrot in the pot. Close the lid.",
    "Pick up the alphabet soup and place it in the basket.",
)

SENTENCES = (
    "pick up the red cube and place it in the bowl",
    "Pick up the RED cube!",
    "",
    " ",
    "   three leading spaces",
    "trailing spaces   ",
    "two  spaces   inside",
    "tab\tand\nnewline\r\nmix",
    "\n",
    "open the drawer's top; don't slam it, we'll see, I'd say they're done",
    "move 10 cm left, then 3.5 cm up (slowly)",
    "temperature: -12.5°C ± 0.3",
    "prends la tasse à café et mets-la à côté de l'évier",
    "hebe den Würfel auf und lege ihn in die Schüssel",
    "把红色的杯子放到盘子里",
    "赤いブロックを持ち上げて",
    "подними красный кубик",
    "ارفع المكعب الأحمر",
    "emoji \U0001f916 picks \U0001f34e up \U0001f44d\U0001f3fd",
    "family \U0001f468\u200d\U0001f469\u200d\U0001f467 joined by zero-width joiners",
    "combining e\u0301 against precomposed \u00e9",
    "no\u00a0break space and \u3000 ideographic space",
    "special <s> tokens </s> inside <pad> the <mask> text <unk>",
    "supercalifragilisticexpialidocious_snake_case-kebab-case/path\\back",
    "$%^&*()[]{}<>~`|\"'",
    "stack the green block on the yellow block and the yellow block on the blue block and the blue block on "
    "the red block and then put all of them into the drawer of the cabinet next to the stove, please. " * 3,
)


def train() -> Tokenizer:
    """A byte-level BPE with BART's special ids, pre-tokeniser and post-processor."""
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - 1,  # <mask> comes last, as in BART
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens([MASK])
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False
    )
    return tokenizer


def write(folder: Path) -> None:
    """Writes the tokenizer, the same with padding and truncation recorded in it, and the expected ids."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train()
    tokenizer.save(str(folder / "tokenizer.json"))

    # transformers saves whatever padding and truncation were last in use; a reader must not obey them.
    used = train()
    used.enable_padding(pad_id=1, pad_token="<pad>", length=8)
    used.enable_truncation(max_length=8)
    used.save(str(folder / "tokenizer_after_use.json"))

    fast = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        bos_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        cls_token="<s>",
        unk_token="<unk>",
        pad_token="<pad>",
        mask_token=MASK,
    )
    bart = _as_bart(folder / "tokenizer.json")
    expected = []
    for length in LENGTHS:
        options = {"padding": "max_length", "truncation": True, "max_length": length}
        ids = fast(list(SENTENCES), **options)["input_ids"]
        if ids != bart(list(SENTENCES), **options)["input_ids"]:
            raise AssertionError("BartTokenizerFast and PreTrainedTokenizerFast disagree")
        expected.append({"max_length": length, "ids": ids})
    _write_expected(folder / "expected.json", expected)


def _as_bart(path: Path) -> BartTokenizerFast:
    """The same vocabulary and merges in transformers' own BART class, which builds the rest itself."""
    model = json.loads(path.read_text(encoding="utf-8"))["model"]
    vocab = model["vocab"] | {MASK.content: VOCAB_SIZE - 1}
    return BartTokenizerFast(vocab=vocab, merges=[tuple(pair) for pair in model["merges"]], mask_token=MASK)


def _write_expected(path: Path, expected: list[dict[str, Any]]) -> None:
    """One line per sentence, so that a difference can be read."""
    lines = ["{", '  "pad_id": 1,', '  "sentences": [']
    lines += _rows(SENTENCES, "    ")
    lines += ["  ],", '  "encodings": [']
    for number, encoding in enumerate(expected):
        lines += ["    {", f'      "max_length": {encoding["max_length"]},', '      "ids": [']
        lines += _rows(encoding["ids"], "        ")
        lines += ["      ]", "    }" + ("," if number + 1 < len(expected) else "")]
    lines += ["  ]", "}"]
    text = "\n".join(lines) + "\n"
    json.loads(text)
    path.write_text(text, encoding="utf-8")


def _rows(values: Sequence[Any], indent: str) -> list[str]:
    rows = [indent + json.dumps(value, ensure_ascii=True) for value in values]
    return [row + "," for row in rows[:-1]] + rows[-1:]
