"""Put what the tests of Kubernetes need into the cache folder, and say where it is."""

import sys

from services.kubernetes.cluster import need_what_it_takes
from services.kubernetes.image import layers
from services.kubernetes.programs import programs_of_kubernetes
from services.packages import FetchFailed

try:
    need_what_it_takes()
    print(*layers(), programs_of_kubernetes(), sep="\n")
except FetchFailed as error:
    sys.exit(f"Kubernetes cannot run here: {error}")
