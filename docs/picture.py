"""Draw the picture of the first page: `python docs/picture.py` writes docs/picture.png."""

from pathlib import Path

import toydiffusion as td

law = td.distributions.ConcentricSquares()
x, y = law.sample(1000, seed=0)
model = td.Diffusion().fit(x, y, seed=0)
print(law.contains(*model.sample(5000, return_labels=True, seed=1)).mean())
