"""Captions as rows of numbers, by a text encoder that was trained elsewhere and stays as it is."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor

from likeli.errors import InputError, MissingExtra, require

AT_ONCE = 64  # captions


class FrozenEncoder:
    """Texts → (n, D): the mean of the encoder's last features over the tokens of a text.

    Its vectors are a condition like any others: `load_data(pictures, labels=encoder(texts))`, and `sample(n, encoder([text]))`.
    Nothing is fetched, no code of the folder's own is run, and weights are read as safetensors only.

    Arguments:
        folder: of a model of `transformers` with its tokenizer: BERT, CLIP, T5 and their like.

    Raises:
        MissingExtra: transformers is not installed.
        InputError: no folder, or not one of such a model.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        require(os.path.isdir(folder), "encoder", "the folder of a text encoder of transformers", str(folder))
        try:
            import transformers
        except ImportError as error:
            raise MissingExtra("transformers", "captions", "a frozen encoder") from error
        safe = {"local_files_only": True, "trust_remote_code": False}
        try:
            self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **safe)
            net = transformers.AutoModel.from_pretrained(folder, use_safetensors=True, **safe)
        except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
            why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise InputError(f"encoder: expected a text encoder of transformers in {folder}, got {why}") from error
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        text = net.get_encoder() if net.config.is_encoder_decoder else getattr(net, "text_model", net)
        self.net = text.eval().requires_grad_(False)
        self.tokens = min(512, getattr(text.config, "max_position_embeddings", 512))

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """n texts → (n, D) float32; a text of more tokens than the encoder takes is cut.

        Raises:
            InputError: no list of texts.
        """
        listed = not isinstance(texts, str) and len(texts) > 0 and all(isinstance(t, str) for t in texts)
        require(listed, "texts", "a list of one or more texts", repr(texts)[:60])
        rows = []
        for first in range(0, len(texts), AT_ONCE):
            part = list(texts[first : first + AT_ONCE])
            read = self.tokenizer(part, padding=True, truncation=True, max_length=self.tokens, return_tensors="pt")
            with torch.inference_mode():
                h = self.net(input_ids=read["input_ids"], attention_mask=read["attention_mask"]).last_hidden_state.float()
            there = read["attention_mask"][..., None].to(h)
            rows.append((h * there).sum(1) / there.sum(1).clamp(min=1))
        return torch.cat(rows).clone()
