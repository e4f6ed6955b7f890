"""The learner of a model and the dictionaries in it."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.kinds import GradientConfig
from dictlearn.core.learning import Learner
from dictlearn.distributed.process_group import ProcessGroup
from dictlearn.finetuning.config import FinetuneConfig, divergence, next_token_loss
from dictlearn.finetuning.place import LearningPlace
from dictlearn.lm.hooks import LanguageModel, placed
from dictlearn.lm.identity import parameters_of
from dictlearn.training.gradient import average_gradients_
from dictlearn.training.moments import load_moments_, moments


class FinetuneLearner(Learner):
    """Adam on the loss of the model that runs through its dictionaries, and on their objectives.

    The functions of `places` are at the model's hooks throughout the run.
    """

    shares_batch = True

    def __init__(
        self,
        model: LanguageModel,
        places: Mapping[str, LearningPlace],
        config: FinetuneConfig,
        group: ProcessGroup,
    ) -> None:
        self._model, self.places, self._config, self._group = model, dict(places), config, group
        self._step = 0
        rate = config.model_learning_rate
        self._of_model = parameters_of(model) if rate is not None else {}
        self._named = {f"model/{name}": p for name, p in self._of_model.items()}
        settings: list[dict[str, object]] = []
        if rate is not None:
            settings.append({
                "params": list(self._of_model.values()), "peak": rate,
                "weight_decay": config.model_weight_decay,
            })  # fmt: skip
        for name, place in self.places.items():
            kind = place.dictionary.config
            assert isinstance(kind, GradientConfig)
            peak = config.peak_learning_rate(kind)
            for key, parameter in place.dictionary.named_parameters():
                self._named[f"dictionaries/{name}/{key}"] = parameter
                own = peak * place.dictionary.rates.get(key, 1.0)
                settings.append({"params": [parameter], "peak": own, "weight_decay": 0.0})
        self._optimizer = torch.optim.AdamW(
            settings, lr=1.0, betas=config.adam_betas, weight_decay=0.0, fused=True
        )

    @property
    def trains_model(self) -> bool:
        """Whether the model is trained, and not only its dictionaries."""
        return bool(self._of_model)

    def learned(self) -> dict[str, Tensor]:
        """The parameters of the model, if it is trained, and the state of every dictionary."""
        found = {f"model/{name}": p.detach() for name, p in self._of_model.items()}
        for name, place in self.places.items():
            state = place.dictionary.state_dict()
            found |= {f"dictionaries/{name}/{key}": t for key, t in state.items()}
        return found

    def update(self, ids: Int[Tensor, "b pos"]) -> dict[str, Tensor]:
        """Take one step on a batch of blocks; losses, and L0, FVU and dead fraction of each place.

        Of all dictionaries together, L0 and FVU are means, the dead fraction that of all features.
        """
        ids = placed(ids, self._model)
        for place in self.places.values():
            place.begin_(self._step)
        with ExitStack() as sharing:
            for place in self.places.values():
                sharing.enter_context(place.upkeep.sharing_the_batch())
            loss = self._loss(ids)
            local = [torch.stack(list(p.losses.values())).sum() for p in self.places.values()]
            total = self._config.model_loss_weight * loss
            if local:
                total = total + self._config.local_weight * sum(local)
            self._descend(total)
            logs = {name: place.log(self._group) for name, place in self.places.items()}
        self._step += 1
        for place in self.places.values():
            place.upkeep.resample_(
                self._step, self._optimizer, place.batches(self._group, len(ids))
            )
        both = self._group.all_reduce_means([total.detach(), loss.detach()])
        return dict(zip(("loss", "model_loss"), both, strict=True)) | self._summary(logs)

    def _loss(self, ids: Int[Tensor, "b pos"]) -> Tensor:
        with self._running():
            logits = self._model(ids)
        if not self._config.match_clean:
            return next_token_loss(logits, ids)
        with torch.no_grad():
            clean = self._model(ids)
        return divergence(logits, clean)

    @contextmanager
    def _running(self) -> Iterator[None]:
        """A context in which passes of the model, clean otherwise, run through the dictionaries."""
        for place in self.places.values():
            place.active = True
        try:
            yield
        finally:
            for place in self.places.values():
                place.active = False

    def _descend(self, total: Tensor) -> None:
        scale = self._config.learning_rate_scale(self._step)
        for group in self._optimizer.param_groups:
            group["lr"] = group["peak"] * scale
        self._optimizer.zero_grad()
        total.backward()
        average_gradients_(self._named.values(), self._group)
        for place in self.places.values():
            place.dictionary.project_gradient_()
        norm = self._config.max_gradient_norm
        if norm is not None:
            clip_grad_norm_(self._of_model.values(), norm)
            for place in self.places.values():
                clip_grad_norm_(place.dictionary.parameters(), norm)
        self._optimizer.step()
        for place in self.places.values():
            place.dictionary.project_()

    def _summary(self, logs: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
        found = {f"{name}/{key}": value for name, log in logs.items() for key, value in log.items()}
        if not logs:
            return found
        means = {
            key: torch.stack([log[key].double() for log in logs.values()]).mean()
            for key in ("l0", "fvu")
        }
        dead = torch.cat([place.upkeep.dead for place in self.places.values()])
        return found | means | {"dead": dead.double().mean()}

    def finish(self) -> dict[str, FeatureDictionary]:
        """The dictionaries, in evaluation mode and without gradients."""
        self._optimizer.zero_grad()
        for place in self.places.values():
            place.end_()
        return {
            name: place.dictionary.eval().requires_grad_(False)
            for name, place in self.places.items()
        }

    def state(self) -> dict[str, Tensor]:
        """The tensors learned, Adam's moments, the step, steps since each feature was active."""
        adam = dict(moments(self._optimizer, self._named.items()))
        idle = {f"idle/{name}": place.upkeep.idle for name, place in self.places.items()}
        return self.learned() | adam | idle | {"step": torch.tensor(self._step)}

    @torch.no_grad()
    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continue from what `state` returned, to the same bits."""
        for name, tensor in self.learned().items():
            tensor.copy_(state[name])
        load_moments_(self._optimizer, self._named.items(), state)
        for name, place in self.places.items():
            place.upkeep.idle.copy_(state[f"idle/{name}"])
        self._step = int(state["step"])
