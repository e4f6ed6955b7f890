"""Config files of `dictlearn train` that cannot be used are refused by what is wrong with them."""

import pytest

import dictlearn as dl
from dictlearn.config_files import read_config_file, swept
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


def test_a_sweep_of_kinds_gives_each_the_settings_that_it_has():
    found = dl.sweep(dl.CodebookConfig, dl.TopKSAEConfig, n_codes=16, n_features=32, k=[2, 4])
    assert found == {
        "codebook_k2": dl.CodebookConfig(n_codes=16, k=2),
        "codebook_k4": dl.CodebookConfig(n_codes=16, k=4),
        "topk_sae_k2": dl.TopKSAEConfig(n_features=32, k=2),
        "topk_sae_k4": dl.TopKSAEConfig(n_features=32, k=4),
    }
    crossed = {"n_features": [8, 16], "k": [2, 4]}
    assert dl.sweep(dl.TopKSAEConfig, **crossed) == swept(dl.TopKSAEConfig, crossed)
    assert dl.sweep(dl.MeanConfig) == {"mean": dl.MeanConfig()}


@pytest.mark.parametrize(
    ("kinds", "settings", "words"),
    [
        ((dl.MeanConfig, dl.PCAConfig), {"kk": 2}, "MeanConfig or PCAConfig has no setting 'kk'"),
        ((dl.SAEConfig,), {"n_featurs": 8}, "did you mean 'n_features'"),
        ((dl.PCAConfig, dl.SAEConfig), {"k": [2]}, "SAEConfig needs a value for n_features"),
        ((dl.PCAConfig,), {"k": [2, 0]}, "k"),
        ((dl.PCAConfig,), {"k": [2, 2]}, r"PCAConfig\.k must be a value or several different ones"),
        ((dl.PCAConfig,), {"k": []}, r"PCAConfig\.k must be a value or several different ones"),
        ((), {}, "classes of configs, such as TopKSAEConfig, got none"),
    ],
)
def test_a_sweep_that_describes_nothing_is_refused(kinds, settings, words):
    with pytest.raises(ConfigError, match=words):
        dl.sweep(*kinds, **settings)


@pytest.mark.untyped
@pytest.mark.parametrize("kind", ["sae", dl.SAEConfig(n_features=8)])
def test_a_sweep_takes_classes(kind):
    with pytest.raises(ConfigError, match=r"required one or several classes .*, got .*(sae|SAE)"):
        dl.sweep(kind, k=2)
