"""How CASA is set up in the image: on the data that came with it, and nothing fetched or updated when it runs."""

from importlib.util import find_spec
from pathlib import Path

measurespath = str(Path(find_spec("casadata").origin).parent / "__data__")
measures_auto_update = False
data_auto_update = False
nogui = True
agg = True
log2term = True
