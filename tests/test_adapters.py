"""Models that were made elsewhere give the same numbers as the native ones, and say what is wrong with them."""

from __future__ import annotations

import csv
import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Toy, normal, test_split
from test_cli import called, refused
from torch import Tensor, nn
from torch.distributions import Beta, Independent, MultivariateNormal, Normal

import logpx
from logpx import LogpxError, adapt, from_pyro, from_pythae
from logpx.adapters import _foreign
from logpx.adapters.unfolded import unfolded
from logpx.data import Split
from logpx.utils import soft_bound
from logpx.vae import VAE, mlp_vae

# torch.func.jvp compiles a few things by a way that torch itself calls old
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated:DeprecationWarning")

DOCS = Path(__file__).parents[1] / "docs" / "adapters.md"


def vae() -> VAE:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = mlp_vae((1, 8, 8), hidden=(16,), latent_dim=2)
        with torch.no_grad():
            # a decoder that listens to z, so that some data need more than the encoder
            model.decoder.body.last.weight.mul_(4)
    return model


def binary_digits(n: int = 40) -> Split:
    return logpx.load_data("digits").split("test", "threshold").take(n)


def encode(model: VAE) -> Any:
    body: Any = model.encoder.body

    def moments(x: Tensor) -> tuple[Tensor, Tensor]:
        mu, log_variance = body(x).chunk(2, 1)
        return mu, soft_bound(log_variance, 14.0)

    return moments


def log_p(model: Any, split: Split, **options: Any) -> Tensor:
    return logpx.evaluate(model, split, **options).evidence.log_evidence


# ---------------------------------------------------------------------------------------------------------------- adapt


@pytest.mark.parametrize("outputs", ["parameters", "probabilities"])
def test_a_pair_of_functions_has_the_log_p_of_the_vae_of_the_same_weights(outputs: Any) -> None:
    native, split = vae(), binary_digits()
    body: Any = native.decoder.body
    decode = body if outputs == "parameters" else lambda z: body(z).sigmoid()
    adapted = logpx.evaluate(adapt(encode(native), decode, "bernoulli", outputs=outputs), split)
    expected = logpx.evaluate(native, split)
    torch.testing.assert_close(adapted.evidence.log_evidence, expected.evidence.log_evidence, rtol=1e-6, atol=1e-5)
    assert set(expected.record["methods"]) == {"encoder", "curvature"} == set(adapted.record["methods"])


def test_a_gaussian_takes_mean_and_log_variance_as_they_are() -> None:
    model = adapt(lambda x: (x[:, :2], x[:, :2]), lambda z: (z, -20 + 0 * z), "gaussian", event_shape=(2,))
    model.encoder(torch.ones(5, 2))
    z = normal(3, 5, 2)
    expected = Normal(z, math.exp(-10)).log_prob(z + 1e-5).sum(-1)
    torch.testing.assert_close(model.decoder(z).log_prob(z + 1e-5), expected)


def test_a_likelihood_may_be_a_function_and_the_prior_any_distribution() -> None:
    native, prior = Toy(), Independent(Normal(torch.zeros(2), 2.0), 1)
    unit = lambda mean: Independent(Normal(mean, 1.0), 1)  # noqa: E731
    moments = lambda x: (native.encode(x)[:, :2], 2 * native.encode(x)[:, 2:])  # noqa: E731
    model = adapt(moments, native.decode, unit, prior=prior)
    x, z = normal(4, 3), normal(2, 4, 2)
    torch.testing.assert_close(model.encoder(x).log_prob(z), native.encoder(x).log_prob(z))
    torch.testing.assert_close(model.decoder(z).log_prob(x), native.decoder(z).log_prob(x))
    assert model.prior() is prior


def test_saturated_probabilities_count_as_the_closest_float() -> None:
    ends = torch.tensor([0.0, 1.0])
    model = adapt(lambda x: (x, x), lambda z: ends.expand(len(z), 2), outputs="probabilities")
    model.encoder(ends.expand(1, 2))
    p = model.decoder(torch.zeros(1, 1, 2))
    assert p.log_prob(torch.tensor([[0.0, 1.0]])).item() == pytest.approx(0, abs=1e-6)
    assert p.log_prob(torch.tensor([[1.0, 1.0]])).item() == pytest.approx(math.log(1.1754944e-38), rel=1e-6)
    assert p.log_prob(torch.tensor([[0.0, 0.0]])).item() == pytest.approx(math.log(2.0**-24), rel=1e-5)


def test_modules_behind_methods_and_closures_are_put_into_evaluation_mode_and_back() -> None:
    native = vae()
    native.train()
    model = adapt(encode(native), lambda z: native.decoder.body(z))
    assert set(native.decoder.parameters()) <= set(model.parameters())
    modes = []
    native.decoder.register_forward_pre_hook(lambda *_: modes.append(1))
    native.decoder.body.register_forward_pre_hook(lambda module, _: modes.append(module.training))  # type: ignore
    logpx.evaluate(model, binary_digits(4), estimator="importance", num_samples=10)
    assert not any(modes) and native.decoder.body.training


def test_probabilities_that_pass_for_logits_are_told_of() -> None:
    model = adapt(lambda x: (x[:, :2], x[:, :2]), nn.Sequential(nn.Linear(2, 64), nn.Sigmoid()))
    model.encoder(torch.zeros(5, 64))
    with pytest.warns(UserWarning, match="outputs='probabilities'"):
        model.decoder(torch.zeros(3, 5, 2))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"likelihood": "bernouli"}, "likelihood must be one of bernoulli, .*'bernouli'"),
        ({"outputs": "odds"}, "outputs must be parameters or probabilities, but is 'odds'"),
        ({"likelihood": "gaussian", "outputs": "probabilities"}, "outputs probabilities go with .*'gaussian'"),
        ({"encode": lambda x: x}, r"encode\(x\) must return two tensors.*a tensor of shape \(5, 4\)"),
        ({"encode": lambda x: (x, x[:, :2])}, r"mean and a log-variance of shape .* \(5, 4\) and .* \(5, 2\)"),
        (
            {"decode": lambda z: z[:5]},
            r"decode\(z\) must return .* 15 latents, but returned a tensor of shape \(5, 4\)",
        ),
        (
            {"decode": lambda z: z[:, :3]},
            "network must give 4 outputs per datum of shape .4,., but gave shape .3, 5, 3.",
        ),
        ({"outputs": "probabilities"}, r"must return probabilities in \[0, 1\], but returned 7"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"encode": lambda x: (x, x), "decode": lambda z: 0 * z + 7}

    def use() -> None:
        model = adapt(**{**arguments, **change})
        model.encoder(torch.zeros(5, 4))
        model.decoder(torch.zeros(3, 5, 4))

    with pytest.raises(ValueError, match=message):
        use()


def test_before_data_were_seen_the_prior_asks_for_itself() -> None:
    with pytest.raises(ValueError, match=r"Before data have been encoded the shape of z is not known: .* prior"):
        adapt(lambda x: (x, x), lambda z: z).prior()


# ----------------------------------------------------------------------------------------------------------- unfolding


@pytest.mark.parametrize("event_shape", [(4,), (2, 2)])
@pytest.mark.parametrize(
    "family",
    [
        lambda t: torch.distributions.Bernoulli(probs=t),
        lambda t: torch.distributions.Bernoulli(logits=t),
        lambda t: Normal(t, 1 + t),
        lambda t: torch.distributions.StudentT(3.0, t, 1 + t),
        lambda t: torch.distributions.Poisson(t),
    ],
)
def test_rows_of_independent_scalars_are_made_anew(family: Any, event_shape: tuple[int, ...]) -> None:
    rows, x = family(torch.rand(6, 4)), torch.ones(3, 4)
    p = unfolded(Independent(rows, 1), (2, 3), event_shape)
    expected = rows.log_prob(x.repeat(2, 1)).sum(-1).reshape(2, 3)
    torch.testing.assert_close(p.log_prob(x.reshape(3, *event_shape)), expected)
    assert isinstance(p, Independent) and type(p.base_dist) is type(rows) and p.event_shape == event_shape


@pytest.mark.parametrize(
    "rows", [MultivariateNormal(normal(6, 4), torch.eye(4)), Independent(Beta(2.0, 3.0).expand([6, 4]), 1)]
)
def test_other_rows_are_wrapped(rows: Any) -> None:
    p, x = unfolded(rows, (2, 3), (4,)), torch.rand(3, 4)
    torch.testing.assert_close(p.log_prob(x), rows.log_prob(x.repeat(2, 1)).reshape(2, 3))
    many = p.sample((5,))
    assert many.shape == (5, 2, 3, 4) == p.rsample((5,)).shape and p.mean.shape == (2, 3, 4) == p.stddev.shape
    torch.testing.assert_close(p.log_prob(many), rows.log_prob(many.reshape(5, 6, 4)).reshape(5, 2, 3))
    assert p.support.check(x).all()
    with pytest.raises(ValueError, match=r"observes events of shape \(4,\), but a datum has shape \(2, 2\)"):
        unfolded(rows, (2, 3), (2, 2))


# ---------------------------------------------------------------------------------------------------------------- Pyro


@pytest.fixture
def pyro() -> Iterator[Any]:
    module = pytest.importorskip("pyro", reason="pyro-ppl is not installed: pip install 'logpx[pyro]'")
    module.clear_param_store()
    yield module
    module.clear_param_store()


def pyro_vae(pyro: Any, native: VAE, flat: bool = True) -> tuple[Any, Any]:
    """Returns the model and guide of Pyro's own example, with the weights of a native VAE."""
    dist, decoder, moments = pyro.distributions, native.decoder.body, encode(native)

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("latent", dist.Normal(x.new_zeros(len(x), 2), x.new_ones(len(x), 2)).to_event(1))
            logits = decoder(z) if flat else decoder(z).unflatten(1, (1, 8, 8))
            image = dist.Bernoulli(logits=logits, validate_args=False).to_event(1 if flat else 3)
            pyro.sample("obs", image, obs=x.reshape(-1, 64) if flat else x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            loc, log_variance = moments(x)
            pyro.sample("latent", dist.Normal(loc, torch.exp(log_variance / 2)).to_event(1))

    return model, guide


@pytest.mark.parametrize("flat", [True, False])
def test_pyros_vae_has_the_log_p_of_the_native_one_and_leaves_the_random_numbers_alone(pyro: Any, flat: bool) -> None:
    native, split = vae(), binary_digits()
    model, before = from_pyro(*pyro_vae(pyro, native, flat)), torch.get_rng_state()
    result, expected = logpx.evaluate(model, split), logpx.evaluate(native, split)
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(result.evidence.log_evidence, expected.evidence.log_evidence, rtol=1e-6, atol=1e-5)
    assert "curvature" in result.record["methods"] and result.record["relaxed"] is None
    assert model.prior().batch_shape == () and model.decoder(torch.zeros(2, 3, 2)).event_shape == (1, 8, 8)


def linear_pyro(pyro: Any, full: bool) -> tuple[Any, Any, MultivariateNormal]:
    """Returns factor analysis as programs, with a guide that is a little too wide, and its exact p(x)."""
    dist, weight, scale = pyro.distributions, normal(3, 2, seed=5), 0.5
    cov = torch.linalg.inv(torch.eye(2) + weight.T @ weight / scale**2)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0))
        with pyro.plate("rows", len(x)):
            p = dist.MultivariateNormal(z @ weight.T, scale**2 * torch.eye(3))
            pyro.sample("x", p if full else dist.Normal(z @ weight.T, scale).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.Normal(x @ weight @ cov.T / scale**2, 1.1 * cov.diagonal().sqrt()))

    return model, guide, MultivariateNormal(torch.zeros(3), weight @ weight.T + scale**2 * torch.eye(3))


@pytest.mark.parametrize("full", [False, True])
def test_a_linear_gaussian_model_of_pyro_has_its_true_log_p(pyro: Any, full: bool) -> None:
    model, guide, truth = linear_pyro(pyro, full)
    x = normal(30, 3, seed=6)
    result = logpx.evaluate(from_pyro(model, guide), test_split(x), num_samples=1000)
    error = result.record["log_evidence"]["monte_carlo_error"]
    # four standard errors: a false alarm once in 16,000 seeds
    assert 0 < error < 0.02
    assert abs(result.record["log_evidence"]["mean"] - truth.log_prob(x).mean().item()) < 4 * error


def programs(pyro: Any, kind: str) -> tuple[Any, Any]:
    """Returns programs that are not of the form that is asked for."""
    dist = pyro.distributions

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 3), 1.0).to_event(1))
            if kind == "latents":
                pyro.sample("w", dist.Normal(0.0, 1.0))
            mean = x.cumsum(-1) + z if kind == "data" else z
            with pyro.poutine.mask(mask=kind != "mask"):
                pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=None if kind == "unobserved" else x)

    def guide(x: Tensor) -> None:
        name = "other" if kind == "names" else "z"
        if kind == "rows":
            pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            return
        with pyro.plate("data", len(x)):
            p = dist.Delta(x).to_event(1) if kind == "point" else dist.Normal(x, 1.0).to_event(1)
            pyro.sample(name, p)

    return model, guide


@pytest.mark.parametrize(
    "kind, message",
    [
        ("latents", "The model must draw one latent, but has z, w: "),
        ("data", "must depend on the latent alone, but it depends on the data"),
        ("mask", "The site x is masked by poutine.mask"),
        ("unobserved", "The model must draw one latent, but has z, x"),
        ("names", "The guide draws other, but the model z"),
        ("rows", r"The site z must have one row per datum, 5 in all, .* but has batch shape \(\)"),
        ("point", "The site z is drawn from a point mass"),
    ],
)
def test_programs_of_another_form_are_refused(pyro: Any, kind: str, message: str) -> None:
    with pytest.raises(LogpxError, match=message):
        from_pyro(*programs(pyro, kind)).encoder(normal(5, 3))


def test_pyro_pairs_sample_without_data_when_told_the_shape(pyro: Any) -> None:
    programs = pyro_vae(pyro, vae())
    assert logpx.sample(from_pyro(*programs, event_shape=(1, 8, 8)), 3).shape == (3, 1, 8, 8)
    with pytest.raises(ValueError, match="the shape of x is not known: give from_pyro the argument event_shape"):
        from_pyro(*programs).prior()


# -------------------------------------------------------------------------------------------------------------- pythae


@pytest.fixture
def pythae() -> Any:
    return pytest.importorskip("pythae.models", reason="pythae is not installed: pip install 'logpx[pythae]'")


def pythae_vae(pythae: Any, kind: str = "VAE", loss: str = "bce") -> Any:
    """Returns a tiny model after an epoch on binary digits."""
    x = logpx.load_data("digits").split("train", "threshold").batch(torch.arange(1197)).x
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = getattr(pythae, f"{kind}Config")(input_dim=(1, 8, 8), latent_dim=3, reconstruction_loss=loss)
        model = getattr(pythae, kind)(config)
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        for batch in x.split(50):
            optimizer.zero_grad()
            model({"data": batch}).loss.backward()
            optimizer.step()
    return model.eval()


@pytest.mark.parametrize("kind, loss", [("VAE", "bce"), ("VAE", "mse"), ("BetaVAE", "bce"), ("IWAE", "bce")])
def test_a_vae_of_pythae_has_the_log_p_that_pythae_says(pythae: Any, kind: str, loss: str) -> None:
    model, split = pythae_vae(pythae, kind, loss), binary_digits(30)
    result = logpx.evaluate(from_pythae(model), split, estimator="importance", num_samples=1000)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(1)
        theirs = model.get_nll(split.batch(torch.arange(30)).x, n_samples=1000, batch_size=500)
        x = split.batch(torch.arange(30)).x
        q, own = from_pythae(model).encoder(x), model.encoder(x)
        torch.testing.assert_close(q.mean, own["embedding"])
        torch.testing.assert_close(q.stddev.log(), own["log_covariance"] / 2)
    # both have the same Monte Carlo error; four standard errors: a false alarm once in 16,000 seeds
    error = math.sqrt(2) * result.record["log_evidence"]["monte_carlo_error"]
    assert 0 < error < 0.05
    assert abs(result.record["log_evidence"]["mean"] - theirs) < 4 * error
    assert (result.record["relaxed"] is None) == (loss == "bce")


def test_the_default_estimator_fits_proposals_to_a_vae_of_pythae(pythae: Any) -> None:
    result = logpx.evaluate(from_pythae(pythae_vae(pythae)), binary_digits(30), target_error=0.01)
    fixed = log_p(from_pythae(pythae_vae(pythae)), binary_digits(30), estimator="importance", num_samples=3000)
    assert "curvature" in result.record["methods"]
    assert result.record["log_evidence"]["mean"] == pytest.approx(fixed.mean().item(), abs=0.05)


def test_pythaes_get_nll_is_a_log_likelihood_of_at_least_a_batch_of_draws(pythae: Any) -> None:
    model, x, values = pythae_vae(pythae), binary_digits(3).batch(torch.arange(3)).x, []
    for num_samples in (1, 100, 150):
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(1)
            values.append(model.get_nll(x, n_samples=num_samples, batch_size=100))
    assert values[0] == values[1] == values[2] < 0


def test_what_from_pythae_does_not_know_is_refused(pythae: Any) -> None:
    with pytest.raises(TypeError, match="from_pythae takes pythae's VAE, BetaVAE, IWAE, but got AE"):
        from_pythae(pythae.AE(pythae.AEConfig(input_dim=(1, 8, 8), latent_dim=3)))
    with pytest.raises(ValueError, match=r"for data of shape \(1, 8, 8\), but a datum has shape \(64,\)"):
        from_pythae(pythae_vae(pythae)).encoder(torch.zeros(5, 64))


@pytest.mark.parametrize(
    "make, name, extra",
    [(lambda: from_pyro(print, print), "pyro", "pyro"), (lambda: from_pythae(1), "pythae", "pythae")],
)
def test_a_missing_library_is_named_with_its_cure(
    make: Any, name: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [each for each in sys.modules if each.split(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        LogpxError, match=re.escape(f"needs {name}, which is not installed: pip install 'logpx[{extra}]'")
    ):
        make()


def test_a_library_leaves_the_checks_of_distributions_as_they_were(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "meddler.py").write_text(
        "from torch.distributions import Distribution\nDistribution.set_default_validate_args(False)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    before = torch.distributions.Distribution._validate_args
    _foreign.load_library("meddler", "meddler")
    assert torch.distributions.Distribution._validate_args == before
    monkeypatch.delitem(sys.modules, "meddler")


# --------------------------------------------------------------------------------------- models on the command line


MODULE = """
import torch
from torch import nn
from torch.distributions import Independent, Normal

class Linear:
    def __init__(self, scale=1.0):
        self.scale = scale
    def prior(self):
        return Independent(Normal(torch.zeros(2), 1.0), 1)
    def encoder(self, x):
        return Independent(Normal(0.4 * x[:, :2], 0.75), 1)
    def decoder(self, z):
        mean = torch.cat([z, z.sum(-1, keepdim=True)], -1)
        return Independent(Normal(mean, self.scale, validate_args=False), 1, validate_args=False)

class Forgetful(Linear):
    def decoder(self, z):
        return Normal(super().decoder(z).mean, 1.0)

class Quitter(Linear):
    def decoder(self, z):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

class Dropped(Linear):
    def __init__(self):
        super().__init__()
        self.hidden = [nn.Dropout(0.5)]  # a list hides it from whoever looks for modules
    def decoder(self, z):
        return super().decoder(self.hidden[0](z))

class Normalized(Dropped):
    def __init__(self):
        super().__init__()
        self.hidden = [nn.Sequential(nn.Flatten(0, 1), nn.BatchNorm1d(2), nn.Unflatten(0, (-1, 12)))]

load = Linear
ready = Linear()
broken = lambda: Linear(float("nan"))
half = lambda: object()
def fails():
    raise FileNotFoundError("weights.pt is not there")
number = 3
"""


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a package of models and with data, from which commands are run."""
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "__init__.py").touch()
    (tmp_path / "my_package" / "my_module.py").write_text(MODULE)
    (tmp_path / "my_package" / "needy.py").write_text("import not_installed_anywhere")
    (tmp_path / "my_package" / "wrong.py").write_text("1 / 0")
    np.savez(tmp_path / "x.npz", train=normal(20, 3, seed=1).numpy(), test=normal(12, 3, seed=2).numpy())
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    yield tmp_path
    assert sys.path == before
    for name in [each for each in sys.modules if each.split(".")[0] == "my_package"]:
        del sys.modules[name]


WORDS = ("evaluate", "--data", "x.npz", "--model")
QUICK = ("--estimator", "importance", "--num-samples", "200")


@pytest.mark.parametrize("name", ["load", "ready", "Linear"])
def test_a_model_of_ones_own_is_evaluated_on_the_command_line(
    name: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--scores", "scores.csv", "--output", "record.json", "--seed", "3", *QUICK)
    text = called(capsys, *WORDS, f"my_package.my_module:{name}", *words)
    record = json.loads((workplace / "record.json").read_text())
    assert (record["num_samples"], record["seed"], record["data"]["num_data"], record["flags"]) == (200, 3, 12, [])
    assert record["source"] == f"my_package.my_module:{name}" and record["model"] == "Linear"
    assert f"{record['log_evidence']['mean']:.3f} nats per datum" in text
    assert "scores.csv" in text and "record.json" in text
    with (workplace / "scores.csv").open(newline="") as file:
        column = [float(row["log_evidence_nats"]) for row in csv.DictReader(file)]
    assert np.mean(column) == pytest.approx(record["log_evidence"]["mean"], rel=1e-7)
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    truth = MultivariateNormal(torch.zeros(3), weight @ weight.T + torch.eye(3)).log_prob(normal(12, 3, seed=2))
    # four standard errors: a false alarm once in 16,000 seeds
    error = record["log_evidence"]["monte_carlo_error"]
    assert abs(record["log_evidence"]["mean"] - truth.mean().item()) < 4 * error < 0.2


def test_a_subset_stands_for_all_data_of_a_model_of_ones_own(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--subset", "5", "--scores", "scores.csv", "--output", "record.json", *QUICK)
    assert "5 of these data, drawn at random" in called(capsys, *WORDS, "my_package.my_module:load", *words)
    assert json.loads((workplace / "record.json").read_text())["subset"]["num_data"] == 5
    assert len((workplace / "scores.csv").read_text().splitlines()) == 6


def test_a_model_of_ones_own_is_evaluated_by_default_as_a_process_and_without_files(workplace: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "logpx", *WORDS, "my_package.my_module:load", "--split", "train"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "x, train, 18 data" in done.stdout and "estimator" in done.stdout
    assert sorted(each.name for each in workplace.iterdir()) == ["my_package", "x.npz"]


@pytest.mark.parametrize(
    "name, code, message",
    [
        ("my_module", 2, "--model must be MODULE:NAME, such as my_package.my_module:load, but is 'my_module'."),
        ("nowhere.module:load", 1, "There is no module nowhere.module to import (no nowhere): run from the folder"),
        ("my_package.nowhere:load", 1, "There is no module my_package.nowhere to import (no my_package.nowhere)"),
        ("my_package.needy:load", 1, "The module my_package.needy imports not_installed_anywhere, which is not"),
        ("my_package.wrong:load", 1, "Importing my_package.wrong raised ZeroDivisionError: division by zero"),
        ("my_package.my_module:lod", 1, "The module my_package.my_module has no attribute 'lod': its own names are"),
        ("my_package.my_module:number", 1, "needs the methods prior, encoder and decoder, but int lacks"),
        ("my_package.my_module:half", 1, "needs the methods prior, encoder and decoder, but object lacks"),
        ("my_package.my_module:fails", 1, "fails() raised FileNotFoundError: weights.pt is not there (--debug"),
        ("my_package.my_module:Quitter", 1, "The model of my_package.my_module:Quitter raised RuntimeError: mat1"),
        ("my_package.my_module:Forgetful", 1, "log p(x|z) must have shape (S, B) = (4, 12), but has (4, 12, 3)"),
        (
            "my_package.my_module:broken",
            1,
            "log p(x|z) is not finite in any of 4 draws for each of the first 12 data (48 NaN)",
        ),
        ("my_package.my_module:Dropped", 1, "decoder(z) gives another p(x|z) each time it is asked for the same z"),
        ("my_package.my_module:Normalized", 1, "decoder(z) gives another p(x|z) when other latents are in the batch"),
    ],
)
def test_a_model_that_does_not_serve_is_told_so_in_one_line(
    name: str, code: int, message: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    received, error = refused(capsys, *WORDS, name)
    assert received == code and error.count("\n") == 1
    assert message in error and "defect of logpx" not in error


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "evaluate needs a run folder, or --model and --data, and not both."),
        (["run", "--model", "a:b", "--data", "x.npz"], "and not both."),
        (["--model", "a:b"], "--model needs --data"),
        (["--model", "a:b", "--data", "x.npz", "--weights", "last"], "--weights is for a run"),
        (["run", "--data", "x.npz", "--data-seed", "1"], "--data, --data-seed goes with --model"),
    ],
)
def test_a_run_and_a_model_are_not_mixed_up(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, error = refused(capsys, "evaluate", *words)
    assert code == 2 and message in error


def test_grey_data_are_binarized_for_a_model_of_ones_own(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workplace / "my_package" / "grey.py").write_text(
        "import torch\nfrom torch import nn\nimport logpx\n"
        "def load():\n"
        "    return logpx.adapt(lambda x: (x.flatten(1)[:, :2], torch.zeros(len(x), 2)), nn.Linear(2, 64))\n"
    )
    words = ("evaluate", "--model", "my_package.grey:load", "--data", "digits", "--limit", "5", *QUICK)
    text = called(capsys, *words, "--binarization", "static", "--data-seed", "4")
    assert "binarization static" in text
    assert "needs data of 0 and 1" in refused(capsys, *words)[1]


# -------------------------------------------------------------------------------------------------------------- checks


class Moody(Toy):
    """A model, one part of which is random."""

    def __init__(self, part: str) -> None:
        super().__init__()
        self.part = part

    def encoder(self, x: Tensor) -> Any:
        q: Any = super().encoder(x)
        noise = torch.randn(len(x), 2) if self.part == "encoder" else 0.0
        noise = x.mean(0)[:2] if self.part == "batch" else noise
        return Independent(Normal(q.mean + noise, q.stddev), 1)

    def decoder(self, z: Tensor) -> Any:
        p: Any = super().decoder(z)
        if self.part not in ("likelihood", "bound"):
            return p
        p.log_prob = lambda x: Independent(Normal(p.mean, 1.0), 1).log_prob(x + 0.3 * torch.rand(x.shape))
        p.is_bound = self.part == "bound"
        return p


@pytest.mark.parametrize(
    "part, message",
    [
        ("none", None),
        ("encoder", "The encoder gives another q(z|x) each time, or one that depends on the other data"),
        ("batch", "The encoder gives another q(z|x) each time, or one that depends on the other data"),
        ("likelihood", "log p(x|z) is random given z"),
        ("bound", None),
    ],
)
def test_randomness_that_leaves_estimates_right_is_told_in_the_record(part: str, message: str | None) -> None:
    options: dict[str, Any] = {"estimator": "importance", "num_samples": 100}
    record = logpx.evaluate(Moody(part), test_split(normal(12, 3)), **options).record
    told = [flag for flag in record["flags"] if "random" in flag or "encoder" in flag]
    assert [message in flag for flag in told] == ([True] if message else [])  # type: ignore[operator]


def test_dropout_in_a_hidden_module_of_an_adapted_pair_is_refused() -> None:
    hidden = {"decoder": nn.Sequential(nn.Linear(2, 64), nn.Dropout(0.2))}
    model = adapt(lambda x: (x.flatten(1)[:, :2], torch.zeros(len(x), 2)), lambda z: hidden["decoder"](z))
    with pytest.raises(ValueError, match=r"same z, as dropout in training mode does: call \.eval\(\)"):
        logpx.evaluate(model, binary_digits(4))
    hidden["decoder"].eval()
    logpx.evaluate(model, binary_digits(4), estimator="importance", num_samples=10)


@pytest.mark.parametrize(
    "part, message", [("prior", "log p(z)"), ("encoder", "log q(z)"), ("decoder", "log p(x|z)"), ("own", "log_weights")]
)
def test_the_term_that_is_finite_nowhere_is_named(part: str, message: str) -> None:
    model: Any = Toy()
    if part == "own":
        model.log_weights = lambda x, num_samples, context, mask: torch.full((num_samples, len(x)), -torch.inf)
    else:
        right = getattr(model, part)

        def wrong(*given: Tensor) -> Any:
            mean = right(*given).mean
            return Independent(
                Normal(torch.nan * mean, torch.ones_like(mean), validate_args=False), 1, validate_args=False
            )

        setattr(model, part, wrong)
    kind = "-inf" if part == "own" else "NaN"
    expected = f"{message} is not finite in any of 4 draws for each of the first 6 data (24 {kind})"
    with pytest.raises(ValueError, match=re.escape(expected)):
        logpx.evaluate(model, test_split(normal(6, 3)))


def test_an_encoder_of_nan_scales_is_told_so() -> None:
    with pytest.raises(ValueError, match=r"q\(z\|x\) cannot be drawn from \(.*std.*\): look for NaN weights"):
        logpx.evaluate(adapt(lambda x: (x, torch.nan * x), lambda z: z), test_split(normal(6, 3)))


# ---------------------------------------------------------------------------------------------------------------- docs


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", DOCS.read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("number, library", [(0, "torch"), (1, "pyro"), (2, "pythae")], ids=["adapt", "pyro", "pythae"])
def test_the_code_of_the_guide_runs(number: int, library: str, tmp_path: Path) -> None:
    pytest.importorskip(library, reason=f"{library} is not installed: pip install 'logpx[{library}]'")
    quiet = ["-W", "error", "-W", "ignore::DeprecationWarning"]
    done = subprocess.run(
        [sys.executable, *quiet, "-c", blocks()[number]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "nats per datum" in done.stdout
