"""Stage 05, what a trained update looks like: mistakes. Those with a ``seed`` stand in a published piece (SEEDS.md)."""

from __future__ import annotations

from autograder.bank import Mutant

_ROWS = 'rows = [run(rank) | {"rank": rank} for rank in ranks]'
_FRAME = 'return pd.DataFrame(rows, columns=["rank", "trainable", "accuracy", "seconds"])'
_LORA = 'lora = getattr(layer, "lora", layer)\n    update'
_UPDATE = "update = lora.scaling * lora.lora_B @ lora.lora_A"
_VALUES = "return torch.linalg.svdvals(update.detach())"
_V1 = "V1 = torch.linalg.svd(A1, full_matrices=False).Vh[:i]"
_V2 = "V2 = torch.linalg.svd(A2, full_matrices=False).Vh[:j]"
_BASES = f"{_V1}\n    {_V2}"
_SHARE = "return (V1 @ V2.T).square().sum().item() / min(i, j)"
_REFUSES = "if len(layers) != len(weights):"
_LENGTHS = f'{_REFUSES}\n        raise ValueError(f"{{len(layers)}} layers, {{len(weights)}} weights")\n    total'
_LOOP = "for layer, weight in zip(layers, weights, strict=True):"
_EACH = 'lora = getattr(layer, "lora", layer)\n        total'
_TERM = "total = total + weight * lora.scaling * (lora.lora_B @ lora.lora_A).detach()"
_SUM = f'total = 0\n    {_LOOP}\n        lora = getattr(layer, "lora", layer)\n        {_TERM}\n    return total'
_IN_PLACE = "looking at an update must not merge"
_LORAS = 'loras = [getattr(layer, "lora", layer) for layer in layers]\n    '

MUTANTS = [
    # --- 5.1: the table
    Mutant(
        "5.1/sorted",
        "rows sorted by rank",
        _ROWS,
        'rows = [run(rank) | {"rank": rank} for rank in sorted(ranks)]',
        "the rows are sorted",
    ),
    Mutant(
        "5.1/best-first",
        "rows sorted by accuracy",
        _FRAME,
        f'{_FRAME}.sort_values("accuracy", ascending=False)',
        "the rows are sorted",
    ),
    Mutant(
        "5.1/no-rank",
        "the rank is not in the row",
        _FRAME,
        'return pd.DataFrame([run(r) for r in ranks])[["trainable", "accuracy", "seconds"]]',
        "does not hold the rank",
    ),
    Mutant(
        "5.1/all-columns",
        "everything that run returned",
        _FRAME,
        "return pd.DataFrame(rows)",
        "what else run's result holds is left out",
    ),
    Mutant("5.1/rank-is-index", "the rank becomes the index", _FRAME, f'{_FRAME}.set_index("rank")', "it is a column"),
    Mutant("5.1/a-list", "a list of dicts", _FRAME, "return rows", "a pandas DataFrame is asked for"),
    Mutant(
        "5.1/transposed",
        "a column a rank",
        _FRAME,
        f"{_FRAME}.T",
        "rows and columns are exchanged",
    ),
    Mutant(
        "5.1/trains-thrice",
        "run is called for every column",
        _ROWS,
        'rows = [{"rank": r} | {k: run(r)[k] for k in ("trainable", "accuracy", "seconds")} for r in ranks]',
        "each call is a whole training",
    ),
    Mutant(
        "5.1/own-clock",
        "a clock of its own, run's seconds are not used",
        _ROWS,
        # counts for seconds: a real clock's numbers would differ in each table of messages
        'rows = [run(rank) | {"rank": rank, "seconds": float(n)} for n, rank in enumerate(ranks)]',
        "seconds are those that run measured",
    ),
    Mutant(
        "5.1/one-run",
        "one training for the whole table",
        _ROWS,
        'result = run(ranks[0])\n    rows = [result | {"rank": rank} for rank in ranks]',
        "run is called with every rank, each once",
    ),
    Mutant(
        "5.1/one-dict",
        "one dict, filled again for each row",
        _ROWS,
        "rows, row = [], {}\n    for rank in ranks:\n"
        "        row.update(run(rank), rank=rank)\n        rows.append(row)",
        "a new dict made for each row",
    ),
    Mutant(
        "5.1/formatted",
        "numbers turned into text",
        _ROWS,
        'rows = [run(rank) | {"rank": rank} for rank in ranks]\n    for row in rows:\n'
        '        row["accuracy"] = f"{row[\'accuracy\']:.1%}"',
        "the cells hold numbers",
    ),
    Mutant(
        "5.1/first-row-only",
        "returns inside the loop",
        _ROWS,
        'rows = [run(rank) | {"rank": rank} for rank in ranks[:1]]',
        "one row for each rank",
    ),
    Mutant(
        "5.1/reversed",
        "the largest rank first, by turning the list round",
        _ROWS,
        'rows = [run(rank) | {"rank": rank} for rank in reversed(ranks)]',
        "the rows stand in reverse",
    ),
    Mutant(
        "5.1/capital",
        "a column's name with a capital",
        _FRAME,
        f'{_FRAME}.rename(columns={{"rank": "Rank"}})',
        "a column's name is its spelling",
    ),
    Mutant("5.1/rounded", "the frame is rounded", _FRAME, f"{_FRAME}.round(4)", "the numbers are rounded"),
    Mutant(
        "5.1/rounded-seconds",
        "the seconds are rounded",
        _ROWS,
        'rows = [run(rank) | {"rank": rank} for rank in ranks]\n    for row in rows:\n'
        '        row["seconds"] = round(row["seconds"], 3)',
        "the numbers are rounded",
    ),
    # --- 5.2: the spectrum
    Mutant("5.2/no-scale", "the scale is forgotten", _UPDATE, "update = lora.lora_B @ lora.lora_A", "scale is missing"),
    Mutant(
        "5.2/scale-twice",
        "scaled before and after",
        _VALUES,
        "return lora.scaling * torch.linalg.svdvals(update.detach())",
        "applied twice",
    ),
    Mutant(
        "5.2/alpha-only",
        "multiplied by alpha",
        _UPDATE,
        "update = lora.scaling * len(lora.lora_A) * lora.lora_B @ lora.lora_A",
        "division by rank is missing",
        "S0",
    ),
    Mutant("5.2/A-alone", "the spectrum of A", _UPDATE, "update = lora.scaling * lora.lora_A", "values of A alone"),
    Mutant("5.2/B-alone", "the spectrum of B", _UPDATE, "update = lora.scaling * lora.lora_B", "values of B alone"),
    Mutant(
        "5.2/products",
        "singular values of A times those of B",
        _VALUES,
        "values = [torch.linalg.svdvals(M.detach()) for M in (lora.lora_A, lora.lora_B)]\n"
        "    return lora.scaling * values[0] * values[1]",
        "not the products of the values",
    ),
    Mutant(
        "5.2/whole-weight",
        "the adapted weight's spectrum",
        _UPDATE,
        "update = lora.scaling * lora.lora_B @ lora.lora_A\n    if lora is not layer:\n"
        "        update = layer.linear.weight + update",
        "the update alone is asked for",
    ),
    Mutant("5.2/squares", "squared values", _VALUES, "return torch.linalg.svdvals(update.detach()) ** 2", "squares"),
    Mutant(
        "5.2/eigenvalues",
        "eigenvalues of D^T D, counted upwards",
        _VALUES,
        "return torch.linalg.eigvalsh(update.detach().T @ update.detach()).clamp(min=0).sqrt()[-min(update.shape):]",
        "smallest first",
    ),
    Mutant(
        "5.2/shares",
        "normalised to sum 1",
        _VALUES,
        "values = torch.linalg.svdvals(update.detach())\n    return values / values.sum()",
        "divided by their sum",
    ),
    Mutant(
        "5.2/relative",
        "divided by the largest",
        _VALUES,
        "values = torch.linalg.svdvals(update.detach())\n    return values / values[0]",
        "divided by the largest",
    ),
    Mutant(
        "5.2/top-only",
        "the largest alone",
        _VALUES,
        "return torch.linalg.svdvals(update.detach())[:1]",
        "all of them",
    ),
    Mutant(
        "5.2/diagonal",
        "a diagonal matrix",
        _VALUES,
        "return torch.diag(torch.linalg.svdvals(update.detach()))",
        "a vector",
    ),
    Mutant(
        "5.2/a-list", "a list of numbers", _VALUES, "return torch.linalg.svdvals(update.detach()).tolist()", "a tensor"
    ),
    Mutant("5.2/wrappers-only", "needs .lora", _LORA, "lora = layer.lora\n    update", "take either"),
    Mutant("5.2/bare-only", "takes the layer for its update", _LORA, "lora = layer\n    update", "its update as .lora"),
    Mutant(
        "5.2/merges",
        "merges to compare weights, and leaves it so",
        _LORA,
        'lora = getattr(layer, "lora", layer)\n    if lora is not layer:\n        layer.unmerge()\n    update',
        "looking at an update must not merge",
    ),
    Mutant(
        "5.2/in-place",
        "scales B in place",
        _UPDATE,
        "update = lora.lora_B.data.mul_(lora.scaling) @ lora.lora_A",
        "must not merge, unmerge or scale anything in place",
    ),
    Mutant(
        "5.2/merges-to-compare",
        "unmerges and merges again, so every layer comes back merged",
        _UPDATE,
        f"{_UPDATE}\n    if lora is not layer:\n        layer.unmerge()\n        before = layer.linear.weight.clone()\n"
        "        layer.merge()\n        update = layer.linear.weight - before",
        _IN_PLACE,
    ),
    Mutant(
        "5.2/merged-first",
        "merges, though the update needs no merging",
        _LORA,
        'lora = getattr(layer, "lora", layer)\n    if lora is not layer:\n        layer.merge()\n    update',
        _IN_PLACE,
    ),
    Mutant(
        "5.2/frozen",
        "freezes the layer in place of detaching the result",
        _LORA,
        'lora = getattr(layer, "lora", layer)\n    lora.requires_grad_(False)\n    update',
        "act on the layer itself",
    ),
    Mutant(
        "5.2/detached-in-place",
        "detach_ in place of detach",
        _UPDATE,
        "update = lora.scaling * lora.lora_B.detach_() @ lora.lora_A.detach_()",
        "act on the layer itself",
    ),
    Mutant(
        "5.2/double-in-place",
        "the layer is converted, not the tensor",
        _LORA,
        'lora = getattr(layer, "lora", layer).double()\n    update',
        "converts the layer itself",
    ),
    Mutant(
        "5.2/eval",
        "eval() before looking, and never back",
        _LORA,
        'lora = getattr(layer, "lora", layer)\n    layer.eval()\n    update',
        "eval() acts on the layer itself",
    ),
    Mutant(
        "5.2/backward",
        "a backward pass for nothing",
        _VALUES,
        f"update.sum().backward()\n    {_VALUES}",
        "leaves gradients",
    ),
    # --- 5.3: subspaces
    Mutant(
        "5.3/left",
        "the left-singular directions",
        _BASES,
        "V1 = torch.linalg.svd(A1, full_matrices=False).U.T[:i]\n"
        "    V2 = torch.linalg.svd(A2, full_matrices=False).U.T[:j]",
        "do not fit together",
    ),
    Mutant(
        "5.3/columns",
        "columns of Vh",
        _BASES,
        "V1 = torch.linalg.svd(A1).Vh[:, :i].T\n    V2 = torch.linalg.svd(A2).Vh[:, :j].T",
        "not its columns",
    ),
    Mutant("5.3/rows", "the rows of A themselves", _BASES, "V1, V2 = A1[:i], A2[:j]", "A itself is taken for a basis"),
    Mutant(
        "5.3/normalised-rows",
        "rows of length 1 for a basis",
        _BASES,
        "V1, V2 = (nn.functional.normalize(A, dim=1)[:k] for A, k in ((A1, i), (A2, j)))",
        "no orthonormal basis",
    ),
    Mutant(
        "5.3/qr",
        "QR in place of the SVD",
        _BASES,
        "V1, V2 = (torch.linalg.qr(A.T).Q.T[:k] for A, k in ((A1, i), (A2, j)))",
        "QR, which takes the rows as they stand",
    ),
    Mutant(
        "5.3/cut-first",
        "A is cut before the SVD",
        _BASES,
        "V1 = torch.linalg.svd(A1[:i], full_matrices=False).Vh\n"
        "    V2 = torch.linalg.svd(A2[:j], full_matrices=False).Vh",
        "A cut before the SVD",
    ),
    Mutant(
        "5.3/numpy",
        "NumPy without detach, which a trained A refuses",
        _V1,
        _V1.replace("(A1,", "(torch.from_numpy(A1.numpy()),"),
        ".detach() before NumPy",
    ),
    Mutant("5.3/in-place", "A1 is divided in place", _V1, f"A1 /= A1.norm()\n    {_V1}", "are the caller's"),
    Mutant(
        "5.3/smallest",
        "the smallest directions",
        _BASES,
        "V1, V2 = (torch.linalg.svd(A, full_matrices=False).Vh[-k:] for A, k in ((A1, i), (A2, j)))",
        "the smallest directions are taken",
    ),
    Mutant(
        "5.3/all-directions",
        "i and j only in the divisor",
        _BASES,
        "V1, V2 = (torch.linalg.svd(A, full_matrices=False).Vh for A in (A1, A2))",
        "i and j are not used",
    ),
    Mutant("5.3/one-count", "i directions of both", _V2, _V2.replace(":j", ":i"), "the first i and the first j rows"),
    Mutant(
        "5.3/exchanged",
        "i and j exchanged",
        _BASES,
        f"{_V1.replace(':i', ':j')}\n    {_V2.replace(':j', ':i')}",
        "i belongs to A1",
    ),
    Mutant("5.3/max", "divided by the larger", _SHARE, _SHARE.replace("min", "max"), "divided by max(i, j)"),
    Mutant("5.3/by-i", "divided by i", _SHARE, _SHARE.replace("min(i, j)", "i"), "divided by i:"),
    Mutant("5.3/mean", "the mean of the squares", _SHARE, _SHARE.replace("min(i, j)", "(i * j)"), "divided by i * j"),
    Mutant("5.3/sum", "not divided", _SHARE, _SHARE.replace(" / min(i, j)", ""), "not divided by min(i, j)"),
    Mutant(
        "5.3/norm",
        "the norm, not squared",
        _SHARE,
        "return torch.linalg.norm(V1 @ V2.T).item() / min(i, j)",
        "the norm is not squared",
    ),
    Mutant("5.3/absolute", "absolute values", _SHARE, _SHARE.replace(".square()", ".abs()"), "in place of squares"),
    Mutant("5.3/signed", "products, not squares", _SHARE, _SHARE.replace(".square()", ""), "all products squared"),
    Mutant(
        "5.3/pairs",
        "the k-th with the k-th",
        _SHARE,
        "return (V1 @ V2.T).diagonal().square().sum().item() / min(i, j)",
        "all pairs count",
    ),
    Mutant(
        "5.3/spectral",
        "the spectral norm",
        _SHARE,
        "return torch.linalg.norm(V1 @ V2.T, 2).item() ** 2 / min(i, j)",
        "the spectral norm",
    ),
    Mutant(
        "5.3/tensor",
        "a tensor of one element",
        _SHARE,
        "return (V1 @ V2.T).square().sum() / min(i, j)",
        "a tensor of one element is no number",
    ),
    Mutant(
        "5.3/weighted",
        "directions weighted with their singular values",
        _V1,
        "_, S1, V1 = torch.linalg.svd(A1, full_matrices=False)\n    V1 = (S1[:, None] * V1)[:i] / S1.mean()",
        "not scaled",
    ),
    # --- 5.4: composition
    Mutant(
        "5.4/factors-summed",
        "the A's and the B's are summed apart",
        f"{_SUM}",
        f"{_LORAS}A = sum(lora.lora_A for lora in loras)\n"
        "    B = sum(w * lora.scaling * lora.lora_B for lora, w in zip(loras, weights))\n    return (B @ A).detach()",
        "terms B_1 A_2 that belong to nobody",
    ),
    Mutant(
        "5.4/untrained",
        "the adapters are made anew, as they start: every delta is 0",
        _TERM,
        "total = total + weight * lora.scaling * (torch.zeros_like(lora.lora_B) @ lora.lora_A).detach()",
        "B is not zero",
        "S3",
    ),
    Mutant("5.4/no-scale", "no scale", _TERM, _TERM.replace("lora.scaling * ", ""), "the scale is missing"),
    Mutant(
        "5.4/alpha-only",
        "multiplied by alpha",
        _TERM,
        _TERM.replace("lora.scaling", "lora.scaling * len(lora.lora_A)"),
        "the division by rank is missing",
        "S0",
    ),
    Mutant(
        "5.4/first-scale",
        "the first layer's scale for all",
        _TERM,
        _TERM.replace("lora.scaling", 'getattr(layers[0], "lora", layers[0]).scaling'),
        "every update has its own scaling",
    ),
    Mutant("5.4/no-weights", "a plain sum", _TERM, _TERM.replace("weight * ", ""), "the weights are not used"),
    Mutant(
        "5.4/normalised",
        "weights that sum to 1",
        _TERM,
        _TERM.replace("weight * ", "weight / sum(weights) * "),
        "divided by their sum",
    ),
    Mutant("5.4/mean", "a mean", "return total\n", "return total / len(layers)\n", "a mean in place of a sum"),
    Mutant(
        "5.4/weights-squared",
        "the weight goes to both factors",
        _TERM,
        "total = total + lora.scaling * ((weight * lora.lora_B) @ (weight * lora.lora_A)).detach()",
        "counts twice",
    ),
    Mutant("5.4/absolute", "no negative weights", _TERM, _TERM.replace("weight *", "abs(weight) *"), "may be negative"),
    Mutant(
        "5.4/last-only",
        "the sum is replaced in each round",
        _TERM,
        _TERM.replace("total + ", ""),
        "only the last update is there",
    ),
    Mutant("5.4/transposed", "A^T B^T", _TERM, _TERM.replace("lora_A).detach()", "lora_A).detach().T"), "transposed"),
    Mutant(
        "5.4/whole-weights",
        "the frozen weight is in the sum",
        "return total\n",
        'return total + (layers[0].linear.weight.detach() if hasattr(layers[0], "linear") else 0)\n',
        "the updates alone are asked for",
    ),
    Mutant(
        "5.4/zip-cuts",
        "unequal lengths pass",
        f"{_LENGTHS} = 0\n    {_LOOP}",
        "total = 0\n    for layer, weight in zip(layers, weights):",
        "zip ends with the shorter",
    ),
    Mutant(
        "5.4/too-few-only",
        "only missing weights are refused",
        f"{_LENGTHS} = 0\n    {_LOOP}",
        f"{_LENGTHS.replace('!=', '>')} = 0\n    for layer, weight in zip(layers, weights):",
        "zip ends with the shorter",
    ),
    Mutant(
        "5.4/assert",
        "an assertion",
        _LENGTHS,
        "assert len(layers) == len(weights)\n    total",
        "unequal lengths are a ValueError",
    ),
    Mutant("5.4/wrappers-only", "needs .lora", _EACH, "lora = layer.lora\n        total", "take either"),
    Mutant("5.4/bare-only", "takes the layer for its update", _EACH, "lora = layer\n        total", "update as .lora"),
    Mutant(
        "5.4/in-place",
        "the first layer's weight collects the sum",
        "return total\n",
        'if hasattr(layers[0], "unmerge"):\n        layers[0].unmerge()\n    return total\n',
        "nothing of the layers is merged",
    ),
    Mutant(
        "5.4/merges-to-compare",
        "unmerges and merges again, so every layer comes back merged",
        _TERM,
        "if lora is not layer:\n            layer.unmerge()\n            layer.merge()\n        " + _TERM,
        "nothing of the layers is merged",
    ),
    Mutant(
        "5.4/frozen",
        "freezes the layers in place of detaching the result",
        _EACH,
        'lora = getattr(layer, "lora", layer).requires_grad_(False)\n        total',
        "act on the layer itself",
    ),
    Mutant(
        "5.4/detached-in-place",
        "detach_ in place of detach",
        _TERM,
        "total = total + weight * lora.scaling * lora.lora_B.detach_() @ lora.lora_A.detach_()",
        "act on the layer itself",
    ),
    Mutant(
        "5.4/double-in-place",
        "the layers are converted, not the tensors",
        _EACH,
        'lora = getattr(layer, "lora", layer).double()\n        total',
        "converts the layer itself",
    ),
    Mutant(
        "5.4/whole-numbers",
        "weights that are whole numbers make a tensor of them",
        _SUM,
        f"{_LORAS}deltas = torch.stack([lora.scaling * (lora.lora_B @ lora.lora_A).detach() for lora in loras])\n"
        '    return torch.einsum("k,koi->oi", torch.tensor(weights), deltas)',
        "whole numbers are weights too",
    ),
    Mutant(
        "5.4/first-for-all",
        "the first layer's kind is taken for all",
        _SUM,
        'if hasattr(layers[0], "lora"):\n        layers = [layer.lora for layer in layers]\n    '
        "return sum(w * lora.scaling * (lora.lora_B @ lora.lora_A).detach() for lora, w in zip(layers, weights))",
        "a list may hold both kinds",
    ),
]
