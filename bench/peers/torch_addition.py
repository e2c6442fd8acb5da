"""Additions for the PyTorch peer: the transformer of McLeish et al. 2024 with Abacus embeddings or FIRE, and problems to train it on.

Like their released code it is given problems made and tokenised beforehand; a step takes random rows of them.
"""

PAD, END, DIGIT, PLUS, EQUALS, VOCABULARY = 0, 3, 4, 14, 17, 19
PROBLEMS = 1 << 16
IGNORED = -100
TOKENS = {str(digit): DIGIT + digit for digit in range(10)} | {"+": PLUS, "=": EQUALS}


def model_class():
    import torch
    import torch.nn.functional as functional
    from torch import nn

    class Gated(nn.Module):
        """x W_up * gelu(x W_gate), then W_down; no biases."""

        def __init__(self, dim, mlp):
            super().__init__()
            self.gate_up = nn.Linear(dim, 2 * mlp, bias=False)
            self.down = nn.Linear(mlp, dim, bias=False)

        def forward(self, states):
            gate, up = self.gate_up(states).chunk(2, dim=-1)
            return self.down(functional.gelu(gate) * up)

    class Fire(nn.Module):
        """Bias of attention logits by the distance of query and key (Li et al. 2024)."""

        def __init__(self, heads, tokens, hidden=32, length=512.0):
            super().__init__()
            self.hidden, self.output = nn.Linear(1, hidden), nn.Linear(hidden, heads)
            self.scale, self.multiplier = nn.Parameter(torch.tensor([0.1])), nn.Parameter(torch.tensor([1.0]))
            self.length = length
            place = torch.arange(tokens, dtype=torch.float32)
            self.register_buffer("queries", place[:, None], persistent=False)
            self.register_buffer("distances", (place[:, None] - place).clamp(min=0), persistent=False)
            self.register_buffer("masked", torch.full((tokens, tokens), -torch.inf).triu(1), persistent=False)

        def forward(self):
            furthest = torch.maximum(self.queries, (self.multiplier * self.length).abs())
            above = torch.log((self.scale * self.distances).abs() + 1)
            below = torch.log((self.scale * furthest).abs() + 1) + 1e-6
            bias = self.output(functional.relu(self.hidden((above / below)[..., None])))
            return bias.permute(2, 0, 1) + self.masked

    class Block(nn.Module):
        """Post-norm block without biases in its maps."""

        def __init__(self, sizes):
            super().__init__()
            dim, self.heads = sizes["dim"], sizes["heads"]
            self.query_key_value = nn.Linear(dim, 3 * dim, bias=False)
            self.attention_output = nn.Linear(dim, dim, bias=False)
            self.attention_norm, self.mlp_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
            self.mlp = Gated(dim, sizes["mlp"])
            self.fire = Fire(sizes["heads"], length(sizes)) if has(sizes, "fire") else None

        def forward(self, states):
            batch, tokens, dim = states.shape
            maps = self.query_key_value(states).view(batch, tokens, 3, self.heads, dim // self.heads)
            query, key, value = maps.permute(2, 0, 3, 1, 4)
            if self.fire is None:
                mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
            else:
                bias = self.fire().to(query.dtype)
                mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
            mixed = mixed.transpose(1, 2).reshape(batch, tokens, dim)
            states = self.attention_norm(states + self.attention_output(mixed))
            return self.mlp_norm(states + self.mlp(states))

    class Transformer(nn.Module):
        """Embeddings with a norm, blocks, read-out at every position."""

        def __init__(self, sizes):
            super().__init__()
            dim = sizes["dim"]
            self.tokens = nn.Embedding(VOCABULARY, dim)
            self.places = nn.Embedding(sizes["rows"], dim) if has(sizes, "abacus") else None
            self.norm = nn.LayerNorm(dim)
            self.blocks = nn.ModuleList(Block(sizes) for _ in range(sizes["layers"]))
            head = []
            if sizes.get("head", "linear") == "transform":
                head = [Gated(dim, sizes["mlp"]), nn.LayerNorm(dim), nn.Linear(dim, dim, bias=False)]
            self.read_out = nn.Sequential(*head, nn.Linear(dim, VOCABULARY, bias=False))
            self.start(sizes)

        def start(self, sizes):
            """Glorot normal weights times (8 layers)^(-1/4), queries and keys without the factor."""
            gain = (8 * sizes["layers"]) ** -0.25
            for name, parameter in self.named_parameters():
                if name.startswith(("tokens", "places")):
                    nn.init.normal_(parameter, std=sizes["dim"] ** -0.5)
                elif "query_key_value" in name:
                    for part, own in zip(parameter.chunk(3), (1.0, 1.0, gain), strict=True):
                        nn.init.xavier_normal_(part, own)
                elif "gate_up" in name:
                    for part in parameter.chunk(2):
                        nn.init.xavier_normal_(part, gain)
                elif parameter.dim() == 2:
                    nn.init.xavier_normal_(parameter, gain)

        def forward(self, tokens, places):
            states = self.tokens(tokens)
            if self.places is not None:
                states = states + self.places(places)
            states = self.norm(states)
            for block in self.blocks:
                states = block(states)
            return self.read_out(states)

    return Transformer


def has(sizes, scheme):
    return scheme in sizes["positions"].split("+")


def length(sizes):
    """Tokens of a sequence: two operands, a sum one longer, `+` and `=`."""
    return 3 * sizes["digits"] + 3


def problem(generator, digits):
    """A random problem, units first: every pair of numbers of digits is equally likely."""
    first, second = (
        generator.randrange(10 ** (count - 1), 10**count)
        for count in (generator.randint(1, digits), generator.randint(1, digits))
    )
    return f"{str(first)[::-1]}+{str(second)[::-1]}={str(first + second)[::-1]}"


def written(text, width):
    """Tokens, places of digits in their numbers, and answers of a problem, `width` of each."""
    ids = [TOKENS[character] for character in text]
    places = []
    for character in text:
        places.append((places or [0])[-1] + 1 if character.isdigit() else 0)
    begins = text.index("=")
    answers = [IGNORED] * begins + ids[begins + 1 :] + [END]
    behind = width - len(text)
    return ids + [PAD] * behind, places + [0] * behind, answers + [IGNORED] * behind


class Drawing:
    """Random rows of problems made beforehand: tokens, places of their digits plus a random offset, answers."""

    def __init__(self, sizes, device, replicas=None):
        import random

        import torch

        if replicas is not None:
            raise SystemExit("additions are not offered with vmap")
        self.batch, self.offsets, self.device = sizes["batch"], sizes.get("k", 1), device
        generator, width = random.Random(torch.initial_seed()), length(sizes)
        rows = [written(problem(generator, sizes["digits"]), width) for _ in range(PROBLEMS)]
        tokens, places, answers = (torch.tensor(column) for column in zip(*rows, strict=True))
        self.tokens, self.places, self.answers = tokens.to(device), places.to(device), answers.to(device)
        # Behind the last token with an answer there is the padding.
        self.tokens_per_step = self.batch * (tokens != PAD).sum().item() / PROBLEMS

    def new(self):
        import torch

        rows = torch.randint(len(self.tokens), (self.batch,), device=self.device)
        places = self.places[rows]
        offset = torch.randint(self.offsets, (), device=self.device)
        places = torch.where(places > 0, places + offset, 0)
        return [self.tokens[rows], places, self.answers[rows]]

    def into(self, tensors):
        for tensor, drawn in zip(tensors, self.new(), strict=True):
            tensor.copy_(drawn)


def loss_of(logits, answers):
    """The mean over answers and ends."""
    import torch.nn.functional as functional

    return functional.cross_entropy(logits.flatten(0, -2), answers.flatten(), ignore_index=IGNORED)
