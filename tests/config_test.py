"""Configs: every file and preset against its golden text, and what parsing refuses.

After a change that is meant, renew the golden texts and review their diff:

    python -m tests.config_test
"""

import importlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from video_dit import config as config_lib
from video_dit.diffusion import times
from video_dit.models.text import t5
from video_dit.preprocess import longest

_GOLDEN = pathlib.Path(__file__).parent / "golden"
_CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
# Of the files that have any.
_PRESETS = {"autoencoder": ("demo", "demo_quick"), "demo": ("quick",), "xl": ("v6e",)}
_NAMES = [
  (path.stem, preset)
  for path in sorted(_CONFIGS.glob("*.py"))
  for preset in ("", *_PRESETS.get(path.stem, ()))
]


def _config(stem: str, preset: str) -> config_lib.Config:
  experiment = importlib.import_module(f"configs.{stem}")
  return config_lib.parse(experiment.get_config(preset))


def _golden(stem: str, preset: str) -> pathlib.Path:
  return _GOLDEN / f"{'_'.join(filter(None, (stem, preset)))}.txt"


@pytest.mark.parametrize(("stem", "preset"), _NAMES)
def test_config_is_its_golden_text_and_the_text_is_the_config(stem, preset):
  config = _config(stem, preset)
  text = _golden(stem, preset).read_text(encoding="utf-8")
  assert config_lib.to_text(config) == text, (
    f"configs/{stem}.py:{preset} says other values than its golden text. Where that is"
    " meant: python -m tests.config_test, and review the diff."
  )
  assert config_lib.from_text(text) == config


def test_every_golden_text_belongs_to_a_config():
  assert set(_GOLDEN.glob("*")) == {_golden(*name) for name in _NAMES}


@pytest.mark.parametrize("stem", sorted({stem for stem, _ in _NAMES}))
def test_an_unknown_preset_is_refused_by_name(stem):
  with pytest.raises(ValueError, match="'quik' is not a preset"):
    _config(stem, "quik")


def test_the_demo_describes_the_autoencoder_that_it_trains():
  for demo, autoencoder in (("", "demo"), ("quick", "demo_quick")):
    left, right = _config("demo", demo), _config("autoencoder", autoencoder)
    assert left.autoencoder == right.autoencoder
    assert left.media == right.media


# The demo's rows are for clips that it renders itself: its large ones are short.
_ON_MEDIA = [name for name in _NAMES if name[0] not in ("autoencoder", "demo")]


@pytest.mark.parametrize(("stem", "preset"), _ON_MEDIA)
def test_the_longest_clip_of_a_config_fits_its_row(stem, preset):
  config = _config(stem, preset)
  assert longest.most_tokens(config) <= config.data.row_length


def test_the_longest_clip_of_the_defaults_fits_their_row():
  config = config_lib.Config(name="defaults", objective="diffusion")
  assert longest.most_tokens(config) <= config.data.row_length


def _tree() -> dict:
  config = config_lib.Config(name="test", objective="diffusion")
  return config_lib.to_dict(config)


@pytest.mark.parametrize(
  ("key", "value", "said"),
  [
    ("train.stepz", 3, ["config.train.stepz", "no such key", "config.train.steps"]),
    ("tain", {}, ["config.tain", "no such key", "config.train"]),
    ("train", 3, ["config.train=3", "a section of keys"]),
    ("train.steps", 2.5, ["config.train.steps=2.5", "must be int", "float"]),
    ("sample.guidance", float("nan"), ["sample.guidance=nan", "a finite number"]),
    ("sample.guidance_interval", (0.0, float("nan")), ["(0.0, nan)", "must be"]),
    ("train.steps", True, ["config.train.steps=True", "must be int", "bool"]),
    ("train.steps", 0, ["config.train.steps=0", "above 0"]),
    ("train.keep", -1, ["config.train.keep=-1", "above 0"]),
    ("train.keep_every", 1500, ["train.checkpoint_every=1000", "0 for none"]),
    ("optimizer.epsilon", 0.0, ["config.optimizer.epsilon=0.0", "above 0"]),
    ("optimizer.epsilon", 1e-50, ["config.optimizer.epsilon=1e-50", "float32"]),
    ("optimizer.beta1", 1.0, ["config.optimizer.beta1=1.0", "below 1"]),
    ("optimizer.beta2", 1 - 1e-12, ["config.optimizer.beta2=0.99", "in float32 too"]),
    ("data.balance_rows", 3, ["config.data.rows=8", "multiple of data.balance_rows=3"]),
    ("data.path", None, ["config.data.path=None", "must be str"]),
    ("dit.remat", "blok", ["config.dit.remat='blok'", "one of", "'block'"]),
    ("dit.context", "rings", ["config.dit.context='rings'", "Did you mean 'ring'?"]),
    ("dit.patch", (1, 2), ["config.dit.patch=(1, 2)", "3 entries"]),
    ("dit.patch", (1, 2, "2"), ["config.dit.patch[2]='2'", "must be int"]),
    ("dit.heads", 7, ["config.dit.width=1152", "multiple of dit.heads=7"]),
    ("dit.rope_fractions", (0.5, 0.5, 0.5), ["config.dit.rope_fractions", "sum to 1"]),
    ("data.caption_dropout", 1.5, ["config.data.caption_dropout=1.5", "0 and 1"]),
    ("mesh.context", 3, ["config.data.row_length=32768", "multiple of mesh.context=3"]),
    ("sample.height", 250, ["config.sample.height=250", "multiple of", "try 256"]),
    ("sample.guidance_interval", (0.9, 0.2), ["guidance_interval=(0.9, 0.2)", "[0, 1]"]),
    ("sample.eta", 1.5, ["config.sample.eta=1.5", "between 0 and 1"]),
    ("sample.eta", 0.5, ["config.sample.eta=0.5", "sampler='euler'", "'ddim'"]),
    ("sample", {"eta": 0.1, "sampler": "heun"}, ["sample.eta=0.1", "sampler='heun'"]),
    ("sample.frames", 16, ["config.sample.frames=16", "autoencoder.time=4"]),
    ("dit.patch", (2, 2, 2), ["sample.frames=17", "5 + a multiple of 8", "try 13"]),
    ("dit.patch", (1, 2, 5), ["config.sample.width=256", "= 40; try 240"]),
    ("ingest.max_text", 1.5, ["config.ingest.max_text=1.5", "0 and 1"]),
    ("ingest", {"measure": False, "min_motion": 1}, ["ingest.min_motion=1.0", "measure"]),
    ("dit.heads", 0, ["config.dit.heads=0", "above 0"]),
    ("mesh.context", 0, ["config.mesh.context=0", "above 0"]),
    ("data.balance_rows", 0, ["config.data.balance_rows=0", "above 0"]),
    ("dit.mlp_ratio", 1e-6, ["config.dit.mlp_ratio=1e-06", "0 channels"]),
    ("seed", 2**31, ["config.seed=2147483648", "below 2,147,483,648"]),
    ("sample.seed", 2**64, ["config.sample.seed=18446744073709551616", "below"]),
    ("text.buckets", 2, ["config.text.buckets=2", "at least 4"]),
    ("text.max_distance", 8, ["config.text.max_distance=8", "text.buckets=32"]),
    ("evaluate.times", (-0.5, 2.0), ["config.evaluate.times=(-0.5, 2.0)", "between"]),
    ("evaluate.times", (0.5, 2.0), ["evaluate.times=(0.5, 2.0)", "between 0 and 1"]),
    ("evaluate.times", (), ["config.evaluate.times=()", "no noise level"]),
    ("diffusion.max_shift", 0.5, ["config.diffusion.max_shift=0.5", "at least 1"]),
    ("optimizer.beta1", 1.0, ["config.optimizer.beta1=1.0", "below 1"]),
    ("reconstruction.noise_from", 3, ["noise_from=3.0", "between 0 and 1"]),
    ("media.min_frames", 200, ["config.media.min_frames=200", "max_frames=121"]),
    ("ingest", {"min_aspect": 2.0, "max_aspect": 1.0}, ["min_aspect=2.0", "max_aspect"]),
    ("autoencoder.space", 6, ["config.autoencoder.space=6", "power of two"]),
    ("autoencoder.widths", (8,), ["config.autoencoder.widths=(8,)", "at least 4"]),
  ],
)
def test_a_mistake_is_refused_with_key_value_and_rule(key, value, said):
  tree = _tree()
  *sections, name = key.split(".")
  node = tree
  for section in sections:
    node = node[section]
  node[name] = value
  with pytest.raises(ValueError) as refused:
    config_lib.parse(tree)
  for part in said:
    assert part in str(refused.value)


def test_a_home_is_found_in_every_path(monkeypatch):
  monkeypatch.setenv("HOME", "/home/me")
  tree = _tree()
  keys = ("data.path", "autoencoder.checkpoint", "text.tokenizer", "text.checkpoint")
  for section, key in (name.split(".") for name in keys):
    tree[section][key] = "~/x"
  leaves = dict(config_lib.leaves(config_lib.parse(tree)))
  assert {leaves[key] for key in keys} == {"/home/me/x"}


def _numbers() -> dict[str, type]:
  """Kind of each number by its key; of a tuple its first entry's."""
  config = config_lib.Config(name="test", objective="diffusion")
  leaves = dict(config_lib.leaves(config))
  firsts = {k: v[:1] if isinstance(v, tuple) else (v,) for k, v in leaves.items()}
  kinds = {key: type(first[0]) for key, first in firsts.items() if first}
  return {key: kind for key, kind in kinds.items() if kind in (int, float)}


@pytest.mark.parametrize("value", [0, -1, 2**31, 2**40, 2**70, 10**400, 1e300])
def test_an_extreme_number_is_taken_or_refused_by_its_key(value):
  for key, kind in _numbers().items():
    if isinstance(value, float) and kind is int:
      continue
    tree = _tree()
    *sections, name = key.split(".")
    node = tree
    for section in sections:
      node = node[section]
    node[name] = (value, *node[name][1:]) if isinstance(node[name], tuple) else value
    try:
      config = config_lib.parse(tree)
    except ValueError as error:
      assert key in str(error)
      continue
    assert config_lib.from_text(config_lib.to_text(config)) == config
    # What the rules let pass, arithmetic takes.
    for seed in (config.seed, config.text.seed):
      jax.random.key(seed)
      np.random.default_rng(seed)
    assert config.sample.seed < 2**64
    np.int32([config.dit.mlp_width, config.data.row_length, config.train.steps])
    buckets = t5.relative_buckets(
      40, min(config.text.buckets, 2**20), config.text.max_distance
    )
    assert buckets.min() >= 0 and buckets.max() < config.text.buckets
    shift = times.segment_shift(jnp.asarray([[1, 2**16]]), config.diffusion)
    assert ((shift >= 1) & jnp.isfinite(shift)).all()


def test_a_missing_name_is_refused():
  with pytest.raises(ValueError, match=r"config\.name is missing"):
    config_lib.parse({"objective": "diffusion"})


def test_whole_numbers_stand_for_floats_and_lists_for_tuples():
  tree = _tree()
  tree["sample"]["guidance"] = 4
  tree["dit"]["patch"] = [1, 2, 2]
  config = config_lib.parse(tree)
  assert config.sample.guidance == 4.0 and type(config.sample.guidance) is float
  assert config.dit.patch == (1, 2, 2)


def test_a_template_takes_no_key_that_is_not_there():
  template = config_lib.template(name="test", objective="diffusion")
  with pytest.raises(AttributeError, match="widht"):
    template.dit.widht = 3


if __name__ == "__main__":
  for stem, preset in _NAMES:
    text = config_lib.to_text(_config(stem, preset))
    _golden(stem, preset).write_text(text, encoding="utf-8")
    print(_golden(stem, preset))
