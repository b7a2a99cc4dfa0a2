"""UCI Mammographic Mass: four measurements of each mass and its severity."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from training.data.download import Dataset, File

Labels = npt.NDArray[np.int64]

MAMMOGRAPHIC_MASSES = Dataset(
    folder="mammographic-masses",
    name="UCI Mammographic Mass",
    source="https://archive.ics.uci.edu/dataset/161/mammographic+mass",
    licence="CC BY 4.0",
    citation="M. Elter, R. Schulz-Wendtland, T. Wittenberg, The prediction of breast cancer biopsy outcomes using two "
    "CAD approaches that both emphasize an intelligible decision process, Medical Physics 34(11), 2007, "
    "doi:10.24432/C53K6Z",
    files={
        "mammographic_masses.data": File(
            "sha256:2ed8bb60a517f631256d218a4885c56ef196d41023c63307ab40d69985be3b4a",
            "https://archive.ics.uci.edu/ml/machine-learning-databases/mammographic-masses/mammographic_masses.data",
        )
    },
)


@dataclass(frozen=True)
class Masses:
    """Masses, float32 `[961, 4]`, and their severity, int64 `[961]`: 0 benign, 1 malignant.

    Columns: age (years), shape (1-4), margin (1-5), density (1-4), NaN where not recorded.
    """

    masses: npt.NDArray[np.float32]
    severity: Labels


def load_masses(data_dir: Path | None = None) -> Masses:
    """Return all rows, without BI-RADS, the first column: the reader's own assessment is no predictor."""
    path = MAMMOGRAPHIC_MASSES.fetch("mammographic_masses.data", data_dir)
    table = np.genfromtxt(path, delimiter=",", missing_values="?", dtype=np.float32)
    return Masses(table[:, 1:5].copy(), table[:, 5].astype(np.int64))
