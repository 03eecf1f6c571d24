"""A reward model: a decoder whose head is one number, read at a text's last token. Folders are transformers' own.

`AutoModelForSequenceClassification` (num_labels=1) loads what is written here with equal scores, and its folders of
the same kind are read here. Not here: training (train/preference.py), texts and prompts, what a score is worth.

T tokens of all sequences in a row, S sequences, D hidden_size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from doran.arch.config import FAMILIES, load_config
from doran.base.batches import by_tokens
from doran.base.errors import ArtifactError
from doran.base.files import read_json, write_json
from doran.formats.names import unstack
from doran.formats.safetensors_folder import write_folder
from doran.layers.attention import PackedAttend
from doran.layers.moe import RouterStats
from doran.models.decoder import Decoder
from doran.models.source import FolderSource, plain
from doran.models.weights import read_decoder

HEAD = "score.weight"
KIND = "ForSequenceClassification"


class RewardModel(nn.Module):
    """`decoder` without lm_head and MTP, and `score`, a (1, D) matrix."""

    def __init__(self, decoder: Decoder, score: nn.Linear) -> None:
        super().__init__()
        self.decoder, self.score = decoder, score

    @classmethod
    def on(cls, decoder: Decoder, seed: int = 0, pad_id: int | None = None) -> RewardModel:
        """A fresh head on a language model, whose own head goes: N(0, 1 / (D + 1)) (Stiennon et al. 2009.01325).

        `pad_id`: the config's pad_token_id. transformers reads the score at the last token that is another one.
        """
        width = decoder.config.hidden_size
        score = nn.Linear(width, 1, bias=False)
        with torch.no_grad():
            score.weight.normal_(0.0, (width + 1) ** -0.5, generator=torch.Generator().manual_seed(seed))
        decoder.lm_head = None
        del decoder.model.layers[decoder.config.num_hidden_layers :]
        decoder.config = replace(
            decoder.config, num_nextn_predict_layers=0, tie_word_embeddings=True, pad_token_id=pad_id
        )
        return cls(decoder, score)

    def forward(self, tokens_T: Tensor, borders: Sequence[int], stats: RouterStats | None = None) -> Tensor:
        """Scores (S,), fp32, of sequences laid end to end: number s is tokens_T[borders[s]:borders[s + 1]]."""
        edges = torch.tensor(borders)
        positions_T = torch.arange(len(tokens_T)) - edges[:-1].repeat_interleave(edges.diff())
        h_TD = self.decoder(tokens_T, positions_T, PackedAttend(edges.int()), stats)
        with torch.autocast(h_TD.device.type, enabled=False):
            return self.score(h_TD[edges[1:] - 1].float())[:, 0]

    def read(self, sequences: Sequence[Sequence[int]], stats: RouterStats | None = None) -> Tensor:
        """`forward` of lists of ids, none of them empty."""
        borders = [0]
        for ids in sequences:
            borders.append(borders[-1] + len(ids))
        return self(torch.tensor([i for ids in sequences for i in ids]), borders, stats)

    @torch.no_grad()
    def scores(self, sequences: Sequence[Sequence[int]], tokens_per_batch: int = 8192) -> list[float]:
        """The scores of many sequences, in batches of neighbours in length."""
        found = [0.0] * len(sequences)
        for batch in by_tokens([len(ids) for ids in sequences], tokens_per_batch):
            for i, value in zip(batch, self.read([sequences[i] for i in batch]).tolist(), strict=True):
                found[i] = value
        return found


def load_reward(folder: str | Path, dtype: torch.dtype = torch.float32) -> RewardModel:
    """Read a reward model's folder. ArtifactError where it is none, or gives more than one number."""
    folder = Path(folder)
    load_config(folder)  # its own errors first
    if not any(str(kind).endswith(KIND) for kind in read_json(folder / "config.json").get("architectures") or ()):
        raise ArtifactError(f"{folder} is no reward model", hint="make one with doran reward-model")
    source = FolderSource(folder, heads=(HEAD,))
    if source.is_quantized:
        raise ArtifactError(f"{folder}: a quantised reward model cannot be read", hint="name the folder it came from")
    shape = source.files.shape(HEAD) if HEAD in source.files else None
    if shape != (1, source.config.hidden_size):
        raise ArtifactError(
            f"{folder}: {HEAD} is {shape and list(shape)}, a reward model's is [1, {source.config.hidden_size}]",
            hint="name a model with one label (num_labels=1)",
        )
    source.config = replace(source.config, num_nextn_predict_layers=0)
    model = RewardModel.on(read_decoder(source, dtype), pad_id=source.config.pad_token_id)
    with torch.no_grad():
        model.score.weight.copy_(plain(source.get(HEAD)))
    return model


@torch.no_grad()
def save_reward(model: RewardModel, folder: str | Path) -> None:
    """Write config.json and the weights as transformers' sequence classifier with one label, named reward."""
    folder, decoder = Path(folder), model.decoder
    (folder / "config.json").unlink(missing_ok=True)
    held = dict(decoder.named_parameters()) | dict(decoder.named_buffers())
    named = [pair for parameter, value in held.items() for pair in unstack(parameter, value.detach())]
    write_folder(folder, [*named, (HEAD, model.score.weight)])
    stored = str(decoder.dtype).removeprefix("torch.")
    config = replace(decoder.config, torch_dtype=stored, quantization_config=None).to_hf()
    kind = FAMILIES[decoder.config.model_type].replace("ForCausalLM", KIND)
    labels = {"architectures": [kind], "id2label": {"0": "reward"}, "label2id": {"reward": 0}}
    write_json(folder / "config.json", config | labels)
