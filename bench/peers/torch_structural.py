"""Question formation for the PyTorch peer: the language model of Murty et al. 2023 and the lines to train it on.

Like their released code it is given lines made and numbered beforehand, in shuffled passes; rows of a batch are padded to its longest.
Padding stands behind a line, where a causal mask hides it from all that has a loss, so that attention is given no second mask.
"""

PAD, END, START, VOCABULARY = 0, 69, 70, 71
LINES, LONGEST = 100_000, 36
IGNORED = -100
DROPOUT = 0.1

# Ids of words by kind; of nouns and auxiliaries the first half is singular. Which word an id stands for makes no difference here.
DETERMINERS, NOUNS, INTRANSITIVE, TRANSITIVE = range(1, 7), range(7, 33), range(33, 42), range(42, 51)
AUXILIARIES, PREPOSITIONS, RELATIVIZERS = range(51, 55), range(55, 63), range(63, 65)
STOP, QUESTION_MARK, QUEST, DECL = range(65, 69)

# Lines of each kind among 11,000 (common/src/tasks/question_formation.rs): questions and declarations, by what modifies the subject,
# and for each the predicate: a verb alone, or a verb and an object, so modified. Questions have no relative clause at their subject.
MODIFIERS = ("none", "prepositional", "subject-intransitive", "object", "subject-transitive")
PREDICATES = ("intransitive", *MODIFIERS)
QUESTIONS = ((30, 858, 915, 573, 268, 286), (348, 352, 350, 226, 117, 117))
DECLARATIONS = (
    (35, 850, 897, 581, 303, 309),
    (373, 341, 372, 228, 118, 127),
    (104, 120, 128, 81, 42, 41),
    (216, 217, 248, 152, 79, 86),
    (115, 116, 111, 83, 49, 38),
)


def model_class():
    import torch
    import torch.nn.functional as functional
    from torch import nn

    class Block(nn.Module):
        """Post-norm block: attention without biases, an MLP with biases and ReLU; dropout in four places."""

        def __init__(self, sizes):
            super().__init__()
            dim, self.heads = sizes["dim"], sizes["heads"]
            self.query_key_value = nn.Linear(dim, 3 * dim, bias=False)
            self.attention_output = nn.Linear(dim, dim, bias=False)
            self.up, self.down = nn.Linear(dim, sizes["mlp"]), nn.Linear(sizes["mlp"], dim)
            self.attention_norm, self.mlp_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
            self.dropout = nn.Dropout(DROPOUT)

        def attend(self, query, key, value, masked):
            if query.is_cuda:
                return functional.scaled_dot_product_attention(query, key, value, dropout_p=DROPOUT, is_causal=True)
            # Fused attention has no dropout on a CPU; what PyTorch then does instead is slower than this.
            weights = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2) + masked
            return self.dropout(weights.softmax(-1)) @ value

        def forward(self, states, masked):
            batch, tokens, dim = states.shape
            maps = self.query_key_value(states).view(batch, tokens, 3, self.heads, dim // self.heads)
            query, key, value = maps.permute(2, 0, 3, 1, 4)
            mixed = self.attend(query, key, value, masked)
            mixed = mixed.transpose(1, 2).reshape(batch, tokens, dim)
            states = self.attention_norm(states + self.dropout(self.attention_output(mixed)))
            hidden = self.dropout(functional.relu(self.up(states)))
            return self.mlp_norm(states + self.dropout(self.down(hidden)))

    class Transformer(nn.Module):
        """Scaled embeddings and sinusoidal positions, blocks, read-out with a bias at every position."""

        def __init__(self, sizes):
            super().__init__()
            dim = sizes["dim"]
            self.factor = dim**0.5
            self.tokens = nn.Embedding(VOCABULARY, dim)
            self.register_buffer("places", sinusoids(LONGEST, dim), persistent=False)
            self.register_buffer("masked", torch.full((LONGEST, LONGEST), -torch.inf).triu(1), persistent=False)
            self.dropout = nn.Dropout(DROPOUT)
            self.blocks = nn.ModuleList(Block(sizes) for _ in range(sizes["layers"]))
            self.read_out = nn.Linear(dim, VOCABULARY)
            self.start()

        def start(self):
            """Glorot uniform, the MLP's first matrix with a gain of sqrt(2); PyTorch's own biases."""
            for name, parameter in self.named_parameters():
                if "query_key_value" in name:
                    for part in parameter.chunk(3):
                        nn.init.xavier_uniform_(part)
                elif parameter.dim() == 2:
                    nn.init.xavier_uniform_(parameter, 2**0.5 if ".up." in name else 1.0)

        def forward(self, tokens):
            length = tokens.shape[1]
            states = self.dropout(self.tokens(tokens) * self.factor + self.places[:length])
            masked = self.masked[:length, :length]
            for block in self.blocks:
                states = block(states, masked)
            return self.read_out(states)

    return Transformer


def sinusoids(places, dim):
    """Sines in even columns, cosines in odd ones (Vaswani et al. 2017)."""
    import torch

    rates = 10_000.0 ** (-torch.arange(0, dim, 2) / dim)
    angles = torch.arange(places)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).view(places, dim)


def multiplier(sizes):
    """Linear warm-up. The end of the decay is beyond every measurement: 10^11 updates, as Plateau is given."""
    warm_up, steps = sizes["warm_up"], 10**11
    return lambda step: min((step + 1) / warm_up, 1 - (step + 1 - warm_up) / (steps - warm_up))


class Writer:
    """Draws sentences: words and numbers of nouns are equally likely; auxiliaries agree with their subjects."""

    def __init__(self, generator):
        self.choice, self.words, self.main = generator.choice, [], 0

    def noun(self):
        """A determiner and a noun; whether it is plural."""
        which = self.choice(range(len(NOUNS)))
        self.words += [self.choice(DETERMINERS), NOUNS[which]]
        return which >= len(NOUNS) // 2

    def verb(self, plural, verbs):
        half = len(AUXILIARIES) // 2
        self.words += [self.choice(AUXILIARIES[half:] if plural else AUXILIARIES[:half]), self.choice(verbs)]

    def noun_phrase(self, modifier):
        """A noun and what modifies it; whether the noun is plural."""
        plural = self.noun()
        if modifier == "prepositional":
            self.words.append(self.choice(PREPOSITIONS))
            self.noun()
        elif modifier != "none":
            self.words.append(self.choice(RELATIVIZERS))
            if modifier == "object":
                self.verb(self.noun(), TRANSITIVE)
            else:
                self.verb(plural, INTRANSITIVE if modifier == "subject-intransitive" else TRANSITIVE)
            if modifier == "subject-transitive":
                self.noun()
        return plural

    def line(self, asked, subject, predicate):
        """The sentence and its task, and what is to be said then, with the end."""
        self.words = []
        plural = self.noun_phrase(subject)
        main = len(self.words)
        self.verb(plural, INTRANSITIVE if predicate == "intransitive" else TRANSITIVE)
        if predicate != "intransitive":
            self.noun_phrase(predicate)
        words = self.words
        if asked:
            return [*words, STOP, QUEST], [words[main], *words[:main], *words[main + 1 :], QUESTION_MARK, END]
        return [*words, STOP, DECL], [*words, STOP, END]


def lines(generator, count):
    """Lines of the training distribution, no input twice."""
    kinds, weights = [], []
    for asked, table in ((True, QUESTIONS), (False, DECLARATIONS)):
        for subject, row in zip(MODIFIERS, table, strict=False):
            kinds += [(asked, subject, predicate) for predicate in PREDICATES]
            weights += row
    writer, known, found = Writer(generator), set(), []
    while len(found) < count:
        for kind in generator.choices(kinds, weights, k=count - len(found)):
            given, said = writer.line(*kind)
            if tuple(given) not in known:
                known.add(tuple(given))
                found.append(given + said)
    return found


class Drawing:
    """Lines made beforehand, in shuffled passes: tokens behind the start, and the next ones as answers.

    Rows are as long as the longest of their batch, or all as long as the longest line.
    """

    def __init__(self, sizes, device, fixed=False):
        import random

        import torch

        self.batch, self.device, self.fixed = sizes["batch"], device, fixed
        rows = lines(random.Random(torch.initial_seed()), LINES)
        padded = [row + [IGNORED] * (LONGEST - len(row)) for row in rows]
        self.lengths = torch.tensor([len(row) for row in rows])
        answers = torch.tensor(padded)
        before = torch.cat([torch.full((LINES, 1), START), answers[:, :-1]], dim=1)
        inside = torch.arange(LONGEST) < self.lengths[:, None]
        self.tokens, self.answers = torch.where(inside, before, PAD).to(device), answers.to(device)
        self.tokens_per_step = self.batch * self.lengths.double().mean().item()
        self.order, self.at = torch.randperm(LINES), 0

    def new(self):
        import torch

        if self.at + self.batch > LINES:
            self.order, self.at = torch.randperm(LINES), 0
        rows = self.order[self.at : self.at + self.batch]
        self.at += self.batch
        width = LONGEST if self.fixed else int(self.lengths[rows].max())
        rows = rows.to(self.device)
        return [self.tokens[rows, :width], self.answers[rows, :width]]


def loss_of(logits, answers):
    """The mean over tokens."""
    import torch.nn.functional as functional

    return functional.cross_entropy(logits.flatten(0, -2), answers.flatten(), ignore_index=IGNORED)
