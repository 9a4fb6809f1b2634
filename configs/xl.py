from video_dit import config
def get_config(preset=""):
  c = config.template(name="xl", objective="diffusion")
  return c
