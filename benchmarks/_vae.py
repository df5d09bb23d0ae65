"""A VAE 784-400-20 as it is customarily written, and the same one for pythae."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LATENTS = 20


class PlainVAE(nn.Module):
    """The customary VAE: x -> (logits, mean, log-variance)."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.mean, self.log_variance = (
            nn.Linear(784, 400),
            nn.Linear(400, LATENTS),
            nn.Linear(400, LATENTS),
        )
        self.decode, self.out = nn.Linear(LATENTS, 400), nn.Linear(400, 784)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mu, log_variance = self.posterior(x)
        z = mu + torch.randn_like(mu) * torch.exp(0.5 * log_variance)
        return self.logits(z), mu, log_variance

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = F.relu(self.encode(x))
        return self.mean(h), self.log_variance(h)

    def logits(self, z: Tensor) -> Tensor:
        return self.out(F.relu(self.decode(z)))

    def take_weights(self, model: Any) -> PlainVAE:
        """Takes the weights of logpx's model of the same shape."""
        encoder, decoder = model.encoder.body, model.decoder.body
        pairs = [(self.encode, encoder[0]), (self.decode, decoder[0]), (self.out, decoder[2])]
        for mine, other in pairs:
            mine.load_state_dict(other.state_dict())
        for mine, weight, bias in zip(
            (self.mean, self.log_variance), encoder[2].weight.chunk(2), encoder[2].bias.chunk(2), strict=True
        ):
            mine.load_state_dict({"weight": weight, "bias": bias})
        return self


def pythae_vae(plain: PlainVAE) -> Any:
    """Returns pythae's VAE over the layers of a plain one."""
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.encode, self.mean, self.log_variance = plain.encode, plain.mean, plain.log_variance

        def forward(self, x: Tensor) -> ModelOutput:
            h = F.relu(self.encode(x.reshape(-1, 784)))
            return ModelOutput(embedding=self.mean(h), log_covariance=self.log_variance(h))

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.decode, self.out = plain.decode, plain.out

        def forward(self, z: Tensor) -> ModelOutput:
            x = torch.sigmoid(self.out(F.relu(self.decode(z))))
            return ModelOutput(reconstruction=x.reshape(-1, 1, 28, 28))

    config = VAEConfig(input_dim=(1, 28, 28), latent_dim=LATENTS, reconstruction_loss="bce")
    return VAE(config, Encoder(), Decoder())
