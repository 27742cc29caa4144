"""The small simulated worlds that tests share."""

from pathlib import Path

import numpy as np

from mclstexp.data.images import open_image
from mclstexp.data.synthetic import SlideSpec, simulate_slide
from mclstexp.data.synthetic.cohort import write_pyramid
from mclstexp.data.synthetic.slides import COHORT
from mclstexp.slide import Slide


def tiny_slides(
    folder: Path, n: int = 3, *, n_spots: int = 36, n_genes: int = 40, seed: int = 0, per_patient: int = 1
) -> list[Slide]:
    """Write ``n`` small images into ``folder`` and return their slides; a few tens of milliseconds each."""
    rows = int(np.ceil(np.sqrt(n_spots)))
    pitch = 56.0
    spec = SlideSpec(
        n_genes=n_genes, side_px=int((rows + 1) * pitch), mpp=1.0, pitch_um=pitch, grid="square", margin=False
    )
    slides = []
    for i in range(n):
        simulated = simulate_slide(spec, patient=i // per_patient, slide=i % per_patient, seed=seed)
        path = Path(folder) / f"{simulated.slide_id}.tif"
        write_pyramid(simulated.image, path, mpp=spec.mpp)
        slides.append(
            Slide(
                slide_id=simulated.slide_id,
                patient=simulated.patient,
                cohort=COHORT,
                spots=simulated.spots.take(np.arange(n_spots)),
                image=open_image(path),
                mpp=spec.mpp,
                mpp_source="file",
                layout="h5ad",
                sources=(path,),
            )
        )
    return slides
