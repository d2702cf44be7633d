"""Draw the picture of the first page: `python docs/picture.py` writes docs/picture.png."""

from pathlib import Path

import toydiffusion as td

law = td.distributions.TwoMoons()
x, y = law.sample(1000, seed=0)
model = td.Diffusion().fit(x, y, seed=0)
picture = model.plot(data=x, labels=y, truth=law, n=3000)
td.figures.save_png(picture, Path(__file__).with_name("picture.png"))
