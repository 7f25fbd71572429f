"""Softmax attention with grouped query heads (MHA, GQA, MQA), optional window."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..batch import Moments
from ..ops import Access, Loads, Op
from .base import LayerCache, Reads, Run, State, Weights, alone, elementwise, gemm, layer_kind, split
from .linears import Linear, PlainKind

SUMS = "sums"
"""Key of an op's shape that marks sums to be added over devices that share the heads."""


@layer_kind("attention")
@dataclass(frozen=True, slots=True)
class Attention(PlainKind):
    """Attention of `heads` query heads over `kv_heads` key/value heads.

    Attributes
    ----------
    window : int
        Keys a query sees at most; 0 = all. Chunked local attention (Llama-4) is modelled as a
        window of the chunk's length, an upper bound of what it reads.
    qkv_bias, out_bias : bool
        Whether the projections have biases.
    qk_norm : int
        Weights of query and key norms together.
    gated : bool
        Output gate from the query projection, doubling its width (Qwen3-Next).
    sinks : bool
        One learned sink logit per head (gpt-oss).
    v_dim : int
        Width of a value if it differs from a key (MiMo-V2); 0 = `head_dim`.
    head_gate : bool
        A gate of one column per head (Step-3.5, Laguna).
    k_is_v : bool
        Whether values come from the keys' projection, without separate weights (Gemma 4); both are cached.
    shares : bool
        It reads the cache of a layer before it: no weights of keys and values, nothing is written (Gemma 3n and 4,
        Hunyuan-Large).
    q_rank : int
        Width of the latent that queries come from, with a norm (Step-3); 0 = the hidden state.
    """

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    window: int = 0
    qkv_bias: bool = False
    out_bias: bool = False
    qk_norm: int = 0
    gated: bool = False
    sinks: bool = False
    v_dim: int = 0
    head_gate: bool = False
    k_is_v: bool = False
    shares: bool = False
    q_rank: int = 0

    @property
    def value_dim(self) -> int:
        """Width of a value."""
        return self.v_dim or self.head_dim

    @property
    def _out_width(self) -> int:
        return self.heads * self.value_dim

    @property
    def _q_width(self) -> int:
        return self.heads * self.head_dim + self._out_width * self.gated

    @property
    def _kv_width(self) -> int:
        """Columns of keys and values together."""
        return self.kv_heads * (self.head_dim + self.value_dim)

    @property
    def _in_width(self) -> int:
        """Columns of all projections of the hidden state."""
        query_width = (self.q_rank or self._q_width) + self.heads * self.head_gate
        if self.shares:
            return query_width
        return query_width + self.kv_heads * (self.head_dim + (0 if self.k_is_v else self.value_dim))

    def weights(self) -> tuple[Weights, ...]:
        qkv = self._in_width
        count = self.hidden * (qkv + self._out_width) + self.q_rank * self._q_width
        extra = qkv * self.qkv_bias + self.hidden * self.out_bias + self.qk_norm + self.q_rank
        extra += self.heads * self.sinks
        return Weights("attention", count, count), Weights("other", extra, extra)

    def state(self) -> State:
        if self.shares:
            return State(reads=(Reads(self.window),))
        return State((LayerCache(self._kv_width, self.window),))

    def shard(self, tp: int) -> Attention:
        # Key/value heads are copied once there are fewer of them than devices.
        kv = split(self.kv_heads, tp, "KV heads") if self.kv_heads >= tp else 1
        return replace(self, heads=split(self.heads, tp, "query heads"), kv_heads=kv)

    def linears(self) -> tuple[Linear, ...]:
        """Return the query, key, value and output projections."""
        return (
            Linear("q", self.q_rank or self.hidden, self._q_width),
            Linear("k", self.hidden, self.kv_heads * self.head_dim),
            Linear("v", self.hidden, self.kv_heads * self.value_dim),
            Linear("out", self._out_width, self.hidden),
        )

    def ops(self, moments: Moments, run: Run, loads: Loads | None) -> list[Op]:
        return self.ops_seeing(keys_within(moments, self.window), moments, run)

    def ops_seeing(self, keys: KeySums, moments: Moments, run: Run) -> list[Op]:
        """Return the ops of a step whose queries see `keys`."""
        roped = (self.heads + self.kv_heads * (not self.shares)) * self.head_dim
        normed = roped * bool(self.qk_norm)
        return [
            gemm("qkv", "attention", "attention", moments.tokens, self._in_width, self.hidden, run),
            *([gemm("q_up", "attention", "attention", moments.tokens, self._q_width, self.q_rank, run)]
              if self.q_rank else ()),
            # Where one norm covers all heads: squares, of which devices that share the heads add the sums.
            *(replace(op, shape={**op.shape, SUMS: 1.0})
              for op in alone("qk_sums", "attention", moments.tokens, normed, 1, run)),
            *alone("qk_norm", "attention", moments.tokens, normed, 2, run),
            elementwise("rope", "attention", moments.tokens, roped, 2, run),
            *alone("kv_write", "attention", moments.tokens, self._kv_width * (not self.shares), 2, run),
            *attention_core(self, moments, run, keys),
            gemm("out", "attention", "attention", moments.tokens, self.hidden, self._out_width, run),
        ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class KeySums:
    """Sums over the sequences of a step of the keys that one KV head (or the mean over all) reads.

    Attributes
    ----------
    pairs, kv, rect : float
        Query-key pairs, keys read, and entries of the unmasked score matrices, of prompts.
    decode_pairs, decode_kv : float
        Query-key pairs, and keys read, of decodes.
    window : int
        Longest window; 0 = none.
    """

    pairs: float
    kv: float
    rect: float
    decode_pairs: float
    decode_kv: float
    window: int = 0


def keys_within(moments: Moments, window: int) -> KeySums:
    """Return the keys that a step's queries see within a window; 0 = all."""
    return KeySums(
        moments.prefill_pairs(window), moments.prefill_kv(window), moments.prefill_rect(window),
        moments.decode_pairs(window), moments.decode_kv(window), window,
    )  # fmt: skip


def attention_core(
    spec: Attention, moments: Moments, run: Run, keys: KeySums | None = None, read: float = 1.0
) -> list[Op]:
    """Return the ops of scores, softmax and weighted sum, separately for prefill and decode.

    A prompt's scores pass through memory as `SCORE_PASSES` says. The scores of a decode's one query always stay on
    chip (Duplex: in Logic-PIM's softmax buffers).

    Parameters
    ----------
    keys : KeySums, optional
        What the queries see; without it, all within the window of `spec`.
    read : float
        Share of the KV heads that a decode reads: the heads of its query heads.
    """
    num = run.numerics
    width = spec.heads * (spec.head_dim + spec.value_dim) / 2
    kv_row = spec._kv_width * num.kv_bytes
    seen = keys or keys_within(moments, spec.window)

    def op(phase: str, tokens: float, pairs: float, kv: float, scores: float, seqs: float) -> Op:
        passes = run.score_passes if phase == "prefill" else 0.0
        part = read if phase == "decode" else 1.0
        return Op(
            name=f"attention_{phase}",
            layer="attention",
            kind=f"attention_{phase}",
            phase=phase,
            shape={
                "batch": seqs, "tokens": tokens, "pairs": pairs, "kv": kv,
                "heads_q": spec.heads, "heads_kv": spec.kv_heads if part == 1.0 else spec.kv_heads * part,
                "head_dim": spec.head_dim, "window": seen.window, "decodes": moments.decodes,
                "decode_kv": seen.decode_kv, "joint": float(run.joint), "prompts": moments.prefills,
            },
            dtype=num.default,
            flops=4.0 * width * (scores if passes else pairs),
            act_bytes=num.act_bytes * (2.0 * width * tokens + passes * spec.heads * scores),
            kv_read_bytes=kv_row * part * kv,
            kv_write_bytes=0.0 if spec.shares else kv_row * tokens,
            access=Access("pages", kv_row, 2),
        )  # fmt: skip

    return [
        op("prefill", moments.prefill_tokens, seen.pairs, seen.kv, seen.rect, moments.prefills),
        op("decode", moments.decode_tokens, seen.decode_pairs, seen.decode_kv, seen.decode_pairs, moments.decodes),
    ]
