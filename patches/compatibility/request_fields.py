"""Every field of a request's body: forks as without it, decodes sequentially, or is refused."""

from __future__ import annotations

from .entry import REFUSED, SEQUENTIAL, WORKS, Fields

_SERVING = "tests/e2e/test_serving.py"
_FIELDS = "tests/e2e/test_request_fields.py"

REQUESTS = (
    Fields(
        WORKS,
        "the prompt",
        "finished parallel blocks in assistant turns are laid out as they were made; what cannot "
        "be laid out (an unfinished or misnumbered block) is refused with HTTP 400 and the place",
        generate="text input_ids",
        completions="prompt suffix echo",
        chat="messages input_ids continue_final_message chat_template_kwargs reasoning_effort "
        "thinking task",
        test=_SERVING,
    ),
    Fields(
        WORKS,
        "model, names, logging",
        generate="rid log_metrics no_logs custom_labels received_time external_trace_header "
        "http_worker_ipc routing_key conversation_id background",
        completions="model rid user custom_labels",
        chat="model rid user",
        test=_FIELDS,
    ),
    Fields(
        WORKS,
        "where a request goes",
        "among the replicas of --dp-size",
        generate="routed_dp_rank data_parallel_rank",
        completions="routed_dp_rank data_parallel_rank",
        chat="routed_dp_rank data_parallel_rank",
        test=_FIELDS,
    ),
    Fields(
        WORKS,
        "one set of sampling parameters",
        "its fields are listed below",
        generate="sampling_params",
        test=_SERVING,
    ),
    Fields(
        WORKS,
        "length",
        "tokens of all paths together",
        sampling="max_new_tokens",
        completions="max_tokens",
        chat="max_tokens max_completion_tokens",
        test=_SERVING,
    ),
    Fields(
        WORKS,
        "least length, end of text",
        "for the request as a whole",
        sampling="min_new_tokens ignore_eos",
        completions="min_tokens ignore_eos",
        chat="min_tokens ignore_eos",
        test=_FIELDS,
    ),
    Fields(
        WORKS,
        "stops",
        "in any path, and in what the engine writes itself: the request ends there",
        sampling="stop stop_token_ids stop_regex no_stop_trim",
        completions="stop stop_token_ids stop_regex no_stop_trim",
        chat="stop stop_token_ids stop_regex no_stop_trim",
        test=_FIELDS,
    ),
    Fields(
        WORKS,
        "temperature and cuts",
        "in every path",
        sampling="temperature top_p top_k min_p logit_bias",
        completions="temperature top_p top_k min_p logit_bias",
        chat="temperature top_p top_k min_p logit_bias",
        test=_FIELDS,
    ),
    Fields(
        WORKS,
        "penalties",
        "over what a path sees, for the request as a whole",
        sampling="frequency_penalty presence_penalty repetition_penalty",
        completions="frequency_penalty presence_penalty repetition_penalty",
        chat="frequency_penalty presence_penalty repetition_penalty",
        test=_FIELDS,
    ),
    Fields(
        WORKS,
        "seed",
        "every path draws noise of its own, from the request's seed; SGLang reads seeds with "
        "--enable-deterministic-inference only",
        sampling="sampling_seed",
        completions="seed",
        chat="seed",
        test=_FIELDS,
    ),
    Fields(
        WORKS,
        "several answers",
        "each forks by itself",
        sampling="n",
        completions="n best_of",
        chat="n",
        test=_FIELDS,
    ),
    Fields(
        WORKS,
        "how text is shown",
        "the dialect's tags are text and never hidden; other special tokens follow the field",
        sampling="skip_special_tokens spaces_between_special_tokens",
        completions="skip_special_tokens",
        chat="skip_special_tokens",
        test=_FIELDS,
    ),
    Fields(
        WORKS,
        "streaming",
        "append-only, in canonical order",
        generate="stream",
        sampling="stream_interval",
        completions="stream stream_options",
        chat="stream stream_options",
        test=_SERVING,
    ),
    Fields(
        WORKS,
        "options of the plugin and of custom logit processors",
        "`custom_params.multiverse`; an unknown option is HTTP 400",
        generate="custom_logit_processor",
        sampling="custom_params",
        completions="custom_params custom_logit_processor",
        chat="custom_params custom_logit_processor",
        test=_SERVING,
    ),
    Fields(
        WORKS,
        "logprobs of the output",
        "an injected token has logprob 0.0",
        generate="return_logprob top_logprobs_num token_ids_logprob return_text_in_logprobs",
        completions="logprobs",
        chat="logprobs top_logprobs",
        test=_SERVING,
    ),
    Fields(
        WORKS,
        "logprobs of the input",
        "for a prompt that holds finished blocks, with `--attention-backend multiverse` alone; "
        "refused with HTTP 400 over others, where paths share, and where the prompt ends at a goal "
        "that forks",
        generate="logprob_start_len",
        test="tests/e2e/test_conversations.py",
    ),
    Fields(
        WORKS,
        "logprobs and tokens in another form",
        "made of the same values by the tokenizer manager",
        generate="return_flat_raw_top_logprobs return_flat_raw_output_top_logprobs "
        "return_flat_raw_top_logprobs_b64 return_prompt_token_ids return_bytes return_entropy",
        completions="return_token_ids return_cached_tokens_details return_spec_tokens_details",
        chat="return_flat_raw_output_top_logprobs return_flat_raw_top_logprobs_b64 "
        "return_prompt_token_ids return_token_ids return_cached_tokens_details "
        "return_spec_tokens_details return_input_ids_in_sglext return_output_ids_in_sglext "
        "return_meta_info",
        test=_FIELDS,
    ),
    Fields(
        WORKS,
        "prefix cache: names and hints",
        "a forked answer is kept under the same key",
        generate="extra_key cache_salt kv_hints",
        completions="extra_key cache_salt",
        chat="extra_key cache_salt",
        test=_FIELDS,
    ),
    Fields(
        WORKS,
        "priority",
        "read with --enable-priority-scheduling only",
        generate="priority",
        completions="priority",
        chat="priority",
        test=_FIELDS,
    ),
    Fields(
        WORKS,
        "reasoning and tool parsers",
        "over the finished text, streamed and not",
        generate="require_reasoning",
        chat="separate_reasoning stream_reasoning parallel_tool_calls",
        test=_FIELDS,
    ),
    Fields(
        WORKS,
        "tools",
        "`tool_choice: auto` sets no grammar and forks; a required or named tool, or a strict one, "
        "sets one: see grammars",
        chat="tools tool_choice",
        test=_FIELDS,
    ),
    Fields(
        WORKS,
        "addresses of prefill and decode servers",
        "not read: disaggregation is refused at start-up",
        generate="bootstrap_host bootstrap_port bootstrap_room bootstrap_pair_key decode_tp_size "
        "disagg_prefill_dp_rank",
        completions="bootstrap_host bootstrap_port bootstrap_room disagg_prefill_dp_rank",
        chat="bootstrap_host bootstrap_port bootstrap_room disagg_prefill_dp_rank",
        test=_FIELDS,
    ),
    Fields(
        WORKS,
        "set by SGLang itself",
        "normalised forms of other fields; not for callers",
        generate="lora_id",
        sampling="stop_strs stop_regex_strs stop_str_max_len stop_regex_max_len is_normalized",
    ),
    Fields(
        SEQUENTIAL,
        "grammars",
        "any of them, unless the grammar begins after `</Think>` (--reasoning-parser multiverse), "
        "which forks",
        sampling="json_schema regex ebnf structural_tag ebnf_full_assistant",
        completions="json_schema regex ebnf response_format",
        chat="regex ebnf response_format",
        test=_FIELDS,
    ),
    Fields(
        SEQUENTIAL,
        "beam search",
        "`beam_width` over 1",
        sampling="beam_width",
        test=_FIELDS,
    ),
    Fields(
        SEQUENTIAL,
        "sessions",
        "a request in a session",
        generate="session_id session_params",
        completions="session_id session_params",
        chat="session_id session_params",
        test=_FIELDS,
    ),
    Fields(
        SEQUENTIAL,
        "input embeddings",
        "embeddings instead of, or over, token ids",
        generate="input_embeds positional_embed_overrides",
        test=_FIELDS,
    ),
    Fields(
        SEQUENTIAL,
        "images, audio, video",
        "such input; the model must take it",
        generate="image_data video_data audio_data modalities mm_hashes mm_content_hashes "
        "use_audio_in_video video_config max_dynamic_patch min_dynamic_patch "
        "image_max_dynamic_patch video_max_dynamic_patch images_config mm_processor_kwargs "
        "need_wait_for_mm_inputs num_items_assigned encoder_urls",
        completions="images_config mm_processor_kwargs",
        chat="max_dynamic_patch min_dynamic_patch use_audio_in_video images_config video_config "
        "mm_processor_kwargs",
    ),
    Fields(
        SEQUENTIAL,
        "scoring",
        "set by `/v1/score`, which generates nothing",
        generate="multi_item_delimiter_indices token_indices_to_pool",
    ),
    Fields(
        SEQUENTIAL,
        "values for every token",
        "asking for them; the server must allow it",
        generate="return_hidden_states return_routed_experts routed_experts_start_len "
        "return_indexer_topk return_sampling_mask sampling_logprobs_mode",
        completions="return_hidden_states return_routed_experts routed_experts_start_len",
        chat="return_hidden_states return_routed_experts routed_experts_start_len "
        "return_sampling_mask sampling_logprobs_mode",
        test=_FIELDS,
    ),
    Fields(
        REFUSED,
        "LoRA adapters that are not served",
        "HTTP 400, SGLang's own: LoRA is not enabled (`--enable-lora` is refused at start-up)",
        generate="lora_path",
        completions="lora_path",
        chat="lora_path",
        test=_FIELDS,
    ),
    Fields(
        REFUSED,
        "watermarks",
        "HTTP 400, SGLang's own (`--enable-watermark` is refused at start-up)",
        generate="watermark",
        sampling="watermark",
        completions="watermark",
        chat="watermark",
        test=_FIELDS,
    ),
    Fields(
        REFUSED,
        "a budget for thinking",
        "HTTP 400, SGLang's own: it requires `--enable-strict-thinking`, which is refused at "
        "start-up",
        generate="max_thinking_tokens",
        test=_FIELDS,
    ),
)
