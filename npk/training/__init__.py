"""Training under Optax, in one compiled loop: plain networks and every regime of the gated ones.

`train_regime(RegimeConfig(...), data)` trains a DGN, DLGN or DLGN-SF with its gates decoupled, fixed, learnt or
permuted, over several seeds at once, with checkpoints that a run continues from; `train` trains any Flax model and
keeps the parameters of the steps in between. `regimes` says what each regime is, `loops` runs the steps.
"""

from npk.training.checkpoints import Checkpoints as Checkpoints
from npk.training.checkpoints import check_checkpoints as check_checkpoints
from npk.training.checkpoints import is_checkpoints as is_checkpoints
from npk.training.initialisation import KINDS as KINDS
from npk.training.initialisation import redraw as redraw
from npk.training.loops import MOST_EPOCHS as MOST_EPOCHS
from npk.training.loops import SNAPSHOTS as SNAPSHOTS
from npk.training.loops import check_course as check_course
from npk.training.loops import hash_of_step as hash_of_step
from npk.training.loops import steps_of as steps_of
from npk.training.plain import Record as Record
from npk.training.plain import Trained as Trained
from npk.training.plain import train as train
from npk.training.regime import RegimeRun as RegimeRun
from npk.training.regime import train_regime as train_regime
from npk.training.regimes import Network as Network
from npk.training.regimes import Regime as Regime
from npk.training.regimes import RegimeConfig as RegimeConfig
from npk.training.regimes import compose as compose
from npk.training.regimes import initial_params as initial_params
from npk.training.regimes import loss_of as loss_of
from npk.training.regimes import optimizer_of as optimizer_of
from npk.training.seeds import over_seeds as over_seeds

__all__ = [
    "Checkpoints",
    "KINDS",
    "Network",
    "Record",
    "Regime",
    "RegimeConfig",
    "RegimeRun",
    "Trained",
    "compose",
    "initial_params",
    "loss_of",
    "optimizer_of",
    "redraw",
    "train",
    "train_regime",
]
