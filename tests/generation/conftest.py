import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "viz"))  # small models with open gates stand beside the pages' tests
