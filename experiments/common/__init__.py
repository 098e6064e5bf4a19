"""What all experiments share; an experiment itself is a configuration and `compute`.

| place | job |
|---|---|
| `runs.py` | an experiment, a run of it, and how a run goes from new to finished |
| `options.py` | fields of configurations by their paths |
| `workdirs.py` | whose a directory is, and the files that say so |
| `digests.py` | what a user's files held |
| `stopping.py` | Ctrl-C as a request |
| `tables.py` | plain text tables |
| `image_data.py` | images that experiments read |
| `rates.py` | learning rates that validation networks choose |
| `zoos.py` | the zoo of networks that an experiment reads |

Flags are in `experiments.launcher`, which imports none of this before it has to.
"""

from experiments.common.digests import digest_of as digest_of
from experiments.common.options import apply_assignments as apply_assignments
from experiments.common.options import override as override
from experiments.common.options import parse_assignments as parse_assignments
from experiments.common.runs import Experiment as Experiment
from experiments.common.runs import Run as Run
from experiments.common.runs import configure as configure
from experiments.common.runs import run as run
from experiments.common.stopping import Stopped as Stopped
from experiments.common.stopping import StopRequest as StopRequest
from experiments.common.stopping import stop_on_signal as stop_on_signal
from experiments.common.tables import format_table as format_table
from experiments.common.workdirs import CONFIG_FILE as CONFIG_FILE
from experiments.common.workdirs import SUMMARY_FILE as SUMMARY_FILE
from experiments.common.workdirs import WorkdirStatus as WorkdirStatus
from experiments.common.workdirs import as_json as as_json
from experiments.common.workdirs import claim_workdir as claim_workdir
from experiments.common.workdirs import discard_claim as discard_claim
from experiments.common.workdirs import inspect_workdir as inspect_workdir
from experiments.common.workdirs import is_finished as is_finished
from experiments.common.workdirs import read_summary as read_summary
from experiments.common.workdirs import write_summary as write_summary
