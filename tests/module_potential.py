"""A potential of one's own that is a torch module: one message, layers on pairs and atoms, one of them used twice."""

from dataclasses import dataclass

from pydantic import PositiveInt

from bench.potentials.modules.architecture import ModuleArchitecture


@dataclass(frozen=True)
class Messages(ModuleArchitecture):
    width: PositiveInt = 6

    def module(self, species):
        import torch
        from torch import nn

        class Net(nn.Module):
            def __init__(self, width, n_species, r_max):
                super().__init__()
                self.r_max = r_max
                self.embedding = nn.Embedding(n_species, width)
                self.filter = nn.Linear(4, width)
                self.mix = nn.Linear(width, width, bias=False)
                self.last = nn.Linear(width, 1)
                self.unused = nn.Linear(3, 3)
                self.frozen = nn.Parameter(torch.linspace(0.5, r_max, 4), requires_grad=False)

            def forward(self, graph):
                r = torch.linalg.vector_norm(graph.vectors, dim=1)[:, None]
                fade = torch.cos(r * torch.pi / 2 / self.r_max) ** 2
                filters = torch.tanh(self.filter(torch.exp(-((r - self.frozen) ** 2)))) * fade
                atoms = self.embedding(graph.species)
                vectors = graph.vectors[:, :, None] * (filters * atoms[graph.neighbours])[:, None, :]
                turned = self.mix(graph.sum_pairs(vectors)) ** 2  # rows are atoms and directions
                for _ in range(2):
                    atoms = torch.relu_(self.mix(atoms) + 0.3) + turned.sum(1)
                    atoms = atoms + graph.sum_pairs(filters * atoms[graph.neighbours])
                return torch.tanh(self.last(atoms))

        return Net(self.width, len(species), self.r_max)
