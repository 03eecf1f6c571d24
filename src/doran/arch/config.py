"""The shape of a model: one frozen table for every family, with the hub's own key names. Builds nothing.

`ModelConfig.from_hf` reads a config.json, `to_hf` writes one that transformers loads. Every key is either understood,
or known to be without effect here (`_IGNORED`), or refused: a key that is silently dropped is a model that is silently
wrong. Behaviour hangs on these values only, never on a size: DeepSeek's own code ties the router bias to width 7168.
"""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from doran.arch.rope_scaling import RopeScaling, read_rope
from doran.base.errors import ArtifactError, ConfigError

FAMILIES = {
    "deepseek_v3": "DeepseekV3ForCausalLM",
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
# Known to change nothing in our forward pass: bookkeeping, training-time switches, sizes that follow from others.
_IGNORED = {
    "add_cross_attention", "architectures", "attention_dropout", "attn_implementation", "auto_map", "aux_loss_alpha",
    "chunk_size_feed_forward", "cross_attention_hidden_size", "decoder_start_token_id", "ep_size", "finetuning_task",
    "id2label", "is_decoder", "is_encoder_decoder", "label2id", "max_window_layers", "output_attentions",
    "output_hidden_states", "output_router_logits", "prefix", "pretraining_tp", "problem_type", "pruned_heads",
    "qk_head_dim", "return_dict", "rope_parameters", "router_aux_loss_coef", "sep_token_id", "seq_aux",
    "sliding_window", "task_specific_params", "tie_encoder_decoder", "tokenizer_class", "torchscript",
    "transformers_version", "transformers.js_config", "unsloth_fixed", "unsloth_version", "use_bfloat16", "use_cache",
    "use_mrope",
}  # fmt: skip
# Understood, but only with these values; anything else would need code we do not have.
_ONLY: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "moe_layer_freq": (1,),
    "scoring_func": ("sigmoid",),
    "topk_method": ("noaux_tc",),
    "use_sliding_window": (False, None),
}
_RENAMED = {
    "num_mtp_layers": "num_nextn_predict_layers",
    "dtype": "torch_dtype",
    "num_local_experts": "n_routed_experts",
}
_REQUIRED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
_REQUIRED_MLA = ("q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
_REQUIRED_MOE = (
    "n_routed_experts", "num_experts_per_tok", "moe_intermediate_size", "n_shared_experts", "first_k_dense_replace",
    "n_group", "topk_group", "routed_scaling_factor",
)  # fmt: skip
_MLA_AND_MOE = {*_REQUIRED_MLA, *_REQUIRED_MOE, "norm_topk_prob", "rope_interleave", "masked_group_score"} | {
    "num_nextn_predict_layers"
}


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A model's shape. `num_key_value_heads` and `head_dim` of 0 mean: follow from the others, as transformers does."""

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int  # of the dense SwiGLU
    num_hidden_layers: int  # without MTP
    num_attention_heads: int
    num_key_value_heads: int = 0  # MLA: always num_attention_heads, its keys are made for each
    head_dim: int = 0  # MLA: always qk_rope_head_dim, as transformers has it
    max_position_embeddings: int = 4096
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    initializer_range: float = 0.02
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    pad_token_id: int | None = None
    torch_dtype: str | None = None  # of the stored weights; informs, decides nothing
    quantization_config: dict[str, Any] | None = None  # FP8 blocks, or our groups (formats/quant.py), on disk

    # MLA (DeepSeek-V3 s2.1.1)
    q_lora_rank: int | None = None
    kv_lora_rank: int = 0
    qk_nope_head_dim: int = 0
    qk_rope_head_dim: int = 0
    v_head_dim: int = 0
    rope_interleave: bool = True  # pairs are (x0, x1), (x2, x3), ... as the released weights expect

    # Experts (DeepSeek-V3 s2.1.2)
    n_routed_experts: int = 0
    num_experts_per_tok: int = 0
    moe_intermediate_size: int = 0
    n_shared_experts: int = 0
    first_k_dense_replace: int = 0
    n_group: int = 1
    topk_group: int = 1
    norm_topk_prob: bool = True
    routed_scaling_factor: float = 1.0
    # Score of experts outside the kept groups. "-inf" is DeepSeek's reference and today's transformers, and the only
    # one that keeps the promise of `topk_group`: with "zero" (transformers until 2025) a masked expert beats a kept
    # one whose biased score is negative. Our own key; written only when it is not the default.
    masked_group_score: str = "-inf"

    num_nextn_predict_layers: int = 0  # MTP modules (DeepSeek-V3 s2.2)

    def __post_init__(self) -> None:
        if self.model_type not in FAMILIES:
            raise ConfigError(f"unknown architecture {self.model_type!r}", hint=f"known: {', '.join(FAMILIES)}")
        for name, value in self._derived().items():
            object.__setattr__(self, name, value)
        self._check_sizes()
        if self.is_mla:
            self._check_mla()
        if self.n_routed_experts:
            self._check_experts()
        method = (self.quantization_config or {"quant_method": "fp8"}).get("quant_method")
        if method not in ("fp8", "doran"):
            raise ConfigError(f"quantization_config: quant_method is {method!r}, only 'fp8' and 'doran' are supported",
                              hint="use the unquantised weights")  # fmt: skip

    def _derived(self) -> dict[str, Any]:
        eos, heads = self.eos_token_id, self.num_attention_heads
        return {
            "num_key_value_heads": heads if self.is_mla else self.num_key_value_heads or heads,
            "head_dim": self.qk_rope_head_dim if self.is_mla else self.head_dim or _share(self),
            "eos_token_id": tuple(eos) if isinstance(eos, list) else eos,
        }

    def _check_sizes(self) -> None:
        for name in (*_REQUIRED, "max_position_embeddings", "num_key_value_heads", "head_dim"):
            value = getattr(self, name)
            if not isinstance(value, int) or value <= 0:
                raise ConfigError(f"{name} is {value!r}, must be a positive whole number")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ConfigError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads {self.num_key_value_heads}"
            )
        if not self.is_mla and self.head_dim % 2:
            raise ConfigError(f"head_dim {self.head_dim} must be even for rotary positions")
        if not self.is_mla and (self.n_routed_experts or self.num_nextn_predict_layers or self.kv_lora_rank):
            raise ConfigError(f"{self.model_type} has no experts, MTP or MLA", hint="use model_type deepseek_v3")

    def _check_mla(self) -> None:
        for name in ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} is {getattr(self, name)!r}, must be positive for {self.model_type}")
        if self.q_lora_rank is not None and self.q_lora_rank <= 0:
            raise ConfigError(f"q_lora_rank is {self.q_lora_rank}, must be positive or null")
        if self.qk_rope_head_dim % 2:
            raise ConfigError(f"qk_rope_head_dim {self.qk_rope_head_dim} must be even")
        if not self.n_routed_experts and self.first_k_dense_replace < self.num_hidden_layers:
            raise ConfigError("n_routed_experts is 0 but some layers are to have experts",
                              hint=f"set first_k_dense_replace to {self.num_hidden_layers}")  # fmt: skip

    def _check_experts(self) -> None:
        per_group, rest = divmod(self.n_routed_experts, max(1, self.n_group))
        if self.n_group < 1 or rest:
            raise ConfigError(f"n_routed_experts {self.n_routed_experts} is not a multiple of n_group {self.n_group}")
        if per_group < 2:
            raise ConfigError(
                f"n_group {self.n_group} leaves {per_group} expert a group; a group's score is its best two"
            )
        if not 1 <= self.topk_group <= self.n_group:
            raise ConfigError(f"topk_group {self.topk_group} must be between 1 and n_group {self.n_group}")
        if not 1 <= self.num_experts_per_tok <= per_group * self.topk_group:
            raise ConfigError(
                f"num_experts_per_tok {self.num_experts_per_tok} must be between 1 and the "
                f"{per_group * self.topk_group} experts of the kept groups"
            )
        if self.moe_intermediate_size <= 0:
            raise ConfigError(f"moe_intermediate_size is {self.moe_intermediate_size}, must be positive")
        if self.masked_group_score not in ("-inf", "zero"):
            raise ConfigError(f"masked_group_score is {self.masked_group_score!r}", hint='use "-inf" or "zero"')

    @property
    def is_mla(self) -> bool:
        """Whether attention is multi-head latent."""
        return self.model_type == "deepseek_v3"

    @property
    def qk_head_dim(self) -> int:
        """Query and key width of one head."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim if self.is_mla else self.head_dim

    @property
    def rope_dim(self) -> int:
        """How many dimensions of a head are rotated."""
        return self.qk_rope_head_dim if self.is_mla else self.head_dim

    @property
    def qkv_bias(self) -> bool:
        """Whether q, k and v (or MLA's down projections) have a bias; Qwen2's always do."""
        return self.attention_bias or self.model_type == "qwen2"

    @property
    def softmax_scale(self) -> float:
        """1/sqrt(width), times YaRN's temperature for MLA: 0.13523378 for DeepSeek-V3."""
        scale: float = self.qk_head_dim**-0.5
        return scale * self.rope_scaling.softmax_factor if self.is_mla and self.rope_scaling else scale

    def is_moe(self, layer: int) -> bool:
        """Whether `layer` (counted from 0, MTP modules after the last) has routed experts."""
        return self.n_routed_experts > 0 and layer >= self.first_k_dense_replace

    @classmethod
    def from_hf(cls, raw: dict[str, Any], where: str = "config.json") -> ModelConfig:
        """Read the keys of a config.json. Unknown keys, values and architectures are a ConfigError."""
        model_type = raw.get("model_type")
        if model_type not in FAMILIES:
            raise ConfigError(f"{where}: unknown architecture {model_type!r}", hint=f"known: {', '.join(FAMILIES)}")
        keys = {_RENAMED.get(k, k): v for k, v in raw.items()}
        _refuse_unknown(keys, where, model_type)
        required = _REQUIRED + ((_REQUIRED_MLA + _REQUIRED_MOE) if model_type == "deepseek_v3" else ())
        missing = [k for k in required if k not in keys]
        if missing:
            raise ConfigError(f"{where}: {missing[0]} is missing")
        known = {f.name for f in fields(cls)}
        values = {k: v for k, v in keys.items() if k in known and (v is not None or k == "q_lora_rank")}
        if model_type == "qwen3":
            values.setdefault("head_dim", 128)  # transformers' default for the family
        try:
            values["rope_theta"], values["rope_scaling"] = read_rope(raw, values.get("max_position_embeddings", 4096))
            return cls(**values)
        except (ConfigError, TypeError) as error:  # TypeError: a word where a number belongs
            raise ConfigError(f"{where}: {error}") from None

    def to_hf(self) -> dict[str, Any]:
        """The config.json that transformers reads, with the keys of this family only."""
        out: dict[str, Any] = {"architectures": [FAMILIES[self.model_type]]}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in _MLA_AND_MOE and not self.is_mla:
                continue
            if field.name == "mlp_bias" and self.model_type != "llama":
                continue
            if value is None and field.name not in ("q_lora_rank", "pad_token_id", "bos_token_id", "eos_token_id"):
                continue
            out[field.name] = list(value) if isinstance(value, tuple) else value
        out["rope_scaling"] = self.rope_scaling.to_hf() if self.rope_scaling else None
        out["hidden_act"] = "silu"
        if self.is_mla:
            out |= {"head_dim": self.qk_rope_head_dim, "scoring_func": "sigmoid", "topk_method": "noaux_tc"}
        if self.masked_group_score == "-inf":
            out.pop("masked_group_score", None)
        return out


def _share(config: ModelConfig) -> int:
    """Each head's equal share of hidden_size."""
    return config.hidden_size // max(1, config.num_attention_heads)


def _refuse_unknown(keys: dict[str, Any], where: str, model_type: str) -> None:
    known = {f.name for f in fields(ModelConfig)} | _IGNORED | set(_ONLY) | {"layer_types"}
    for key, value in keys.items():
        if key in _ONLY and value not in _ONLY[key]:
            raise ConfigError(f"{where}: {key} is {value!r}, only {_ONLY[key][0]!r} is supported")
        if key == "layer_types" and set(value or ()) - {"full_attention"}:
            raise ConfigError(f"{where}: layer_types has {sorted(set(value))}, only 'full_attention' is supported")
        if key not in known and not key.startswith("_"):
            near = difflib.get_close_matches(key, sorted(known), n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it is not a key of {model_type} that doran knows"
            raise ConfigError(f"{where}: unknown key {key!r}", hint=hint)


def load_config(folder: str | Path) -> ModelConfig:
    """Read `folder`/config.json; a missing or unreadable file is an ArtifactError."""
    path = Path(folder) / "config.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing", hint="name a finished model folder") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}", hint="copy the file again") from None
    if not isinstance(raw, dict):
        raise ArtifactError(f"{path} holds no table", hint="copy the file again")
    return ModelConfig.from_hf(raw, where=str(path))
