"""The model, its training-time forward pass, and the two auxiliary losses that make it align.

The forward pass runs the modules of ``WhisperForConditionalGeneration`` itself, because the
library's encoder takes only full windows. Guided attention and frame phones come from espeak's own
timing; without them cross-attention did not form within thousands of clips.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AttentionInterface,
    WhisperConfig,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.models.whisper.modeling_whisper import WhisperAttention

from training.speech import tokenizer
from training.speech.dataset import UNKNOWN_PHONE
from training.speech.windows import IGNORED, MASKED, POSITIONS, Batch

PHONE_WEIGHT = 0.5
GUIDE_WEIGHT = 0.3

# Sinusoidal positions have a mean square of 1/2; with 0.02 the convolutions drown in them.
_INIT_STD = 0.07
_WIDTH = 160


def config(vocabulary: WhisperTokenizer) -> WhisperConfig:
    """A Whisper configuration of a few MB with every token id set to this vocabulary's."""
    end = tokenizer.token_id(vocabulary, tokenizer.END)
    start = tokenizer.token_id(vocabulary, tokenizer.START)
    return WhisperConfig(
        vocab_size=len(vocabulary),
        num_mel_bins=80,
        d_model=_WIDTH,
        encoder_layers=3,
        encoder_attention_heads=_WIDTH // 32,
        encoder_ffn_dim=4 * _WIDTH,
        decoder_layers=3,
        decoder_attention_heads=_WIDTH // 32,
        decoder_ffn_dim=4 * _WIDTH,
        max_source_positions=POSITIONS,
        max_target_positions=448,
        init_std=_INIT_STD,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        decoder_start_token_id=start,
        suppress_tokens=None,
        begin_suppress_tokens=None,
        dropout=0.0,
    )


def create(vocabulary: WhisperTokenizer) -> WhisperForConditionalGeneration:
    """A fresh model. Timestamps start as the sinusoid of the encoder position they name."""
    model = WhisperForConditionalGeneration(config(vocabulary))
    begin = tokenizer.timestamp_begin(vocabulary)
    with torch.no_grad():
        sinusoids = model.model.encoder.embed_positions.weight
        # Timestamp k and position k are the same 20 ms, so attending is then nearly reading it off.
        model.model.decoder.embed_tokens.weight[begin : begin + POSITIONS] = 0.1 * sinusoids
    return model


def _float_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Fused attention in float32: on a CPU, bfloat16 makes products faster but this slower."""
    with torch.autocast(query.device.type, enabled=False):
        query, key, value = query.float(), key.float(), value.float()
        attended, _ = sdpa_attention_forward(module, query, key, value, mask, **options)
    return attended, None


AttentionInterface.register("sdpa_float", _float_attention)


@dataclass
class Losses:
    """Mean losses of a batch in nats."""

    text: Tensor
    phone: Tensor
    guide: Tensor

    @property
    def total(self) -> Tensor:
        return self.text + PHONE_WEIGHT * self.phone + GUIDE_WEIGHT * self.guide


class Trainee(nn.Module):
    """The Whisper model together with the phone classifier that exists only in training."""

    def __init__(self, model: WhisperForConditionalGeneration, phones: int) -> None:
        super().__init__()
        self.whisper = model
        model.set_attn_implementation("sdpa_float")
        self.phone_head = nn.Linear(model.config.d_model, phones)

    def encode(self, batch: Batch) -> Tensor:
        """``[B, T, d_model]`` over the kept positions."""
        encoder = self.whisper.model.encoder
        hidden = self._convolved(batch.mel)
        kept = batch.positions.shape[1] - hidden.shape[1]
        if kept:
            # Away from speech the convolutions see constant frames: their output is one vector.
            still = batch.padding[:, None, None].expand(-1, batch.mel.shape[1], 10)
            silence = self._convolved(still)[:, 2:3]
            hidden = torch.cat([hidden, silence.expand(-1, kept, -1)], dim=1)
        hidden = hidden + encoder.embed_positions.weight[batch.positions]
        mask = batch.bias[:, None, None, :]
        for layer in encoder.layers:
            hidden = layer(hidden, attention_mask=mask)
        return encoder.layer_norm(hidden)  # type: ignore[no-any-return]

    def _convolved(self, mel: Tensor) -> Tensor:
        encoder = self.whisper.model.encoder
        hidden = functional.gelu(encoder.conv1(mel))
        return functional.gelu(encoder.conv2(hidden)).transpose(1, 2)

    def decode(self, batch: Batch, encoded: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Final states ``[B, L, d_model]``, and cross-attentions ``[B, L, T]``.

        The attentions are those of the last layer but one, which should find the word just
        written, and of the last, which should find the word to write.
        """
        decoder = self.whisper.model.decoder
        length = batch.input_ids.shape[1]
        hidden = decoder.embed_tokens(batch.input_ids) + decoder.embed_positions.weight[:length]
        causal = torch.full((length, length), MASKED, device=hidden.device).triu(1)[None, None]
        mask = batch.bias[:, None, None, :]
        guided = [layer.encoder_attn for layer in decoder.layers[-2:]]
        heard: list[Tensor] = []
        handles = [
            part.register_forward_hook(lambda _m, _i, output: heard.append(output))
            for module in guided
            for part in (module.q_proj, module.k_proj)
        ]
        for layer in decoder.layers:
            hidden = layer(
                hidden,
                attention_mask=causal,
                encoder_hidden_states=encoded,
                encoder_attention_mask=mask,
                use_cache=False,
            )
        for handle in handles:
            handle.remove()
        # In a layer the queries are projected before the keys.
        before = _attention(guided[0], heard[0], heard[1], batch.bias)
        last = _attention(guided[1], heard[2], heard[3], batch.bias)
        # Half of the heads before the last layer stay free for what training finds useful.
        heads = before.shape[1] // 2
        return decoder.layer_norm(hidden), before[:, :heads].mean(1), last.mean(1)

    def forward(self, batch: Batch) -> Losses:
        encoded = self.encode(batch)
        states, before, last = self.decode(batch, encoded)
        # What the token at a position names is the label of the position before.
        written = functional.pad(batch.spans[:, :-1], (0, 0, 1, 0), value=-1)
        blocks = batch.phones.shape[1]
        phones = self.phone_head(encoded[:, :blocks])
        labelled = batch.labels != IGNORED
        # Only labelled positions reach the vocabulary: it is the decoder's largest product.
        logits = functional.linear(states[labelled], self.whisper.proj_out.weight)
        return Losses(
            functional.cross_entropy(logits.float(), batch.labels[labelled]),
            functional.cross_entropy(phones.float().transpose(1, 2), batch.phones, ignore_index=UNKNOWN_PHONE),
            _guide_loss(last, batch.spans, batch) + _guide_loss(before, written, batch) / 2,
        )


def _attention(module: WhisperAttention, queries: Tensor, keys: Tensor, bias: Tensor) -> Tensor:
    """Cross-attention weights ``[B, heads, L, T]``; fused kernels do not give them out."""

    def heads(values: Tensor) -> Tensor:
        split = values.view(*values.shape[:-1], module.num_heads, module.head_dim)
        return split.transpose(1, 2)

    with torch.autocast(queries.device.type, enabled=False):
        scores = heads(queries.float() * module.scaling) @ heads(keys.float()).transpose(2, 3)
    return (scores + bias[:, None, None, :]).softmax(-1)


def _guide_loss(attention: Tensor, spans: Tensor, batch: Batch) -> Tensor:
    """-log of the attention mass inside the given span ``[B, L, 2]`` of each token."""
    first, last = spans[..., :1], spans[..., 1:]
    positions = batch.positions[:, None, :]
    inside = (positions >= first) & (positions <= last) & (batch.bias == 0.0)[:, None, :]
    guided = inside.any(-1)
    mass = (attention * inside).sum(-1)[guided]
    return -(mass + 1e-6).log().mean() if guided.any() else attention.sum() * 0.0
