"""Config files of `dictlearn train` that cannot be used are refused by what is wrong with them."""

import pytest

import dictlearn as dl
from dictlearn.config_files import read_config_file
from dictlearn.core.errors import ConfigError, CorruptFileError, InputError

SAE = '[dictionaries.a]\nkind = "sae"\nn_features = 8\n'


def test_a_config_file_gives_dictionaries_sites_and_settings(tmp_path):
    path = tmp_path / "runs.toml"
    path.write_text(f'{SAE}at = "mlp_out"\n[fit]\nsteps = 3\n')
    found = read_config_file(path)
    assert found.configs == {"a": dl.SAEConfig(n_features=8)}
    assert found.at == {"a": ["mlp_out"]}
    assert found.fit == dl.FitConfig(steps=3)


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("[fit", CorruptFileError, "not valid TOML"),
        (f"[fits]\n{SAE}", ConfigError, r"unknown section \[fits\]; did you mean 'fit'"),
        ("[fit]\nsteps = 3", InputError, r"at least one section \[dictionaries.NAME\], got none"),
        ("[dictionaries.a]\nk = 3", ConfigError, r"\[dictionaries.a\] needs a kind"),
        ("[dictionaries]\na = 3", ConfigError, r"\[dictionaries.a\] needs a kind"),
        (f"{SAE}[fit]\nstep = 3", ConfigError, "did you mean 'steps'"),
    ],
)
def test_a_config_file_that_cannot_be_used_is_refused(tmp_path, text, error, words):
    path = tmp_path / "runs.toml"
    path.write_text(text)
    with pytest.raises(error, match=words):
        read_config_file(path)
    with pytest.raises(CorruptFileError, match=r"none\.toml: cannot be read"):
        read_config_file(tmp_path / "none.toml")
