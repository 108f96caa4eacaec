"""[secrets] and [retention]: keys from anywhere, sizes with units, and what is wrong with them."""

from pathlib import Path

import pytest

from bridge.config.values import format_size, read_size
from bridge.domain.encryption import new_key, parse_keys
from tests.config.config_files import TOKEN, load, mistakes


def test_without_a_key_there_is_none_and_retention_is_on(tmp_path: Path):
    config = load(tmp_path, TOKEN)
    assert config.secrets.vault_keys == []
    assert (config.retention.keep_s, config.retention.size_bytes) == (30 * 86400, 10**9)


def test_the_key_comes_before_the_old_ones_wherever_they_stand(tmp_path: Path):
    keys = [new_key() for _ in range(4)]
    (tmp_path / "old.keys").write_text(f"# before June\n{keys[2]}\n{keys[3]}\n")
    text = f'{TOKEN}[secrets]\nkey_env = "SEALING"\nold_keys_file = "old.keys"\n'
    config = load(tmp_path, text, env={"SEALING": f"{keys[0]} {keys[1]}"})
    assert [key.id for key in config.secrets.vault_keys] == [parse_keys(key)[0].id for key in keys]
    assert keys[0] not in repr(config)


@pytest.mark.parametrize("key", ["", "short", "# a comment only", pytest.param(new_key()[:-5], id="cut off")])
def test_a_key_that_is_none_is_named_and_not_repeated(tmp_path: Path, key: str):
    found = mistakes(tmp_path, f'{TOKEN}[secrets]\nkey = "{key}"\n')
    assert set(found) == {"secrets.key"}
    assert not key or key not in found["secrets.key"]


def test_old_keys_alone_seal_nothing_and_are_refused(tmp_path: Path):
    found = mistakes(tmp_path, f'{TOKEN}[secrets]\nold_keys = "{new_key()}"\n')
    assert "set key as well" in found["secrets.old_keys"]


@pytest.mark.parametrize(
    ("text", "size"),
    [("1MB", 10**6), ("1.5 GB", 15 * 10**8), ("2GiB", 2 * 1024**3), ("512mib", 512 * 1024**2), ("5000000B", 5 * 10**6)],
)
def test_sizes_have_a_unit(text: str, size: int):
    assert read_size(text) == size
    assert read_size(format_size(size)) == size


@pytest.mark.parametrize("text", ["1", 1_000_000_000, "1 gigabyte", "-1GB", "1e9B", "0MB", "999KB", "2000TB", "", None])
def test_other_sizes_are_refused(text: object):
    with pytest.raises(ValueError, match=r"size|between"):
        read_size(text)


def test_wrong_retention_is_named_by_its_keys(tmp_path: Path):
    found = mistakes(tmp_path, f'{TOKEN}[retention]\nkeep = "0s"\nsize = "10"\nkept = "1d"\n')
    assert set(found) == {"retention.keep", "retention.size", "retention.kept"}


def test_both_can_come_from_the_environment(tmp_path: Path):
    env = {"RUNBRIDGE_RETENTION__SIZE": "2GB", "RUNBRIDGE_RETENTION__KEEP": "7d", "RUNBRIDGE_SECRETS__KEY": new_key()}
    config = load(tmp_path, TOKEN, env=env)
    assert (config.retention.keep_s, config.retention.size_bytes) == (7 * 86400, 2 * 10**9)
    assert len(config.secrets.vault_keys) == 1
