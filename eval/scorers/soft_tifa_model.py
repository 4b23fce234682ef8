"""What a VLM of transformers would say first, as probabilities of its whole vocabulary."""

from __future__ import annotations

import torch
from PIL import Image

from metabridge.bridge.errors import UserError
from metabridge.eval.judges.local import Local


class Model(Local):
    """A local judge, asked for probabilities in the place of words."""

    @torch.inference_mode()
    def probabilities(self, image: Image.Image, text: str) -> torch.Tensor:
        messages = [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": text}]}]
        inputs = self._processor.apply_chat_template(
            [messages], tokenize=True, return_dict=True, add_generation_prompt=True, return_tensors="pt"
        ).to(self.device, self._model.dtype)
        # in float32: a vocabulary's worth of small numbers is to sum to 1
        likely: torch.Tensor = self._model(**inputs, use_cache=False).logits[0, -1].float().softmax(-1).cpu()
        return likely

    def first_token(self, text: str) -> int:
        tokens: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        if not tokens:
            raise UserError(
                f"vqa {self.identity['id']}: its tokenizer makes nothing of {text!r}; give another model with --model vqa=FOLDER"
            )
        return tokens[0]
