"""Configuration: the operator's file, environment and command line, checked and frozen.

Only the daemon and the command line read it; the other rooms receive plain values. It opens the
file and the secrets that the file names, and never writes, except for `init_config`.
"""

from bridge.config.load import Config, ConfigInvalid, FileEndpoint, changes_that_need_restart, load_config
from bridge.config.locate import find_config, standard_places, user_config
from bridge.config.sections import (
    BASE_URLS,
    BackupSettings,
    DatabaseSettings,
    DeliverySettings,
    LogSettings,
    RetentionSettings,
    SecretsSettings,
    ServerSettings,
)
from bridge.config.show import Row, show_config
from bridge.config.starter import init_config
from bridge.config.values import ListenAddress

__all__ = [
    "BASE_URLS",
    "BackupSettings",
    "Config",
    "ConfigInvalid",
    "DatabaseSettings",
    "DeliverySettings",
    "FileEndpoint",
    "ListenAddress",
    "LogSettings",
    "RetentionSettings",
    "Row",
    "SecretsSettings",
    "ServerSettings",
    "changes_that_need_restart",
    "find_config",
    "init_config",
    "load_config",
    "show_config",
    "standard_places",
    "user_config",
]
