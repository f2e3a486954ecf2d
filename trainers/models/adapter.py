"""Adapters: LoRA layers in a frozen backbone, trained with the head (docs/methods.md §8).

The layers are those of the peft library, put into timm's model: it keeps its own methods.
"""

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from semigrid.data.errors import InputError
from semigrid.trainers.recipe import Adapter

# Ends of the names of the layers that are adapted unless a recipe says otherwise: query, key and
# value of attention (arXiv 2106.09685, §4.2), which timm's transformers have in one layer.
DEFAULT_TARGETS = ("qkv",)
# Parts of a backbone that are new where its pooling is not that of its pretrained weights.
NEW_PARTS = ("fc_norm.", "attn_pool.")
_NAME = "default"  # of the one adapter, in peft's words


class BypassedError(InputError):
    """An adapter of layers whose output the model does not use."""


def adapted_layers(model: nn.Module, adapter: Adapter) -> list[str]:
    """Names of the layers that the adapter changes.

    Raises ``InputError``, with the names that there are, if a target is the name of no layer that
    can be adapted. Those are linear layers and convolutions without groups or dilation, outside
    the head.
    """
    head = _head(model)
    possible = [
        name
        for name, module in model.named_modules()
        # not their subclasses, which do more with their weight than to multiply by it
        if (type(module) is nn.Linear or (type(module) is nn.Conv2d and _is_dense(module)))
        and id(module.weight) not in head
    ]
    targets = DEFAULT_TARGETS if adapter.targets is None else adapter.targets
    unknown = [target for target in targets if not any(_ends(name, target) for name in possible)]
    if unknown:
        by_itself = adapter.targets is None
        raise InputError(
            f"it has no {' or '.join(unknown)} layer that LoRA could adapt"
            f"{', the default' if by_itself else ''}; the ends of names of those that it has are "
            f"{', '.join(_short_names(possible)) or 'none'}: name some in adapter.targets, or "
            "write targets: [] to train the head alone"
        )
    return [name for name in possible if any(_ends(name, target) for target in targets)]


def _is_dense(convolution: nn.Conv2d) -> bool:
    """Whether peft's layer, which has neither groups nor dilation, covers the same pixels."""
    return convolution.groups == 1 and convolution.dilation == (1, 1)


def _ends(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _short_names(names: list[str]) -> list[str]:
    """The last parts of the names, of a numbered layer with what it is in: ``downsample.0``."""
    ends = []
    for name in names:
        parts = name.split(".")
        while len(parts) > 1 and parts[-1].isdigit() and parts[-2].isdigit():
            parts = parts[:-1]
        ends.append(".".join(parts[-2:] if parts[-1].isdigit() else parts[-1:]))
    return list(dict.fromkeys(ends))


def _head(model: nn.Module) -> set[int]:
    """Identities of the parameters of what training begins anew: the classifier, a new pooling."""
    classifier = model.get_classifier()  # type: ignore[operator]  # every timm model has it
    parts = classifier if isinstance(classifier, tuple | list) else [classifier]
    new = [parameter for part in parts for parameter in part.parameters()]
    new += [each for name, each in model.named_parameters() if name.startswith(NEW_PARTS)]
    return {id(parameter) for parameter in new}


def adapt(model: nn.Module, adapter: Adapter, seed: int) -> None:
    """Freezes a timm model but for its head, and puts LoRA layers into it, in place.

    An adapted layer computes ``W x + (alpha / rank) · B A x``, with B = 0 at first: the model's
    output does not change. A's random numbers depend on ``seed`` alone. Batch normalisation
    normalises by its running statistics from here on, also in training, and changes them no more;
    the model must not be switched to train mode as a whole again.

    Raises ``InputError`` as ``adapted_layers`` does.
    """
    layers, head = adapted_layers(model, adapter), _head(model)
    model.requires_grad_(False)
    if layers:
        from peft import LoraConfig, inject_adapter_in_model  # takes seconds

        config = LoraConfig(
            r=adapter.rank,
            lora_alpha=adapter.alpha,
            lora_dropout=adapter.dropout,
            target_modules=layers,
        )
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            inject_adapter_in_model(config, model, _NAME)
    for parameter in model.parameters():
        if id(parameter) in head:
            parameter.requires_grad_(True)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()


def learning(model: nn.Module) -> list[str]:
    """Names of the parameters that training changes."""
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def check_learning(model: nn.Module) -> None:
    """Raises ``BypassedError`` for adapters that a step, the first, has left without a gradient.

    Some attention takes its layer's weight and multiplies by itself, as in BEiT and Swin V2.
    """
    parameters = model.named_parameters()
    idle = [name for name, each in parameters if each.requires_grad and each.grad is None]
    layers = [name.partition(".lora_")[0] for name in idle if ".lora_A." in name]
    if layers:
        raise BypassedError(
            f"an adapter of {layers[0]} would learn nothing ({len(layers)} such layers): the "
            "backbone takes the weights past the layer; name other layers in adapter.targets"
        )


@torch.no_grad()
def merged(model: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of the state of an adapted model, as of the plain one, which computes the same."""
    from peft.tuners.lora import LoraLayer

    state: dict[str, torch.Tensor] = {n: each.clone() for n, each in model.state_dict().items()}
    for name, layer in model.named_modules():
        if isinstance(layer, LoraLayer):
            own = {key: state.pop(key) for key in list(state) if key.startswith(f"{name}.")}
            base = f"{name}.base_layer."
            plain = {key.removeprefix(base): own[key] for key in own if key.startswith(base)}
            plain["weight"] += layer.get_delta_weight(_NAME)
            state |= {f"{name}.{key}": tensor for key, tensor in plain.items()}
    return state
