"""Scalers by the value of the setting SCALER."""

from collections.abc import Callable

from app.scalers import Scaler
from app.scalers.compose import ComposeScaler
from app.scalers.swarm import SwarmScaler
from app.settings import AutoscaleSettings

SCALERS: dict[str, Callable[[AutoscaleSettings], Scaler]] = {"compose": ComposeScaler, "swarm": SwarmScaler}
