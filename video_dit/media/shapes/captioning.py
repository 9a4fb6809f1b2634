"""Captions: a scene in natural words, in one of several wordings."""

from video_dit.media.shapes import scene as scenes

_VERBS = (("moves", "moving"), ("drifts", "drifting"), ("slides", "sliding"))
_WAYS = {
  "left": ("left", "to the left"),
  "right": ("right", "to the right"),
  "up": ("up", "upwards"),
  "down": ("down", "downwards"),
}
_ONE = (
  "a {thing} {moves} {way} on a {background} background",
  "on {background}, a {thing} {moves} {way}",
  "a {thing} {moving} {way} on {background}",
  "{background} background, a {thing} {moving} {way}",
)
_TWO = (
  "a {thing} {moves} {way} {place} and a {other_thing} {moves} {other_way}"
  " {other_place}, on a {background} background",
  "on {background}, a {thing} {moving} {way} {place}, a {other_thing} {moving}"
  " {other_way} {other_place}",
)
_IMAGE_ONE = (
  "a photo of a {thing} on a {background} background",
  "a still image of a {thing} on {background}",
  "on {background}, a photo of a {thing}",
)
_IMAGE_TWO = (
  "a photo of a {thing} {place} and a {other_thing} {other_place}, on a {background}"
  " background",
  "a still image of a {thing} {place} and a {other_thing} {other_place} on {background}",
)
_PLACES = {
  True: ("at the top", "at the bottom"),
  False: ("on the left side", "on the right side"),
}


def caption(scene: scenes.Scene) -> str:
  """Returns the scene's caption; `scene.wording` picks among synonyms."""
  wording = scene.wording

  def pick(choices):
    nonlocal wording
    wording, index = divmod(wording, len(choices))
    return choices[index]

  image = scene.frames == 1
  single = len(scene.objects) == 1
  if image:
    template = pick(_IMAGE_ONE if single else _IMAGE_TWO)
  else:
    template = pick(_ONE if single else _TWO)
  moves, moving = pick(_VERBS)
  words = {"background": scene.background, "moves": moves, "moving": moving}
  places = ("", "") if single else _PLACES[scene.stacked]
  for prefix, thing, place in zip(("", "other_"), scene.objects, places, strict=False):
    words[prefix + "thing"] = f"{thing.colour} {thing.shape}"
    words[prefix + "place"] = place
    if thing.direction:
      words[prefix + "way"] = pick(_WAYS[thing.direction])
  return template.format(**words)
