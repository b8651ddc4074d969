"""The border to torch-pruning, which knows what depends on a channel and takes it out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from prunekit import MissingExtra, UnsupportedModel
from prunekit_plugins.structural.channels import Group, Part
from prunekit_plugins.structural.report import Whole

Forward: TypeAlias = Callable[[nn.Module], Any]
"""Runs a model on the example inputs."""

TOGETHER: Mapping[str, str] = {
    "OUTPUT": "the model gives them out",
    "MHA": "attention splits them into heads",
    "LN": "they are normalised together",
    "GN": "they are normalised together",
    "LSTM": "they are the state of a recurrent layer",
}
"""What channels can come to that ties them together, by torch-pruning's name for it."""


def traced(model: nn.Module, forward: Forward) -> Any:
    """The dependency graph of a model, which it leaves in evaluation mode.

    Raises:
        MissingExtra: torch-pruning is not installed.
        UnsupportedModel: The model gives nothing that depends on its weights.
    """

    def run(model: nn.Module, _: object) -> Any:
        return forward(model)

    with torch.enable_grad():
        return _torch_pruning().DependencyGraph().build_dependency(
            model,
            (),
            forward_fn=run,
            output_transform=_summed,
            verbose=False,
        )  # fmt: skip


def groups_in(model: nn.Module, graph: Any) -> tuple[list[Group], list[Whole]]:
    """The groups of channels of a model, and those that the types of their layers keep whole."""
    names = {module: name for name, module in model.named_modules()}
    times = Counter(parameter for _, parameter in model.named_parameters(remove_duplicate=False))
    groups: list[Group] = []
    whole: list[Whole] = []
    for members in graph.get_all_groups(root_module_types=[_ConvNd, nn.Linear]):
        root = members[0].dep.target.module
        channels = len(members[0].idxs)
        writers: list[Part] = []
        readers: list[Part] = []
        reasons = list(_ties(members, times))
        for member in members:
            layer = member.dep.target.module
            if reasons or not isinstance(layer, (_ConvNd, nn.Linear)):
                continue
            writes = graph.is_out_channel_pruning_fn(member.dep.handler)
            entries = _entries(member, channels)
            if entries is None:
                reasons.append(f"{names[layer]} takes them apart unevenly")
            else:
                (writers if writes else readers).append(Part(names[layer], _axis(layer, writes), entries))
        if reasons:
            whole.append(Whole(_writers(members, graph, names), channels, reasons[0]))
        else:
            groups.append(Group(names[root], channels, tuple(writers), tuple(readers)))
    return groups, whole


def remove(model: nn.Module, graph: Any, group: Group, channels: list[int]) -> None:
    """Takes channels of a group out of all layers that have them."""
    if channels:
        root = model.get_submodule(group.root)
        write = graph.get_pruner_of_module(root).prune_out_channels
        graph.get_pruning_group(root, write, channels).prune()


def tensors_in(output: Any) -> list[Tensor]:
    """The tensors of floats in what a model gives, in order."""
    if isinstance(output, Tensor):
        return [output] if output.is_floating_point() else []
    if isinstance(output, Mapping):
        output = list(output.values())
    return [each for item in output for each in tensors_in(item)] if isinstance(output, (list, tuple)) else []


def _summed(output: Any) -> Tensor:
    """All of an output as one number, so that what it is made of leads to one place."""
    summed = sum((each.sum() for each in tensors_in(output)), torch.zeros(()))
    if summed.grad_fn is None:
        raise UnsupportedModel(
            "The model gives no tensor that depends on its weights; tensors are looked for in lists, tuples "
            "and mappings."
        )
    return summed


def _ties(members: Any, times: Counter[nn.Parameter]) -> Iterator[str]:
    """Why the channels of a group cannot be taken apart."""
    for member in members:
        node = member.dep.target
        if node.type.name in TOGETHER:
            yield TOGETHER[node.type.name]
        if isinstance(node.module, _ConvNd) and node.type.name == "CONV" and node.module.groups > 1:
            yield "a convolution reads or writes them in groups"
        shared = isinstance(node.module, nn.Module) and any(
            times[each] > 1 for each in node.module.parameters()
        )
        if shared:
            yield "their weights are used in another layer too"


def _writers(members: Any, graph: Any, names: Mapping[nn.Module, str]) -> tuple[str, ...]:
    return tuple(
        names[member.dep.target.module]
        for member in members
        if isinstance(member.dep.target.module, (_ConvNd, nn.Linear))
        and graph.is_out_channel_pruning_fn(member.dep.handler)
    )


def _entries(member: Any, channels: int) -> Tensor | None:
    """The entries of each channel in a layer; None where not all have as many."""
    pairs = sorted(zip(member.root_idxs, member.idxs, strict=True))
    counts = Counter(channel for channel, _ in pairs)
    each, rest = divmod(len(pairs), channels)
    if rest or any(counts[channel] != each for channel in range(channels)):
        return None
    return torch.tensor([entry for _, entry in pairs]).reshape(channels, each)


def _axis(layer: _ConvNd | nn.Linear, writes: bool) -> int:
    """The axis of a layer's weight that holds what it writes, or reads."""
    swapped = isinstance(layer, _ConvNd) and layer.transposed and layer.groups == 1
    return int(writes == swapped)


def _torch_pruning() -> Any:
    try:
        import torch_pruning
    except ImportError as error:
        raise MissingExtra(
            "Pruning channels needs torch-pruning: pip install 'prunekit[structural]'."
        ) from error
    return torch_pruning
