"""Tag tokens for a checkpoint that has none: ids of their own, and rows to start training from."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import AddedToken
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..dialect import MULTIVERSE, Dialect, DialectSpec
from ..tag_tokens import tags_as_text
from .checkpoint import SHARD_SIZE, check_place, load, load_tokenizer, new_folder

#: Tables grow to a multiple of this, as matrix kernels like it.
ROW_MULTIPLE = 64
SEED = 0


class TagError(ValueError):
    """A model or tokenizer that cannot take the tags; the message says why."""


@dataclass(frozen=True)
class Prepared:
    """What :func:`prepare_model` did.

    Attributes:
        added: tags that had no token or no row; empty where nothing was changed.
        token_ids: id of every tag of the dialect.
        vocabulary: tokens of the tokenizer, tags included.
        rows_before, rows: rows of the embedding.
        tied: input and output share one table.
    """

    source: str
    out: str
    dialect: str
    added: list[str]
    token_ids: dict[str, int]
    vocabulary: int
    rows_before: int
    rows: int
    tied: bool
    dtype: str


def prepare_model(
    source: str | Path,
    out: str | Path,
    *,
    spec: DialectSpec = MULTIVERSE,
    dtype: str = "auto",
    overwrite: bool = False,
    max_shard_size: str = SHARD_SIZE,
) -> Prepared:
    """Write the model and tokenizer of ``source`` to ``out``, with the tags of ``spec`` added.

    A checkpoint that has the tags already is copied with every weight as it was. ``config.json``
    gets no record of a layout: nothing has been trained with one yet.

    Args:
        source: a folder, or a name on the Hub.
        dtype: ``auto`` keeps that of the checkpoint.
        overwrite: replace the checkpoint in ``out``, if there is one.

    Raises:
        CheckpointError: ``source`` does not load whole, or ``out`` must not be written.
        TagError, DialectError: this model or tokenizer cannot take the tags.
    """
    out = Path(out)
    check_place(out, overwrite=overwrite, sources=(source,))
    tokenizer = load_tokenizer(source)
    model, dtype = load(source, dtype)
    rows_before = model.get_input_embeddings().weight.shape[0]
    added = add_tags(model, tokenizer, spec)
    with new_folder(out) as folder:
        model.save_pretrained(folder, max_shard_size=max_shard_size)
        tokenizer.save_pretrained(folder)
    vocabulary = tokenizer.get_vocab()
    return Prepared(
        source=str(source),
        out=str(out),
        dialect=spec.name,
        added=added,
        token_ids={tag: vocabulary[tag] for tag in spec.tags},
        vocabulary=len(vocabulary),
        rows_before=rows_before,
        rows=model.get_input_embeddings().weight.shape[0],
        tied=tied(model),
        dtype=dtype,
    )


def add_tags(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, spec: DialectSpec = MULTIVERSE
) -> list[str]:
    """Make the tags of ``spec`` tokens of ``tokenizer``, with rows in ``model``.

    Both are changed in place, and only where tags are missing: rows of tags that are there stay
    as they are, the tables never shrink, the tokenizer keeps its special tokens. The tags are
    not among these (:mod:`sglang_multiverse.tag_tokens`), also where they were. Input and
    output rows are set by :func:`tag_rows`; an output bias becomes the mean of the others. Where
    the tables must grow, rows of no token get the mean row, which no text makes likely.

    Returns:
        The tags that had no token or no row until now.

    Raises:
        TagError: the model's tables are not at hand (sharded, or not loaded), or too narrow.
        DialectError: the tokenizer cannot write this dialect.
    """
    tables = _tables(model)
    before = tokenizer.get_vocab()
    there = tokenizer.get_added_vocab()
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in spec.tags if t not in there])
    tags_as_text(tokenizer, spec.tags)
    vocabulary = tokenizer.get_vocab()
    for tag in spec.tags:
        if tokenizer.encode(tag, add_special_tokens=False) != [vocabulary[tag]]:
            raise TagError(f"{type(tokenizer).__name__} does not keep {tag} in one token")
    Dialect.bind(spec, tokenizer)
    rows = min(table.weight.shape[0] for table in tables)
    wanted = max(vocabulary.values()) + 1
    if wanted > rows:
        most = max(table.weight.shape[0] for table in tables)
        padded = max(-(-wanted // ROW_MULTIPLE) * ROW_MULTIPLE, most)
        model.resize_token_embeddings(padded, mean_resizing=False)
        tables = _tables(model)
    new = [i for i, tag in enumerate(spec.tags) if tag not in before or before[tag] >= rows]
    added = [spec.tags[i] for i in new]
    if not added and wanted <= rows:
        return []
    known = torch.tensor(sorted(i for i in before.values() if i < rows))
    words = [_words(tag, tokenizer) for tag in spec.tags]
    ids = torch.tensor([vocabulary[tag] for tag in added], dtype=torch.long)
    with torch.no_grad():
        for table in tables:
            weight = table.weight
            weight[rows:] = weight[known].float().mean(0).to(weight)
            weight[ids] = tag_rows(weight, known, words)[new].to(weight)
            bias = table.bias if isinstance(table, torch.nn.Linear) else None
            if bias is not None:
                average = bias[known].mean()
                bias[rows:] = average
                bias[ids] = average
    return added


def tag_rows(weight: Tensor, known: Tensor, words: list[list[int]]) -> Tensor:
    """Rows for tags: as far from the mean row as a row usually is, half toward the tag's words.

    With ``m`` the mean of the known rows and ``s`` the median distance from it, a tag's row is
    ``m + s·u``. Its direction ``u`` is the sum of two of equal length: one leads to the mean of
    the rows of the tag's words, so that the model meets something it knows; the other is the
    tag's own, drawn from a fixed seed and made orthogonal to all the tags' words and to the other
    tags. So:

    - a tag's row is one of the cloud of rows: before training its logit is that of a token that
      nothing in the text calls for;
    - the cosine between two tags' directions is at most 1/2, between opener and closer too, which
      share their words;
    - the cosine to the mean row of its words is 1/√2, so a state that calls for the word gives the
      word the lead. A row *equal* to the word's would tie with it, at every step, for ever after.

    The orthogonality takes a table of at least twice as many columns as tags.

    Args:
        weight: a table, shape ``(rows, width)``.
        known: ids of trained rows, shape ``(n,)``.
        words: ids that spell each tag's words.

    Returns:
        Shape ``(tags, width)``, float32, on the device of ``weight``.
    """
    width, count = weight.shape[1], len(words)
    if width < count:
        raise TagError(f"rows of {width} numbers cannot hold {count} tags apart")
    rows = weight.detach()[known].float()
    mean = rows.mean(0)
    spread = rows.sub_(mean).norm(dim=1).median()  # indexing has copied the rows
    meant = torch.stack([weight.detach()[ids].float().mean(0) for ids in words]) - mean
    meant = torch.nn.functional.normalize(meant, dim=1)
    span = meant.T.double().cpu()
    generator = torch.Generator().manual_seed(SEED)
    drawn = torch.randn(width, count, generator=generator, dtype=torch.float64)
    own, _ = torch.linalg.qr(drawn - span @ (torch.linalg.pinv(span) @ drawn))
    return mean + spread * torch.nn.functional.normalize(meant + own.T.to(meant), dim=1)


def tied(model: PreTrainedModel) -> bool:
    """Whether input and output share one table."""
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight


def _tables(model: PreTrainedModel) -> list[torch.nn.Module]:
    """The embedding, and the output table where it is another."""
    tables = [model.get_input_embeddings()]
    if model.get_output_embeddings() is None:
        raise TagError(f"{type(model).__name__} has no output table; load a causal language model")
    if not tied(model):
        tables.append(model.get_output_embeddings())
    if any(table.weight.is_meta or table.weight.dim() != 2 for table in tables):
        raise TagError(
            "the model's embedding is sharded or not loaded; add the tags to the checkpoint "
            "beforehand with `multiverse prepare-model`"
        )
    return tables


def _words(tag: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids that spell the words of ``tag``, within a text and at its start, large and small."""
    text = " ".join(re.findall(r"[^\W_]+", tag)) or tag
    spelt = {text, text.lower(), f" {text}", f" {text.lower()}"}
    return sorted({i for one in spelt for i in tokenizer.encode(one, add_special_tokens=False)})
