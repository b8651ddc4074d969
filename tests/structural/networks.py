"""Small networks in plain torch, one for each way in which layers share channels."""

import torch
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d, gelu, scaled_dot_product_attention


class Block(nn.Module):
    """A residual block; where shapes change, the shortcut is a convolution too."""

    def __init__(self, before, after, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.down = None
        if before != after or stride > 1:
            self.down = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + (x if self.down is None else self.down(x)))


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 1, 1)
        self.bn = nn.BatchNorm2d(8)
        self.blocks = nn.Sequential(Block(8, 8), Block(8, 12, 2))
        self.fc = nn.Linear(12, 5)

    def forward(self, x):
        return self.fc(self.blocks(torch.relu(self.bn(self.stem(x)))).mean((2, 3)))


class Chain(nn.Module):
    """No normalisation: a convolution, one of each channel alone, one that is flattened, linear layers."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 6, 3, 2, 1)
        self.each = nn.Conv2d(6, 6, 3, 1, 1, groups=6)
        self.b = nn.ConvTranspose2d(6, 4, 2, 2)
        self.fc1 = nn.Linear(4 * 4, 7)
        self.fc2 = nn.Linear(7, 5)

    def forward(self, x):
        x = torch.relu(self.b(torch.relu(self.each(torch.relu(self.a(x))))))
        return self.fc2(torch.relu(self.fc1(adaptive_avg_pool2d(x, 2).flatten(1))))


class Joined(nn.Module):
    """Channels side by side, as in DenseNet, then a convolution in groups."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 6, 3, 1, 1)
        self.b = nn.Conv2d(6, 4, 3, 1, 1)
        self.c = nn.Conv2d(10, 8, 1)
        self.grouped = nn.Conv2d(8, 8, 3, 1, 1, groups=2)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        a = torch.relu(self.a(x))
        x = torch.relu(self.c(torch.cat([a, torch.relu(self.b(a))], 1)))
        return self.fc(torch.relu(self.grouped(x)).mean((2, 3)))


class Attention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.out = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, x):
        q, k, v = (
            each(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in (self.q, self.k, self.v)
        )
        return self.out(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Layer(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)
        self.fc1, self.fc2 = nn.Linear(dim, 3 * dim), nn.Linear(3 * dim, dim)

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.fc2(gelu(self.fc1(self.norm2(x))))


class ViT(nn.Module):
    def __init__(self, dim=16, heads=4):
        super().__init__()
        self.patch = nn.Conv2d(3, dim, 4, 4)
        self.cls = nn.Parameter(torch.zeros(1, 1, dim))
        self.positions = nn.Parameter(torch.randn(1, 17, dim))
        self.layers = nn.Sequential(Layer(dim, heads), Layer(dim, heads))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, 5)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.positions
        return self.head(self.norm(self.layers(x))[:, 0])


class Encoder(nn.Module):
    """torch's own transformer layers."""

    def __init__(self):
        super().__init__()
        self.into = nn.Linear(48, 16)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 1)
        self.fc = nn.Linear(16, 5)

    def forward(self, x):
        return self.fc(self.encoder(self.into(x.reshape(len(x), 16, 48))).mean(1))


NETWORKS = {each.__name__: each for each in (ResNet, Chain, Joined, ViT, Encoder)}
IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([1, 3])


def made(kind, dtype=torch.float64):
    """A network with weights, and running statistics, that are not those of the beginning."""
    torch.manual_seed(0)
    network = kind()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_()
    return network.to(dtype).eval()


def loss(model):
    images = IMAGES.to(next(model.parameters()).dtype)
    return nn.functional.cross_entropy(model(images), LABELS)
