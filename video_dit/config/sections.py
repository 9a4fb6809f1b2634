"""Every setting, its default and its meaning: one frozen dataclass per section."""

import dataclasses
from typing import Literal

from video_dit.config.ingest import Ingest

Split = Literal["split", "refuse"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mesh:
  """Sizes of the mesh axes; `data` takes the remaining devices."""

  fsdp: int = 1
  tensor: int = 1
  context: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Media:
  """How media files become clips.

  Attributes:
    frames_per_second: rate that clips are resampled to; 0 keeps each file's own.
    max_pixels: pixel budget of one frame; larger frames are scaled down to it.
    max_frames: longest clip, in frames at `frames_per_second`.
    min_frames: shortest clip of a video file; shorter ones are rejected.
    min_side: least height and width in pixels of a source file.
    long: `split` cuts longer videos into several clips, `refuse` rejects them.
    max_source_pixels: limit on the declared and decoded pixels of one source frame.
    max_seconds: limit on the duration of one source file.
    timeout_seconds: limit on the time spent on one file.
    keep_truncated: keep what decodes before the first damage, else reject the file.
    workers: processes that probe and decode.
    validation_fraction: share of source files, chosen by their bytes, whose clips are the
      validation split, unless the manifest says otherwise.
    shard_records: records in one ArrayRecord file.
    tile_pixels: most pixels of a frame that are encoded at once, limited by device
      memory. Larger frames are encoded in overlapping tiles.
  """

  frames_per_second: float = 24.0
  max_pixels: int = 384 * 688
  max_frames: int = 121
  min_frames: int = 2
  min_side: int = 8
  long: Split = "split"
  max_source_pixels: int = 64_000_000
  max_seconds: float = 4 * 3600.0
  timeout_seconds: float = 300.0
  keep_truncated: bool = False
  workers: int = 2
  validation_fraction: float = 0.02
  shard_records: int = 512
  tile_pixels: int = 2_097_152


@dataclasses.dataclass(frozen=True, kw_only=True)
class Autoencoder:
  """The causal 3D-convolution autoencoder.

  Attributes:
    checkpoint: folder that the autoencoder's training run exported, or a published
      checkpoint (docs/checkpoints.md); empty only where the autoencoder itself is
      trained. For a published one, set only `channels`, `space` and `time` here.
    channels: latent channels.
    space: pixels per latent row and column; a power of two times `patch`.
    time: frames per latent frame, after the first; a power of two.
    patch: pixels folded into channels before the first convolution.
    widths: channels of each level, finest first. The first log2(space / patch) level
      ends halve space, the last log2(time) level ends halve time.
    blocks: residual blocks of each level.
    factorized: residual blocks convolve over space, then over time: cheaper.
  """

  checkpoint: str = ""
  channels: int = 16
  space: int = 8
  time: int = 4
  patch: int = 1
  widths: tuple[int, ...] = (96, 192, 384, 384)
  blocks: int = 2
  factorized: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Text:
  """Tokenizer and text encoder.

  Attributes:
    tokenizer: a SentencePiece model file, or the folder of a published tokenizer. Empty
      takes the one beside the checkpoint, or trains one on the captions.
    checkpoint: folder or file of a published T5 v1.1, UMT5 or CLIP text encoder
      (docs/checkpoints.md), whose sizes then replace those here; or the `text` folder of
      a data set. Empty draws frozen random weights.
    dtype: of the arithmetic, and of a published encoder's weights in memory.
    vocabulary: pieces of a tokenizer trained here.
    width, depth, heads, head_size, mlp_width: the encoder's sizes (T5's d_model,
      num_layers, num_heads, d_kv, d_ff).
    buckets, max_distance: relative position buckets.
    max_tokens: longest caption in tokens, end of sequence included; longer ones are
      cut and counted.
    seed: seed of random weights.
  """

  tokenizer: str = ""
  checkpoint: str = ""
  dtype: Literal["float32", "bfloat16"] = "float32"
  vocabulary: int = 256
  width: int = 4096
  depth: int = 24
  heads: int = 64
  head_size: int = 64
  mlp_width: int = 10240
  buckets: int = 32
  max_distance: int = 128
  max_tokens: int = 226
  seed: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiT:
  """The diffusion transformer: architecture and sizes, and how it is computed.

  Attributes:
    architecture: `adaln` is this project's own (models/dit/model.py), `wan` is that of
      Wan 2.1 (models/dit/wan.py).
    checkpoint: folder or file of a transformer of that architecture, published or written
      by `video_dit.convert`, which a new run starts from (docs/checkpoints.md). Its
      sizes, positions and `text_length` replace those here.
    width, depth, heads: of the transformer; heads divide the width.
    mlp_ratio: width of the MLP over `width`.
    patch: latent frames, rows and columns of one token.
    rope_fractions: shares of the head size rotated by time, height and width.
    rope_theta: base of the rotary frequencies.
    rope_side: side, in tokens, to which the geometric mean of a clip's grid is scaled;
      0 keeps plain indices.
    rope_seconds: seconds of video per unit of temporal position; 0 counts tokens.
    frequencies: of the time embedding, cosines and sines together.
    norm_epsilon: added to the mean square in every norm.
    text_length: for `wan`: length in tokens to which captions count as zero-padded; the
      padding is attended to. 0 attends to the caption alone.
    remat: what a block's forward pass saves: `none` recomputes nothing, `block`
      recomputes all, `attention` keeps attention's output and log-sum-exp, `dots` these
      and the output of every linear map, `offload` attention's in host memory, together
      with the blocks' inputs (GPU and TPU).
    unroll: blocks in one iteration of the compiled loop over them. Small blocks run
      faster without a loop (`unroll` of `depth`), but take longer to compile.
    context: how queries meet the keys of other devices of the mesh's `context` axis:
      `gather` them, pass them around a `ring`, trade tokens for heads (`all_to_all`), or
      `both`; `auto` trades heads as far as they divide and uses a ring for the rest.
    attention: the kernel of one device (parallel/local.py); `auto` chooses by device and
      shape, and logs its choice. `splash` cuts rows into blocks of 512 tokens,
      `splash_256` and `splash_1024` into blocks of those sizes.
  """

  architecture: Literal["adaln", "wan"] = "adaln"
  checkpoint: str = ""
  width: int = 1152
  depth: int = 28
  heads: int = 9
  mlp_ratio: float = 4.0
  patch: tuple[int, int, int] = (1, 2, 2)
  rope_fractions: tuple[float, float, float] = (0.25, 0.375, 0.375)
  rope_theta: float = 10_000.0
  rope_side: float = 0.0
  rope_seconds: float = 1 / 6
  frequencies: int = 256
  norm_epsilon: float = 1e-6
  text_length: int = 0
  remat: Literal["none", "dots", "attention", "block", "offload"] = "block"
  unroll: int = 1
  context: Literal["auto", "gather", "ring", "all_to_all", "both"] = "auto"
  attention: Literal[
    "auto",
    "dense",
    "chunked",
    "triton",
    "tokamax",
    "cudnn",
    "splash",
    "splash_256",
    "splash_1024",
  ] = "auto"

  @property
  def mlp_width(self) -> int:
    """Width of the MLP."""
    return round(self.width * self.mlp_ratio)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Diffusion:
  """Process, prediction and loss.

  Attributes:
    process: `flow` (rectified flow) or `ddpm` (variance preserving).
    schedule: DDPM's betas, `linear` or `cosine`; flow has one schedule.
    prediction: what the network returns.
    time_mean, time_std: of the logit-normal distribution of training times; a
      `time_std` of 0 draws uniform times.
    shift: resolution-dependent shift of times. A clip of n tokens is shifted by
      `shift * sqrt(n / shift_tokens)`, clipped to [1, max_shift]; `shift` 0 is off.
    shift_tokens: tokens at which the shift equals `shift`.
    max_shift: greatest shift, at least 1.
    given_probability: chance that a training clip's first latent frames are given.
  """

  process: Literal["flow", "ddpm"] = "flow"
  schedule: Literal["linear", "cosine"] = "linear"
  prediction: Literal["velocity", "noise", "sample"] = "velocity"
  time_mean: float = 0.0
  time_std: float = 1.0
  shift: float = 0.0
  shift_tokens: int = 256
  max_shift: float = 12.0
  given_probability: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
  """What a training step sees.

  Attributes:
    path: folder that preprocess wrote; or several, separated by commas.
    weights: of each folder, how often an epoch visits its clips: 0.25 each fourth epoch,
      2 twice an epoch. () is once each.
    rows: rows of a step over all devices (windows, where pixels are trained on).
    row_length: tokens of a row.
    row_segments: most clips in a row.
    row_text: most text tokens in a row.
    long: a clip longer than a row: `split` into runs of latent frames, or `refuse`.
    lookahead: clips that the packer chooses among.
    balance_rows: neighbouring rows of a step whose summed work is kept equal: as many as
      one device takes. 1 gives equal work on any mesh; with more, the rows of a step may
      differ more.
    caption_dropout: chance that a clip's caption is replaced by the empty one.
    window_frames, window_side: pixels' training window.
    threads: threads that read ahead in each process.
    prefetch: batches kept ready.
  """

  path: str = ""
  weights: tuple[float, ...] = ()
  rows: int = 8
  row_length: int = 32_768
  row_segments: int = 64
  row_text: int = 4096
  long: Split = "refuse"
  lookahead: int = 8192
  balance_rows: int = 1
  caption_dropout: float = 0.1
  window_frames: int = 17
  window_side: int = 256
  threads: int = 4
  prefetch: int = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
  """AdamW with warm-up and a schedule.

  Attributes:
    learning_rate: greatest learning rate.
    warmup_steps: steps of linear warm-up.
    schedule: after warm-up: `constant`, or `cosine` down to `final_fraction`.
    final_fraction: last learning rate as a fraction of the greatest.
    beta1, beta2, epsilon: of Adam.
    weight_decay: applied to matrices, not to biases and norms.
    clip_norm: greatest global gradient norm; 0 turns clipping off.
    moments_dtype: of Adam's two moments between steps; bfloat16 halves their memory.
  """

  learning_rate: float = 1e-4
  warmup_steps: int = 1000
  schedule: Literal["constant", "cosine"] = "constant"
  final_fraction: float = 0.0
  beta1: float = 0.9
  beta2: float = 0.95
  epsilon: float = 1e-8
  weight_decay: float = 0.01
  clip_norm: float = 1.0
  moments_dtype: Literal["float32", "bfloat16"] = "float32"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reconstruction:
  """The autoencoder's loss and how it is computed.

  A plain autoencoder has `kl` 0 and no sampling.

  Attributes:
    sample: draw the latent from the posterior (VAE) or take its mean (AE).
    l1, l2: of the pixel differences.
    gradient: of the differences of finite differences in space and time.
    kl: of the divergence from the unit normal, summed over a latent, per pixel.
    noise: greatest noise added to latents before decoding, in units of each channel's
      deviation over the batch, or the micro-batch with `train.accumulate` (RAE, Zheng et
      al., 2025, arXiv:2510.11690): the decoder learns to repair a generator's small
      errors. 0 adds none.
    noise_from: share of the training after which it is added, and the encoder, whose
      latents the generator has to learn, gets no more gradient from the decoder.
    remat: keep only the inputs of residual blocks for the backward pass, which computes
      the blocks again.
  """

  sample: bool = True
  l1: float = 1.0
  l2: float = 0.0
  gradient: float = 1.0
  kl: float = 1e-6
  noise: float = 0.0
  noise_from: float = 0.5
  remat: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train:
  """Length and periods of a run; a period of 0 steps is off.

  Attributes:
    initial: `WORKDIR` or `WORKDIR:STEP` of an earlier run of the same model; a new run
      starts from its averaged weights, with a fresh optimiser, at step 0.
    steps: optimiser steps.
    accumulate: batches of rows summed into one optimiser step.
    ema_decay: decay of the averaged weights; ramped up over the first steps.
    compute_dtype: of matrix products; parameters stay float32.
    log_every, checkpoint_every, evaluate_every, sample_every: periods in steps; 0 is at
      the end of the run alone.
    keep: newest checkpoints kept.
    keep_every: checkpoints of multiples of this step are kept too, for good; a multiple
      of `checkpoint_every`.
    evaluate_batches: batches of the held-out loss.
    sample_prompts: prompts sampled during training.
  """

  initial: str = ""
  steps: int = 400_000
  accumulate: int = 1
  ema_decay: float = 0.9999
  compute_dtype: Literal["bfloat16", "float32"] = "bfloat16"
  log_every: int = 50
  checkpoint_every: int = 1000
  keep: int = 3
  keep_every: int = 0
  evaluate_every: int = 1000
  evaluate_batches: int = 4
  sample_every: int = 5000
  sample_prompts: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
  """How videos are generated.

  Attributes:
    sampler: `euler`, `heun`, `ddim`, `dpmpp_2m` (DPM-Solver++) or `unipc`.
    eta: fresh noise in each step of `ddim`, from 0 (none, which is `euler`) to 1
      (ancestral sampling, as in DDPM); Song et al., 2021, arXiv:2010.02502, equation 16.
    steps: sampler steps.
    guidance: classifier-free guidance scale; 1 is off.
    negative: prompt that guidance leads away from; empty is any clip.
    guidance_interval: lowest and highest noise level, in [0, 1], at which guidance acts
      (Kynkäänniemi et al., 2024, arXiv:2404.07724).
    height, width: pixels; frames: frames at `frames_per_second`.
    frames_per_second: of the generated clip.
    format: file format; an image is always png.
    seed: seed of the first request.
    rows: most rows sampled together; fewer where few requests fit them.
    row_length: tokens of a sampling row; 0 takes the training rows' length.
  """

  sampler: Literal["euler", "heun", "ddim", "dpmpp_2m", "unipc"] = "euler"
  eta: float = 0.0
  steps: int = 50
  guidance: float = 5.0
  negative: str = ""
  guidance_interval: tuple[float, float] = (0.0, 1.0)
  height: int = 256
  width: int = 256
  frames: int = 17
  frames_per_second: float = 24.0
  format: Literal["mp4", "gif", "png"] = "mp4"
  seed: int = 0
  rows: int = 8
  row_length: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate:
  """What `evaluate` measures.

  Attributes:
    batches: held-out batches for the loss by noise level.
    times: noise levels of the held-out loss, in [0, 1].
    adherence: measure colour, direction, shape and wholeness of the shapes demo.
  """

  batches: int = 8
  times: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
  adherence: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """One experiment.

  Attributes:
    name: of the experiment.
    objective: what `main` trains: `diffusion` (the DiT on latents) or
      `reconstruction` (the autoencoder on pixels).
    seed: of initialisation, data order, noise and dropout; in [0, 2**31).
  """

  name: str
  objective: Literal["diffusion", "reconstruction"]
  seed: int = 0
  mesh: Mesh = Mesh()
  media: Media = Media()
  ingest: Ingest = Ingest()
  autoencoder: Autoencoder = Autoencoder()
  text: Text = Text()
  dit: DiT = DiT()
  diffusion: Diffusion = Diffusion()
  reconstruction: Reconstruction = Reconstruction()
  data: Data = Data()
  optimizer: Optimizer = Optimizer()
  train: Train = Train()
  sample: Sample = Sample()
  evaluate: Evaluate = Evaluate()
