"""Random requests for every endpoint a user can reach, from one seed."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..dialect import Dialect, Tag
from ..tiny import task
from . import hostile
from .soups import random_soup
from .texts import Texts
from .wire import Call

#: Grammars that end within a few tokens.
_GRAMMARS: tuple[dict[str, Any], ...] = (
    {"regex": "[0-9]{1,4}"},
    {"json_schema": '{"type": "object", "properties": {"a": {"type": "integer"}}}'},
    {"ebnf": 'root ::= "yes" | "no"'},
)


_MASKING = {"regex", "json_schema", "ebnf", "min_new_tokens"}


@dataclass(frozen=True)
class Speech:
    """What bodies are made of: a tokenizer, its dialect, and whether tokens can be forced.

    Attributes:
        processor: serialised :class:`~.scripted.Forced`; None where the server refuses it.
    """

    tokenizer: Any
    dialect: Dialect
    processor: str | None

    @cached_property
    def texts(self) -> Texts:
        return Texts(self.tokenizer, self.dialect)

    @cached_property
    def words(self) -> tuple[str, ...]:
        return tuple(self.tokenizer.decode([i]) for i in self.texts.words)

    @cached_property
    def questions(self) -> list[task.Problem]:
        return list(itertools.islice(task.generate(5, "test", task.ALL_KINDS), 64))

    def chat_ids(self, question: str) -> list[int]:
        messages = [{"role": "user", "content": question}]
        ids = self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=False
        )
        return list(ids)


class Bodies:
    """Makes the calls of one round; the same seed makes the same calls."""

    def __init__(self, speech: Speech, seed: str):
        self.speech = speech
        self.texts = speech.texts
        self.dialect = speech.dialect
        self.rng = random.Random(seed)
        self.seed = seed
        self.rids: list[str] = []

    def make(self, count: int, seconds: float) -> list[Call]:
        """About ``count`` calls to the model, begun within ``seconds``."""
        kinds: dict[Callable[[], list[Call]], int] = {
            self._plain: 4,
            self._hostile_generate: 8,
            self._raw: 3,
            self._tags_in_prompt: 4,
            self._batch: 3,
            self._score: 3,
            self._chat: 4,
            self._completion: 4,
        }
        if self.speech.processor is not None:
            kinds |= {self._scripted: 6, self._soup: 8, self._follow_up: 3, self._soup_chat: 2}
        calls: list[Call] = []
        while len(calls) < count:
            calls += self.rng.choices(list(kinds), list(kinds.values()))[0]()
        for call in calls:
            call.at = self.rng.random() * seconds * self.rng.choice((0.0, 0.3, 1.0))
            if self.rng.random() < 0.12 and call.twin is None:
                call.leave = self.rng.random() * seconds
        self.rng.shuffle(calls)
        return calls

    # Parts of bodies.

    def _rid(self) -> str:
        rid = f"fuzz-{self.seed}-{len(self.rids)}-"
        self.rids.append(rid)
        return rid

    def _ids(self, least: int = 1, most: int = 24) -> list[int]:
        return [self.rng.choice(self.texts.words) for _ in range(self.rng.randint(least, most))]

    def _question(self) -> str:
        problem = self.rng.choice(self.speech.questions)
        return task.prompt(problem, self.rng.choice(("parallel", "parallel", "sequential")))

    def _options(self) -> dict[str, Any] | bool:
        rng = self.rng
        names = ("max_branches", "max_depth", "max_live_rows", "max_critical_path")
        chosen = rng.sample(names, rng.choice((0, 0, 1, 2)))
        values = {"max_critical_path": rng.choice((5, 40, 200))}
        options = {name: values.get(name, rng.randint(1, 4)) for name in chosen}
        return options if rng.random() < 0.95 else False

    def _harmless(self) -> dict[str, Any]:
        """Parameters that change no forced token."""
        rng, out = self.rng, {}
        if rng.random() < 0.3:
            out["temperature"] = rng.choice((0, 0.6, 1.0, 2.0))
        if rng.random() < 0.2:
            out["top_p"] = rng.choice((0.1, 0.95, 1.0))
        if rng.random() < 0.2:
            out["top_k"] = rng.choice((1, 5, -1))
        if rng.random() < 0.2:
            out["sampling_seed"] = rng.randrange(2**31)
        if rng.random() < 0.15:
            out[rng.choice(("frequency_penalty", "presence_penalty"))] = rng.choice((-2, 0.5, 2))
        if rng.random() < 0.1:
            out["stream_interval"] = rng.choice((1, 3, 50))
        return out

    def _sampling(self, *, forced: bool = False) -> dict[str, Any]:
        """Parameters that may end or change an answer."""
        rng, out = self.rng, self._harmless()
        out["max_new_tokens"] = rng.choice((0, 1, 2, 7, 30, 80, 200))
        tags = [*self.dialect.spec.tags, "1: ", "</Path>\n<Path>", "\n", " A"]
        ways: tuple[dict[str, Any], ...] = (
            {"stop": rng.choice(tags)},
            {"stop": rng.sample(tags, 3)},
            {"stop_token_ids": rng.sample(self.dialect.tag_ids, 2)},
            {"stop_regex": "[0-9]{3}"},
            {"min_new_tokens": rng.randint(0, out["max_new_tokens"])},
            {"ignore_eos": True},
            {"skip_special_tokens": False, "no_stop_trim": True},
            {"logit_bias": {str(self.texts.eos): -100}},
            {"repetition_penalty": 1.3, "min_p": 0.1},
            {"n": rng.choice((2, 3))},
            rng.choice(_GRAMMARS),
        )
        # What masks a forced token leaves none to sample.
        chosen = [way for way in ways if not (forced and way.keys() & _MASKING)]
        for _ in range(rng.choice((0, 0, 1, 1, 2))):
            out |= rng.choice(chosen)
        if rng.random() < 0.5:
            out["custom_params"] = {"multiverse": self._options()}
        return out

    def _logprobs(self) -> dict[str, Any]:
        if self.rng.random() < 0.6:
            return {}
        out: dict[str, Any] = {"return_logprob": True}
        if self.rng.random() < 0.5:
            out["top_logprobs_num"] = self.rng.randint(1, 4)
        if self.rng.random() < 0.4:
            out["token_ids_logprob"] = self.rng.sample(self.texts.words, 2)
        if self.rng.random() < 0.4:
            out["logprob_start_len"] = self.rng.choice((-1, 0, 1, 5, 10**6))
        return out

    def _generate(self, kind: str, body: dict[str, Any], **fields: Any) -> Call:
        body = {"rid": self._rid(), **body}
        params = body.get("sampling_params", {})
        return Call(
            f"generate {kind}",
            "/generate",
            body,
            stream=bool(body.get("stream")),
            batch=params.get("n", 1),
            budget=params.get("max_new_tokens"),
            **fields,
        )

    def _soup_params(self) -> dict[str, Any]:
        words = [*self._ids(6, 12), *self.dialect.separator, self.dialect.colon]
        soup = random_soup(self.rng, self.dialect, words, self.texts.eos)
        return {**soup, "multiverse": self._options()}

    def _forced(self, prompt: list[int], custom: dict[str, Any], **params: Any) -> dict[str, Any]:
        return {
            "input_ids": prompt,
            "custom_logit_processor": self.speech.processor,
            "sampling_params": {**self._harmless(), **params, "custom_params": custom},
        }

    # Kinds of calls.

    def _plain(self) -> list[Call]:
        body: dict[str, Any] = {"input_ids": self.speech.chat_ids(self._question())}
        if self.rng.random() < 0.3:
            body = {"text": hostile.text(self.rng, self.dialect.spec.tags, self.speech.words)}
        params = {**self._sampling(), "temperature": 0}
        body |= {"sampling_params": params, "stream": self.rng.random() < 0.4, **self._logprobs()}
        return [self._generate("plain", body)]

    def _scripted(self) -> list[Call]:
        script, cut = self.texts.make(
            self.rng.randrange(10**9), depth=self.rng.randint(1, 3), blocks=self.rng.choice((1, 2))
        )
        return [self._script_call("scripted", script, cut)]

    def _follow_up(self) -> list[Call]:
        """A turn after a finished block, whose text the engine must lay out as it was made."""
        script, _ = self.texts.make(self.rng.randrange(10**9), depth=2, blocks=2)
        ends = [i for i, token in enumerate(script) if token == self.dialect[Tag.END_PARALLEL]]
        return [self._script_call("follow-up", script, ends[0] + 2)]

    def _script_call(self, kind: str, script: list[int], cut: int) -> Call:
        custom: dict[str, Any] = {"script": script, "eos": self.texts.eos}
        # Other limits can decline an outer goal and fork an inner one, whose place in the script
        # the processor would not find.
        custom["multiverse"] = self.rng.choice(
            ({}, {}, {"max_live_rows": 1}, {"max_live_rows": 2}, {"max_depth": 1}, False)
        )
        body = self._forced(script[:cut], custom, max_new_tokens=len(script) - cut + 40)
        body |= {"stream": self.rng.random() < 0.5}
        if kind == "scripted":
            body |= self._logprobs()
        return self._generate(kind, body, output_ids=[*script[cut:], self.texts.eos])

    def _soup(self) -> list[Call]:
        """Once or, streamed and not, twice: the answers must be the same."""
        budget: int = self.rng.choice((1, 20, 60, 150, 400))
        extra = self._logprobs() if self.rng.random() < 0.5 else {}
        body = self._forced(self._ids(), self._soup_params(), max_new_tokens=budget) | extra
        if self.rng.random() < 0.3:
            body["sampling_params"] |= {**self._sampling(forced=True), "max_new_tokens": budget}
            body["sampling_params"]["custom_params"] = self._soup_params()
            return [self._generate("soup", body)]
        params: dict[str, Any] = body["sampling_params"]
        twin = body["input_ids"], params["custom_params"]["soup"]
        return [
            self._generate("soup", {**body, "stream": stream}, twin=str(twin))
            for stream in (False, True)
        ]

    def _soup_chat(self) -> list[Call]:
        messages = [{"role": "user", "content": self._question()}]
        budget = self.rng.choice((20, 100, 300))
        soup = self._soup_params()
        body = {
            "model": "default",
            "messages": messages,
            "max_tokens": budget,
            "temperature": 0,
            "custom_params": soup,
            "custom_logit_processor": self.speech.processor,
        }
        twin = str(soup["soup"])
        path = "/v1/chat/completions"
        return [
            Call("chat soup", path, {**body, "stream": s}, stream=s, twin=twin, budget=budget)
            for s in (False, True)
        ]

    def _batch(self) -> list[Call]:
        rng, size = self.rng, self.rng.randint(1, 5)
        if rng.random() < 0.5:
            prompts: dict[str, Any] = {"input_ids": [self._ids() for _ in range(size)]}
        else:
            prompts = {"text": [self._question() for _ in range(size)]}
        params: Any = self._sampling()
        if rng.random() < 0.4 and "n" not in params:
            params = [{**self._sampling(), "n": 1} for _ in range(size)]
        body = {**prompts, "sampling_params": params, "stream": rng.random() < 0.3}
        n = params.get("n", 1) if isinstance(params, dict) else 1
        return [Call("generate batch", "/generate", body, stream=body["stream"], batch=size * n)]

    def _tags_in_prompt(self) -> list[Call]:
        """A canonical text cut anywhere, or tags in any order, as a prompt."""
        rng = self.rng
        if rng.random() < 0.5:
            script, _ = self.texts.make(rng.randrange(10**9), depth=rng.randint(1, 3))
            body: dict[str, Any] = {"input_ids": script[: rng.randint(1, len(script))]}
        else:
            tags = hostile.text(rng, self.dialect.spec.tags, self.speech.words[:20])
            body = {"text": tags or "a"}
        body |= {"sampling_params": self._sampling(), **self._logprobs()}
        return [self._generate("tags in the prompt", body)]

    def _score(self) -> list[Call]:
        rng = self.rng
        if rng.random() < 0.5:
            script, _ = self.texts.make(rng.randrange(10**9), depth=2)
            body: dict[str, Any] = {
                "input_ids": script[: rng.choice((len(script), rng.randint(1, len(script))))],
                "sampling_params": {"max_new_tokens": rng.choice((0, 0, 1)), "temperature": 0},
                "return_logprob": True,
                "logprob_start_len": rng.choice((0, 1, len(script) - 2, -1)),
            }
            return [self._generate("scoring", body)]
        tags = self.dialect.spec.tags
        body = {
            "model": "default",
            "query": rng.choice((self._question(), hostile.text(rng, tags, self.speech.words))),
            "items": rng.choice(([" A", " B"], [self._question()], [rng.choice(tags)])),
            "label_token_ids": rng.sample(self.texts.words, 2),
            "apply_softmax": rng.random() < 0.5,
        }
        if rng.random() < 0.3:
            body = hostile.spoil(rng, body, hostile.SCORE_FIELDS, 1)
        return [Call("score", "/v1/score", body)]

    def _openai(self) -> dict[str, Any]:
        rng, params = self.rng, self._sampling()
        params["max_tokens"] = params.pop("max_new_tokens")
        params["min_tokens"] = params.pop("min_new_tokens", 0)
        params.pop("stream_interval", None)
        seed = params.pop("sampling_seed", None)
        stream = rng.random() < 0.4
        if stream and rng.random() < 0.5:
            params["stream_options"] = {"include_usage": True}
        return {"model": "default", "stream": stream, "seed": seed, **params}

    def _chat(self) -> list[Call]:
        rng, body = self.rng, self._openai()
        body["messages"] = [{"role": "user", "content": self._question()}]
        if rng.random() < 0.3:
            said = hostile.text(rng, self.dialect.spec.tags, self.speech.words)
            body["messages"] += [{"role": "assistant", "content": said}]
            body["messages"] += [{"role": "user", "content": self._question()}]
        if rng.random() < 0.3:
            body |= {"logprobs": True, "top_logprobs": rng.randint(0, 4)}
        if rng.random() < 0.2:
            schema = {"name": "f", "description": "", "parameters": {"type": "object"}}
            body["tools"] = [{"type": "function", "function": schema}]
        return [self._perhaps_spoilt("chat", "/v1/chat/completions", body, hostile.CHAT_FIELDS)]

    def _completion(self) -> list[Call]:
        rng, body = self.rng, self._openai()
        body["prompt"] = rng.choice((self._question(), self._ids(), [self._question(), "1"]))
        if rng.random() < 0.3:
            body |= {"echo": rng.random() < 0.5, "logprobs": rng.randint(0, 4)}
        return [
            self._perhaps_spoilt("completion", "/v1/completions", body, hostile.COMPLETION_FIELDS)
        ]

    def _perhaps_spoilt(
        self, kind: str, path: str, body: dict[str, Any], fields: tuple[str, ...]
    ) -> Call:
        if self.rng.random() < 0.4:
            body = hostile.spoil(self.rng, body, fields, self.rng.choice((1, 1, 2)))
            kind = f"{kind} spoilt"
        budget = body.get("max_tokens")
        known = isinstance(budget, int) and "max_completion_tokens" not in body
        return Call(
            kind,
            path,
            body,
            stream=body.get("stream") is True,
            budget=budget if known and "spoilt" not in kind else None,
        )

    def _hostile_generate(self) -> list[Call]:
        rng = self.rng
        good = {
            "rid": self._rid(),
            "text": self._question(),
            "sampling_params": {"max_new_tokens": 20, "temperature": 0},
        }
        body = hostile.spoil(rng, good, hostile.GENERATE_FIELDS, rng.choice((1, 1, 1, 2, 3)))
        return [Call("generate spoilt", "/generate", body, stream=body.get("stream") is True)]

    def _raw(self) -> list[Call]:
        path = self.rng.choice(
            ("/generate", "/v1/chat/completions", "/v1/completions", "/v1/score", "/abort_request")
        )
        good = {"text": "1", "sampling_params": {"max_new_tokens": 1}}
        return [Call("no request", path, hostile.raw(self.rng, good))]
